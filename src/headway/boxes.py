"""Box arithmetic: conversions, clipping, overlaps, and coders as encode/decode pairs.

All boxes are xyxy float pixels unless the name says otherwise. [..., 4] works over any leading shape.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .vision import nms

MAX_LOG_SCALE = abs(math.log(16 / 1000))  # Fast R-CNN's limit on a size change, 4.135


class Coder(NamedTuple):
    """encode(priors, boxes) -> codes and decode(priors, codes) -> boxes, both [..., 4]."""

    encode: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]


def from_cxcywh(boxes_cxcywh: Tensor) -> Tensor:
    """[..., 4] centre and size -> xyxy."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes [..., N, 4] to images of `sizes` [..., 2] (height, width)."""
    limit = sizes.flip(-1).to(boxes.dtype)
    limit = torch.cat([limit, limit], dim=-1).unsqueeze(-2)
    return torch.minimum(boxes.clamp(min=0), limit)


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; an inverted box has area 0."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(boxes_a: Tensor, boxes_b: Tensor, eps: float = 1e-6) -> Tensor:
    """[A, 4], [M, 4] -> [A, M] intersection over union."""
    low = torch.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])
    high = torch.minimum(boxes_a[:, None, 2:], boxes_b[None, :, 2:])
    size = (high - low).clamp(min=0)
    overlap = size[..., 0] * size[..., 1]
    union = area(boxes_a)[:, None] + area(boxes_b)[None, :] - overlap
    return overlap / union.clamp(min=eps)


def _overlap_and_union(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.minimum(boxes_a[..., 2:], boxes_b[..., 2:])
    size = (high - low).clamp(min=0)
    overlap = size[..., 0] * size[..., 1]
    return overlap, area(boxes_a) + area(boxes_b) - overlap


def survivors(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou: float) -> Tensor:
    """Which boxes [B, N, 4] of each image non-maximum suppression keeps, [B, N] bool: a shape that does not depend on
    the data.

    groups: [B, N] integers from 0 on; boxes of different groups do not suppress each other. None: all are of one.
    A box of score -inf is not kept. Boxes without area overlap nothing, so they suppress nothing.

    One operator, `headway::survivors`, so that an exported graph has any number of images;
    `headway.export.onnx` says what it is in ONNX.
    """
    kept: Tensor = torch.ops.headway.survivors(boxes, scores, groups, iou)
    return kept


def _survivors(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou: float) -> Tensor:
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(len(boxes)):
        # Each group runs by itself: shifting them apart by offsets, as is usual, loses precision in large coordinates.
        own = torch.zeros_like(scores[i]) if groups is None else groups[i]
        for group in torch.unique(own):
            index = (own == group).nonzero().squeeze(1)
            kept[i, index[nms(boxes[i, index], scores[i, index], iou)]] = True
    return kept & (scores > -torch.inf)


_library: Any = torch.library.Library  # which has no types
_OPERATORS = _library("headway", "DEF")
_OPERATORS.define("survivors(Tensor boxes, Tensor scores, Tensor? groups, float iou) -> Tensor")
_OPERATORS.impl("survivors", _survivors, "CompositeExplicitAutograd")
_OPERATORS.impl("survivors", lambda boxes, scores, groups, iou: torch.zeros_like(scores, dtype=torch.bool), "Meta")


def aligned_iou(boxes_a: Tensor, boxes_b: Tensor, eps: float = 1e-6) -> Tensor:
    """[..., 4], [..., 4] -> [...] IoU of each pair."""
    overlap, union = _overlap_and_union(boxes_a, boxes_b)
    return overlap / union.clamp(min=eps)


def aligned_giou(boxes_a: Tensor, boxes_b: Tensor, eps: float = 1e-6) -> Tensor:
    """[..., 4], [..., 4] -> [...] generalised IoU in (-1, 1] (arXiv 1902.09630, algorithm 1)."""
    overlap, union = _overlap_and_union(boxes_a, boxes_b)
    union = union.clamp(min=eps)
    low = torch.minimum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.maximum(boxes_a[..., 2:], boxes_b[..., 2:])
    size = (high - low).clamp(min=0)
    hull = (size[..., 0] * size[..., 1]).clamp(min=eps)
    return overlap / union - (hull - union) / hull


def aligned_ciou(boxes_a: Tensor, boxes_b: Tensor, eps: float = 1e-9) -> Tensor:
    """[..., 4], [..., 4] -> [...] complete IoU (arXiv 1911.08287, equations 10 to 12): IoU less the squared distance of
    the centres in diagonals of the hull, less alpha * v, where v compares the aspect ratios and alpha = v / (1 - IoU
    + v) has no gradient.

    eps: added to heights, unions and diagonals, as in YOLOR's trainings.
    Differs: there alpha is 0 / 0 for two boxes that are equal to the last bit; here it is 0.
    """
    overlap, union = _overlap_and_union(boxes_a, boxes_b)
    iou = overlap / (union + eps)
    low = torch.minimum(boxes_a[..., :2], boxes_b[..., :2])
    high = torch.maximum(boxes_a[..., 2:], boxes_b[..., 2:])
    diagonal = (high - low).square().sum(-1) + eps
    a, b = to_cxcywh(boxes_a), to_cxcywh(boxes_b)
    distance = (a[..., :2] - b[..., :2]).square().sum(-1)
    slant = (a[..., 2] / (a[..., 3] + eps)).atan() - (b[..., 2] / (b[..., 3] + eps)).atan()
    v = (4 / math.pi**2) * slant.square()
    alpha = (v / (1 - iou + v + eps)).detach()
    return iou - distance / diagonal - alpha * v


def encode_delta(priors: Tensor, boxes: Tensor, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes relative to anchors (R-CNN, arXiv 1311.2524, appendix C): (dx, dy, dlogw, dlogh) / stds, [..., 4]."""
    prior, box = to_cxcywh(priors), to_cxcywh(boxes)
    shift = (box[..., :2] - prior[..., :2]) / prior[..., 2:]
    scale = (box[..., 2:] / prior[..., 2:]).log()
    return torch.cat([shift, scale], dim=-1) / boxes.new_tensor(stds)


def decode_delta(
    priors: Tensor,
    deltas: Tensor,
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip_shrink: bool = True,
    max_log_scale: float = MAX_LOG_SCALE,
) -> Tensor:
    """Inverse of `encode_delta`; log sizes are limited to +-max_log_scale, log(1000/16) by default.

    clip_shrink: mmdetection limits both signs, torchvision and detectron2 only the growth.
    """
    deltas = deltas * deltas.new_tensor(stds)
    prior = to_cxcywh(priors)
    centre = prior[..., :2] + deltas[..., :2] * prior[..., 2:]
    low = -max_log_scale if clip_shrink else None
    size = prior[..., 2:] * deltas[..., 2:].clamp(min=low, max=max_log_scale).exp()
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def encode_ltrb(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) in pixels from the centre of `points` [..., 4] (degenerate boxes are
    points) to the sides of `boxes`; negative where the point lies outside."""
    centre = (points[..., :2] + points[..., 2:]) / 2
    return torch.cat([centre - boxes[..., :2], boxes[..., 2:] - centre], dim=-1)


def decode_ltrb(points: Tensor, distances: Tensor) -> Tensor:
    """Inverse of `encode_ltrb`."""
    centre = (points[..., :2] + points[..., 2:]) / 2
    return torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], dim=-1)


def encode_grid(priors: Tensor, stride: Tensor, boxes: Tensor) -> Tensor:
    """Inverse of `decode_grid`; infinite for centres and sizes at or beyond what it can reach."""
    prior, box = to_cxcywh(priors), to_cxcywh(boxes)
    centre = ((box[..., :2] - prior[..., :2]) / stride[..., None] + 1) / 2
    size = (box[..., 2:] / prior[..., 2:]).sqrt() / 2
    return torch.cat([centre, size], dim=-1).clamp(0, 1).logit()


def decode_grid(priors: Tensor, stride: Tensor, codes: Tensor) -> Tensor:
    """Boxes of logits relative to anchors (Scaled-YOLOv4, arXiv 2011.08036): the centre moves by less than one stride,
    s (2 sigmoid - 1), the sides become less than four times the anchor's, (2 sigmoid)^2.

    priors [..., 4]: anchors centred in their cells; stride [...]; codes [..., 4].
    """
    prior, doubled = to_cxcywh(priors), 2 * codes.sigmoid()
    centre = prior[..., :2] + (doubled[..., :2] - 1) * stride[..., None]
    return from_cxcywh(torch.cat([centre, prior[..., 2:] * doubled[..., 2:].square()], dim=-1))
