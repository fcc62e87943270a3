"""TTFNet (arXiv 1909.00700): a heat map of centres and four distances, trained on the cells of each box's Gaussian; one
map of stride 4, no anchors, no suppression. With the arguments that make it PAFNet (`pafnet.py`) or put a Dynamic Head
in front."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode, TimmBackbone
from ..detector import Detector
from ..heads.heatmap import Attention, HeatmapHead, open_distances, set_prior
from ..layers.deform import DeformableConv2d
from ..necks.dyhead import DyHead, DyHeadForm, HighOffset
from ..necks.fpn import FPN
from ..necks.upsample import DyHeadUpsampleNeck, UpsampleNeck
from ..registry import register, register_variant
from .parts import make_card

_STRIDES = (4, 8, 16, 32)
_HEATMAP_WIDTH, _BOX_WIDTH = 128, 64
_HEATMAP_CONVS = 2


def make_branch(in_channels: int, width: int, outputs: int, depth: int, *, deformable: bool) -> nn.Sequential:
    """`depth` 3x3 convolutions with ReLU, then a 1x1 one; weights N(0, 0.01) as in PaddleDetection 2, biases 0.

    deformable: modulated deformable convolutions, which have no bias here (PAFNet).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        channels = in_channels if i == 0 else width
        if deformable:
            layers[f"conv{i}"] = layer = DeformableConv2d(channels, width)
            nn.init.normal_(layer.conv.weight, std=0.01)
        else:
            layers[f"conv{i}"] = layer = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        layers[f"act{i}"] = nn.ReLU(inplace=True)
    layers["out"] = out = nn.Conv2d(width if depth else in_channels, outputs, 1)
    nn.init.normal_(out.weight, std=0.01)
    nn.init.zeros_(out.bias)
    return nn.Sequential(layers)


def _detector(
    backbone: TimmBackbone,
    neck: UpsampleNeck | DyHeadUpsampleNeck,
    num_classes: int,
    input_size: tuple[int, int],
    *,
    box_convs: int,
    deformable: bool,
    ags: Attention,
    clip_boxes: bool,
) -> Detector:
    """Two branches on the neck's map; scores start at 0.01."""
    heatmap = make_branch(neck.channels, _HEATMAP_WIDTH, num_classes, _HEATMAP_CONVS, deformable=deformable)
    set_prior(heatmap, 0.01)
    box = make_branch(neck.channels, _BOX_WIDTH, 4, box_convs, deformable=deformable)
    open_distances(box)
    head = HeatmapHead(heatmap, box, num_classes=num_classes, ags=ags, clip_boxes=clip_boxes)
    card = make_card(num_classes, nms_iou=None, input_size=input_size)
    return Detector(backbone, neck, head, card)


@register
def ttfnet_r18(
    *,
    num_classes: int = 80,
    backbone: str = "resnet18",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    frozen_stem: bool = False,
    leaky_slope: float | None = None,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    planes: tuple[int, int, int] = (256, 128, 64),
    deformable: bool = True,
    deformable_head: bool = False,
    align_corners: bool = False,
    box_convs: int = 1,
    ags: Attention = "off",
    clip_boxes: bool = True,
    input_size: tuple[int, int] = (512, 512),
) -> Detector:
    """TTFNet; with deformable stages and a deformable head PAFNet.

    frozen_stem, leaky_slope: see `TimmBackbone`. The Darknet-53 has the original's slope, 0.1; ImageNet weights of timm
    (backbone_weights) were trained with 0.01.
    planes, deformable, align_corners: of the neck, see `UpsampleNeck`.
    deformable_head: deformable convolutions in both branches. box_convs: 3x3 ones in the branch of the distances.
    ags: attention-guided sampling of the box loss, see `headway.heads.heatmap.attention`. clip_boxes: to the picture;
        published checkpoints do not.

    Differs: upstream squeezes every picture to a square; here a picture keeps its ratio, as with all other models.
    """
    trunk = TimmBackbone(
        backbone, strides=_STRIDES, weights=backbone_weights, norm=norm, frozen_stages=frozen_stages,
        frozen_stem=frozen_stem, leaky_slope=leaky_slope, dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
    )  # fmt: skip
    neck = UpsampleNeck(trunk.channels, planes, deformable=deformable, align_corners=align_corners)
    return _detector(
        trunk, neck, num_classes, input_size,
        box_convs=box_convs, deformable=deformable_head, ags=ags, clip_boxes=clip_boxes,
    )  # fmt: skip


@register
def ttfnet_r18_dyhead(
    *,
    num_classes: int = 80,
    backbone: str = "resnet18",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    channels: int = 128,
    blocks: int = 2,
    scale: bool = True,
    spatial: bool = True,
    task: bool = True,
    high_offset: HighOffset = "flat",
    form: DyHeadForm = "released",
    zero_init_offset: bool = True,
    deform_bias: bool = False,
    planes: tuple[int, int, int] = (256, 128, 64),
    deformable: bool = True,
    deformable_head: bool = False,
    align_corners: bool = False,
    box_convs: int = 1,
    ags: Attention = "off",
    clip_boxes: bool = True,
    input_size: tuple[int, int] = (512, 512),
) -> Detector:
    """TTFNet or PAFNet whose upsampling neck reads a Dynamic Head's maps of strides 8 to 32, see `DyHeadUpsampleNeck`.

    channels: of FPN and Dynamic Head; the others are `ttfnet_r18`'s and `DyHead`'s.
    """
    trunk = TimmBackbone(
        backbone, strides=_STRIDES, weights=backbone_weights, norm=norm, frozen_stages=frozen_stages,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
    )  # fmt: skip
    fpn = FPN(trunk.channels[1:], channels, levels=3)
    dyhead = DyHead(
        channels, blocks, scale=scale, spatial=spatial, task=task, high_offset=high_offset, form=form,
        zero_init_offset=zero_init_offset, deform_bias=deform_bias, levels=3,
    )  # fmt: skip
    widths: Sequence[int] = (trunk.channels[0], *[channels] * 3)
    upsample = UpsampleNeck(widths, planes, deformable=deformable, align_corners=align_corners)
    neck = DyHeadUpsampleNeck(fpn, dyhead, upsample)
    return _detector(
        trunk, neck, num_classes, input_size,
        box_convs=box_convs, deformable=deformable_head, ags=ags, clip_boxes=clip_boxes,
    )  # fmt: skip


register_variant("ttfnet_r34", ttfnet_r18, backbone="resnet34", box_convs=2)
register_variant("ttfnet_darknet53", ttfnet_r18, backbone="darknet53", leaky_slope=0.1, box_convs=2)
