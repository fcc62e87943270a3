"""TTFNet's neck (arXiv 1909.00700, figure 3; PAFNet has the same): from the coarsest map up to stride 4 by deformable
convolutions and bilinear doubling, each finer map of the backbone added through a shortcut.

Sources: ZJULearning/ttfnet 700ad90c, mmdet/models/anchor_heads/ttf_head.py; PaddlePaddle/PaddleDetection 2.6,
ppdet/modeling/necks/ttf_fpn.py (both Apache-2.0).

    B images, C_i channels of the i-th map, finest first, H_i x W_i its cells
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.deform import DeformableConv2d
from ..layers.levels import several, steps_up
from ..registry import register_neck
from ..types import Levels
from .dyhead import DyHead, DyHeadOptions
from .fpn import FPN

_PLANES = (256, 128, 64)
_WANTS = {"strides": (4, 8, 16, 32), "levels": 4}


@register_neck("upsample", wants={**_WANTS, "pan.channels": 256})
class UpsampleNeck(nn.Module):
    """From the coarsest map up to the finest by deformable convolutions and bilinear doubling (TTFNet).

    The shortcuts have 1, 2 and 3 convolutions, deepest first.

    planes: channels after each step, deepest first; one step less than maps.
    deformable: False puts plain 3x3 convolutions into the steps.
    align_corners: of the doubling; False in PaddleDetection 2, True in the authors' code. Published weights need their
        own.

    Differs: a finer map may have an odd number of cells, one less than twice the coarser one's; the doubled map then
    loses its last row or column, so that every cell stays over its own pixels. Upstream such pictures fail.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        planes: tuple[int, ...] = _PLANES,
        deformable: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        planes = steps_up(inputs, planes, _PLANES)
        self.levels = Levels(inputs.strides[:1], planes[-1:])
        deepest_first = inputs.channels[::-1]
        widths = (deepest_first[0], *planes)
        self.upsamples = nn.ModuleList(
            Upsample(width, plane, deformable=deformable, align_corners=align_corners)
            for width, plane in zip(widths, planes)
        )
        self.shortcuts = nn.ModuleList(
            _shortcut(width, plane, i + 1) for i, (width, plane) in enumerate(zip(deepest_first[1:], planes))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, each half the one before (rounded up) -> [[B, channels, H_0, W_0]]."""
        if len(features) != len(self.upsamples) + 1:
            raise ValueError(f"this neck was built for {len(self.upsamples) + 1} maps, got {len(features)}")
        x = features[-1]
        for upsample, shortcut, finer in zip(self.upsamples, self.shortcuts, reversed(features[:-1])):
            height, width = finer.shape[-2:]
            x = upsample(x)[:, :, :height, :width] + shortcut(finer)
        return [x]


class Upsample(nn.Module):
    """3x3 (deformable) convolution with a bias, batch norm, ReLU, bilinear doubling."""

    def __init__(self, in_channels: int, channels: int, *, deformable: bool, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        if deformable:
            self.conv: nn.Module = DeformableConv2d(in_channels, channels, bias=True)
        else:
            self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, 2 H, 2 W]."""
        x = F.relu(self.norm(self.conv(x)))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.align_corners)


def _shortcut(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` 3x3 convolutions with biases, ReLU between but not after them; N(0, 2 / fan out) as both sources."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        if i:
            layers[f"act{i - 1}"] = nn.ReLU(inplace=True)
        layers[f"conv{i}"] = conv
    return nn.Sequential(layers)


@register_neck("dyhead_upsample", wants=_WANTS)
class DyHeadUpsampleNeck(nn.Module):
    """`upsample` that reads a Dynamic Head's maps of strides 8 and more, and the finest map as it is.

    The maps of strides 8 to 32 go through an FPN, which brings them to one width, and the DyHead blocks, and then take
    the backbone's places in the neck. That of stride 4 enters its shortcut as it is: it has three times the cells of
    all the others together, and a DyHead on it would cost four times as much for the level that only adds detail.

    channels: of the pyramid and the Dynamic Head.
    blocks: of the Dynamic Head.
    planes, deformable, align_corners: see `upsample`.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        channels: int = 128,
        blocks: int = 2,
        options: DyHeadOptions = DyHeadOptions(),  # noqa: B008  (immutable)
        planes: tuple[int, ...] = _PLANES,
        deformable: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        several(inputs, 3)
        coarse = len(inputs.strides) - 1
        self.fpn = FPN(Levels(inputs.strides[1:], inputs.channels[1:]), channels=channels, levels=coarse)
        self.dyhead = DyHead(self.fpn.levels, blocks=blocks, options=options)
        self.upsample = UpsampleNeck(
            Levels(inputs.strides, (inputs.channels[0], *self.fpn.levels.channels)), planes=planes,
            deformable=deformable, align_corners=align_corners,
        )  # fmt: skip
        self.levels = self.upsample.levels

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """As `UpsampleNeck.forward`."""
        return self.upsample([features[0], *self.dyhead(self.fpn(features[1:]))])
