"""DETR (arXiv 2005.12872): a transformer on a ResNet's last map that predicts a set of objects, without anchors and
NMS; the numbers of facebookresearch/detr (commit 29901c5, Apache-2.0), which mmdetection's and Hugging Face's share."""

from __future__ import annotations

from ..backbones.timm import NormMode, TimmBackbone
from ..detector import Detector
from ..heads.detr import DetrHead
from ..heads.set_loss import SetWeights
from ..necks.project import Project
from ..registry import register, register_variant
from .parts import make_card


@register
def detr_r50(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "buffers",
    frozen_stages: int = 0,
    dc5: bool = False,
    channels: int = 256,
    heads: int = 8,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    feedforward: int = 2048,
    queries: int = 100,
    dropout: float = 0.1,
    costs: tuple[float, float, float] = (1.0, 5.0, 2.0),
    weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
    no_object: float = 0.1,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """DETR on a ResNet.

    norm: as published the batch norms are constants, which needs `backbone_weights=True`; from random weights use
        "batch". dc5: the last stage keeps stride 16 and is dilated, for four times the cells.
    channels, heads, feedforward, dropout: of the transformer. queries: the most objects that can be found.
    costs, weights: of class, box (L1) and overlap (GIoU) in the matching and in the loss; no_object: weight of the
        queries without an object in the class loss.

    Differs: boxes are clipped to the picture.
    """
    stride = 16 if dc5 else 32
    trunk = TimmBackbone(
        backbone, strides=(stride,), weights=backbone_weights, norm=norm, frozen_stages=frozen_stages,
        output_stride=stride, picture=True,
    )  # fmt: skip
    head = DetrHead(
        channels, num_classes, queries=queries, heads=heads, encoder_layers=encoder_layers,
        decoder_layers=decoder_layers, feedforward=feedforward, dropout=dropout, cost=SetWeights(*costs),
        weights=SetWeights(*weights), no_object=no_object,
    )  # fmt: skip
    card = make_card(num_classes, nms_iou=None, input_size=input_size, max_detections=queries)
    return Detector(trunk, Project(trunk.channels, channels), head, card)


register_variant("detr_r101", detr_r50, backbone="resnet101")
register_variant("detr_r50_dc5", detr_r50, dc5=True)
register_variant("detr_r101_dc5", detr_r50, backbone="resnet101", dc5=True)
register_variant(  # without dropout, whose noise a small DETR from random weights takes for its queries (docs/detr.md)
    "detr_tiny", detr_r50, backbone="resnet18", norm="batch", channels=128, heads=4, encoder_layers=3, decoder_layers=3,
    feedforward=512, dropout=0.0, input_size=(320, 448),
)  # fmt: skip
