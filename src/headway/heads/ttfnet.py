"""TTFNet (arXiv 1909.00700): a heat map of centres and four distances, trained on the cells of each box's Gaussian; one
map of stride 4, no anchors, no suppression. PAFNet (arXiv 2104.13534) is TTFNet with a deformable head, PAFNet-Lite one
of lite convolutions, both as released in PaddleDetection 2 (configs/ttfnet, Apache-2.0)."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn

from ..layers.lite import LiteConv
from ..registry import register_head, register_variant
from ..types import Levels
from .heatmap import Attention, HeatmapHead, make_branch, one_fine_map, open_distances, set_prior

_WIDTHS, _LITE_WIDTHS = (128, 64), (48, 24)  # of the heat map's branch and the boxes'
_HEATMAP_CONVS, _LITE_CONVS = 2, 2
_WANTS = {"strides": (4, 8, 16, 32), "levels": 4}


def _lite_branch(in_channels: int, width: int, outputs: int, depth: int) -> nn.Sequential:
    """`LiteConv`s, then a 1x1 convolution that starts at N(0, 0.01)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        layers[f"conv{i}"] = LiteConv(width if i else in_channels, width)
    layers["out"] = out = nn.Conv2d(width, outputs, 1)
    nn.init.normal_(out.weight, std=0.01)
    nn.init.zeros_(out.bias)
    return nn.Sequential(layers)


def _head(
    inputs: Levels, num_classes: int, branch: Callable[..., nn.Sequential], widths: tuple[int, int],
    depths: tuple[int, int], ags: Attention, clip_boxes: bool,
) -> HeatmapHead:  # fmt: skip
    """Two branches on the map; scores start at 0.01."""
    channels, stride = one_fine_map(inputs)
    heatmap = branch(channels, widths[0], num_classes, depths[0])
    set_prior(heatmap, 0.01)
    box = branch(channels, widths[1], 4, depths[1])
    open_distances(box)
    head = HeatmapHead(heatmap, box, num_classes=num_classes, stride=stride, ags=ags, clip_boxes=clip_boxes)
    head.card = {"nms_iou": None, "input_size": (512, 512)}
    return head


@register_head("ttfnet", wants=_WANTS)
def ttfnet(
    inputs: Levels,
    *,
    num_classes: int,
    deformable_head: bool = False,
    box_convs: int = 1,
    ags: Attention = "off",
    clip_boxes: bool = True,
) -> HeatmapHead:
    """Heat map of centres and four distances, trained on every cell of a Gaussian (TTFNet).

    deformable_head: deformable convolutions in both branches.
    box_convs: 3x3 convolutions in the branch of the distances.
    ags: attention-guided sampling of the box loss, see `headway.heads.heatmap.attention`.
    clip_boxes: to the picture; published checkpoints do not.

    Differs: upstream squeezes every picture to a square; here a picture keeps its ratio, as with all other models.
    """
    branch = partial(make_branch, deformable=deformable_head)
    return _head(inputs, num_classes, branch, _WIDTHS, (_HEATMAP_CONVS, box_convs), ags, clip_boxes)


register_variant(
    "head", "pafnet", "ttfnet", "TTFNet with a deformable head (PAFNet).", deformable_head=True, box_convs=2
)


@register_head("pafnet_lite", wants=_WANTS)
def pafnet_lite(inputs: Levels, *, num_classes: int, ags: Attention = "off", clip_boxes: bool = True) -> HeatmapHead:
    """TTFNet's head of lite convolutions, for phones (PAFNet-Lite).

    ags: attention-guided sampling of the box loss, see `headway.heads.heatmap.attention`.
    clip_boxes: to the picture; the published checkpoint does not.
    """
    head = _head(inputs, num_classes, _lite_branch, _LITE_WIDTHS, (_LITE_CONVS, _LITE_CONVS), ags, clip_boxes)
    head.card["input_size"] = (320, 320)
    return head
