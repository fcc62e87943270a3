"""Deformable DETR (arXiv 2010.04159): DETR whose attention reads a few points of four maps, so that it learns in a
tenth of the epochs; the numbers of fundamentalvision/Deformable-DETR (commit 48092c5, Apache-2.0), which
mmdetection's and Hugging Face's share."""

from __future__ import annotations

from ..backbones.timm import NormMode, TimmBackbone
from ..detector import Detector
from ..heads.deformable_detr import DeformableDetrHead
from ..heads.set_loss import SetWeights
from ..necks.level_projection import LevelProjection
from ..registry import register, register_variant
from .parts import make_card


@register
def deformable_detr_r50(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "buffers",
    frozen_stages: int = 1,
    levels: int = 4,
    dc5: bool = False,
    channels: int = 256,
    heads: int = 8,
    points: int = 4,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    feedforward: int = 1024,
    queries: int = 300,
    dropout: float = 0.1,
    refine_boxes: bool = False,
    two_stage: bool = False,
    costs: tuple[float, float, float] = (2.0, 5.0, 2.0),
    weights: tuple[float, float, float] = (2.0, 5.0, 2.0),
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """Deformable DETR on a ResNet.

    norm: as published the batch norms are constants, which needs `backbone_weights=True`; from random weights use
        "batch". frozen_stages: as published the stem and the first stage are not trained.
    levels: maps; from the fourth on they are made from the last of the backbone. 1 is the published single-scale form,
        on the backbone's last map alone. dc5: that keeps stride 16 and is dilated; with one level only.
    channels, heads, points, feedforward, dropout: of the transformer. queries: the most objects that can be found.
    refine_boxes: every decoder layer corrects the boxes of the one before. two_stage: the queries are the encoder's
        best cells; needs refine_boxes.
    costs, weights: of class, box (L1) and overlap (GIoU) in the matching and in the loss.

    Differs: boxes are clipped to the picture; padding is never proposed. Raises: ValueError for levels that the
    backbone's maps exceed, and for arguments that exclude each other.
    """
    if dc5 and levels != 1:
        raise ValueError(f"dc5 belongs to the single-scale form: set levels=1, got {levels}")
    stride = 16 if dc5 else 32
    trunk = TimmBackbone(
        backbone, strides=(stride,) if levels == 1 else (8, 16, 32), weights=backbone_weights, norm=norm,
        frozen_stages=frozen_stages, output_stride=stride, picture=True,
    )  # fmt: skip
    neck = LevelProjection(trunk.channels[1:], channels, levels=levels)
    head = DeformableDetrHead(
        channels, num_classes, levels=levels, heads=heads, points=points, encoder_layers=encoder_layers,
        decoder_layers=decoder_layers, feedforward=feedforward, queries=queries, dropout=dropout, refine=refine_boxes,
        two_stage=two_stage, cost=SetWeights(*costs), weights=SetWeights(*weights),
    )  # fmt: skip
    return Detector(trunk, neck, head, make_card(num_classes, nms_iou=None, input_size=input_size))


register_variant("deformable_detr_r50_refine", deformable_detr_r50, refine_boxes=True)
register_variant("deformable_detr_r50_two_stage", deformable_detr_r50, refine_boxes=True, two_stage=True)
register_variant(
    "deformable_detr_tiny", deformable_detr_r50, backbone="resnet18", norm="batch", frozen_stages=0, levels=3,
    channels=128, heads=4, encoder_layers=2, decoder_layers=3, feedforward=512, queries=100, refine_boxes=True,
    input_size=(320, 448),
)  # fmt: skip
