"""The training loop, top to bottom: start, steps, validation, saves. Nothing calls back.

Hugging Face Accelerate gives the device, the processes, mixed precision and gradient clipping. The loader itself gives
each process its part of every global batch, and the heads average their normalisers over processes, so the mean of
the processes' gradients is the gradient of one process with the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..checkpoint import save
from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.loader import make_loader
from ..detector import Detector
from ..errors import HeadwayError
from ..evaluate.run import evaluate_model, validation_loss
from ..evaluate.tasks import detects, evaluate_tasks
from ..types import Batch
from .config import TrainConfig
from .guard import CollapseGuard
from .log import Meter, draw_curve
from .start import Run, check_data, kernels, start, stop_signals
from .state import describe_data, dump_batches, random_state, write_state

_SCORES = ("ap", "tag_map", "retrieval_map")  # what tells the best weights, the first that a model has


class NonFiniteLoss(HeadwayError):  # noqa: N818  (named for what happened)
    """The loss or its gradient became NaN or infinite; the weights before that step are kept."""


class TrainingStopped(HeadwayError):  # noqa: N818
    """Ctrl-C or a termination signal: the state was saved and the run can be resumed."""


def fit(
    model: Detector,
    train_data: DetectionData,
    val_data: DetectionData | None,
    config: TrainConfig,
    *,
    resume: bool = False,
) -> Path:
    """Train `model` in place (seed torch before building it for a repeatable start) and return the run folder.

    The folder holds config.json, metrics.jsonl, curve.png, last.safetensors, best.safetensors (by AP on `val_data`, for
    a model without boxes by another metric; without validation data there is none) and state/. Afterwards `model` has
    the weights of last.safetensors.

    resume: go on with the run in `config.out` after it was stopped or killed, to the same final weights.
    Raises: HeadwayError for settings, data or a folder that do not fit; NonFiniteLoss; CollapsedTraining;
    TrainingStopped.
    """
    check_data(model, train_data, val_data, config)
    with kernels(config), stop_signals() as stop:
        run = start(model, train_data, val_data, config, resume)
        guard = CollapseGuard(config)
        try:
            if not resume:
                _save_state(run)  # so that a run killed before its first save can be resumed like any other
            while not run.progress.finished:
                _train_epoch(run, stop, guard)
                _end_epoch(run)
        finally:
            run.log.close()
            run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        if run.accelerator.is_main_process:
            draw_curve(config.out)
        if run.ema is not None:
            model.load_state_dict(run.ema.module.state_dict())
        model.card = run.shown.card
        run.accelerator.end_training()
    model.eval()
    return config.out


# ------------------------------------------------------------------------------------------------------- the loop
def _train_epoch(run: Run, stop: list[int], guard: CollapseGuard) -> None:
    """Every remaining step of the running epoch."""
    config, progress, meter = run.config, run.progress, Meter()
    run.loader.set_epoch(progress.epoch, start_batch=progress.batch)
    run.core.train()
    for group in _grouped(run.loader, config.accumulate):
        rate = config.scaled_learning_rate * run.schedule.lr_lambdas[0](progress.step)
        values, stopping = _step(run, group, stop)
        progress.batch += len(group)
        progress.step += 1
        images = sum(len(batch.metas) for batch in group) * run.accelerator.num_processes
        seconds, speed = meter.stop(images)
        progress.seconds += seconds
        _record(run, values, rate, speed)
        guard.check(values, progress.epoch + 1, progress.step)
        if stopping:
            _save_state(run)
            raise TrainingStopped(
                f"stopped by a signal at epoch {progress.epoch + 1}, step {progress.step}; the state is in "
                f"{config.out}: the same command with --resume goes on from here"
            )
        if config.save_every and progress.step % config.save_every == 0:
            _save_state(run)
        meter.start()


def _step(run: Run, group: list[Batch], stop: list[int]) -> tuple[dict[str, float], bool]:
    """One optimizer step over a group of batches.

    Returns the mean of each loss and stat over group and processes, and whether any process was asked to stop.
    """
    config, accelerator = run.config, run.accelerator
    records = []
    for index, batch in enumerate(group):
        images = to_model_input(batch, accelerator.device).contiguous(memory_format=torch.channels_last)
        sizes = batch.sizes.to(accelerator.device, non_blocking=True)
        targets = [target.to(accelerator.device) for target in batch.targets]
        last = index == len(group) - 1
        with nullcontext() if last else accelerator.no_sync(run.model):
            raw = run.model(images, sizes, targets)
            losses = run.core.loss(raw, targets)
            if run.distiller is not None:
                with accelerator.autocast():
                    taught = run.distiller(raw, images, sizes)
                losses = losses._replace(terms=losses.terms | taught)
            total = losses.total
            accelerator.backward(total if config.sum_batches else total / len(group))
        terms = {f"loss/{k}": v for k, v in losses.terms.items()}
        records.append({"loss": total, **terms, **{f"stat/{k}": v for k, v in losses.stats.items()}})
    norm = accelerator.clip_grad_norm_(run.core.parameters(), config.clip_grad or math.inf)
    local = torch.stack([torch.stack([v.detach().float() for v in record.values()]) for record in records])
    flags = local.new_tensor([float(norm), float(bool(stop))])
    means = accelerator.reduce(torch.cat([local.mean(0), flags]), "mean").tolist()  # one wait for the device per step
    values = dict(zip([*records[0], "grad_norm"], means))
    # fp16 gradients overflow by design now and then: the loss scaler then skips the step and lowers its scale.
    if not math.isfinite(values["loss"]) or (config.precision != "fp16" and not math.isfinite(values["grad_norm"])):
        _refuse(run, group, local, values)
    run.optimizer.step()
    run.schedule.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update_parameters(run.core)
    return values, means[-1] > 0


def _refuse(run: Run, group: list[Batch], local: Tensor, values: dict[str, float]) -> None:
    """Stop at a non-finite step: write the batches that caused it and name their images."""
    broken = [batch for batch, row in zip(group, local) if not torch.isfinite(row).all()]
    folder = run.config.out / "bad_batch"
    if run.accelerator.num_processes > 1:
        folder /= f"process{run.accelerator.process_index}"
    if not broken and run.accelerator.num_processes == 1:
        broken = group  # every loss is finite, the gradient is not
    progress = run.progress
    notes = {"epoch": progress.epoch + 1, "step": progress.step + 1, "values": {k: str(v) for k, v in values.items()}}
    names = gather_object(dump_batches(folder, broken, notes) if broken else [])
    what = "loss" if not math.isfinite(values["loss"]) else "gradient"
    bad = ", ".join(f"{k}={v:.4g}" for k, v in values.items() if not math.isfinite(v))
    raise NonFiniteLoss(
        f"the {what} is not finite ({bad}) at epoch {progress.epoch + 1}, step {progress.step + 1}, images "
        f"{', '.join(names)}. The batch is in {run.config.out / 'bad_batch'} and the last good state is kept: check "
        "those images, lower the learning rate, set clip_grad, or use fp32 or bf16 instead of fp16"
    )


def _record(run: Run, values: dict[str, float], rate: float, speed: float) -> None:
    """Add a step to the sums, show it, and write a row of means every `log_every` steps."""
    progress, config = run.progress, run.config
    for sums in (progress.window, progress.epoch_sums):
        for name, value in {**values, "steps": 1.0}.items():
            sums[name] = sums.get(name, 0.0) + value
    run.log.tick(progress.epoch, config.epochs, progress.step, values["loss"], speed)
    if progress.step % config.log_every == 0:
        means = _means(progress.window)
        row = {"epoch": progress.epoch + 1, "lr": rate, **means, "images_per_s": speed, "seconds": progress.seconds}
        run.log.row("step", progress.step, row)
        progress.window = {}


def _means(sums: dict[str, float]) -> dict[str, float]:
    steps = sums.get("steps", 1.0)
    return {k: v / steps for k, v in sums.items() if k != "steps"}


def _end_epoch(run: Run) -> None:
    """Validate, keep the best, write checkpoints, the row and the state; decide whether the run is over."""
    config, progress = run.config, run.progress
    epoch = progress.epoch + 1
    row: dict[str, Any] = {"epoch": epoch, "train_loss": _means(progress.epoch_sums).get("loss")}
    if run.val_data is not None and (epoch % config.validate_every == 0 or epoch == config.epochs):
        row |= _validate(run, run.val_data)
    score = next((row[name] for name in _SCORES if row.get(name) is not None), None)
    better = score is not None and (progress.best is None or score > progress.best)
    if better:
        progress.best, progress.best_epoch, progress.stale = score, epoch, 0
    elif score is not None:
        progress.stale = epoch - progress.best_epoch
    stopped_early = bool(config.early_stop) and progress.stale >= config.early_stop
    progress.epoch, progress.batch, progress.epoch_sums = epoch, 0, {}
    progress.finished = epoch == config.epochs or stopped_early
    text = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
    run.log.say(f"epoch {epoch}/{config.epochs}  {text}{'  (best yet)' if better else ''}")
    run.log.row("epoch", progress.step, {**row, "seconds": progress.seconds})
    if run.accelerator.is_main_process:
        _save_checkpoints(run, row, better)
        draw_curve(config.out)
    _save_state(run)
    if stopped_early:
        run.log.say(f"no better AP than {progress.best:.4f} (epoch {progress.best_epoch}) for {progress.stale} epochs")


def _validate(run: Run, data: DetectionData) -> dict[str, float | None]:
    """Validation loss and AP of the shown weights. Every process does all of it, so that none waits for another."""
    config, shown = run.config, run.shown
    shown.eval()
    settings = {"batch_size": config.batch_size, "workers": config.workers}
    loader = make_loader(data, shown.card, train=False, seed=config.seed, **settings)
    losses = validation_loss(shown, loader)
    where = {"device": run.accelerator.device, "precision": config.precision}
    metrics = evaluate_model(shown, data, **where, **settings).summary() if detects(shown) else {}
    tasks = evaluate_tasks(shown, data, **where, **settings).summary()
    run.core.train()
    return {"val_loss": float(losses["loss"]), **metrics, **tasks}


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last of an epoch may be shorter."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _save_state(run: Run) -> None:
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
    write_state(run.config.out, parts, run.progress, describe_data(run.train_data))


def _save_checkpoints(run: Run, row: dict[str, Any], better: bool) -> None:
    """last.safetensors, and best.safetensors when `better`, with the metrics in their cards."""
    training = {"config": run.config.to_dict(), "epoch": run.progress.epoch, "step": run.progress.step,
                **describe_data(run.train_data)}  # fmt: skip
    metrics = {k: v for k, v in row.items() if isinstance(v, float) and math.isfinite(v)}
    run.shown.card = replace(run.core.card, metrics=metrics, training=training)
    save(run.shown, run.config.out / "last.safetensors")
    if better:
        save(run.shown, run.config.out / "best.safetensors")
