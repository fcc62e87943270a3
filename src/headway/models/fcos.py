"""FCOS (arXiv 1904.01355) in both published forms: the base one, and "improved" (centre sampling, boxes in units of
the stride, centerness on the box branch, GIoU), with torchvision's variant of the second as an argument."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..assign import fcos_points
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_ltrb, encode_ltrb
from ..detector import Detector
from ..heads.dense import DenseHead
from ..losses import BoxLoss, giou, iou_log
from ..necks.dyhead import DyHeadForm, HighOffset
from ..priors import point_grid
from ..registry import register, register_variant
from .parts import DENSE_STRIDES, SWIN, make_backbone, make_card, make_fpn, with_dyhead


def _head(
    channels: int,
    num_classes: int,
    tower_depth: int,
    improved: bool,
    *,
    center_offset: float = 0.5,
    step_from_image: bool = False,
    inclusive_ranges: bool = True,
    level_scales: bool = True,
    joint_score: bool = False,
    weigh_boxes: bool = True,
) -> DenseHead:
    return DenseHead(
        channels,
        num_classes,
        DENSE_STRIDES,
        make_priors=partial(point_grid, center_offset=center_offset, step_from_image=step_from_image),
        assign=partial(fcos_points, center_radius=1.5 if improved else None, inclusive=inclusive_ranges),
        coder=Coder(encode_ltrb, decode_ltrb),
        box_loss=BoxLoss(giou if improved else iou_log, on="boxes"),
        normaliser="batch",
        quality="box" if improved else "cls",
        joint_score=joint_score,
        weigh_boxes=weigh_boxes,
        level_scales=level_scales,
        box_activation="relu" if improved else "exp",
        tower_depth=tower_depth,
        tower_bias=True if improved else None,
    )


def _detector(
    backbone: nn.Module, neck: nn.Module, head: DenseHead, num_classes: int, size: tuple[int, int], improved: bool
) -> Detector:
    return Detector(backbone, neck, head, make_card(num_classes, nms_iou=0.6 if improved else 0.5, input_size=size))


@register
def fcos_r50_fpn(
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
    relu_before_extra: bool = True,
    tower_depth: int = 4,
    improved: bool = True,
    center_offset: float = 0.5,
    step_from_image: bool = False,
    inclusive_ranges: bool = True,
    level_scales: bool = True,
    joint_score: bool = False,
    weigh_boxes: bool = True,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """FCOS on an FPN, GroupNorm towers. improved: False gives the base form of the paper's first version.

    center_offset, step_from_image: see `point_grid`; inclusive_ranges: `fcos_points`; level_scales, joint_score,
    weigh_boxes: `DenseHead`. torchvision has 0, True, False, False, True and False.
    """
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = make_fpn(trunk, channels, "on_output", relu_before_extra)
    head = _head(
        channels, num_classes, tower_depth, improved,
        center_offset=center_offset, step_from_image=step_from_image, inclusive_ranges=inclusive_ranges,
        level_scales=level_scales, joint_score=joint_score, weigh_boxes=weigh_boxes,
    )  # fmt: skip
    return _detector(trunk, neck, head, num_classes, input_size, improved)


@register
def fcos_r50_fpn_dyhead(
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
    relu_before_extra: bool = True,
    blocks: int = 6,
    scale: bool = True,
    spatial: bool = True,
    task: bool = True,
    high_offset: HighOffset = "flat",
    form: DyHeadForm = "released",
    zero_init_offset: bool = True,
    deform_bias: bool = False,
    tower_depth: int = 0,
    improved: bool = True,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """FCOS behind a Dynamic Head, which takes the place of the towers."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = with_dyhead(
        make_fpn(trunk, channels, "on_output", relu_before_extra),
        blocks=blocks, scale=scale, spatial=spatial, task=task, high_offset=high_offset, form=form,
        zero_init_offset=zero_init_offset, deform_bias=deform_bias,
    )  # fmt: skip
    return _detector(
        trunk, neck, _head(channels, num_classes, tower_depth, improved), num_classes, input_size, improved
    )


register_variant("fcos_r101_fpn", fcos_r50_fpn, backbone="resnet101")
register_variant("fcos_r101_fpn_dyhead", fcos_r50_fpn_dyhead, backbone="resnet101")
register_variant("fcos_r18_fpn", fcos_r50_fpn, backbone="resnet18", channels=128, input_size=(320, 320))
register_variant(
    "fcos_r18_fpn_dyhead",
    fcos_r50_fpn_dyhead,
    backbone="resnet18", channels=128, blocks=2, input_size=(320, 320),
)  # fmt: skip
register_variant("fcos_swin_t_fpn", fcos_r50_fpn, **SWIN["t"])
register_variant("fcos_swin_t_fpn_dyhead", fcos_r50_fpn_dyhead, **SWIN["t"])
