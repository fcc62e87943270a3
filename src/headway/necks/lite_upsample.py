"""PAFNet-Lite's neck (arXiv 2104.13534, section 3.3): TTFNet's shape in lite convolutions, joined by concatenation.

Source: PaddlePaddle/PaddleDetection 2.6, ppdet/modeling/necks/ttf_fpn.py with lite_neck (Apache-2.0).

    B images, C_i channels of the i-th map, finest first, H_i x W_i its cells
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.levels import halving, several, steps_up
from ..layers.lite import LiteConv, LiteUpsample
from ..registry import register_neck
from ..types import Levels


class LiteUpsampleNeck(nn.Module):
    """Maps of strides 4 to 32 -> one map of stride 4 with 2 * planes[-1] channels.

    in_channels: of the maps, finest first. planes: channels of either half after each step, deepest first; one step
    less than maps. shortcuts: `LiteConv`s in each shortcut, deepest first; the last one's output may be negative.

    Differs: a finer map may have an odd number of cells, as in `UpsampleNeck`.
    """

    def __init__(
        self, in_channels: Sequence[int], planes: Sequence[int] = (96, 48, 24), *, shortcuts: Sequence[int] = (1, 2, 2)
    ) -> None:
        super().__init__()
        if not len(planes) == len(shortcuts) == len(in_channels) - 1:
            raise ValueError(
                f"LiteUpsampleNeck needs one step less than maps: {len(in_channels)} maps came with {len(planes)} "
                f"planes and {len(shortcuts)} shortcuts"
            )
        self.channels = 2 * planes[-1]
        deepest_first = tuple(reversed(in_channels))
        widths = (deepest_first[0], *(2 * plane for plane in planes))
        self.upsamples = nn.ModuleList(LiteUpsample(width, plane) for width, plane in zip(widths, planes))
        self.shortcuts = nn.ModuleList(
            nn.Sequential(*(LiteConv(plane if i else width, plane, act=i < depth - 1) for i in range(depth)))
            for width, plane, depth in zip(deepest_first[1:], planes, shortcuts)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, each half the one before (rounded up) -> [[B, channels, H_0, W_0]]."""
        if len(features) != len(self.upsamples) + 1:
            raise ValueError(f"this neck was built for {len(self.upsamples) + 1} maps, got {len(features)}")
        x = features[-1]
        for upsample, shortcut, finer in zip(self.upsamples, self.shortcuts, reversed(features[:-1])):
            height, width = finer.shape[-2:]
            x = torch.cat([upsample(x)[:, :, :height, :width], shortcut(finer)], dim=1)
        return [x]


_PLANES = (96, 48, 24)


@register_neck("lite_upsample", wants={"strides": (4, 8, 16, 32), "finest_stride": 4, "levels": 4})
def lite_upsample(inputs: Levels, *, planes: tuple[int, ...] = _PLANES) -> LiteUpsampleNeck:
    """`upsample` of lite convolutions, joined by concatenation, for phones (PAFNet-Lite).

    planes: channels of either half after each step, deepest first; one step less than maps.
    """
    several(inputs)
    halving(inputs)
    steps = len(inputs.strides) - 1
    planes = planes[:steps] if planes == _PLANES else planes
    steps_up(inputs, planes)
    neck = LiteUpsampleNeck(inputs.channels, planes, shortcuts=(1, *[2] * (steps - 1)))
    neck.levels = Levels(inputs.strides[:1], (neck.channels,))
    return neck
