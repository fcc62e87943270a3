"""PAFNet-Lite's neck (arXiv 2104.13534, section 3.3): TTFNet's shape in lite convolutions, joined by concatenation.

Source: PaddlePaddle/PaddleDetection 2.6, ppdet/modeling/necks/ttf_fpn.py with lite_neck (Apache-2.0).

    B images, C_i channels of the i-th map, finest first, H_i x W_i its cells
"""

import torch
from torch import Tensor, nn

from ..layers.levels import steps_up
from ..layers.lite import LiteConv, LiteUpsample
from ..registry import register_neck
from ..types import Levels

_PLANES = (96, 48, 24)


@register_neck("lite_upsample", wants={"strides": (4, 8, 16, 32), "levels": 4})
class LiteUpsampleNeck(nn.Module):
    """`upsample` of lite convolutions, joined by concatenation, for phones (PAFNet-Lite).

    The output of the last convolution of a shortcut may be negative.

    planes: channels of either half after each step, deepest first; one step less than maps.

    Differs: a finer map may have an odd number of cells, as in `UpsampleNeck`.
    """

    def __init__(self, inputs: Levels, *, planes: tuple[int, ...] = _PLANES) -> None:
        super().__init__()
        planes = steps_up(inputs, planes, _PLANES)
        shortcuts = (1, *[2] * (len(planes) - 1))
        self.levels = Levels(inputs.strides[:1], (2 * planes[-1],))
        deepest_first = inputs.channels[::-1]
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
