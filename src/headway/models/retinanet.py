"""RetinaNet (arXiv 1708.02002): nine anchors a cell, focal loss, overlap assignment; mmdetection's numbers."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..assign import max_iou
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_delta, encode_delta
from ..detector import Detector
from ..heads.dense import DenseHead
from ..losses import BoxLoss, l1
from ..necks.dyhead import DyHeadForm, HighOffset
from ..necks.fpn import ExtraLevels
from ..priors import anchor_grid
from ..registry import register, register_variant
from .parts import DENSE_STRIDES, make_backbone, make_card, make_fpn, with_dyhead

_SCALES = tuple(4 * 2 ** (i / 3) for i in range(3))
_RATIOS = (0.5, 1.0, 2.0)


def _head(channels: int, num_classes: int, tower_depth: int, tower_norm: bool) -> DenseHead:
    return DenseHead(
        channels,
        num_classes,
        DENSE_STRIDES,
        make_priors=partial(anchor_grid, scales=_SCALES, ratios=_RATIOS),
        priors_per_cell=len(_SCALES) * len(_RATIOS),
        assign=partial(max_iou, positive_iou=0.5, negative_iou=0.4),
        coder=Coder(encode_delta, decode_delta),
        box_loss=BoxLoss(l1, on="codes"),
        tower_depth=tower_depth,
        tower_norm=tower_norm,
    )


def _detector(
    backbone: nn.Module, neck: nn.Module, head: DenseHead, num_classes: int, size: tuple[int, int]
) -> Detector:
    return Detector(backbone, neck, head, make_card(num_classes, nms_iou=0.5, input_size=size))


@register
def retinanet_r50_fpn(
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
    channels: int = 256,
    extra_levels: ExtraLevels = "on_input",
    relu_before_extra: bool = False,
    tower_depth: int = 4,
    tower_norm: bool = False,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """RetinaNet on an FPN. The published towers have no norm; `tower_norm` adds GroupNorm, which from random weights
    trains more surely."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
    )  # fmt: skip
    neck = make_fpn(trunk, channels, extra_levels, relu_before_extra)
    return _detector(trunk, neck, _head(channels, num_classes, tower_depth, tower_norm), num_classes, input_size)


@register
def retinanet_r50_fpn_dyhead(
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
    channels: int = 256,
    extra_levels: ExtraLevels = "on_output",
    relu_before_extra: bool = False,
    blocks: int = 6,
    scale: bool = True,
    spatial: bool = True,
    task: bool = True,
    high_offset: HighOffset = "flat",
    form: DyHeadForm = "released",
    zero_init_offset: bool = True,
    deform_bias: bool = False,
    tower_depth: int = 0,
    tower_norm: bool = False,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """RetinaNet behind a Dynamic Head, which takes the place of the towers (the authors' own model keeps them too)."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
    )  # fmt: skip
    neck = with_dyhead(
        make_fpn(trunk, channels, extra_levels, relu_before_extra),
        blocks=blocks, scale=scale, spatial=spatial, task=task, high_offset=high_offset, form=form,
        zero_init_offset=zero_init_offset, deform_bias=deform_bias,
    )  # fmt: skip
    return _detector(trunk, neck, _head(channels, num_classes, tower_depth, tower_norm), num_classes, input_size)


register_variant("retinanet_r101_fpn", retinanet_r50_fpn, backbone="resnet101")
register_variant("retinanet_r101_fpn_dyhead", retinanet_r50_fpn_dyhead, backbone="resnet101")
register_variant(
    "retinanet_r18_fpn",
    retinanet_r50_fpn,
    backbone="resnet18", channels=128, tower_norm=True, input_size=(320, 320),
)  # fmt: skip
register_variant(
    "retinanet_r18_fpn_dyhead",
    retinanet_r50_fpn_dyhead,
    backbone="resnet18", channels=128, blocks=2, input_size=(320, 320),
)  # fmt: skip
