"""PAFNet-Lite (arXiv 2104.13534): a heat map and four distances for phones, MobileNetV3-large and lite convolutions; as
released in PaddleDetection 2 (configs/ttfnet/pafnet_lite_mobilenet_v3_20x_coco.yml), Apache-2.0."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ..backbones.mobilenet import ExpandedMobileNetV3, MobileNetForm
from ..detector import Detector
from ..heads.heatmap import Attention, HeatmapHead, open_distances, set_prior
from ..layers.lite import LiteConv
from ..necks.lite_upsample import LiteUpsampleNeck
from ..registry import register
from .parts import make_card

_HEATMAP_WIDTH, _BOX_WIDTH = 48, 24
_CONVS = 2


def _branch(in_channels: int, width: int, outputs: int) -> nn.Sequential:
    """`LiteConv`s, then a 1x1 convolution that starts at N(0, 0.01)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(_CONVS):
        layers[f"conv{i}"] = LiteConv(width if i else in_channels, width)
    layers["out"] = out = nn.Conv2d(width, outputs, 1)
    nn.init.normal_(out.weight, std=0.01)
    nn.init.zeros_(out.bias)
    return nn.Sequential(layers)


@register
def pafnet_lite(
    *,
    num_classes: int = 80,
    backbone: str = "mobilenetv3_large_100",
    backbone_weights: bool = False,
    backbone_form: MobileNetForm = "released",
    planes: tuple[int, int, int] = (96, 48, 24),
    ags: Attention = "off",
    clip_boxes: bool = True,
    input_size: tuple[int, int] = (320, 320),
) -> Detector:
    """PAFNet-Lite.

    backbone: a MobileNetV3-large of timm; backbone_form: see `ExpandedMobileNetV3`. planes: of the neck, see
    `LiteUpsampleNeck`. ags: attention-guided sampling of the box loss, see `HeatmapHead`.
    clip_boxes: to the picture; the published checkpoint does not.

    Differs: upstream squeezes every picture to a square; here a picture keeps its ratio, as with all other models.
    """
    trunk = ExpandedMobileNetV3(backbone, weights=backbone_weights, form=backbone_form)
    neck = LiteUpsampleNeck(trunk.channels, planes)
    heatmap = _branch(neck.channels, _HEATMAP_WIDTH, num_classes)
    set_prior(heatmap, 0.01)
    box = _branch(neck.channels, _BOX_WIDTH, 4)
    open_distances(box)
    head = HeatmapHead(heatmap, box, num_classes=num_classes, ags=ags, clip_boxes=clip_boxes)
    card = make_card(num_classes, nms_iou=None, input_size=input_size)
    return Detector(trunk, neck, head, card)
