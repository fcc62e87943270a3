"""A model over a whole data set in one pass: its detections, validation loss, and what its further tasks say."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.dataset import DetectionData
from ..detector import Detector, keeping_modes
from ..errors import HeadwayError, nearest
from ..losses import processes_apart
from ..precision import Precision, autocast
from ..types import Batch, Detections
from . import tasks as further
from .batches import WHOLE, Share, evaluation_batches, to_device
from .coco import Metrics, evaluate

logger = logging.getLogger("headway")

Progress = Callable[[int, int], None]  # (images done, images in all)


class Stopped(Exception):  # noqa: N818  (named for what happened)
    """`stop` of `measure` said so."""


@dataclass(slots=True)
class Measured:
    """What a pass over a data set gave.

    rows: COCO result rows in original pixels, in the order of the data set. losses: every loss term, and their sum as
    "loss", averaged over images. tasks: the figures of further tasks by name. seconds: of the detector alone.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def measure(
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
    losses: bool = False,
    tasks: bool = False,
    share: Share = WHOLE,
    gather: Callable[[list[Any]], list[Any]] = list,
    stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Every image of `data` once through the network: detections and, where asked for, loss and further tasks.

    batch_size: pictures of a pass. Only those of one padded shape share a batch (`shape_batches`).
    device: the model is moved there and stays; None leaves it where it is.
    precision: "bf16" and "fp16" run under autocast.
    score_threshold, max_detections: None means the model card's.
    progress: called after each batch with (images done, images in all).
    losses: heads normalise by the positives of a batch, so values depend a little on the batch size, and not on the
        number of processes.
    share, gather: the part of this process, and what joins the lists of all processes; every process gets the result.
    stop: asked after every batch, in every process equally often.
    Classes are matched by name; those the data set does not have are left out. The model's mode is restored.

    Raises: HeadwayError when boxes of `data` are of classes the model does not know; DataError for a broken picture;
    Stopped.
    """
    categories = match_classes(model.card.class_names, data)
    learned = further.tasks_of(model) if tasks else []
    looks = [(0, model.card.input_size), *further.further_looks(learned, model.card.input_size)]
    with evaluating(model, device, precision) as where, torch.no_grad(), processes_apart():
        one = _Pass(model, where, categories, learned, losses, score_threshold, max_detections)
        for look, size in looks:
            card = replace(model.card, input_size=size)
            for turn in evaluation_batches(
                data, card, batch_size=batch_size, workers=workers, share=share, pin=where.type == "cuda"
            ):
                if turn is not None:
                    one.add(look, *turn)
                if turn is not None and not look and progress is not None:
                    progress(min(one.seen * share.world, len(data)), len(data))
                if stop():
                    raise Stopped
    rows: dict[int, list[dict[str, Any]]] = {}
    for other in gather([one.rows]):
        rows |= other
    every = gather([one.sums])
    names = dict.fromkeys(name for part in every for name in part)
    return Measured(
        [row for index in sorted(rows) for row in rows[index]],
        {name: sum(part.get(name, 0.0) for part in every) / len(data) for name in names},
        further.task_scores(learned, gather(one.records), model.card.class_names, data) if learned else {},
        one.seconds,
    )


@dataclass(slots=True)
class _Pass:
    """What one process has found so far. rows: of each picture, by its index; sums: of each loss term over pictures;
    records: of further tasks; seconds: of the detector; seen: pictures."""

    model: Detector
    where: torch.device
    categories: list[int | None]
    learned: list[Any]
    losses: bool
    score_threshold: float | None
    max_detections: int | None
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    records: list[further.Records] = field(default_factory=list)
    seconds: float = 0.0
    seen: int = 0

    def add(self, look: int, indices: list[int], batch: Batch) -> None:
        """Run the network over a batch. look: 0 is the plain one, which gives detections and losses."""
        start = time.perf_counter()
        moved = to_device(further.mirrored(batch) if look else batch, self.where)
        raw, raw_of_loss = forward(self.model, moved, twice=self.losses and not look)
        if self.learned:
            self.records.append(further.record_tasks(self.learned, look, raw, moved.targets, indices))
        if look:
            return
        candidates = self.model.decode(raw)
        detections = self.model.select(candidates, self.score_threshold, max_detections=self.max_detections)
        detections = [d.to("cpu") for d in detections]
        self.seconds += time.perf_counter() - start
        for index, found, meta in zip(indices, detections, batch.metas):
            self.rows[index] = _coco_rows(found.to_original(meta), meta.image_id, self.categories)
        if self.losses:
            _add_losses(self.sums, self.model, raw_of_loss, moved)
        self.seen += len(indices)


def forward(model: Detector, batch: Batch, *, twice: bool) -> tuple[Any, Any]:
    """(raw output, raw output for the loss): the same but for a head that samples by the targets (`needs_targets`).
    Such a head runs a second time on the same maps, since its boxes would otherwise know the ground truth."""
    inputs: list[tuple[Any, ...]] = []
    again = twice and getattr(model.head, "needs_targets", False)
    hook = model.head.register_forward_pre_hook(lambda _, given: inputs.append(given)) if again else None
    try:
        raw = model(batch.images, batch.sizes)
    finally:
        if hook is not None:
            hook.remove()
    return raw, model.head(*inputs[0][:2], batch.targets) if again else raw


def _coco_rows(found: Detections, image_id: int | str, categories: list[int | None]) -> list[dict[str, Any]]:
    known = torch.tensor([categories[label] is not None for label in found.labels.tolist()], dtype=torch.bool)
    return found[known].to_coco(image_id, categories)  # type: ignore[arg-type]


def _add_losses(sums: dict[str, float], model: Detector, raw: Any, batch: Batch) -> None:
    """Add every term of a batch, times its images."""
    losses = model.loss(raw, batch.targets)
    for name, value in {**losses.terms, "loss": losses.total}.items():
        sums[name] = sums.get(name, 0.0) + float(value) * len(batch.targets)


def detect_dataset(model: Detector, data: DetectionData, **settings: Any) -> tuple[list[dict[str, Any]], float]:
    """(COCO result rows in original pixels, seconds of the detector) for every image; settings as of `measure`."""
    found = measure(model, data, **settings)
    return found.rows, found.seconds


def evaluate_model(model: Detector, data: DetectionData, *, max_detections: int = 100, **settings: Any) -> Metrics:
    """COCO metrics of `model` on `data`, with the card's score threshold; settings as of `measure`."""
    rows = measure(model, data, max_detections=max_detections, **settings).rows
    return evaluate(rows, data, max_detections=max_detections)


def match_classes(class_names: tuple[str, ...], data: DetectionData) -> list[int | None]:
    """The data set's category id for each class of the model, by name; None where the data set has no such class.

    Raises: HeadwayError when `data` has boxes of a class that the model does not know.
    """
    known = dict(zip(data.class_names, data.category_ids))
    labels = {*np.unique(data.of_boxes("labels")).tolist()}
    if unknown := [n for label, n in enumerate(data.class_names) if label in labels and n not in class_names]:
        hint = nearest(unknown[0], class_names)
        raise HeadwayError(
            f"{data.name!r} has boxes of {unknown}, which the model does not know (it has {len(class_names)} "
            f"classes: {', '.join(class_names[:10])}{' ...' if len(class_names) > 10 else ''}); "
            f"{hint or 'evaluate a model that was trained on these classes'}"
        )
    if len(class_names) > len(known):
        counts = f"{len(known)} of the model's {len(class_names)} classes"
        logger.info("%s has %s; the others are left out", data.name, counts)
    return [known.get(name) for name in class_names]


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None, precision: Precision) -> Iterator[torch.device]:
    """`model` on `device`, in eval mode under autocast; gives the device, and restores the mode of every module."""
    if device is not None:
        model.to(device)
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    with keeping_modes(model), autocast(where, precision):
        model.eval()
        yield where
