"""A model over a whole data set: its detections, its COCO metrics, its validation loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.loader import make_loader
from ..detector import Detector
from ..errors import HeadwayError, nearest
from ..types import Batch
from .coco import Metrics, evaluate

logger = logging.getLogger("headway")

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Progress = Callable[[int, int], None]  # (images done, images in all)


def detect_dataset(
    model: Detector,
    data: DetectionData,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    score_threshold: float | None = None,
    max_detections: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], float]:
    """Detections of every image of `data`: (COCO result rows in original pixels, seconds).

    device: the model is moved there and stays; None leaves it where it is.
    precision: "bf16" and "fp16" run under autocast.
    score_threshold, max_detections: None means the model card's.
    progress: called after each batch with (images done, images in all).
    The seconds are those of the detector alone (copy to the device, network, selection), without reading pictures.
    Classes are matched by name; those the data set does not have are left out. The model's mode is restored.

    Raises: HeadwayError when boxes of `data` are of classes the model does not know; DataError for a broken picture.
    """
    categories = match_classes(model.card.class_names, data)
    loader = make_loader(data, model.card, batch_size=batch_size, train=False, workers=workers)
    rows: list[dict[str, Any]] = []
    seconds, done = 0.0, 0
    with evaluating(model, device, precision) as where:
        for batch in loader:
            start = time.perf_counter()
            detections = model.detect(
                to_model_input(batch, where),
                batch.sizes.to(where),
                score_threshold=score_threshold,
                max_detections=max_detections,
            )
            detections = [found.to("cpu") for found in detections]  # waits for the device
            seconds += time.perf_counter() - start
            for found, meta in zip(detections, batch.metas):
                known = torch.tensor(
                    [categories[label] is not None for label in found.labels.tolist()], dtype=torch.bool
                )
                rows += found[known].to_original(meta).to_coco(meta.image_id, categories)  # type: ignore[arg-type]
            done += len(batch.metas)
            if progress is not None:
                progress(done, len(data))
    return rows, seconds


def evaluate_model(
    model: Detector,
    data: DetectionData,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    max_detections: int = 100,
    progress: Progress | None = None,
) -> Metrics:
    """COCO metrics of `model` on `data`, with the card's score threshold; arguments as `detect_dataset`."""
    rows, _ = detect_dataset(
        model,
        data,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        max_detections=max_detections,
        progress=progress,
    )
    return evaluate(rows, data, max_detections=max_detections)


def validation_loss(
    model: Detector,
    loader: Iterable[Batch],
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
) -> dict[str, float]:
    """Every loss term, and their sum as "loss", averaged over images, in eval mode without gradients.

    loader: of the model's own classes, without augmentation (`make_loader(train=False)`).
    A term is what the head gives for a batch, weighted by its number of images; heads normalise by the positives of the
    batch, so values depend a little on the batch size. The model's mode is restored.

    Raises: HeadwayError for a loader without batches.
    """
    sums: dict[str, float] = {}
    images = 0
    with evaluating(model, device, precision) as where, torch.no_grad():
        for batch in loader:
            targets = [target.to(where) for target in batch.targets]
            raw = model(to_model_input(batch, where), batch.sizes.to(where), targets)
            losses = model.loss(raw, targets)
            count = len(batch.targets)
            for name, value in {**losses.terms, "loss": losses.total}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * count
            images += count
    if not images:
        raise HeadwayError("no images to compute a validation loss on; pass a split that has some")
    return {name: total / images for name, total in sums.items()}


def match_classes(class_names: tuple[str, ...], data: DetectionData) -> list[int | None]:
    """The data set's category id for each class of the model, by name; None where the data set has no such class.

    Raises: HeadwayError when `data` has boxes of a class that the model does not know.
    """
    known = dict(zip(data.class_names, data.category_ids))
    unknown = [name for name in data.class_names if name not in class_names]
    if unknown:
        labels = {label for record in data.records for label in record.labels.tolist()}
        with_boxes = [name for label, name in enumerate(data.class_names) if name in unknown and label in labels]
        if with_boxes:
            hint = nearest(with_boxes[0], class_names)
            raise HeadwayError(
                f"{data.name!r} has boxes of {with_boxes}, which the model does not know (it has {len(class_names)} "
                f"classes: {', '.join(class_names[:10])}{' ...' if len(class_names) > 10 else ''}); "
                f"{hint or 'evaluate a model that was trained on these classes'}"
            )
    if len(class_names) > len(known):
        logger.info(
            "%s has %d of the model's %d classes; the others are left out", data.name, len(known), len(class_names)
        )
    return [known.get(name) for name in class_names]


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None, precision: Precision) -> Iterator[torch.device]:
    """`model` on `device`, in eval mode under autocast; gives the device, and restores the mode of every module."""
    if precision not in DTYPES:
        raise HeadwayError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
    if device is not None:
        model.to(device)
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.autocast(where.type, DTYPES[precision], enabled=precision != "fp32"):
            yield where
    finally:
        for module, training in modes.items():
            module.training = training
