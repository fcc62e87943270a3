"""PAFNet for servers (arXiv 2104.13534): TTFNet on a ResNet-50-D with deformable stages C3 to C5 and a deformable head,
as released in PaddleDetection 2 (configs/ttfnet/pafnet_10x_coco.yml, Apache-2.0).

Its tricks in training are the argument `ags` and switches of the training (EMA, CutMix, GridMask); its better
pre-training is weights that were trained for longer, of which timm has several (`backbone="resnet50d.a1_in1k"`).
"""

from __future__ import annotations

from ..registry import register_variant
from .ttfnet import ttfnet_r18, ttfnet_r18_dyhead

_STAGES = ("c3", "c4", "c5")

register_variant("pafnet", ttfnet_r18, backbone="resnet50d", dcn=_STAGES, deformable_head=True, box_convs=2)
register_variant(
    "pafnet_dyhead",
    ttfnet_r18_dyhead,
    backbone="resnet50d", dcn=_STAGES, deformable_head=True, box_convs=2, channels=256, blocks=6,
)  # fmt: skip
