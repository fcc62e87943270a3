"""Feature pyramid network (arXiv 1612.03144) with the published ways of adding coarser levels."""

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.levels import enough, extended, group_norm, halving, several
from ..registry import register_neck
from ..types import Levels

ExtraLevels = Literal["on_output", "on_input", "max_pool"]
FPNNorm = Literal["none", "batch", "group"]


@register_neck("fpn")
class FPN(nn.Module):
    """Top-down pyramid with lateral connections (FPN), and coarser levels beyond.

    1x1 laterals, nearest up-sampling to the exact finer size, 3x3 output convolutions. With a norm the convolution is
    child `conv` and the norm child `norm` of its place.

    channels: of every map that comes out.
    levels: maps that come out; those beyond the inputs are `extra`.
    extra: "on_output" a stride-2 3x3 convolution on the coarsest output (FCOS, ATSS), "on_input" on the coarsest input
        (RetinaNet), "max_pool" every second position (Faster R-CNN's P6).
    relu_before_extra: ReLU in front of every extra convolution but the first (detectron2, torchvision, FCOS).
    norm: after every convolution, which then has no bias: none, batch (torchvision's second versions) or group (32
        groups; mmdetection's GN necks).
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        channels: int = 256,
        levels: int = 5,
        extra: ExtraLevels = "on_output",
        relu_before_extra: bool = False,
        norm: FPNNorm = "none",
    ) -> None:
        super().__init__()
        several(inputs)
        halving(inputs)
        enough(inputs, levels, "fpn")
        in_channels = inputs.channels
        self.levels = extended(inputs.strides, levels, channels)
        self.num_levels, self.extra, self.relu_before_extra = levels, extra, relu_before_extra
        self.laterals = nn.ModuleList(_conv(c, channels, 1, 1, norm) for c in in_channels)
        self.outputs = nn.ModuleList(_conv(channels, channels, 3, 1, norm) for _ in in_channels)
        more = 0 if extra == "max_pool" else levels - len(in_channels)
        first = in_channels[-1] if extra == "on_input" else channels
        self.extras = nn.ModuleList(_conv(first if i == 0 else channels, channels, 3, 2, norm) for i in range(more))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first -> `levels` maps [B, channels, H_i, W_i]."""
        merged = [lateral(x) for lateral, x in zip(self.laterals, features)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.outputs, merged)]
        if self.extra == "max_pool":
            while len(outputs) < self.num_levels:
                outputs.append(outputs[-1][:, :, ::2, ::2])
            return outputs
        x = features[-1] if self.extra == "on_input" else outputs[-1]
        for i, conv in enumerate(self.extras):
            x = conv(F.relu(x) if i > 0 and self.relu_before_extra else x)
            outputs.append(x)
        return outputs


def _conv(in_channels: int, channels: int, kernel: int, stride: int, norm: FPNNorm) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=norm == "none")
    if norm == "none":
        return conv
    layer = nn.BatchNorm2d(channels) if norm == "batch" else group_norm(channels)
    return nn.Sequential(OrderedDict(conv=conv, norm=layer))
