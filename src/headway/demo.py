"""The demo: fine-tune, evaluate and use a small Dynamic Head detector on photographs that ship in the package."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from .commands.common import new_folder
from .data.dataset import DetectionData
from .data.image import read_image
from .data.open import open_splits
from .detector import Detector
from .drawing import draw_boxes
from .evaluate.coco import Metrics, evaluate
from .evaluate.report import write_report
from .evaluate.run import detect_dataset
from .predict import Predictor
from .registry import create_model, load
from .train.config import TrainConfig
from .train.fit import fit

log = logging.getLogger("headway")

ASSETS = Path(__file__).parent / "assets"
DATA = ASSETS / "bccd-mini"
CHECKPOINT = ASSETS / "demo.safetensors"
_SHOWN = 0.3  # score from which a box is drawn
_PICTURES = 8


def settings(out: Path) -> TrainConfig:
    """What the demo trains with: a short fine-tuning that fits into three minutes on two cores."""
    return TrainConfig(
        out=out,
        epochs=8,
        batch_size=8,
        learning_rate=1e-4,
        base_batch_size=0,
        warmup_steps=10,
        ema=0.99,
        vertical_flip=0.5,
        scale=(0.75, 1.35),
        cache="ram",
        validate_every=4,
    )


def main(out: Path, config: TrainConfig | None = None) -> dict[str, Any]:
    """Run the demo in a new folder at `out` and return its figures and where everything lies."""
    started = time.perf_counter()
    out = new_folder(out)
    splits = open_splits(DATA)
    train, held_back = splits["train"], splits["val"]
    log.info("data: %d training and %d held-back photographs (%s)", len(train), len(held_back), train.reason)
    model = (
        load(CHECKPOINT) if CHECKPOINT.is_file() else create_model("atss_r18_fpn_dyhead", class_names=train.class_names)
    )
    fit(model, train, held_back, config or settings(out / "run"))
    rows, seconds = detect_dataset(model, held_back)
    metrics = evaluate(rows, held_back)
    report = write_report(
        out / "report", data=held_back, results=rows, metrics=metrics, card=model.card, seconds=seconds
    )
    pictures = _draw(model, held_back, out / "pictures")
    result = {
        **metrics.summary(),
        "seconds": round(time.perf_counter() - started, 1),
        "checkpoint": out / "run" / "best.safetensors",
        "report": report,
        "pictures": pictures,
    }
    _tell(result, metrics)
    return result


def _draw(model: Detector, data: DetectionData, folder: Path) -> Path:
    """Ground truth beside the prediction for the first held-back photographs."""
    from PIL import Image

    folder.mkdir(parents=True)
    records = data.records[:_PICTURES]
    predictor = Predictor(model)
    for record, found in zip(records, predictor([record.path for record in records])):
        image, found = read_image(record.path), found[found.scores > _SHOWN]
        truth = draw_boxes(image, torch.from_numpy(record.boxes), record.labels.tolist(), data.class_names)
        drawn = draw_boxes(image, found.boxes, found.labels.tolist(), data.class_names, scores=found.scores.tolist())
        pair = Image.new("RGB", (truth.width + drawn.width + 8, truth.height), "white")
        pair.paste(truth, (0, 0))
        pair.paste(drawn, (truth.width + 8, 0))
        pair.save(folder / f"{record.path.stem}.png")
    return folder


def _tell(result: dict[str, Any], metrics: Metrics) -> None:
    classes = ", ".join(f"{row.name} {row.ap50:.2f}" for row in metrics.per_class)
    log.info("held-back photographs: AP %.3f, AP50 %.3f (%s)", metrics.ap, metrics.ap50, classes)
    log.info("report:     %s", result["report"])
    log.info("pictures:   %s (ground truth left, prediction right)", result["pictures"])
    log.info("checkpoint: %s", result["checkpoint"])
    log.info("next:       headway predict %s YOUR_PHOTOS", result["checkpoint"])
