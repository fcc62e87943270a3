"""PAFNet-Lite's convolutions (arXiv 2104.13534, section 3.3): depthwise 5x5, two pointwise, depthwise 5x5, and an
up-sampling of the same parts.

Source: PaddlePaddle/PaddleDetection 2.6, ppdet/modeling/layers.py and necks/ttf_fpn.py (Apache-2.0).
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class LiteConv(nn.Sequential):
    """Depthwise 5x5, pointwise, pointwise, depthwise 5x5, each with batch norm; the first pointwise changes the width.

    act: ReLU6 after all four; False leaves it out after the first pointwise and the last, so that the output may be
    negative.
    """

    def __init__(self, in_channels: int, channels: int, *, act: bool = True) -> None:
        super().__init__(
            OrderedDict(
                depthwise1=_block(nn.Conv2d(in_channels, in_channels, 5, padding=2, groups=in_channels, bias=False)),
                pointwise1=_block(nn.Conv2d(in_channels, channels, 1, bias=False), act=act),
                pointwise2=_block(nn.Conv2d(channels, channels, 1, bias=False)),
                depthwise2=_block(nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False), act=act),
            )
        )


class LiteUpsample(nn.Module):
    """Doubles a map: the sum of a depthwise transposed convolution between two pointwise ones and of a bilinearly
    doubled `LiteConv`."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels, bias=False)
        self.deconv = nn.Sequential(
            OrderedDict(
                pointwise1=_block(nn.Conv2d(in_channels, channels, 1, bias=False)),
                depthwise=_block(transposed),
                pointwise2=_block(nn.Conv2d(channels, channels, 1, bias=False)),
            )
        )
        self.conv = LiteConv(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, 2 H, 2 W]."""
        doubled = F.interpolate(self.conv(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.deconv(x) + doubled


def _block(conv: nn.Conv2d | nn.ConvTranspose2d, *, act: bool = True) -> nn.Sequential:
    """Convolution (Xavier uniform, as upstream), batch norm and ReLU6."""
    nn.init.xavier_uniform_(conv.weight)
    layers: dict[str, nn.Module] = {"conv": conv, "norm": nn.BatchNorm2d(conv.out_channels)}
    if act:
        layers["act"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))
