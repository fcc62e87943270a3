"""The maps of a backbone at one width, and coarser ones (Deformable DETR, arXiv 2010.04159, appendix A.2): nothing is
passed between the levels, which is the attention's task."""

from collections import OrderedDict

from torch import Tensor, nn

from ..layers.levels import enough, extended, group_norm
from ..registry import register_neck
from ..types import Levels


@register_neck("level_projection")
class LevelProjection(nn.Module):
    """The backbone's maps at one width, and coarser ones; nothing passes between the levels (Deformable DETR).

    A 1x1 convolution with GroupNorm(32) for every map, and stride-2 3x3 convolutions with the same norm for the levels
    beyond: the first of the backbone's coarsest map, each further one of that before.

    channels: of every map that comes out.
    levels: maps that come out; those beyond the inputs are made by stride-2 convolutions.
    """

    def __init__(self, inputs: Levels, *, channels: int = 256, levels: int = 4) -> None:
        super().__init__()
        enough(inputs, levels, "level_projection")
        self.levels, in_channels = extended(inputs.strides, levels, channels), inputs.channels
        widths = [*in_channels, in_channels[-1], *([channels] * levels)][:levels]
        self.projections = nn.ModuleList()
        for i, width in enumerate(widths):
            kernel, stride = (1, 1) if i < len(in_channels) else (3, 2)
            conv = nn.Conv2d(width, channels, kernel, stride, kernel // 2)
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
            norm = group_norm(channels)
            self.projections.append(nn.Sequential(OrderedDict(conv=conv, norm=norm)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first -> `levels` maps [B, channels, H_i, W_i]."""
        outputs = [projection(x) for projection, x in zip(self.projections, maps)]
        last = maps[-1]
        for projection in self.projections[len(maps) :]:
            last = projection(last)
            outputs.append(last)
        return outputs
