"""One photograph run through a detector, and heat maps that lie over it. Legend: H x W of one map."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augment.resize import eval_transform, resize_affine
from ..detector import Detector
from ..errors import HeadwayError
from ..predict import ImageLike, Predictor, read_picture
from ..types import Detections

CONFIDENT = 0.3  # score from which a detection counts as an object
Point = tuple[float, float]
Notes = Callable[[tuple[Any, ...], Any], None]


@dataclass(frozen=True, slots=True)
class Heat:
    """A map to be drawn over the photograph.

    values: [H, W]. step: (x, y) pixels of the photograph from cell to cell; first: (x, y) of the first cell's centre.
    text: the title. mark: (x, y) of the pixel whose attention the map is; box: xyxy of the object whose it is.
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

    def inside(self, boxes: Tensor) -> Tensor:
        """boxes: [N, 4] xyxy pixels of the photograph -> [N, H, W] bool: the cells whose centres lie in each."""
        x, y = (
            first + step * torch.arange(n) for first, step, n in zip(self.first, self.step, self.values.shape[::-1])
        )
        across = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
        down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
        return down[:, :, None] & across[:, None]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One picture: rows of heat maps with a label each, under the columns' titles. name: of the file, and of `numbers`
    in the JSON. caption: what the maps show."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]
    numbers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """image: [3, H, W] uint8. scale: (x, y) from its pixels to those of the network's input. input_size: (height,
    width) of that input with its padding. detections: in pixels of the photograph. raw: the output of the head."""

    image: Tensor
    scale: Point
    input_size: tuple[int, int]
    detections: Detections
    raw: Any

    def heat(self, values: Tensor, *, patches: bool = False, **fields: Any) -> Heat:
        """A map [H, W] of stride s, placed on the photograph. fields: of `Heat`.

        patches: cell i covers pixels i s to (i + 1) s of the network's input; else its centre is pixel i s, as in a
            padded convolution.
        """
        stride = stride_of(self.input_size, (int(values.shape[0]), int(values.shape[1])))
        start = stride / 2 if patches else 0.5
        step, first = (tuple(length / scale for scale in self.scale) for length in (stride, start))
        return Heat(values.detach().float().cpu(), (step[0], step[1]), (first[0], first[1]), **fields)

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
        on_objects, elsewhere = (heat.values[cells] for cells in self.split(heat))
        if not len(on_objects) or not len(elsewhere) or elsewhere.mean() <= 0:
            return None
        return (on_objects.mean() / elsewhere.mean()).item()

    def split(self, heat: Heat) -> tuple[Tensor, Tensor]:
        """[H, W] bool each: the cells of the photograph that lie on confident detections, and its other cells."""
        valid = heat.inside(torch.tensor([[0, 0, self.image.shape[2], self.image.shape[1]]]))[0]
        covered = heat.inside(self.confident().boxes).any(0)
        return valid & covered, valid & ~covered

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


class Watcher(ExitStack):
    """Forward hooks that `close`, or the end of a `with`, removes."""

    def on(self, module: nn.Module, note: Notes) -> None:
        """Call note(inputs, output) after each call of `module`."""
        self.enter_context(module.register_forward_hook(lambda _, inputs, output: note(inputs, output)))


def run_photograph(model: Detector, image: ImageLike) -> Scene:
    """Run `image` (a path or a [3, H, W] uint8 tensor) through `model` as in prediction.

    Callers have hooks on the modules of `model`, so these themselves must run, once, and no fused copy.
    Raises: DataError for a picture that cannot be read.
    """
    pixels = read_picture(image).pixels
    sizes: list[tuple[int, int]] = []
    raws: list[Any] = []
    with Watcher() as watcher:
        watcher.on(model.normalize, lambda _, output: sizes.append((int(output.shape[2]), int(output.shape[3]))))
        watcher.on(model.head, lambda _, output: raws.append(output))
        detections = Predictor(model, fuse=False)(pixels)[0]
    (input_size,), (raw,) = sizes, raws  # an error where they did not run once
    pixels = pixels.cpu()
    scaled = eval_transform(model.card.input_size)(pixels)
    x, y = resize_affine(pixels.shape[1:], scaled.shape[1:])[:2]
    return Scene(pixels, (float(x), float(y)), input_size, detections, raw)
