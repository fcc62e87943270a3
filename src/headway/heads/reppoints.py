"""RepPoints (arXiv 1904.11490): an object as a set of points, found in two steps, the second with deformable
convolutions that sample at the points of the first. Numbers of mmdetection 3.3.0, dense_heads/reppoints_head.py.

Points are (y0, x0, y1, x1, ...) relative to their prior, in units of its stride, as deformable offsets are.

Legend: B images, A priors of all levels, C classes, K candidates, P positives, n points.
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import IGNORE, max_iou, reppoints
from ..boxes import clip
from ..layers.deform import DeformConv2d
from ..layers.levels import one_width
from ..losses import reduce_mean, sigmoid_focal, smooth_l1
from ..priors import point_grid
from ..registry import register_head
from ..types import Candidates, Frame, Levels, Losses, Priors, Target, valid_sizes
from .parts import DENSE, Matches, Tower, best_per_level, flatten, match

InitAssign = Literal["point", "max_iou"]
Transform = Literal["moment", "minmax", "partial_minmax"]
_PARTIAL = 4  # points of "partial_minmax"
_POINTS_GRADIENT = 0.1  # what reaches the first points from those who sample at them
_MOMENT_GRADIENT = 0.01
_BASE_SCALE = 4.0  # side, in strides, of the box that a level is meant for


class RepPointsRaw(NamedTuple):
    """cls [B, A, C] logits; pts_init, pts_refine [B, A, 2n] points; moment [2] log factors on the half width and height
    of "moment" boxes, None for the other transforms; priors; sizes [B, 2] valid (height, width)."""

    cls: Tensor
    pts_init: Tensor
    pts_refine: Tensor
    moment: Tensor | None
    priors: Priors
    sizes: Tensor


def points_to_boxes(points: Tensor, transform: Transform, moment: Tensor | None = None) -> Tensor:
    """Points [..., 2n] -> xyxy boxes [..., 4] in the same units (arXiv 1904.11490, 3.2, the three functions T).

    "minmax": the box around all points; "partial_minmax": around the first four; "moment": the points' mean, and their
    standard deviation (unbiased) times exp(moment [2]) as half the width and half the height.
    """
    y, x = points[..., 0::2], points[..., 1::2]
    if transform == "moment":
        assert moment is not None
        (x_mean, width), (y_mean, height) = _mean_and_deviation(x), _mean_and_deviation(y)
        width, height = width * moment[0].exp(), height * moment[1].exp()
        return torch.stack([x_mean - width, y_mean - height, x_mean + width, y_mean + height], dim=-1)
    if transform == "partial_minmax":
        y, x = y[..., :_PARTIAL], x[..., :_PARTIAL]
    return torch.stack([x.min(-1).values, y.min(-1).values, x.max(-1).values, y.max(-1).values], dim=-1)


def _mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """[..., n] -> mean and unbiased standard deviation, [...]. The deviation has a floor, a millionth of a stride, that
    keeps the root's derivative finite where all points are one."""
    mean = values.mean(-1)
    variance = (values - mean[..., None]).square().sum(-1) / (values.shape[-1] - 1)
    return mean, variance.clamp(min=1e-12).sqrt()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values, of whose gradient `factor` passes."""
    return (1 - factor) * x.detach() + factor * x


def _squares_by_overlap(points: Priors, boxes: Tensor) -> Tensor:
    """Squares of _BASE_SCALE strides around the points, assigned by overlap."""
    reach = _BASE_SCALE / 2 * points.stride[:, None]
    corners = points.boxes + reach * reach.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return max_iou(points._replace(boxes=corners), boxes, positive_iou=0.5, negative_iou=0.4)


@register_head("reppoints", wants={**DENSE, "extra": "on_input"})
class RepPointsHead(nn.Module):
    """Dense head that finds an object as a set of points, in two steps (RepPoints); mmdetection's numbers.

    Two towers shared by all levels; the localisation tower gives the first points, at which two deformable convolutions
    sample both towers for the class scores and for the refined points.

    transform: how points become a box, see `points_to_boxes`.
    init_assign: which points answer for a box before refinement: "point", the nearest on its level; "max_iou", those
        whose square of 4 strides overlaps it by half.
    num_points: an odd square, the kernel's size.
    center_init: where the points start training. False: spread over 4 strides. True, as published: in one place, which
        takes a long start in which no first box is large enough to be refined.
    tower_depth: convolutions in front of the predictions; none behind a Dynamic Head.
    tower_norm: GroupNorm in the towers, as in most published checkpoints; the first one has none.

    Loss terms: `cls` focal and `pts_refine`, divided by the positives of the refinement, and `pts_init` by those of
    the first points, each image counting as at least one. Boxes are compared in units of 4 strides.
    """

    predictors = ("cls", "pts_init", "pts_refine")  # stay float in int8

    def __init__(
        self,
        inputs: Levels,
        *,
        num_classes: int,
        transform: Transform = "moment",
        init_assign: InitAssign = "point",
        num_points: int = 9,
        center_init: bool = False,
        tower_depth: int = 3,
        tower_norm: bool = True,
    ) -> None:
        super().__init__()
        side = math.isqrt(num_points)
        if side * side != num_points or side % 2 == 0 or side < 3:
            raise ValueError(f"num_points must be the square of an odd number from 3 on (9, 25, ...), got {num_points}")
        channels = one_width(inputs)
        self.num_classes, self.strides, self.pre_nms = num_classes, inputs.strides, 1000
        self.card = {"nms_iou": 0.5}
        self.init_assign = partial(reppoints, scale=_BASE_SCALE) if init_assign == "point" else _squares_by_overlap
        self.refine_assign = partial(max_iou, positive_iou=0.5, negative_iou=0.4)
        self.transform: Transform = transform
        self.cls_tower = Tower(channels, tower_depth, norm=tower_norm)
        self.box_tower = Tower(channels, tower_depth, norm=tower_norm)
        self.pts_init_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.pts_init = nn.Conv2d(channels, 2 * num_points, 1)
        self.cls_conv = DeformConv2d(channels, channels, side, padding=side // 2)
        self.cls = nn.Conv2d(channels, num_classes, 1)
        self.pts_refine_conv = DeformConv2d(channels, channels, side, padding=side // 2)
        self.pts_refine = nn.Conv2d(channels, 2 * num_points, 1)
        self.moment = nn.Parameter(torch.zeros(2)) if transform == "moment" else None
        reach = torch.arange(side, dtype=torch.float32) - side // 2
        grid = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)  # (y, x) of every tap
        self.register_buffer("taps", grid.view(1, -1, 1, 1), persistent=False)
        self._initialise(center_init)

    def _initialise(self, center_init: bool) -> None:
        """N(0, 0.01) weights, zero biases; class scores start at 0.01 (RetinaNet, arXiv 1708.02002, 4.1). Deformable
        convolutions: Kaiming uniform, as mmcv has them and mmdetection 3.3.0 leaves them.

        Differs: the grid is where a bias starts; mmdetection adds it to every output when not center_init.
        """
        for module in self.modules():
            if isinstance(module, DeformConv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls.bias, -math.log(99))
        if not center_init:
            with torch.no_grad():
                self.pts_init.bias.copy_(self.taps.flatten() / self.taps.max() * _BASE_SCALE / 2)

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> RepPointsRaw:
        """features: one map [B, channels, H, W] per stride. targets are not used."""
        if len(features) != len(self.strides):
            raise ValueError(f"this head was built for {len(self.strides)} levels, got {len(features)} feature maps")
        levels = [self._level(x) for x in features]
        cls, first, refined = (torch.cat(maps, 1) for maps in zip(*levels))
        shapes = [tuple(x.shape[-2:]) for x in features]
        priors = point_grid(shapes, self.strides, features[0].device, center_offset=0.0)
        moment = None if self.moment is None else scale_gradient(self.moment, _MOMENT_GRADIENT)
        return RepPointsRaw(cls, first, refined, moment, priors, valid_sizes(frame))

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, channels, H, W] -> class logits [B, H * W, C], first and refined points [B, H * W, 2n]."""
        cls_feature, box_feature = self.cls_tower(x), self.box_tower(x)
        first = self.pts_init(F.relu(self.pts_init_conv(box_feature))).float()
        offset = scale_gradient(first, _POINTS_GRADIENT) - self.taps
        cls = self.cls(F.relu(self.cls_conv(cls_feature, offset))).float()
        refined = self.pts_refine(F.relu(self.pts_refine_conv(box_feature, offset))).float() + first.detach()
        width = first.shape[1]
        return flatten(cls, self.num_classes), flatten(first, width), flatten(refined, width)

    def decode(self, raw: RepPointsRaw) -> Candidates:
        """The best `pre_nms` (prior, class) pairs of every level, a static number, with the refined points' boxes."""
        best, prior, label = best_per_level(raw.cls, raw.priors.level_sizes, self.pre_nms)
        points = raw.pts_refine.gather(1, prior[..., None].expand(-1, -1, raw.pts_refine.shape[-1]))
        boxes = self._to_pixels(raw, points, raw.priors.boxes[prior], raw.priors.stride[prior])
        score = best.sigmoid()
        return Candidates(clip(boxes, raw.sizes), score, label, score)

    def _to_pixels(self, raw: RepPointsRaw, points: Tensor, priors: Tensor, stride: Tensor) -> Tensor:
        """Points [..., 2n] of the priors [..., 4] with strides [...] -> boxes [..., 4] in pixels."""
        return points_to_boxes(points, self.transform, raw.moment) * stride[..., None] + priors

    def init_boxes(self, raw: RepPointsRaw) -> Tensor:
        """[B, A, 4] boxes of the first points in pixels, detached and not clipped: the priors of the refinement."""
        with torch.no_grad():
            return self._to_pixels(raw, raw.pts_init, raw.priors.boxes, raw.priors.stride)

    def loss(self, raw: RepPointsRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. Returns the terms and the positives per image."""
        boxes = self.init_boxes(raw)
        init = match(targets, lambda _, truth: self.init_assign(raw.priors, truth))
        refine = match(targets, lambda image, truth: self.refine_assign(raw.priors._replace(boxes=boxes[image]), truth))
        label = refine.labels.flatten()
        focal = sigmoid_focal(raw.cls.flatten(0, 1), label)
        terms = {
            "cls": (focal * (label != IGNORE)).sum() / _normaliser(refine),
            "pts_init": self._points_loss(raw, raw.pts_init, init, 0.5),
            "pts_refine": self._points_loss(raw, raw.pts_refine, refine, 1.0),
        }
        return Losses(terms, {"positives": refine.counts.mean(), "positives_init": init.counts.mean()})

    def _points_loss(self, raw: RepPointsRaw, points: Tensor, matches: Matches, weight: float) -> Tensor:
        positive = matches.positive
        priors = raw.priors.boxes.expand(len(positive), -1, -1)[positive]
        stride = raw.priors.stride.expand(len(positive), -1)[positive]
        unit = _BASE_SCALE * stride[:, None]
        boxes = self._to_pixels(raw, points[positive], priors, stride)
        loss = smooth_l1(boxes / unit, matches.truth / unit, beta=0.11)
        return loss.sum() / _normaliser(matches) * weight


def _normaliser(matches: Matches) -> Tensor:
    return reduce_mean(matches.counts.clamp(min=1).sum())
