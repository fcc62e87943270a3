"""What happens to a picture and its boxes before they are batched, on torchvision.transforms.v2.

A sample is `(image, target)`: a `tv_tensors.Image` uint8 and a dict with `boxes` (tv_tensors.BoundingBoxes), `labels`,
`crowd`, `area` and, where the data has them, `ids`. Pixels stay uint8 to the end; collating makes them float 0..1.

`input_size` is always (short, long) in pixels: the picture is scaled, keeping its ratio, so that neither is exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import get_size

from ...boxes import pairwise_iou
from .colour import ColourJitter, HSVJitter, PhotometricDistortion
from .crop import SizeCrop
from .warp import RandomWarp

GREY = (124.0, 116.0, 104.0)  # ImageNet's mean colour, zero after the usual normalisation

ALIGNED = ("labels", "crowd", "area", "ids")  # what is filtered together with the boxes

PRESETS = ("none", "mmdet", "multiscale", "small", "mosaic", "ssd", "yolo", "detr")


class SampleTransform(Protocol):
    """(image, target) -> (image, target)."""

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]: ...


def aligned_with_boxes(inputs: Any) -> tuple[Tensor, ...]:
    """`labels_getter` for SanitizeBoundingBoxes, which by itself would filter `labels` only and leave crowd, area and
    ids long. At module level, so that a spawned worker can unpickle it."""
    target = inputs[1]
    return tuple(target[key] for key in ALIGNED if key in target)


def _sanitize() -> v2.SanitizeBoundingBoxes:
    """Removes boxes thinner than a pixel, with everything that belongs to them."""
    return v2.SanitizeBoundingBoxes(labels_getter=aligned_with_boxes)


def fit_size(size: Sequence[int], input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture scaled to `input_size` (short, long), keeping the ratio, rounded half up as
    mmcv.rescale_size does (open-mmlab/mmcv, mmcv/image/geometric.py); at least 1 pixel."""
    height, width = size
    short, long = input_size
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_affine(original_size: Sequence[int], size: Sequence[int]) -> tuple[float, float, float, float]:
    """`Meta.affine` of a plain resize: the actual ratios, which rounding makes differ between the axes."""
    return size[1] / original_size[1], size[0] / original_size[0], 0.0, 0.0


class KeepRatioResize(v2.Transform):
    """Scale to `input_size`, keeping the ratio, by antialiased bilinear interpolation in uint8.

    shorts: several short sides to choose from at random (multi-scale training); the long side stays the limit.
    enlarge: False leaves pictures as they are that fit already.
    """

    def __init__(self, input_size: tuple[int, int], shorts: Sequence[int] = (), *, enlarge: bool = True) -> None:
        super().__init__()
        self.input_size = _checked_size(input_size)
        self.shorts, self.enlarge = tuple(shorts), enlarge

    @property
    def fixed(self) -> bool:
        """Whether every call gives a picture the size `fit_size(size, input_size)`."""
        return self.enlarge and len(self.shorts) <= 1

    def forward(self, *inputs: Any) -> Any:
        """A picture alone, or (picture, target)."""
        if len(inputs) == 1 and isinstance(inputs[0], Tensor):  # v2's walk through nested samples costs 3% here
            return self.transform(inputs[0], self.make_params([inputs[0]]))
        return super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short, long = self.input_size
        if self.shorts:
            short = self.shorts[int(torch.randint(len(self.shorts), ()))]
        size = _picture_size(flat_inputs)
        fitted = fit_size(size, (short, long))
        return {"size": list(fitted if self.enlarge else min(fitted, size))}  # both axes shrink or both grow

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        resized = self._call_kernel(F.resize, value, params["size"], antialias=True)
        if isinstance(value, tv_tensors.BoundingBoxes):
            return F.clamp_bounding_boxes(resized)  # a coordinate on the edge may be rounded past it
        return resized


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
        self.input_size = _checked_size(input_size)
        self.scale, self.min_visible, self.fill = scale, min_visible, list(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        source = _picture_size(flat_inputs)
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


def eval_transform(input_size: tuple[int, int]) -> KeepRatioResize:
    """The transform of evaluation and prediction: `transform(image)` or `transform(image, target)`."""
    return KeepRatioResize(input_size)


def train_transform(
    preset: str,
    input_size: tuple[int, int],
    *,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    sizes: Sequence[int] = (),
    scale: tuple[float, float] = (0.6, 1.4),
    min_visible: float = 0.3,
    colour: float = 1.0,
    translate: float = 0.1,
    rotate: float = 0.0,
    shear: float = 0.0,
    perspective: float = 0.0,
    fill: Sequence[float] = GREY,
) -> v2.Transform:
    """The training transform of a preset.

    "none": resize only. "mmdet": resize and flip (specs of mmdetection's 1x schedule). "multiscale": the same with the
    short side drawn from `sizes`, by default 60% to 100% of the short side in steps of 32. "small": for training from
    scratch on small data sets: flips, zoom and crop, colour jitter. "mosaic": as "small", on four pictures joined by
    `mosaic.join`, whose scale is relative to a quarter of the mosaic. "ssd": see `_ssd`. "yolo": a warp, HSV and flips,
    of a single picture; `mixup.YoloMosaics` does them to mosaics. "detr": see `_detr`.

    flip, vertical_flip: probabilities of mirroring left-right and upside down.
    colour: strength of the colour jitter, 0 for none. fill: RGB 0..255 where there is no picture.
    translate, rotate, shear, perspective: of "yolo", see `warp.RandomWarp`.

    Raises: ValueError for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    flips = [v2.RandomHorizontalFlip(flip)] if flip else []
    if preset == "none":
        return v2.Compose([KeepRatioResize(input_size)])
    if preset == "mmdet":
        return v2.Compose([KeepRatioResize(input_size), *flips])
    if preset == "multiscale":
        return v2.Compose([KeepRatioResize(input_size, tuple(sizes) or _steps(input_size)), *flips])
    if vertical_flip:
        flips.append(v2.RandomVerticalFlip(vertical_flip))
    if preset == "detr":
        return _detr(input_size, flips, sizes)
    if preset == "ssd":
        return _ssd(input_size, flips, sizes, colour, fill)
    if preset == "yolo":
        warp = RandomWarp(input_size, scale, translate, rotate, shear, perspective, fill=fill)
        hsv = [HSVJitter(colour)] if colour else []
        return v2.Compose([KeepRatioResize(input_size), warp, *hsv, *flips, _sanitize()])
    if preset == "mosaic":
        scale = (2 * scale[0], 2 * scale[1])
    jitter = [ColourJitter(0.3 * colour, 0.3 * colour, 0.3 * colour, 0.02 * colour)] if colour else []
    return v2.Compose(
        [
            ZoomCrop(input_size, scale, min_visible, fill),
            *flips,
            *jitter,
            v2.ClampBoundingBoxes(),
            _sanitize(),
        ]
    )


def _steps(input_size: tuple[int, int]) -> tuple[int, ...]:
    """Short sides from 60% to 100% of the short side, in steps of 32."""
    return tuple(range(input_size[0], int(0.6 * input_size[0]) - 1, -32))


def _detr(input_size: tuple[int, int], flips: list[v2.Transform], sizes: Sequence[int]) -> v2.Transform:
    """DETR's augmentation (arXiv 2005.12872, appendix A.4; Swin's detectors have it as well): flip, and the short side
    drawn from `sizes`, by default 60% to 100% in steps of 32. Half of the pictures are before that brought to a short
    side of 50%, 62.5% or 75% and a window of 48% to 75% of it is cut out along each axis, at a short side of 800 pixels
    384 to 600. What a window leaves of a box remains, however little.
    """
    short = input_size[0]
    resize = KeepRatioResize(input_size, tuple(sizes) or _steps(input_size))
    small = [max(1, round(part * short)) for part in (0.5, 0.625, 0.75)]
    cropped = [KeepRatioResize(input_size, small), SizeCrop(max(1, round(0.48 * short)), small[-1]), resize]
    half = v2.RandomChoice([resize, v2.Compose(cropped)])
    return v2.Compose([*flips, half, v2.ClampBoundingBoxes(), _sanitize()])


class IoUCrop(v2.Transform):
    """Random crop that overlaps a box (SSD, arXiv 1512.02325, 2.2). Boxes with their centre inside stay, cut to it.

    A least overlap (IoU of the crop with one of these boxes) is drawn from `overlaps`, 1 standing for no crop at all,
    and of 40 random windows the first that has it is cut out; where none has, the draw is repeated. Windows are 0.3 to
    1 of the picture along each axis, with sides in a ratio of 0.5 to 2. A picture without boxes stays whole.

    The rules are those of torchvision's RandomIoUCrop, which tries one window after the other at ten times the cost.
    """

    overlaps = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials = 40

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes)).as_subclass(Tensor)
        size = torch.tensor(_picture_size(flat_inputs))
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


def _ssd(
    input_size: tuple[int, int], flips: list[v2.Transform], sizes: Sequence[int], colour: float, fill: Sequence[float]
) -> v2.Transform:
    """What SSD (arXiv 1512.02325, 2.2) and, after it, TTFNet and PAFNet train with for long: colours distorted, the
    picture on a canvas of up to four times its side (p 0.5), a crop that overlaps a box by at least 0 to 0.9, flips,
    and a size drawn for each picture: one of `sizes` as the short side, the long side in the ratio of `input_size`. By
    default 80% to 130% of `input_size` in steps of 32.

    A photograph of more than twice the largest size is scaled down to that first: of 12 megapixels the canvas would
    have 192.

    Differs: TTFNet and PAFNet squeeze to a square and draw a size for each batch; PaddleDetection's crop looks for the
    overlap with every box, this for any one.
    """
    short, long = input_size
    sides = tuple(sizes) or tuple(range(-(-int(0.8 * short) // 32) * 32, int(1.3 * short) + 1, 32)) or (short,)
    most = 2 * max(sides)
    return v2.Compose(
        [
            KeepRatioResize((most, round(most * long / short)), enlarge=False),
            *([PhotometricDistortion(colour)] if colour else []),
            v2.RandomZoomOut(fill=list(fill)),
            IoUCrop(),
            v2.RandomChoice([KeepRatioResize((side, round(side * long / short))) for side in sides]),
            *flips,
            v2.ClampBoundingBoxes(),
            _sanitize(),
        ]
    )


def empty_hidden(
    moved: tv_tensors.BoundingBoxes, before: tv_tensors.BoundingBoxes, area_scale: float, min_visible: float
) -> tv_tensors.BoundingBoxes:
    """`moved` [M, 4], with boxes set to zero of which a crop left less than `min_visible` of their area.

    before: the same boxes before the crop; area_scale: the factor by which the move alone changes areas.
    """
    hidden = _areas(moved) < min_visible * area_scale * _areas(before)
    return tv_tensors.wrap(moved.masked_fill(hidden[:, None], 0.0), like=moved)


def _checked_size(input_size: tuple[int, int]) -> tuple[int, int]:
    short, long = input_size
    if not 0 < short <= long:
        raise ValueError(f"input_size must be (short, long) with 0 < short <= long, got {tuple(input_size)}")
    return short, long


def _picture_size(flat_inputs: list[Any]) -> tuple[int, int]:
    """(height, width) of the picture among a transform's inputs."""
    images = [x for x in flat_inputs if isinstance(x, tv_tensors.Image)]
    height, width = get_size(images[0] if images else flat_inputs[0])
    return height, width


def _centres_inside(boxes: Tensor, windows: Tensor) -> Tensor:
    """boxes [M, 4], windows [N, 4] -> [N, M] bool: whether the window holds the box's centre."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(2)


def _areas(boxes: Tensor) -> Tensor:
    """[M, 4] -> [M]."""
    plain = boxes.as_subclass(Tensor)
    return (plain[:, 2] - plain[:, 0]) * (plain[:, 3] - plain[:, 1])
