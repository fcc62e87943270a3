"""ATSS (arXiv 1912.02424): one square anchor a cell, adaptive assignment, centerness; and with a Dynamic Head
(arXiv 2106.08322), as the authors and mmdetection published it, or with full attention in its place."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..assign import atss
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_delta, encode_delta
from ..detector import Detector
from ..heads.dense import DenseHead
from ..losses import BoxLoss, giou
from ..necks.dyhead import DyHeadForm, HighOffset
from ..priors import anchor_grid
from ..registry import register, register_variant
from .parts import DENSE_STRIDES, SWIN, VIT, make_backbone, make_card, make_fpn, with_dyhead, with_full_head

_STDS = (0.1, 0.1, 0.2, 0.2)


def _head(channels: int, num_classes: int, tower_depth: int, kernel: int, center_offset: float) -> DenseHead:
    return DenseHead(
        channels,
        num_classes,
        DENSE_STRIDES,
        make_priors=partial(anchor_grid, scales=(8.0,), ratios=(1.0,), center_offset=center_offset),
        assign=atss,
        coder=Coder(partial(encode_delta, stds=_STDS), partial(decode_delta, stds=_STDS)),
        box_loss=BoxLoss(giou, on="boxes", weight=2.0),
        quality="box",
        level_scales=True,
        tower_depth=tower_depth,
        kernel=kernel,
    )


def _detector(
    backbone: nn.Module, neck: nn.Module, head: DenseHead, num_classes: int, size: tuple[int, int]
) -> Detector:
    return Detector(backbone, neck, head, make_card(num_classes, nms_iou=0.6, input_size=size))


@register
def atss_r50_fpn(
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
    relu_before_extra: bool = False,
    tower_depth: int = 4,
    kernel: int = 3,
    center_offset: float = 0.0,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """ATSS on an FPN. center_offset: of the anchors, in cells; 0.5 in the authors' Dynamic Head."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = make_fpn(trunk, channels, "on_output", relu_before_extra)
    head = _head(channels, num_classes, tower_depth, kernel, center_offset)
    return _detector(trunk, neck, head, num_classes, input_size)


@register
def atss_r50_fpn_dyhead(
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
    kernel: int = 3,
    center_offset: float = 0.0,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """The Dynamic Head detector: ATSS whose towers are replaced by DyHead blocks."""
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = with_dyhead(
        make_fpn(trunk, channels, "on_output", relu_before_extra),
        blocks=blocks, scale=scale, spatial=spatial, task=task, high_offset=high_offset, form=form,
        zero_init_offset=zero_init_offset, deform_bias=deform_bias,
    )  # fmt: skip
    head = _head(channels, num_classes, tower_depth, kernel, center_offset)
    return _detector(trunk, neck, head, num_classes, input_size)


@register
def atss_r50_fpn_fullhead(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    drop_path: float = 0.0,
    channels: int = 256,
    blocks: int = 6,
    heads: int | None = None,
    latents: int | None = None,
    expansion: float = 4.0,
    near: bool = True,
    far: bool = True,
    channel: bool = True,
    tower_depth: int = 0,
    kernel: int = 3,
    center_offset: float = 0.0,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """ATSS whose towers are replaced by blocks of full attention over level, space and channel (`FullHead`)."""
    trunk = make_backbone(backbone, backbone_weights, norm, frozen_stages, drop_path=drop_path)
    neck = with_full_head(
        make_fpn(trunk, channels, "on_output"),
        blocks=blocks, heads=heads, latents=latents, expansion=expansion, near=near, far=far, channel=channel,
    )  # fmt: skip
    head = _head(channels, num_classes, tower_depth, kernel, center_offset)
    return _detector(trunk, neck, head, num_classes, input_size)


register_variant("atss_r101_fpn", atss_r50_fpn, backbone="resnet101")
register_variant("atss_r101_fpn_dyhead", atss_r50_fpn_dyhead, backbone="resnet101")
register_variant("atss_x101_64x4d_fpn_dyhead", atss_r50_fpn_dyhead, backbone="resnext101_64x4d")
register_variant("atss_r18_fpn", atss_r50_fpn, backbone="resnet18", channels=128, input_size=(320, 320))
register_variant(
    "atss_r18_fpn_dyhead",
    atss_r50_fpn_dyhead,
    backbone="resnet18", channels=128, blocks=2, input_size=(320, 320),
)  # fmt: skip
register_variant(
    "atss_r18_fpn_fullhead",
    atss_r50_fpn_fullhead,
    backbone="resnet18", channels=128, blocks=2, input_size=(320, 320),
)  # fmt: skip
register_variant("atss_swin_nano_fpn", atss_r50_fpn, **SWIN["nano"])
register_variant("atss_swin_nano_fpn_dyhead", atss_r50_fpn_dyhead, **SWIN["nano"], blocks=2)
for _size in ("t", "s", "b"):
    register_variant(f"atss_swin_{_size}_fpn", atss_r50_fpn, **SWIN[_size])
    register_variant(f"atss_swin_{_size}_fpn_dyhead", atss_r50_fpn_dyhead, **SWIN[_size])
register_variant("atss_swin_l_fpn_dyhead", atss_r50_fpn_dyhead, **SWIN["l"], input_size=(1200, 2000))
for _size, _trunk in VIT.items():
    register_variant(f"atss_vit_{_size}", atss_r50_fpn, **_trunk)
    _blocks = {"blocks": 2} if _trunk["input_size"] == (320, 320) else {}
    register_variant(f"atss_vit_{_size}_dyhead", atss_r50_fpn_dyhead, **_trunk, **_blocks)
