"""RetinaNet (arXiv 1708.02002): nine anchors a cell, focal loss, overlap assignment; mmdetection's numbers, and as
arguments what torchvision and detectron2 do differently."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..assign import max_iou
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_delta, encode_delta
from ..detector import Detector
from ..heads.dense import DenseHead, Normaliser
from ..necks.dyhead import DyHeadForm, HighOffset
from ..necks.fpn import ExtraLevels
from ..priors import anchor_grid
from ..registry import register, register_variant
from .parts import DENSE_STRIDES, SWIN, VIT, BoxLossName, make_backbone, make_box_loss, make_card, make_fpn, with_dyhead

_SCALES = tuple(4 * 2 ** (i / 3) for i in range(3))
_RATIOS = (0.5, 1.0, 2.0)


def _head(
    channels: int,
    num_classes: int,
    tower_depth: int,
    tower_norm: bool,
    *,
    rounded_anchors: bool = False,
    step_from_image: bool = False,
    clip_shrink: bool = True,
    keep_owner: bool = False,
    normaliser: Normaliser = "image",
    box_loss: BoxLossName = "l1",
    box_beta: float = 1.0,
) -> DenseHead:
    return DenseHead(
        channels,
        num_classes,
        DENSE_STRIDES,
        make_priors=partial(
            anchor_grid, scales=_SCALES, ratios=_RATIOS, rounded=rounded_anchors, step_from_image=step_from_image
        ),
        priors_per_cell=len(_SCALES) * len(_RATIOS),
        assign=partial(max_iou, positive_iou=0.5, negative_iou=0.4, keep_owner=keep_owner),
        coder=Coder(encode_delta, partial(decode_delta, clip_shrink=clip_shrink)),
        box_loss=make_box_loss(box_loss, box_beta),
        normaliser=normaliser,
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
    norm_eps: float | None = None,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    channels: int = 256,
    extra_levels: ExtraLevels = "on_input",
    relu_before_extra: bool = False,
    tower_depth: int = 4,
    tower_norm: bool = False,
    rounded_anchors: bool = False,
    step_from_image: bool = False,
    clip_shrink: bool = True,
    keep_owner: bool = False,
    normaliser: Normaliser = "image",
    box_loss: BoxLossName = "l1",
    box_beta: float = 1.0,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """RetinaNet on an FPN.

    tower_norm: GroupNorm in the towers, which most published ones lack; from random weights it trains more surely.
    rounded_anchors, step_from_image: see `anchor_grid`; clip_shrink: `decode_delta`; keep_owner: `max_iou`; normaliser:
    `DenseHead`. torchvision has True, True, False, True and "mean", detectron2 False, False, False, True and a running
    mean of "batch".
    box_beta: of smooth_l1.
    """
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1,
        norm_eps=norm_eps, dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
    )  # fmt: skip
    neck = make_fpn(trunk, channels, extra_levels, relu_before_extra)
    head = _head(
        channels, num_classes, tower_depth, tower_norm,
        rounded_anchors=rounded_anchors, step_from_image=step_from_image, clip_shrink=clip_shrink,
        keep_owner=keep_owner, normaliser=normaliser, box_loss=box_loss, box_beta=box_beta,
    )  # fmt: skip
    return _detector(trunk, neck, head, num_classes, input_size)


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
    drop_path: float = 0.0,
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
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path,
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
register_variant("retinanet_swin_t_fpn", retinanet_r50_fpn, **SWIN["t"])
register_variant("retinanet_swin_t_fpn_dyhead", retinanet_r50_fpn_dyhead, **SWIN["t"])
register_variant("retinanet_vit_b", retinanet_r50_fpn, **VIT["b"])
