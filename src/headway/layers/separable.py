"""Depthwise-separable 3x3 convolutions as EfficientDet has them (arXiv 1911.09070), with TensorFlow's initialisations.

Source: google/automl, efficientdet/, and rwightman/efficientdet-pytorch 0.4.1, effdet/efficientdet.py (Apache-2.0).
"""

import math
from collections import OrderedDict
from typing import Literal

from torch import nn

Activation = Literal["silu", "relu6"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu6": nn.ReLU6}


class SeparableConv(nn.Sequential):
    """3x3 per channel without bias, then 1x1; no norm or activation between them. bias: of the 1x1."""

    def __init__(self, in_channels: int, channels: int, *, bias: bool) -> None:
        super().__init__(
            OrderedDict(
                depthwise=nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
                pointwise=nn.Conv2d(in_channels, channels, 1, bias=bias),
            )
        )


def init_glorot(module: nn.Module) -> None:
    """Glorot uniform weights, zero biases, for every convolution in `module`; outputs count by group."""
    for conv in _convolutions(module):
        fan_in = conv.weight[0].numel()
        fan_out = conv.weight[0, 0].numel() * conv.out_channels / conv.groups
        limit = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(conv.weight, -limit, limit)


def init_fan_in(module: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in, zero biases, for every convolution in `module`."""
    for conv in _convolutions(module):
        nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Every convolution in `module`, with its bias set to zero."""
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    for conv in found:
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return found
