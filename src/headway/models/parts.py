"""What every builder repeats: backbone + FPN, DyHead behind it, and the card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode, TimmBackbone
from ..backbones.vit import ViT, is_vit, make_vit
from ..errors import HeadwayError
from ..losses import BoxLoss, giou, l1, smooth_l1
from ..necks.dyhead import DyHead
from ..necks.fpn import FPN, ExtraLevels, FPNNorm
from ..necks.full_head import FullHead
from ..necks.simple_pyramid import SimplePyramid
from ..types import ModelCard
from .classes import COCO_CATEGORY_IDS, COCO_CLASSES

DENSE_STRIDES = (8, 16, 32, 64, 128)
# Swin's sizes with the rates of stochastic depth that its detectors were trained with (arXiv 2103.14030, A2.2, and the
# authors' configurations; Swin-L: mmdetection's Dynamic Head).
SWIN: dict[str, dict[str, Any]] = {
    "nano": {"backbone": "swin_nano_patch4_window7", "channels": 128, "input_size": (320, 320)},
    "t": {"backbone": "swin_tiny_patch4_window7_224", "drop_path": 0.2},
    "s": {"backbone": "swin_small_patch4_window7_224", "drop_path": 0.2},
    "b": {"backbone": "swin_base_patch4_window7_224", "drop_path": 0.3},
    "l": {"backbone": "swin_large_patch4_window12_384", "drop_path": 0.2},
}
# Plain ViTs: ViT-B at the size and rate of ViTDet (arXiv 2203.16527, A.1), its hybrid (timm's R50+ViT-B), small ones.
_SMALL: dict[str, Any] = {"channels": 128, "input_size": (320, 320)}
VIT: dict[str, dict[str, Any]] = {
    "b": {"backbone": "vit_base_patch16_224", "drop_path": 0.1, "input_size": (1024, 1024)},
    "b_hybrid": {"backbone": "vit_base_r50_s16_224", "drop_path": 0.1, "input_size": (1024, 1024)},
    "tiny": {"backbone": "vit_tiny_patch16", **_SMALL},
    "tiny_hybrid": {"backbone": "vit_tiny_hybrid_r18", **_SMALL},
}
BoxLossName = Literal["l1", "smooth_l1", "giou"]


def make_backbone(
    backbone: str,
    weights: bool,
    norm: NormMode,
    frozen_stages: int,
    stride_in_1x1: bool = False,
    *,
    norm_eps: float | None = None,
    dcn: Sequence[str] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    strides: Sequence[int] = (8, 16, 32),
) -> TimmBackbone | ViT:
    """Maps of a timm model, C3 to C5 unless `strides` says otherwise; or a plain ViT, whose one map `make_fpn` reads.

    Raises: HeadwayError for a ViT with what only a CNN has: frozen stages, deformable convolutions, other batch norms.
    """
    if not is_vit(backbone):
        return TimmBackbone(
            backbone, strides=strides, weights=weights, norm=norm, frozen_stages=frozen_stages,
            stride_in_1x1=stride_in_1x1, norm_eps=norm_eps, dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
            drop_path=drop_path,
        )  # fmt: skip
    if frozen_stages or dcn or norm != "batch":
        raise HeadwayError(
            f"{backbone} has neither stages nor convolutions nor batch norms: set frozen_stages=0, dcn=() and "
            f"norm='batch', got {frozen_stages}, {dcn} and {norm!r}"
        )
    return make_vit(backbone, weights=weights, drop_path=drop_path)


def make_fpn(
    backbone: TimmBackbone | ViT,
    channels: int,
    extra: ExtraLevels,
    relu_before_extra: bool = False,
    *,
    norm: FPNNorm = "none",
    strides: Sequence[int] = (8, 16, 32),
    levels: int = 5,
) -> FPN | SimplePyramid:
    """P3 to P7 unless `strides` and `levels` say otherwise; of a ViT a simple pyramid, whose norms are its own."""
    if isinstance(backbone, ViT):
        return SimplePyramid(
            backbone.channels[0], channels, strides=strides, levels=levels, extra=extra,
            relu_before_extra=relu_before_extra,
        )  # fmt: skip
    return FPN(backbone.channels, channels, levels=levels, extra=extra, relu_before_extra=relu_before_extra, norm=norm)


def with_dyhead(fpn: FPN | SimplePyramid, **arguments: Any) -> nn.Sequential:
    """FPN, then DyHead of the same width; `arguments` are DyHead's."""
    return nn.Sequential(fpn, DyHead(fpn.channels, **arguments))


def with_full_head(fpn: FPN | SimplePyramid, **arguments: Any) -> nn.Sequential:
    """FPN, then FullHead of the same width; `arguments` are FullHead's."""
    return nn.Sequential(fpn, FullHead(fpn.channels, levels=fpn.levels, **arguments))


def make_box_loss(name: BoxLossName, beta: float = 1.0, weight: float = 1.0) -> BoxLoss:
    """On box codes, giou on decoded boxes; beta is of smooth_l1."""
    if name == "giou":
        return BoxLoss(giou, on="boxes", weight=weight)
    return BoxLoss(l1 if name == "l1" else partial(smooth_l1, beta=beta), on="codes", weight=weight)


def make_card(num_classes: int, **fields: Any) -> ModelCard:
    """COCO's names for 80 classes, else class0, class1, ... until `create_model(class_names=...)` knows better.

    The score threshold is low, since average precision wants the weak detections too; published checkpoints bring
    their own (`weights/`).
    """
    fields.setdefault("score_threshold", 0.01)
    if num_classes == len(COCO_CLASSES):
        return ModelCard(class_names=COCO_CLASSES, category_ids=COCO_CATEGORY_IDS, **fields)
    return ModelCard(class_names=tuple(f"class{i}" for i in range(num_classes)), **fields)
