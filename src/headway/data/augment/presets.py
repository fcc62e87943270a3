"""The augmentation presets by name: what happens to a training picture and its boxes before they are batched."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torchvision.transforms import v2

from .colour import ColourJitter, HSVJitter, PhotometricDistortion
from .crop import IoUCrop, SizeCrop, ZoomCrop
from .labelled import GREY, aligned_with_boxes
from .resize import KeepRatioResize
from .warp import RandomWarp

_FLIPS = ("flip", "vertical_flip")
_USES: dict[str, tuple[str, ...]] = {  # the settings of `train_transform` that each preset uses
    "none": (),
    "mmdet": _FLIPS,
    "multiscale": (*_FLIPS, "sizes"),
    "small": (*_FLIPS, "scale", "colour"),
    "mosaic": (*_FLIPS, "scale", "colour"),
    "ssd": (*_FLIPS, "sizes", "colour"),
    "yolo": (*_FLIPS, "scale", "translate", "rotate", "shear", "perspective", "colour"),
    "detr": (*_FLIPS, "sizes"),
}
PRESETS = tuple(_USES)

# What says nothing about a setting: its default, and the value that switches it off.
_SILENT: dict[str, tuple[Any, ...]] = {
    "flip": (0.5, 0), "vertical_flip": (0,), "sizes": ((),), "scale": ((0.6, 1.4), (1, 1)), "colour": (1, 0),
    "translate": (0.1, 0), "rotate": (0,), "shear": (0,), "perspective": (0,),
}  # fmt: skip


def _sanitize() -> v2.SanitizeBoundingBoxes:
    """Removes boxes thinner than a pixel, with everything that belongs to them."""
    return v2.SanitizeBoundingBoxes(labels_getter=aligned_with_boxes)


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
    short side sampled from `sizes`, by default 60% to 100% of the short side in steps of 32. "small": for training from
    scratch on small data sets: flips, zoom and crop, colour jitter. "mosaic": as "small", on four pictures joined by
    `mosaic.join`, whose scale is relative to a quarter of the mosaic. "ssd": see `_ssd`. "yolo": a warp, HSV and flips,
    of a single picture; `mosaic.YoloMosaics` does them to mosaics. "detr": see `_detr`.

    flip, vertical_flip: probabilities of flipping left-right and upside down, in every preset but "none".
    colour: strength of the colour jitter, 0 for none. fill: RGB 0..255 where there is no picture.
    translate, rotate, shear, perspective: of "yolo", see `warp.RandomWarp`.

    Raises: ValueError for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    kinds = ((v2.RandomHorizontalFlip, flip), (v2.RandomVerticalFlip, vertical_flip))
    flips = [kind(p) for kind, p in kinds if p and preset != "none"]
    if preset in ("none", "mmdet", "multiscale"):
        shorts = tuple(sizes) or _steps(input_size)
        return v2.Compose([KeepRatioResize(input_size, shorts if preset == "multiscale" else ()), *flips])
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
    zoom = ZoomCrop(input_size, scale, min_visible, fill)
    return v2.Compose([zoom, *flips, *jitter, v2.ClampBoundingBoxes(), _sanitize()])


def warn_unused(preset: str, settings: Mapping[str, Any]) -> None:
    """Name in a warning the settings of `train_transform` that the preset does not use, except defaults and what
    switches something off."""
    unused = []
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if name in _SILENT and name not in _USES[preset] and value not in _SILENT[name]:
            unused.append(f"{name}={value}")
    if unused:
        used = ", ".join(_USES[preset]) or "no setting"
        logging.getLogger("headway").warning("preset %r ignores %s; it uses %s", preset, ", ".join(unused), used)


def _steps(input_size: tuple[int, int]) -> tuple[int, ...]:
    """Short sides from 60% to 100% of the short side, in steps of 32."""
    return tuple(range(input_size[0], int(0.6 * input_size[0]) - 1, -32))


def _detr(input_size: tuple[int, int], flips: list[v2.Transform], sizes: Sequence[int]) -> v2.Transform:
    """DETR's augmentation (arXiv 2005.12872, appendix A.4; Swin's detectors use it as well): a flip, then a random
    short side from `sizes`, by default 60% to 100% in steps of 32.

    Half of the pictures are cropped in between. Each is first scaled to a short side of 50%, 62.5% or 75%; the window's
    sides are then random, from 48% to 75%. Example: at a short side of 800, first 400, 500 or 600, then 384 to 600. A
    box keeps what the window leaves of it, however little.
    """
    short = input_size[0]
    resize = KeepRatioResize(input_size, tuple(sizes) or _steps(input_size))
    small = [max(1, round(part * short)) for part in (0.5, 0.625, 0.75)]
    cropped = [KeepRatioResize(input_size, small), SizeCrop(max(1, round(0.48 * short)), small[-1]), resize]
    half = v2.RandomChoice([resize, v2.Compose(cropped)])
    return v2.Compose([*flips, half, v2.ClampBoundingBoxes(), _sanitize()])


def _ssd(
    input_size: tuple[int, int], flips: list[v2.Transform], sizes: Sequence[int], colour: float, fill: Sequence[float]
) -> v2.Transform:
    """The augmentation of SSD (arXiv 1512.02325, 2.2), which TTFNet and PAFNet use in their long schedules: colour
    distortion, the picture on a canvas of up to four times its side (p 0.5), a crop that overlaps a box by at least 0
    to 0.9, flips, and a random size for each picture. The size is one of `sizes` as the short side, with the long side
    in the ratio of `input_size`; by default 80% to 130% of `input_size` in steps of 32.

    A photograph of more than twice the largest size is scaled down to that first: a canvas for 12 megapixels would have
    192.

    Differs: TTFNet and PAFNet squeeze to a square and draw a size for each batch; PaddleDetection's crop looks for the
    overlap with every box, this for any one.
    """
    short, long = input_size
    sides = tuple(sizes) or tuple(range(-(-int(0.8 * short) // 32) * 32, int(1.3 * short) + 1, 32)) or (short,)
    most = 2 * max(sides)
    smaller = KeepRatioResize((most, round(most * long / short)), enlarge=False)
    distort = [PhotometricDistortion(colour)] if colour else []
    place = [v2.RandomZoomOut(fill=list(fill)), IoUCrop()]
    resize = v2.RandomChoice([KeepRatioResize((side, round(side * long / short))) for side in sides])
    return v2.Compose([smaller, *distort, *place, resize, *flips, v2.ClampBoundingBoxes(), _sanitize()])
