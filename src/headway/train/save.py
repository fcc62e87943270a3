"""What a run keeps on the disk: its whole state, and its checkpoints."""

import math
from dataclasses import replace
from typing import Any

from accelerate.utils import gather_object

from ..checkpoint import save
from .start import Session
from .state import random_state, write_state

Thresholds = tuple[float | None, ...]  # by label, as of a model card


def save_state(run: Session) -> None:
    """The whole state in one file; every process gives its random generators."""
    states = gather_object([random_state(run.accelerator.device)])
    if not run.accelerator.is_main_process:
        return
    run.progress.log_bytes = run.log.bytes
    parts = {
        "model": run.core.state_dict(),
        "ema": None if run.ema is None else run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": None if run.accelerator.scaler is None else run.accelerator.scaler.state_dict(),
        "random": states,
    }
    write_state(run.folder, parts, run.progress, run.described)


def save_checkpoint(run: Session, name: str, row: dict[str, Any], thresholds: Thresholds = ()) -> None:
    """<name>.safetensors with the epoch's metrics and the thresholds of its classes in its card."""
    training = {"config": run.config.to_dict(), "epoch": run.progress.epoch, "step": run.progress.step,
                **run.described["training"]}  # fmt: skip
    metrics = {k: v for k, v in row.items() if isinstance(v, float) and math.isfinite(v)}
    run.shown.card = replace(run.core.card, metrics=metrics, thresholds=thresholds, training=training)
    save(run.shown, run.folder / f"{name}.safetensors")
