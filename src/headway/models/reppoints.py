"""RepPoints (arXiv 1904.11490) with mmdetection's numbers, and with a Dynamic Head (arXiv 2106.08322)."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from ..assign import max_iou, reppoints
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..detector import Detector
from ..heads.reppoints import RepPointsHead, Transform
from ..losses import BoxLoss, smooth_l1
from ..necks.dyhead import DyHeadForm, HighOffset
from ..necks.fpn import ExtraLevels, FPNNorm
from ..priors import point_grid
from ..registry import register, register_variant
from ..types import Priors
from .parts import DENSE_STRIDES, make_backbone, make_card, make_fpn, with_dyhead

InitAssign = Literal["point", "max_iou"]
_BASE_SCALE = 4.0  # side, in strides, of the box that a level is meant for


def _squares_by_overlap(points: Priors, boxes: Tensor) -> Tensor:
    """Squares of _BASE_SCALE strides around the points, assigned by overlap."""
    reach = _BASE_SCALE / 2 * points.stride[:, None]
    corners = points.boxes + reach * reach.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return max_iou(points._replace(boxes=corners), boxes, positive_iou=0.5, negative_iou=0.4)


def _head(
    channels: int,
    num_classes: int,
    transform: Transform,
    init_assign: InitAssign,
    num_points: int,
    center_init: bool,
    tower_depth: int,
    tower_norm: bool,
) -> RepPointsHead:
    loss = partial(smooth_l1, beta=0.11)
    return RepPointsHead(
        channels,
        num_classes,
        DENSE_STRIDES,
        make_priors=partial(point_grid, center_offset=0.0),
        init_assign=partial(reppoints, scale=_BASE_SCALE) if init_assign == "point" else _squares_by_overlap,
        refine_assign=partial(max_iou, positive_iou=0.5, negative_iou=0.4),
        init_loss=BoxLoss(loss, on="boxes", weight=0.5),
        refine_loss=BoxLoss(loss, on="boxes"),
        base_scale=_BASE_SCALE,
        transform=transform,
        num_points=num_points,
        center_init=center_init,
        tower_depth=tower_depth,
        tower_norm=tower_norm,
    )


def _detector(
    backbone: nn.Module, neck: nn.Module, head: RepPointsHead, num_classes: int, size: tuple[int, int]
) -> Detector:
    return Detector(backbone, neck, head, make_card(num_classes, nms_iou=0.5, input_size=size))


@register
def reppoints_r50_fpn(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    stride_in_1x1: bool = False,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    channels: int = 256,
    extra_levels: ExtraLevels = "on_input",
    relu_before_extra: bool = False,
    fpn_norm: FPNNorm = "none",
    transform: Transform = "moment",
    init_assign: InitAssign = "point",
    num_points: int = 9,
    center_init: bool = True,
    tower_depth: int = 3,
    tower_norm: bool = False,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """RepPoints on an FPN.

    fpn_norm, tower_norm: "group" and True in most published checkpoints; neither in the first, and by default.
    transform: how points become a box, see `points_to_boxes`.
    init_assign: which points answer for a box before refinement: "point", the nearest on its level; "max_iou", those
        whose square of 4 strides overlaps it by half.
    center_init: False starts training with points that span 4 strides instead of one place, which from random weights
        spares a long start in which no first box is large enough to be refined.
    """
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = make_fpn(trunk, channels, extra_levels, relu_before_extra, norm=fpn_norm)
    head = _head(channels, num_classes, transform, init_assign, num_points, center_init, tower_depth, tower_norm)
    return _detector(trunk, neck, head, num_classes, input_size)


@register
def reppoints_r50_fpn_dyhead(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    stride_in_1x1: bool = False,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    channels: int = 256,
    extra_levels: ExtraLevels = "on_output",
    relu_before_extra: bool = False,
    fpn_norm: FPNNorm = "none",
    blocks: int = 6,
    scale: bool = True,
    spatial: bool = True,
    task: bool = True,
    high_offset: HighOffset = "flat",
    form: DyHeadForm = "released",
    zero_init_offset: bool = True,
    deform_bias: bool = False,
    transform: Transform = "moment",
    init_assign: InitAssign = "point",
    num_points: int = 9,
    center_init: bool = True,
    tower_depth: int = 0,
    tower_norm: bool = False,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """RepPoints behind a Dynamic Head, which takes the place of the towers; the points' own convolutions stay."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = with_dyhead(
        make_fpn(trunk, channels, extra_levels, relu_before_extra, norm=fpn_norm),
        blocks=blocks, scale=scale, spatial=spatial, task=task, high_offset=high_offset, form=form,
        zero_init_offset=zero_init_offset, deform_bias=deform_bias,
    )  # fmt: skip
    head = _head(channels, num_classes, transform, init_assign, num_points, center_init, tower_depth, tower_norm)
    return _detector(trunk, neck, head, num_classes, input_size)


register_variant("reppoints_r101_fpn", reppoints_r50_fpn, backbone="resnet101")
register_variant("reppoints_r101_fpn_dyhead", reppoints_r50_fpn_dyhead, backbone="resnet101")
register_variant("reppoints_x101_32x4d_fpn", reppoints_r50_fpn, backbone="resnext101_32x4d")
register_variant(
    "reppoints_r18_fpn",
    reppoints_r50_fpn,
    backbone="resnet18", channels=128, tower_norm=True, center_init=False, input_size=(320, 320),
)  # fmt: skip
register_variant(
    "reppoints_r18_fpn_dyhead",
    reppoints_r50_fpn_dyhead,
    backbone="resnet18", channels=128, blocks=2, center_init=False, input_size=(320, 320),
)  # fmt: skip
