"""MobileNetV3-large (arXiv 1905.02244) with the maps that PAFNet-Lite reads: the expanded tensors inside the blocks
that halve the map, three to eight times as wide as what timm's features give.

The layers are timm's; the released form follows PaddlePaddle/PaddleDetection 2.6, ppdet/modeling/backbones/
mobilenet_v3.py (Apache-2.0).
"""

from functools import partial
from typing import Literal

import torch
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import Tensor, nn

from ..registry import register_backbone
from ..types import Levels
from .timm import Weights, _create, weight_statistics

MobileNetForm = Literal["released", "timm"]
_FAMILY = "mobilenetv3_large"
_TAPPED = (2, 3, 5)  # stages whose first block is expanded at stride 4, 8 and 16
_GATE_SLOPE = 0.2


class LinearGate(nn.Module):
    """clip(0.2 x + 0.5, 0, 1), the gate of Paddle's squeeze and excitation. torch's Hardsigmoid has x / 6."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * _GATE_SLOPE + 0.5).clamp(0, 1)


_PREFIX = "expanded_"


@register_backbone("expanded_mobilenetv3", matches=lambda name: name.startswith(_PREFIX + _FAMILY))
class ExpandedMobileNetV3(nn.Module):
    """MobileNetV3-large of timm with the expanded tensors that PAFNet-Lite reads: `expanded_` and timm's name.

    They are taken after norm and activation, of three blocks of stride 2, so at strides 4, 8 and 16; with them the last
    1x1 convolution's output at stride 32.

    weights: true loads timm's ImageNet weights (a download the first time).
    form: "timm" is its network; "released" that of the published PAFNet-Lite: `LinearGate`, squeezed widths that are
        not rounded to multiples of 8, and an expansion in the first block, which timm leaves out as it does not widen.
        timm's weights are then carried over: the gate's slope goes into the convolution before it, of the squeezed
        channels those with the largest weights stay, and the new expansion starts as the identity.
    """

    def __init__(
        self,
        name: str = "expanded_mobilenetv3_large_100",
        *,
        weights: Weights = False,
        form: MobileNetForm = "released",
    ) -> None:
        super().__init__()
        weights, name = bool(weights), name.removeprefix(_PREFIX)
        if weights:
            self.pixel_statistics = weight_statistics(name)
        self.name = name
        self.body = _create(name, [0, 1, 2, 3, 4], weights)
        if form == "released":
            self.body.blocks[0][0] = _with_expansion(self.body.blocks[0][0], identity=weights)
            for module in self.body.modules():
                if isinstance(module, InvertedResidual) and isinstance(module.se, SqueezeExcite):
                    module.se = _released_gate(module.se)
        tapped = [self.body.blocks[i][0].conv_pw.out_channels for i in _TAPPED]
        self.channels = (*tapped, self.body.blocks[-1][-1].conv.out_channels)
        self.strides = (4, 8, 16, 32)
        self.levels = Levels(self.strides, self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        body, maps = self.body, []
        x = body.act1(body.bn1(body.conv_stem(images)))
        for i, stage in enumerate(body.blocks):
            for j, block in enumerate(stage):
                if i in _TAPPED and j == 0:
                    maps.append(block.bn1(block.conv_pw(x)))
                    x = block.bn3(block.conv_pwl(block.se(block.bn2(block.conv_dw(maps[-1])))))
                else:
                    x = block(x)
        return [*maps, x]


def _with_expansion(block: nn.Module, *, identity: bool) -> InvertedResidual:
    """timm's depthwise separable block -> the same behind a 1x1 expansion to as many channels."""
    width = block.conv_dw.in_channels
    norm = partial(BatchNormAct2d, eps=block.bn1.eps, momentum=block.bn1.momentum)
    wider = InvertedResidual(
        width, block.conv_pw.out_channels, block.conv_dw.kernel_size[0], exp_ratio=1.0,
        act_layer=type(block.bn1.act), norm_layer=norm,
    )  # fmt: skip
    wider.conv_dw, wider.bn2 = block.conv_dw, block.bn1
    wider.conv_pwl, wider.bn3 = block.conv_pw, block.bn2
    if identity:
        nn.init.dirac_(wider.conv_pw.weight)
    else:
        nn.init.kaiming_normal_(wider.conv_pw.weight, mode="fan_out")  # as timm starts it
    return wider


def _released_gate(se: SqueezeExcite) -> SqueezeExcite:
    """timm's squeeze and excitation -> one that squeezes to a quarter through `LinearGate`, with nearly the same."""
    channels = se.conv_reduce.in_channels
    released = SqueezeExcite(channels, rd_channels=channels // 4, act_layer=type(se.act1), gate_layer=LinearGate)
    with torch.no_grad():
        strength = se.conv_reduce.weight.flatten(1).norm(dim=1) * se.conv_expand.weight.flatten(1).norm(dim=0)
        kept = strength.topk(channels // 4).indices.sort().values
        released.conv_reduce.weight.copy_(se.conv_reduce.weight[kept])
        released.conv_reduce.bias.copy_(se.conv_reduce.bias[kept])
        released.conv_expand.weight.copy_(se.conv_expand.weight[:, kept] / (6 * _GATE_SLOPE))
        released.conv_expand.bias.copy_(se.conv_expand.bias / (6 * _GATE_SLOPE))
    return released
