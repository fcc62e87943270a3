"""Opens a file that `headway.export` wrote. Nothing here imports torch, but `predict` where it is installed.

model = headway.runtime.Runtime("photos.onnx")
found = model("photo.jpg")            # Found(boxes, scores, labels, names), numpy
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..data.download import content_of, download, is_url
from ..data.image import array_upright, decode_pillow, is_many, orientation_of, read_pixels
from ..data.windows import OVERLAP, Window, check_tiles
from ..errors import CheckpointError, DataError, HeadwayError, one_line
from ..findings import Prediction
from ..options import ALL, best_thresholds, check_options, labels_of
from ..predict.tiles import join, views_of
from .engines import NOTES, Array, Engine, EnginePrecision, open_engine
from .found import Found

_MAX_SIDE = 16384


class Runtime:
    """An exported detector. card: its model card as plain values; info: how it was exported; size: (height, width) of
    its input, None for any; batch: pictures per run, None for any number; engine: the name of what runs it; white: the
    card's, of 16-bit pictures.

    threads: of the engine; 0: its own choice.
    precision: of an OpenVINO file (.xml): "fp32" is exact, "bf16" faster where the CPU has it, "auto" its choice.
        An ONNX file computes as it was written.
    engine: what runs it, instead of what its ending says.

    Raises: CheckpointError for a file that is missing, damaged, or not written by `headway.export`; HeadwayError
    without the package that runs it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        precision: EnginePrecision = "fp32",
        engine: Engine | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise CheckpointError(f"no exported file at {self.path}")
        self._engine = engine or open_engine(self.path, threads, precision)
        self.engine = self._engine.name
        try:
            self.card, self.info = (json.loads(self._engine.notes[name]) for name in NOTES)
            self.names = tuple(map(str, self.card["class_names"]))
            shape = self._engine.shape
            self.batch = shape[0]
            self.size = None if shape[2] is None or shape[3] is None else (shape[2], shape[3])
            self._short, self._long = sorted(map(int, self.card["input_size"]))
            white = self.card.get("white")  # of 16-bit pictures
            self.white = None if white is None else int(white)
            self._multiple = int(self.card["pad_multiple"])
            self._most = int(self.card["max_detections"])
            if not (isinstance(self.card["category_ids"], list) and isinstance(self.card["metrics"], dict)):
                raise ValueError("category_ids must be a list and metrics a mapping")
            sides = (self._short, self._long, self._multiple, *(self.size or ()))
            if shape[1] != 3 or not all(0 < side <= _MAX_SIDE for side in sides):
                raise ValueError(f"input {shape}, size {self.card['input_size']}, pad {self._multiple}")
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{self.path} was not written by headway's export: no valid card ({error})") from None

    def __call__(self, sources: Any, **options: Any) -> Any:
        """One `Found` for a single picture, a list for several, in the pixels of each picture.

        sources, options: as of `predict`. Raises: HeadwayError, DataError.
        """
        found = [found for _, found in self._detect(sources, **options)]
        return found if is_many(sources) else found[0]

    def predict(self, sources: Any, **options: Any) -> Any:
        """As a call; with torch installed it gives `headway.Detections`, as `Detector.predict` does.

        sources: a path, URL, bytes, an open file, a PIL picture, an array [H, W, 3] RGB (uint8, or float in 0..1),
            a tensor [3, H, W], or any iterable of them, mixed.
        threshold: keep what scores more; None: all that the file gives; "best": of each class that of its best F1.
        batch_size: most pictures per run, for a file of any batch. classes: names or labels to keep; None: all.
        max_detections: at most; the file has a limit of its own, with tiles for each of them.
        tiles, overlap: as of `headway.predict`; a file of one size has tiles of this size.

        Raises: HeadwayError for a wrong option; DataError for a picture that cannot be read.
        """
        if find_spec("torch") is None:
            return self(sources, **options)
        import torch

        from ..detections import Detections

        results = []
        for pixels, found in self._detect(sources, **options):
            arrays = map(torch.from_numpy, (found.boxes, found.scores, found.labels))
            at = found.source if isinstance(found.source, str) else torch.tensor(pixels).permute(2, 0, 1)
            results.append(Detections(*arrays, found.names, source=at, size=found.size))
        return results if is_many(sources) else results[0]

    def predict_paths(self, paths: Iterable[Path], *, batch_size: int = 1, **options: Any) -> Iterator[Prediction]:
        """Every file in order; one that cannot be read is reported in its place and the rest go on.

        options: as of `predict`.
        """
        stream = iter(paths)
        while window := list(islice(stream, self.batch or batch_size)):
            read: dict[int, Array] = {}
            errors: dict[int, str] = {}
            for i, path in enumerate(window):
                try:
                    read[i] = self.read(path)
                except DataError as error:
                    errors[i] = str(error)
            results = self._detect(list(read.values()), batch_size=batch_size, **options)
            found = {i: replace(f, source=str(window[i])) for i, (_, f) in zip(read, results)}
            for i, path in enumerate(window):
                yield Prediction(path, read.get(i), found.get(i), errors.get(i, ""))

    def most(self, max_detections: int | None = None, *, tiles: int | bool | None = None) -> int:
        """How many detections of a picture are kept at most; with `tiles` the file's own limit is of each of them."""
        own = self._most if self.info.get("nms", True) and not tiles else ALL
        return own if max_detections is None else min(own, max_detections)

    def read(self, source: Any, where: str = "the picture") -> Array:
        """[H, W, 3] uint8 RGB, upright. where: what an error calls bytes. Raises: DataError."""
        if is_url(source):
            return read_pixels(source, data=download(source), white=self.white)
        if isinstance(source, (str, os.PathLike)):
            return read_pixels(Path(source), white=self.white)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return read_pixels(where, data=bytes(source), white=self.white)
        if hasattr(source, "read"):
            return read_pixels(where, data=content_of(source, where), white=self.white)
        if isinstance(source, Image.Image):
            return array_upright(decode_pillow(source, where, self.white), orientation_of(source))
        if hasattr(source, "detach"):
            from ..data.pixels import to_pixels

            return np.ascontiguousarray(to_pixels(source).permute(1, 2, 0).numpy())
        if not isinstance(source, np.ndarray):
            kind = type(source).__name__
            raise DataError(f"a picture must be a path, URL, bytes, PIL or array [H, W, 3], got {kind}")
        pixels = source[..., None] if source.ndim == 2 else source
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
            raise DataError(f"a picture must be an array [H, W, 3], got {source.shape}")
        if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
            pixels = (pixels.astype("f4") * 255).round().astype(np.uint8)
        if pixels.dtype != np.uint8:
            raise DataError(f"a picture must be uint8 in 0..255 or float in 0..1, got {pixels.dtype}")
        return pixels[..., :3] if pixels.shape[2] > 1 else pixels.repeat(3, 2)

    def prepare(self, pixels: Array) -> tuple[Array, tuple[int, int]]:
        """[H, W, 3] -> [3, H, W] as the file reads it: scaled as by the detector's transform, padded at the right and
        bottom; and the (height, width) of the picture in it. What is larger than a fixed input is scaled to fit."""
        height, width = pixels.shape[:2]
        scale = min(self._short / min(height, width), self._long / max(height, width))
        if self.size is not None:  # the half pixel that rounding adds still fits
            scale = min(scale, (self.size[0] + 0.49) / height, (self.size[1] + 0.49) / width)
        size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        # Pillow's filter is that of torchvision's antialiased resize; they differ by a grey level in 0.3% of pixels.
        scaled = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
        padded = self.size or tuple(-(-side // self._multiple) * self._multiple for side in size)
        canvas = np.zeros((3, *padded), np.uint8)
        canvas[:, : size[0], : size[1]] = np.asarray(scaled).transpose(2, 0, 1)
        return canvas, size

    def run(self, inputs: Sequence[tuple[Array, tuple[int, int]]]) -> list[Found]:
        """What `prepare` gave of each picture -> detections in input pixels. Neighbours of one shape run together."""
        found = []
        for _, group in groupby(inputs, lambda pair: pair[0].shape):
            chosen = list(group)
            step = self.batch or len(chosen)
            for start in range(0, len(chosen), step):
                images, sizes = (np.stack(x) for x in zip(*chosen[start : start + step]))
                fill = [(0, step - len(images) if self.batch else 0)]
                feed = {"images": np.pad(images, fill + [(0, 0)] * 3), "sizes": np.pad(sizes, [*fill, (0, 0)], "edge")}
                try:
                    result = self._engine(**feed)
                except Exception as error:
                    raise HeadwayError(f"{self.path} fails on images {images.shape}: {one_line(error)}") from None
                for boxes, scores, labels in zip(*(x[: len(images)] for x in result)):
                    keep = scores > 0
                    found.append(Found(boxes[keep], scores[keep], labels[keep], self.names))
        return found

    def _detect(
        self,
        sources: Any,
        *,
        threshold: float | Literal["best"] | None = None,
        batch_size: int = 1,
        max_detections: int | None = None,
        classes: Sequence[str | int] | None = None,
        tiles: int | bool | None = None,
        overlap: float = OVERLAP,
    ) -> Iterator[tuple[Array, Found]]:
        """(pixels, the detections in them) of each."""
        limits = best_thresholds(SimpleNamespace(**self.card)) if threshold == "best" else None
        lowest = threshold if limits is None else min(limits)
        check_options(batch_size, lowest, max_detections)
        check_tiles(tiles, overlap)
        labels_of(() if classes is None else classes, self.names)
        kept = {"threshold": lowest, "max_detections": max_detections, "classes": classes}
        stream = iter(sources if is_many(sources) else [sources])
        while window := list(islice(stream, self.batch or batch_size)):
            pictures = [self.read(source) for source in window]
            views = [self.views_of(pixels.shape[:2], tiles, overlap) for pixels in pictures]
            plain = [pixels for pixels, each in zip(pictures, views) if len(each) == 1]
            whole = iter(self._whole(plain, **kept))
            for source, pixels, each in zip(window, pictures, views):
                original = next(whole) if len(each) == 1 else self._tiled(pixels, each, batch_size, **kept)
                at = str(source) if isinstance(source, (str, os.PathLike)) and not is_url(source) else pixels
                yield pixels, replace(original.filter(threshold=limits), source=at)

    def views_of(self, size: tuple[int, int], tiles: int | bool | None, overlap: float = OVERLAP) -> list[Window]:
        """The windows in which a picture of `size` (height, width) is looked at."""
        own = self.size if tiles is True and self.size else tiles
        return views_of(size, own, overlap, (self._short, self._long))

    def _whole(self, pictures: Sequence[Array], **kept: Any) -> list[Found]:
        """Of pictures that are looked at once."""
        inputs = [self.prepare(pixels) for pixels in pictures]
        pairs = zip(pictures, inputs, self.run(inputs))
        return [self.to_original(found, size, pixels.shape[:2], **kept) for pixels, (_, size), found in pairs]

    def _tiled(self, pixels: Array, views: Sequence[Window], batch_size: int, **kept: Any) -> Found:
        """Of a picture that is looked at in tiles."""
        parts = [pixels[v.y1 : v.y2, v.x1 : v.x2] for v in views]
        step = self.batch or batch_size
        each = [found for i in range(0, len(parts), step) for found in self._whole(parts[i : i + step], **kept)]
        moved = [found.boxes + np.float32([v.x1, v.y1] * 2) for found, v in zip(each, views)]
        joined = join(views, moved, [found.scores for found in each], [found.labels for found in each])
        chosen = slice(kept["max_detections"])
        labels = np.concatenate([found.labels for found in each])[joined.index[chosen]]
        boxes, scores = (values[chosen].astype(np.float32) for values in (joined.boxes, joined.scores))
        return Found(boxes, scores, labels, self.names, None, pixels.shape[:2])

    def to_original(
        self,
        found: Found,
        size: tuple[int, int],
        original: tuple[int, int],
        *,
        threshold: float | None = None,
        max_detections: int | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> Found:
        """What `run` gave of a picture, in the pixels of the original; options: as of `predict`.

        size: (height, width) of the picture in the input, as `prepare` gave it; original: those of the picture itself.
        """
        limit = np.array(original[::-1] * 2, np.float32)  # width, height, width, height
        scale = (np.array(size[::-1] * 2) / limit).astype(np.float32)
        keep = found.scores > (threshold or 0.0)
        if classes is not None:
            keep &= np.isin(found.labels, labels_of(classes, self.names))
        chosen = np.flatnonzero(keep)[:max_detections]
        boxes = np.minimum((found.boxes / scale).clip(0), limit)
        return Found(boxes[chosen], found.scores[chosen], found.labels[chosen], self.names, None, original)
