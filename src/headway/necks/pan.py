"""The path aggregation neck of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR (arXiv 1803.01534, 2011.08036): pooled context at
the coarsest map, a way down to the finest one and a way up again, every node a CSP block."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.csp import CSP2, SPPCSP, Activation, ConvNormAct, Form, Style, make_down, repeated, scaled
from ..layers.levels import halving
from ..registry import register_neck
from ..types import Levels


@register_neck("pan", shares=("form", "act", "norm_eps", "depth"))
class PAN(nn.Module):
    """Path aggregation of CSP blocks: pooled context at the coarsest map, a way down and a way up (YOLOv4-CSP).

    Parts, in the order they run: spp; reduces, laterals, tops (towards finer maps); downs, bottoms (back).

    widths: channels per level, finest first; None: half of those that come in.
    channels: a last 1x1 convolution brings every level to this width; None leaves them.
    blocks: bottlenecks of every node.
    depth: factor of the blocks.
    form: of the blocks, see `headway.layers.csp.Style`.
    act: activation.
    norm_eps: of the batch norms; None: the form's.
    csp_down: halve with `DownC`, not with a strided convolution.
    spp_extra: see `SPPCSP`.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        widths: tuple[int, ...] | None = None,
        channels: int | None = None,
        blocks: int = 2,
        depth: float = 1.0,
        form: Form = "cfg",
        act: Activation = "silu",
        norm_eps: float | None = None,
        csp_down: bool = False,
        spp_extra: bool = False,
    ) -> None:
        super().__init__()
        halving(inputs)
        in_channels, style = inputs.channels, Style(form, act, norm_eps)
        widths = scaled(in_channels, 0.5) if widths is None else widths
        if len(in_channels) != len(widths):
            raise ValueError(f"PAN needs a width for each of {len(in_channels)} maps, got {tuple(widths)}")
        (blocks,) = repeated([blocks], depth)
        self.spp = SPPCSP(in_channels[-1], widths[-1], extra=spp_extra, style=style)
        steps = list(zip(widths[:0:-1], widths[-2::-1], in_channels[-2::-1]))  # coarse width, fine width, backbone's
        self.reduces = nn.ModuleList(ConvNormAct(coarse, fine, style=style) for coarse, fine, _ in steps)
        self.laterals = nn.ModuleList(ConvNormAct(incoming, fine, style=style) for _, fine, incoming in steps)
        self.tops = nn.ModuleList(CSP2(2 * fine, fine, blocks, style=style) for _, fine, _ in steps)
        pairs = list(pairwise(widths))
        self.downs = nn.ModuleList(make_down(fine, coarse, csp=csp_down, style=style) for fine, coarse in pairs)
        self.bottoms = nn.ModuleList(CSP2(2 * coarse, coarse, blocks, style=style) for _, coarse in pairs)
        self.levels = Levels(inputs.strides, tuple(widths) if channels is None else (channels,) * len(widths))
        self.lasts = None if channels is None else nn.ModuleList(ConvNormAct(w, channels, style=style) for w in widths)

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
        return outputs if self.lasts is None else [last(x) for last, x in zip(self.lasts, outputs)]
