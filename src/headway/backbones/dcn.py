"""Deformable stages for timm's ResNets (deformable convolution v1, arXiv 1703.06211, section 4.1; v2, arXiv 1811.11168,
section 3)."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from ..errors import HeadwayError
from ..layers.deform import DeformableConv2d

DcnVersion = Literal[1, 2]


def make_deformable(stages: Mapping[str, nn.Module], names: Iterable[str], version: DcnVersion, groups: int) -> None:
    """Replace the 3x3 convolution `conv2` of every block of the stages called `names` by a deformable one, in place.

    stages: the backbone's stages by name; names: some of them ("c4", "c5").
    version: 1 predicts offsets, 2 offsets and a mask. groups: offset groups (mmdetection's deform_groups).

    Stride, padding, dilation, groups and the weights stay, so that pretrained ones survive. The offsets start at zero:
    version 1 starts as the plain network, version 2 with half of each `conv2`. What else a block has (anti-aliasing,
    squeeze and excitation) is left alone.

    Of a basic block it is the second convolution, as in PaddleDetection (ppdet/modeling/backbones/resnet.py): neither
    mmdetection nor detectron2 has deformable basic blocks.

    Raises: HeadwayError for a stage that is not there or has no such block, and for groups that do not divide it.
    """
    for name in dict.fromkeys(names):
        if stages and name not in stages:
            raise HeadwayError(f"dcn names the stage {name!r}; this backbone has {', '.join(stages)}")
        blocks = [m for m in stages[name].children() if isinstance(m, (BasicBlock, Bottleneck))] if stages else []
        if not blocks:
            raise HeadwayError(
                f"dcn={name} needs a stage of the basic or bottleneck blocks of timm's ResNets (resnet50, "
                "resnext101_64x4d, seresnet50, ...), and this backbone has none; choose such a one or leave dcn empty"
            )
        for block in blocks:
            block.conv2 = _deformable(block.conv2, name, version, groups)


def _deformable(conv: nn.Conv2d, stage: str, version: DcnVersion, groups: int) -> DeformableConv2d:
    if groups < 1 or conv.in_channels % groups:
        raise HeadwayError(f"dcn_groups must divide the {conv.in_channels} channels of stage {stage}, got {groups}")
    with torch.device(conv.weight.device):
        layer = DeformableConv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            groups=conv.groups, offset_groups=groups, version=version, bias=conv.bias is not None,
        ).to(conv.weight.dtype)  # fmt: skip
    layer.conv.weight, layer.conv.bias = conv.weight, conv.bias
    return layer
