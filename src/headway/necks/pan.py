"""The path aggregation neck of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR (arXiv 1803.01534, 2011.08036): pooled context at
the coarsest map, a way down to the finest one and a way up again, every node a CSP block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.csp import CSP2, SPPCSP, ConvNormAct, Style, make_down


class PAN(nn.Module):
    """Maps of the backbone -> as many maps of `widths` channels.

    in_channels: of the maps, finest first. blocks: bottlenecks of every node. csp_down: halve with `DownC`, not with a
    strided convolution. spp_extra: see `SPPCSP`.

    Parts, in the order they run: spp; reduces, laterals, tops (towards finer maps); downs, bottoms (back).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        widths: Sequence[int],
        blocks: int,
        *,
        csp_down: bool = False,
        spp_extra: bool = False,
        style: Style,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(widths):
            raise ValueError(f"PAN needs a width for each of {len(in_channels)} maps, got {tuple(widths)}")
        self.channels = tuple(widths)
        self.spp = SPPCSP(in_channels[-1], widths[-1], extra=spp_extra, style=style)
        steps = list(zip(widths[:0:-1], widths[-2::-1], in_channels[-2::-1]))  # coarse width, fine width, backbone's
        self.reduces = nn.ModuleList(ConvNormAct(coarse, fine, style=style) for coarse, fine, _ in steps)
        self.laterals = nn.ModuleList(ConvNormAct(incoming, fine, style=style) for _, fine, incoming in steps)
        self.tops = nn.ModuleList(CSP2(2 * fine, fine, blocks, style=style) for _, fine, _ in steps)
        pairs = list(pairwise(widths))
        self.downs = nn.ModuleList(make_down(fine, coarse, csp=csp_down, style=style) for fine, coarse in pairs)
        self.bottoms = nn.ModuleList(CSP2(2 * coarse, coarse, blocks, style=style) for _, coarse in pairs)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, each half the size of the one before, odd sizes rounded up."""
        x = self.spp(features[-1])
        waiting = [x]  # for the way back, finest last
        for reduce, lateral, top, feature in zip(self.reduces, self.laterals, self.tops, features[-2::-1]):
            coarse = F.interpolate(reduce(x), size=feature.shape[-2:], mode="nearest")
            x = top(torch.cat([lateral(feature), coarse], 1))
            waiting.append(x)
        outputs = [waiting.pop()]
        for down, bottom in zip(self.downs, self.bottoms):
            outputs.append(bottom(torch.cat([down(outputs[-1]), waiting.pop()], 1)))
        return outputs
