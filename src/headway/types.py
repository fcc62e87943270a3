"""The plain data that travels between the parts: nothing in this file computes a detection.

Legend: B images, A priors, M ground-truth boxes, C classes, K candidates, N detections of one image.
`boxes` are always xyxy, float pixels, continuous (a box from 0 to 10 is 10 wide); labels are 0..C-1 and background is
never a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .detections import Detection as Detection
from .detections import Detections as Detections


@dataclass(frozen=True, slots=True)
class Target:
    """Ground truth of one image, in the pixels of the network input.

    boxes: [M, 4] xyxy float; M may be 0.
    labels: [M] int64 in 0..C-1.
    crowd: [M] bool; a crowd region is neither a positive nor counted as missed.
    ids: [M] int64 identities for embedding heads, or None.
    tags: [T] float multi-label tags of the image, or None.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor | None = None
    ids: Tensor | None = None
    tags: Tensor | None = None

    def to(self, device: torch.device | str) -> Target:
        """The same target with every tensor on `device`."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            moved[f.name] = None if value is None else value.to(device, non_blocking=True)
        return Target(**moved)

    def without_crowd(self) -> Target:
        """The boxes that may become positives: crowd regions removed."""
        if self.crowd is None:
            return self
        keep = ~self.crowd
        ids = None if self.ids is None else self.ids[keep]
        return Target(self.boxes[keep], self.labels[keep], self.crowd[keep], ids, self.tags)


@dataclass(frozen=True, slots=True)
class Meta:
    """Where an image came from and how its pixels map to the network input.

    image_id: the id in the data set (or the running number).
    path: the file.
    original_size: (height, width) of the upright picture (EXIF orientation applied).
    affine: (scale_x, scale_y, shift_x, shift_y); input = original * scale + shift.
    flipped: the picture was mirrored left-right after scaling (training only).
    """

    image_id: int | str
    path: str
    original_size: tuple[int, int]
    affine: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)
    flipped: bool = False


class Batch(NamedTuple):
    """What the loader yields. images [B, 3, H, W] uint8 RGB, padded at the right and bottom; sizes [B, 2] valid
    (height, width); targets and metas one per image. pad_value: RGB 0..1 of the padding, which
    `headway.data.batch.to_model_input` puts in when it makes the pixels floats for a model."""

    images: Tensor
    sizes: Tensor
    targets: list[Target]
    metas: list[Meta]
    pad_value: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Frame(NamedTuple):
    """What of a batch is picture. sizes [B, 2] valid (height, width) before padding; canvas (H, W) with it."""

    sizes: Tensor
    canvas: tuple[int, int]


def valid_sizes(frame: Frame | Tensor) -> Tensor:
    """[B, 2] of a frame; a head that needs no more can be given the sizes alone."""
    return frame.sizes if isinstance(frame, Frame) else frame


class Levels(NamedTuple):
    """The maps that flow between parts, finest first. strides: input pixels per cell; channels: of each map."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __str__(self) -> str:
        one = len(set(self.channels)) == 1
        width = f"{self.channels[0]}" if one else ", ".join(map(str, self.channels))
        return f"strides {', '.join(map(str, self.strides))} with {width} channels"


class Priors(NamedTuple):
    """Anchors or points. boxes [A, 4] xyxy (a point is x, y, x, y); stride [A]; level_sizes: priors per level,
    finest first, in (y, x, anchor) order."""

    boxes: Tensor
    stride: Tensor
    level_sizes: tuple[int, ...]


class Candidates(NamedTuple):
    """Decoded boxes before thresholds and NMS, a static number K per image.

    boxes [B, K, 4] clipped to the image; scores [B, K] final scores; labels [B, K] int64; class_scores [B, K] the
    score that the published threshold is applied to (before centerness), or None where it is the final one;
    extras: further [B, K, ...] tensors (embeddings, indices) carried through selection.
    tags [B, T] scores of the whole picture's tags, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_scores: Tensor | None = None
    extras: dict[str, Tensor] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)
    tags: Tensor | None = None


class Losses(NamedTuple):
    """terms: weighted scalars whose sum is the loss. stats: detached numbers worth logging (positives per image)."""

    terms: dict[str, Tensor]
    stats: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


@dataclass(slots=True)
class ModelCard:
    """Everything beside the weights that is needed to use a model, kept in every checkpoint.

    model, arguments: the registered builder and its arguments; they rebuild the network.
    class_names: by label; category_ids: the data set's id by label (COCO's 1..90), or empty for label + 1.
    mean, std: per channel in 0..255 units, in `channels` order ("rgb" or "bgr").
    input_size: (short, long): the picture is scaled so that neither is exceeded, keeping its ratio.
    pad_multiple: batches are padded at the right and bottom to a multiple of this.
    pad: RGB 0..255 of that padding and of the ground around augmented pictures (114, 114, 114 for YOLO); None: `mean`,
        which is zero after normalisation.
    score_threshold: on the class score alone, before centerness; nms_iou: None for no NMS.
    thresholds: by label the score of its best F1 in validation, None where a class has none; empty where unknown.
    drop_empty: boxes without area are no detections; torchvision's one-stage detectors return them.
    white: of 16-bit pictures the value that is white, 4095 for a camera of 12 bits; None: as the pictures at hand say.
    metrics, source, licence, training: for people.
    """

    model: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channels: str = "rgb"
    input_size: tuple[int, int] = (800, 1333)
    pad_multiple: int = 32
    pad: tuple[float, float, float] | None = None
    score_threshold: float = 0.05
    nms_iou: float | None = 0.6
    max_detections: int = 100
    drop_empty: bool = True
    white: int | None = None
    thresholds: tuple[float | None, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def pad_value(self) -> tuple[float, float, float]:
        """RGB in 0..1 of padding: `pad`, or what becomes zero after normalisation."""
        red, green, blue = self.pad or (self.mean if self.channels == "rgb" else self.mean[::-1])
        return red / 255.0, green / 255.0, blue / 255.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelCard:
        """Raises: ValueError for an unknown key or a value of the wrong kind."""
        if not isinstance(values, dict):
            raise ValueError(f"a model card must be an object, got {type(values).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown model card entries {unknown}; this file was written by a newer headway")
        entries: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        card = cls(**entries)
        for name, (expected, fits) in _CARD_ENTRIES.items():
            if not fits(getattr(card, name)):
                got = repr(getattr(card, name))
                raise ValueError(f"model card entry {name!r} must be {expected}, got {got[:80]}")
        if len(card.category_ids) not in (0, len(card.class_names)):
            raise ValueError(f"a model card needs a category id for each class, got {len(card.category_ids)} ids")
        if len(card.thresholds) not in (0, len(card.class_names)):
            raise ValueError(f"a model card needs a threshold for each class, got {len(card.thresholds)}")
        return card


def _integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _tuple_of(fits: Callable[[Any], bool], count: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and count in (None, len(value)) and all(map(fits, value))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_colour = _tuple_of(lambda value: _number(value, 0, 255), 3)

# What a card read from a file may hold. The upper limits are far above any use; they keep a hostile file from asking
# for a picture or a batch that no memory holds.
_CARD_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("a string", _is(str)),
    "arguments": ("an object", _is(dict)),
    "class_names": ("a list of strings", _tuple_of(_is(str))),
    "category_ids": ("a list of integers", _tuple_of(lambda v: isinstance(v, int) and not isinstance(v, bool))),
    "mean": ("three numbers", _tuple_of(lambda v: _number(v, -1e6, 1e6), 3)),
    "std": ("three positive numbers", _tuple_of(lambda v: _number(v, 1e-6, 1e6), 3)),
    "channels": ("'rgb' or 'bgr'", lambda v: v in ("rgb", "bgr")),
    "input_size": ("two integers from 1 to 32768", _tuple_of(lambda v: _integer(v, 1, 32768), 2)),
    "pad_multiple": ("an integer from 1 to 4096", lambda v: _integer(v, 1, 4096)),
    "pad": ("three numbers from 0 to 255, or null", lambda v: v is None or _colour(v)),
    "score_threshold": ("a number from 0 to 1", lambda v: _number(v, 0, 1)),
    "nms_iou": ("a number from 0 to 1, or null", lambda v: v is None or _number(v, 0, 1)),
    "max_detections": ("an integer from 1 to 1000000", lambda v: _integer(v, 1, 1_000_000)),
    "drop_empty": ("true or false", _is(bool)),
    "white": ("an integer from 255 to 65535, or null", lambda v: v is None or _integer(v, 255, 65535)),
    "thresholds": ("a list of numbers from 0 to 1, or null", _tuple_of(lambda v: v is None or _number(v, 0, 1))),
    "metrics": ("an object", _is(dict)),
    "source": ("a string", _is(str)),
    "licence": ("a string", _is(str)),
    "training": ("an object", _is(dict)),
}
