"""One photograph gone through a detector, and heat maps that lie over it. Legend: H x W of one map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HeadwayError
from ..types import Detections

CONFIDENT = 0.3  # score from which a detection counts as an object
Point = tuple[float, float]
Notes = Callable[[tuple[Any, ...], Any], None]


@dataclass(frozen=True, slots=True)
class Heat:
    """A map to be laid over the photograph.

    values: [H, W]. step: (x, y) pixels of the photograph from cell to cell; first: (x, y) of the first cell's centre.
    text: above it. mark: (x, y) of the pixel that looks; box: xyxy of the object that does.
    """

    values: Tensor
    step: Point
    first: Point
    text: str = ""
    mark: Point | None = None
    box: tuple[float, float, float, float] | None = None

    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top of the cells in pixels of the photograph, as matplotlib wants them."""
        height, width = self.values.shape
        left, top = (first - step / 2 for first, step in zip(self.first, self.step))
        return left, left + width * self.step[0], top + height * self.step[1], top


@dataclass(frozen=True, slots=True)
class Sheet:
    """One picture: rows of heat maps with a label each, under the columns' titles. name: of the file; caption: what is
    seen. numbers: what stands in the JSON under that name."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]
    numbers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """image: [3, H, W] uint8; scale: (x, y) from its pixels to those of the network's input; input_size: (height,
    width) of that input, padded; detections: in pixels of the photograph; raw: what the head gave."""

    image: Tensor
    scale: Point
    input_size: tuple[int, int]
    detections: Detections
    raw: Any

    def heat(self, values: Tensor, *, patches: bool = False, **more: Any) -> Heat:
        """[H, W] -> where it lies. patches: cell i covers pixels i s to (i + 1) s of the network's input, as
        patches do; else it is centred on pixel i s, as cells of padded convolutions are. more: of `Heat`."""
        stride = stride_of(self.input_size, (int(values.shape[0]), int(values.shape[1])))
        start = stride / 2 if patches else 0.5
        step, first = (tuple(length / scale for scale in self.scale) for length in (stride, start))
        return Heat(values.detach().float().cpu(), (step[0], step[1]), (first[0], first[1]), **more)

    def cell(self, pixel: Point, size: tuple[int, int], *, patches: bool = False) -> tuple[int, int]:
        """The (row, column) of a map of `size` that holds a pixel of the photograph. Raises: HeadwayError outside."""
        height, width = self.image.shape[1:]
        if not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
            raise HeadwayError(f"pixel {pixel[0]:g},{pixel[1]:g} lies outside the photograph of {width} x {height}")
        heat = self.heat(torch.zeros(size), patches=patches)
        column, row = (round((p - first) / step) for p, first, step in zip(pixel, heat.first, heat.step))
        return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)

    def focus(self, heat: Heat) -> float | None:
        """Mean of the map over the cells whose centres lie in confident detections, divided by that over the other
        cells of the photograph; None where there are no such cells."""
        height, width = heat.values.shape
        x = heat.first[0] + heat.step[0] * torch.arange(width)
        y = heat.first[1] + heat.step[1] * torch.arange(height)
        valid = (y < self.image.shape[1])[:, None] & (x < self.image.shape[2])
        boxes = self.confident().boxes
        across = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
        down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
        covered = (down[:, :, None] & across[:, None]).any(0)
        inside, outside = heat.values[valid & covered], heat.values[valid & ~covered]
        if not len(inside) or not len(outside) or outside.mean() <= 0:
            return None
        return (inside.mean() / outside.mean()).item()

    def confident(self) -> Detections:
        """The detections that count as objects, best first."""
        return self.detections[self.detections.scores >= CONFIDENT]

    def default_pixel(self) -> Point:
        """The centre, in whole pixels, of the best detection where there is a confident one, else of the photograph."""
        found = self.confident()
        if len(found):
            x1, y1, x2, y2 = found.boxes[0].tolist()
            return (x1 + x2) // 2, (y1 + y2) // 2
        return self.image.shape[2] // 2, self.image.shape[1] // 2


def stride_of(input_size: tuple[int, int], size: tuple[int, int]) -> int:
    """Pixels of the network's input per cell of a map: a power of two, whatever rounding did at the map's edge."""
    return int(2 ** round(math.log2(max(side / cells for side, cells in zip(input_size, size)))))


class Watcher:
    """Forward hooks for the time of a look."""

    def __init__(self) -> None:
        self._hooks: list[Any] = []

    def on(self, module: nn.Module, note: Notes) -> None:
        """Call note(inputs, output) after each call of `module`."""
        self._hooks.append(module.register_forward_hook(lambda _, inputs, output: note(inputs, output)))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
