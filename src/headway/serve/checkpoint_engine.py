"""A checkpoint as an engine, with the views of what its network does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..data.image import read_image
from ..detector import Detector
from ..errors import HeadwayError
from ..findings import Findings
from ..layers.deform import DeformConv2d
from ..precision import pick_device
from ..predict import Predictor
from ..resolve import load_model
from ..view.deform import record, to_dict
from ..view.gates import KINDS, blocks_with_gates, watched_gates
from .engine import Asked, Item

_OPTIONS = 64  # sets of options whose predictors are kept
_POINTS = 2000  # of a pixel that are sent; a page shows no more


class CheckpointEngine:
    """A detector. Predictors are made per set of options, unfused, as `model.predict` makes them.

    looks: tiles, overlap and tta, as of `Predictor`. A picture then goes alone, since it makes batches by itself.
    """

    kind = "checkpoint"

    def __init__(self, model: Detector, name: str, precision: str = "fp32", **looks: Any) -> None:
        self.model, self.name, self.precision = model.eval(), name, precision
        self.looks = {key: value for key, value in looks.items() if value is not None}
        self.card: dict[str, Any] = model.card.to_dict()
        self.default_threshold = model.card.score_threshold
        self.predictor = lru_cache(_OPTIONS)(self._predictor)
        self._reader = self.predictor(Asked())
        self._plain = Predictor(self.model, None, precision, fuse=False)
        self.views: dict[str, Callable[[Any, Any], dict[str, Any]]] = {}
        if blocks_with_gates(model):
            self.views["gates"] = lambda pixels, _: self._gates(pixels)
        if any(isinstance(module, DeformConv2d) for module in model.modules()):
            self.views["sampling"] = self._sampling

    @classmethod
    def open(cls, name: str | Path, device: str, precision: str, threads: int, **looks: Any) -> Self:
        if threads:
            torch.set_num_threads(threads)
        return cls(load_model(name, str(pick_device(device))), Path(name).name, precision, **looks)

    def _predictor(self, asked: Asked) -> Predictor:
        return Predictor(
            self.model, None, self.precision, threshold=asked.threshold, max_detections=asked.max_detections,
            classes=asked.classes, fuse=False, **self.looks,
        )  # fmt: skip

    def decode(self, data: bytes, where: str, max_pixels: int) -> Tensor:
        return read_image(where, data=data, max_pixels=max_pixels, white=self.model.card.white)

    def prepare(self, pixels: Tensor, asked: Asked) -> Item:
        size = (pixels.shape[1], pixels.shape[2])
        return Item(pixels if self._several(size) else self._reader.prepare(pixels), size, asked)

    def _several(self, size: tuple[int, int]) -> bool:
        """Whether a picture of `size` is looked at in several views."""
        return self._reader.views.count(size) > 1

    def key(self, item: Item) -> Hashable:
        if self._several(item.size):
            return id(item.prepared)
        return (*self._reader.padded_size(item.prepared), item.asked)

    def run(self, items: Sequence[Item]) -> list[Findings]:
        if self._several(items[0].size):
            return [self.predictor(item.asked)([item.prepared])[0] for item in items]
        return [*self.predictor(items[0].asked).run([item.prepared for item in items])]

    def _gates(self, pixels: Tensor) -> dict[str, Any]:
        """Of every block and level the gate of each kind, and their ratio; counted from 1. The look is plain."""
        with watched_gates(self.model) as found:
            self._plain([pixels])
        rows = [
            {"block": gates.block + 1, "level": gates.level + 1}
            | {kind: gates.values[kind].item() for kind in KINDS if kind in gates.values}
            for gates in found
        ]
        return {"view": "gates", "rows": rows}

    def _sampling(self, pixels: Tensor, pixel: tuple[float, float] | None) -> dict[str, Any]:
        """The points that a pixel samples through the last layers, in pixels of the picture."""
        recording = record(self.model, pixels)
        chain = recording.chain()
        sampling = recording.sample(pixel or recording.scene.default_pixel(), chain)
        (numbers,) = to_dict(recording, [sampling])["pixels"]
        if not numbers["points"]:
            raise HeadwayError("this pixel samples nothing")
        return {
            "view": "sampling",
            **numbers,
            "points": numbers["points"][:_POINTS],
            "weights": numbers["weights"][:_POINTS],
        }
