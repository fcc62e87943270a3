"""A detector over pictures: reading, scaling, batching, and detections in the pixels of each original.

predictor = Predictor(headway.load("runs/train/best.safetensors"))
for prediction in predictor.predict_paths(paths): ...
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import vision  # noqa: F401  (torchvision without the compiler, before a reader of data imports it)
from ..data.augment.resize import eval_transform, resize_affine
from ..data.batch import BatchItem, collate, to_model_input
from ..data.image import is_many
from ..detector import Detector, keeping_modes
from ..errors import DataError
from ..findings import Prediction
from ..layers.fuse import fuse as folded
from ..options import best_thresholds, check_options, labels_of
from ..precision import autocast, check_precision
from ..types import Detections, Meta, Target
from .sources import ImageLike, Picture, read_picture

_WINDOW = 8  # batches of pictures read ahead, among which equal shapes are grouped


class Predictor:
    """A detector with the reading, scaling and batching around it.

    model: used in eval mode on `device` (by default where it is).
    precision: "fp32", "bf16" or "fp16" (the last on a GPU only).
    batch_size: most pictures per pass. Only pictures that would be padded to the same size alone go together, whatever
        their order: padding changes scores a little, and so a picture's result does not depend on its neighbours.
    threshold: on the final score; None: the card's, on the class score as published.
    max_detections, nms_iou: None and "card" mean the card's; nms_iou=None is no suppression.
    classes: names or labels to keep; None: all.
    white: of 16-bit pictures the value that is white; None: the card's, else by each picture's own values.
    fuse: fold batch norms into convolutions once (`headway.fuse`), unless hooks watch the model.

    Raises: HeadwayError for fp16 on the CPU, a batch size below 1, a threshold outside 0..1 or an unknown class.
    """

    def __init__(
        self,
        model: Detector,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        batch_size: int = 1,
        threshold: float | None = None,
        *,
        max_detections: int | None = None,
        nms_iou: float | Literal["card"] | None = "card",
        classes: Sequence[str | int] | None = None,
        white: int | None = None,
        fuse: bool = True,
    ) -> None:
        check_options(batch_size, threshold, max_detections, nms_iou)
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        check_precision(precision, self.device)
        self.classes = None if classes is None else labels_of(classes, model.card.class_names)
        model = model.to(self.device).eval()
        watched = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        self.model: Any = folded(model) if fuse and not watched else model
        self.precision, self.batch_size = precision, batch_size
        self.white = model.card.white if white is None else white
        self.max_detections = model.card.max_detections if max_detections is None else max_detections
        # Of chosen classes: all are detected and the cap comes behind the choice.
        self._options: dict[str, Any] = {"max_detections": 1_000_000 if classes is not None else self.max_detections}
        self._options |= {"nms_iou": nms_iou, "threshold": threshold}
        self._transform = eval_transform(model.card.input_size)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> list[Detections]:
        """One Detections per picture, in the given order, in the pixels of the original (upright) picture.

        images: pictures in any form (`ImageLike`), mixed, or a single one.
        Raises: DataError for a picture that cannot be read, by its number.
        """
        return list(self.stream(images if is_many(images) else [images]))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Detections]:
        """As a call, for pictures that come one by one; a few batches are read ahead."""
        pictures = (read_picture(image, f"picture {number}", white=self.white) for number, image in enumerate(images))
        while window := list(islice(pictures, self.batch_size * _WINDOW)):
            yield from self._detect(window)

    def predict_paths(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Every file in order; one that cannot be read is reported in its place and the rest go on."""
        stream = iter(paths)
        while window := list(islice(stream, self.batch_size * _WINDOW)):
            read: dict[int, Picture] = {}
            errors: dict[int, str] = {}
            for i, path in enumerate(window):
                try:
                    read[i] = read_picture(path, white=self.white)
                except DataError as error:
                    errors[i] = str(error)
            found = dict(zip(read, self._detect(list(read.values()))))
            for i, path in enumerate(window):
                yield Prediction(path, read[i].pixels if i in read else None, found.get(i), errors.get(i, ""))

    def prepare(self, pixels: Tensor, number: int = 0) -> BatchItem:
        """A picture [3, H, W] scaled to the card's input size."""
        scaled = self._transform(pixels)
        affine = resize_affine(pixels.shape[1:], scaled.shape[1:])
        target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return BatchItem(scaled, target, Meta(number, "", (pixels.shape[1], pixels.shape[2]), affine))

    def padded_size(self, sample: BatchItem) -> tuple[int, int]:
        """(height, width) to which `sample` is padded alone; pictures of one such size may go together."""
        multiple = self.model.card.pad_multiple
        height, width = (-(-side // multiple) * multiple for side in sample.image.shape[1:])
        return height, width

    def run(self, samples: Sequence[BatchItem]) -> list[Detections]:
        """One pass over what `prepare` gave of pictures of one padded size, back in original pixels."""
        card = self.model.card
        batch = collate(samples, card.pad_value, card.pad_multiple)
        with torch.no_grad(), autocast(self.device, self.precision):
            images, sizes = to_model_input(batch, self.device), batch.sizes.to(self.device)
            results = self.model.detect(images, sizes, **self._options)
        found = [detections.to("cpu").to_original(sample.meta) for detections, sample in zip(results, samples)]
        if self.classes is None:
            return found
        return [original.filter(classes=self.classes)[: self.max_detections] for original in found]

    def _detect(self, pictures: Sequence[Picture]) -> list[Detections]:
        """Batches of one padded shape, back in the given order and in original pixels."""
        samples = [self.prepare(picture.pixels, i) for i, picture in enumerate(pictures)]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(self.padded_size(sample), []).append(i)
        found: dict[int, Detections] = {}
        for chosen in [g[i : i + self.batch_size] for g in groups.values() for i in range(0, len(g), self.batch_size)]:
            for i, detections in zip(chosen, self.run([samples[i] for i in chosen])):
                found[i] = replace(detections, source=pictures[i].source)
        return [found[i] for i in range(len(samples))]


def predict(
    model: Detector,
    sources: ImageLike | Iterable[ImageLike],
    *,
    threshold: float | Literal["best"] | None = None,
    batch_size: int = 1,
    max_detections: int | None = None,
    classes: Sequence[str | int] | None = None,
    nms_iou: float | Literal["card"] | None = "card",
) -> Any:
    """Detections in the pixels of each picture: one `Detections` for a single picture, a list for several, in order.

    sources: a picture in any form (`ImageLike`): path, URL, bytes, PIL picture, array [H, W, 3] RGB, tensor [3, H, W];
        a batch; or any iterable of them, mixed.
    threshold: keep what scores more (final score, 0..1); None: the card's, on the class score as published; "best": of
        each class that of its best F1 in validation, which the card of a trained model has.
    batch_size: most pictures per pass. classes: names or labels to keep; None: all.
    max_detections, nms_iou: None and "card" mean the card's; nms_iou=None is no suppression.

    The network runs where it is, in eval mode, and keeps its mode. For many pictures `headway.fuse(model)` is faster.
    Raises: HeadwayError for a wrong option; DataError for a picture that cannot be read.
    """
    limits = best_thresholds(model.card) if threshold == "best" else None
    with keeping_modes(model):
        predictor = Predictor(
            model, None, "fp32", batch_size, threshold if limits is None else min(limits),
            max_detections=max_detections, nms_iou=nms_iou, classes=classes, fuse=False,
        )  # fmt: skip
        found = [one.filter(threshold=limits) for one in predictor(sources)]
    return found if is_many(sources) else found[0]
