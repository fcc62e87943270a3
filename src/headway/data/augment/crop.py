"""Random windows of a picture: zoomed on a fixed canvas, chosen by overlap with a box (SSD), or by size (DETR)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...boxes import pairwise_iou
from .labelled import GREY, empty_hidden
from .resize import checked_size, fit_size, picture_size


class ZoomCrop(v2.Transform):
    """Random zoom on a fixed canvas: the picture fitted to `input_size`, enlarged and cropped, or shrunk and padded.

    The canvas is the size to which `KeepRatioResize(input_size)` would bring the picture, so a data set of equal
    pictures needs no padding in its batches. The window is cut out of the source before it is scaled: one resampling.
    scale: range of the zoom, log-uniform, 1 fits the canvas.
    min_visible: a box of which less than this share of its area remains inside is emptied, for
        SanitizeBoundingBoxes to remove; the rest are clipped to the canvas.
    fill: RGB 0..255 of the padding.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        scale: tuple[float, float],
        min_visible: float = 0.3,
        fill: Sequence[float] = GREY,
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")
        self.input_size = checked_size(input_size)
        self.scale, self.min_visible, self.fill = scale, min_visible, list(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        source = picture_size(flat_inputs)
        canvas = fit_size(source, self.input_size)
        pick, across, down = torch.rand(3).tolist()
        low, high = (math.log(bound) for bound in self.scale)
        zoom = math.exp(low + pick * (high - low))
        # zoom > 1: a window of the source fills the canvas. zoom <= 1: the whole source fills a part of the canvas.
        window = [max(1, round(side / max(zoom, 1.0))) for side in source]
        inner = [max(1, round(side * min(zoom, 1.0))) for side in canvas]
        top, left = int(down * (source[0] - window[0] + 1)), int(across * (source[1] - window[1] + 1))
        above, before = int(down * (canvas[0] - inner[0] + 1)), int(across * (canvas[1] - inner[1] + 1))
        after, below = canvas[1] - inner[1] - before, canvas[0] - inner[0] - above
        return {"window": [top, left, *window], "inner": inner, "padding": [before, above, after, below]}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        moved = self._call_kernel(F.resized_crop, value, *params["window"], size=params["inner"], antialias=True)
        if isinstance(value, tv_tensors.BoundingBoxes):
            scale = params["inner"][0] / params["window"][2] * params["inner"][1] / params["window"][3]
            moved = empty_hidden(moved, value, scale, self.min_visible)
        if any(params["padding"]):
            moved = self._call_kernel(F.pad, moved, params["padding"], fill=self.fill)
        return moved


class IoUCrop(v2.Transform):
    """Random crop that overlaps a box (SSD, arXiv 1512.02325, 2.2). Boxes with their centre inside stay, cut to it.

    A least overlap (IoU of the crop with one of these boxes) is drawn from `overlaps`, 1 standing for no crop at all,
    and of 40 random windows the first that has it is cut out; where none has, the draw is repeated. Windows are 0.3 to
    1 of the picture along each axis, with sides in a ratio of 0.5 to 2. A picture without boxes stays whole.

    The rules are those of torchvision's RandomIoUCrop, which tries one window after the other: 7 to 15 ms a
    picture where this takes 0.6 (one thread).
    """

    overlaps = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials = 40

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes)).as_subclass(Tensor)
        size = torch.tensor(picture_size(flat_inputs))
        while len(boxes):
            overlap = self.overlaps[int(torch.randint(len(self.overlaps), ()))]
            if overlap == 1:
                break
            sides = (size * (0.3 + 0.7 * torch.rand(self.trials, 2))).long()  # height, width
            start = ((size - sides) * torch.rand(self.trials, 2)).long()
            windows = torch.cat([start.flip(1), (start + sides).flip(1)], 1).float()
            inside = _centres_inside(boxes, windows)  # [trials, M]
            shared = torch.where(inside, pairwise_iou(windows, boxes), -1.0).amax(1)
            fits = (shared >= overlap) & (sides > 0).all(1) & (sides[:, 0] <= 2 * sides[:, 1])
            found = (fits & (sides[:, 1] <= 2 * sides[:, 0])).nonzero()
            if len(found):
                first = int(found[0])
                return {"window": [*start[first].tolist(), *sides[first].tolist()], "kept": inside[first]}
        return {}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        if not params:
            return value
        cut = self._call_kernel(F.crop, value, *params["window"])
        if isinstance(value, tv_tensors.BoundingBoxes):
            return tv_tensors.wrap(cut.masked_fill(~params["kept"][:, None], 0.0), like=cut)
        return cut


def _centres_inside(boxes: Tensor, windows: Tensor) -> Tensor:
    """boxes [M, 4], windows [N, 4] -> [N, M] bool: whether the window holds the box's centre."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(2)


class SizeCrop(v2.Transform):
    """A window anywhere in the picture, each side drawn from `low` to `high` pixels, or to the picture's where that is
    less; a side below `low` stays whole. Boxes are cut to the window.

    Source: facebookresearch/detr (commit 29901c5, Apache-2.0), datasets/transforms.py, RandomSizeCrop.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"a crop needs sides (low, high) with 0 < low <= high, got {(low, high)}")
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        start, sides = [], []
        for side in picture_size(flat_inputs):
            sides.append(int(torch.randint(min(self.low, side), min(self.high, side) + 1, ())))
            start.append(int(torch.randint(side - sides[-1] + 1, ())))
        return {"window": [*start, *sides]}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, value, *params["window"])
