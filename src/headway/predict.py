"""From picture files or pixels to detections in their own pixels.

predictor = Predictor(headway.load("runs/train/best.safetensors"))
detections = predictor(["photo.jpg"])[0]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from . import vision  # noqa: F401  (torchvision without the compiler, before a reader of data imports it)
from .data.image import SUFFIXES, read_image
from .data.loader import Sample, collate
from .data.transforms import eval_transform, resize_affine
from .detector import Detector
from .errors import DataError, HeadwayError
from .precision import autocast
from .types import Detections, Meta, Target

ImageLike: TypeAlias = "str | os.PathLike[str] | Tensor"

_WINDOW = 8  # batches of pictures read ahead, among which equal shapes are grouped


class Prediction(NamedTuple):
    """One file of `Predictor.predict_paths`. A file that could not be read has neither image nor detections, but the
    reason in `error`. image: [3, H, W] uint8, upright."""

    path: Path
    image: Tensor | None
    detections: Detections | None
    error: str = ""


class Predictor:
    """A detector with the reading, scaling and batching around it.

    model: used in eval mode on `device` (by default where it is).
    precision: "fp32", "bf16" or "fp16" (the last on a GPU only).
    batch_size: most pictures per pass. Only pictures that would be padded to the same size alone go together, whatever
        their order: padding changes scores a little, and so a picture's result does not depend on its neighbours.
    score_threshold: on the final score; None: the card's, on the class score as published.

    Raises: HeadwayError for fp16 on the CPU or a batch size below 1.
    """

    def __init__(
        self,
        model: Detector,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        batch_size: int = 1,
        score_threshold: float | None = None,
    ) -> None:
        if batch_size < 1:
            raise HeadwayError(f"batch_size must be at least 1, got {batch_size}")
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        if precision == "fp16" and self.device.type == "cpu":
            raise HeadwayError("fp16 needs a GPU; use bf16 or fp32 on the CPU")
        self.model = model.to(self.device).eval()
        self.precision, self.batch_size, self.score_threshold = precision, batch_size, score_threshold
        self._transform = eval_transform(model.card.input_size)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> list[Detections]:
        """One Detections per image, in the given order, in the pixels of the original (upright) picture.

        images: paths or [3, H, W] uint8 RGB tensors, or a single one of them.
        Raises: DataError for a file that cannot be read, or a tensor of another shape or type.
        """
        if isinstance(images, (str, os.PathLike, Tensor)):
            images = [images]
        found: list[Detections] = []
        stream = iter(images)
        while window := list(islice(stream, self.batch_size * _WINDOW)):
            found += self._detect([self._sample(image, len(found) + i) for i, image in enumerate(window)])
        return found

    def predict_paths(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Every file in order; one that cannot be read is reported in its place and the rest go on."""
        stream = iter(paths)
        while window := list(islice(stream, self.batch_size * _WINDOW)):
            read: dict[int, Tensor] = {}
            errors: dict[int, str] = {}
            for i, path in enumerate(window):
                try:
                    read[i] = read_image(path)
                except DataError as error:
                    errors[i] = str(error)
            samples = [self._sample(image, i, window[i]) for i, image in read.items()]
            detections = dict(zip(read, self._detect(samples)))
            for i, path in enumerate(window):
                yield Prediction(path, read.get(i), detections.get(i), errors.get(i, ""))

    def _sample(self, image: ImageLike, number: int, path: Path | None = None) -> Sample:
        """Scale to the card's input size. path: where a tensor came from, if from a file."""
        if not isinstance(image, Tensor):
            path = Path(image)
            image = read_image(path)
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise DataError(
                f"an image must be a path or a [3, H, W] uint8 RGB tensor, got {tuple(image.shape)} {image.dtype} as "
                f"image {number}; convert it, e.g. by `(image * 255).to(torch.uint8)`"
            )
        original = (int(image.shape[1]), int(image.shape[2]))
        scaled = self._transform(image.cpu())
        affine = resize_affine(original, (int(scaled.shape[1]), int(scaled.shape[2])))
        target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return Sample(scaled, target, Meta(number, str(path or ""), original, affine))

    def _detect(self, samples: list[Sample]) -> list[Detections]:
        """Batches of one padded shape, back in the given order and in original pixels."""
        card = self.model.card
        groups: dict[tuple[int, int], list[int]] = {}
        for i, sample in enumerate(samples):
            height, width = (-(-side // card.pad_multiple) * card.pad_multiple for side in sample.image.shape[1:])
            groups.setdefault((height, width), []).append(i)
        found: dict[int, Detections] = {}
        for chosen in [g[i : i + self.batch_size] for g in groups.values() for i in range(0, len(g), self.batch_size)]:
            batch = collate([samples[i] for i in chosen], card.pad_value, card.pad_multiple)
            with autocast(self.device, self.precision):
                results = self.model.detect(
                    batch.images.to(self.device), batch.sizes.to(self.device), score_threshold=self.score_threshold
                )
            for i, detections in zip(chosen, results):
                found[i] = detections.to("cpu").to_original(samples[i].meta)
        return [found[i] for i in range(len(samples))]


def find_images(inputs: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The picture files that files, folders and glob patterns mean, each once, folders in sorted order.

    A file named outright is taken whatever its ending, and even if it is missing, so that reading reports it; of a
    folder or pattern the files with a picture's ending are taken.
    Raises: DataError for a folder or pattern without any, or when none of the files exists.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            walk = path.rglob("*") if recursive else path.iterdir()
            matches = sorted(p for p in walk if p.is_file() and is_image_name(p))
            reason = f"folder {path} holds no picture{'' if recursive else '; use --recursive to search below it'}"
        elif not path.exists() and any(character in str(item) for character in "*?["):
            matches = sorted(p for p in _glob(path) if p.is_file() and is_image_name(p))
            reason = f"no picture matches {item}"
        else:
            matches, reason = [path], ""
        if not matches:
            raise DataError(reason)
        found.update(dict.fromkeys(matches))
    if not any(path.is_file() for path in found):
        raise DataError(f"there is no file or folder {', '.join(str(path) for path in list(found)[:3])}")
    return list(found)


def is_image_name(path: str | Path) -> bool:
    """Whether the ending is a picture's."""
    return Path(path).suffix.lower() in SUFFIXES


def _glob(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor)
    return root.glob(str(pattern.relative_to(root)))
