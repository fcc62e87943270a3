"""The neck of set prediction: the backbone's last map at the width of the transformer."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import LevelsError
from ..registry import register_neck
from ..types import Levels


class Project(nn.Module):
    """A 1x1 convolution of the last map to `channels`. in_channels: of the last map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(in_channels, channels, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[x [B, in_channels, h, w]] -> [[B, channels, h, w]]."""
        return [self.conv(maps[-1])]


@register_neck("project", wants={"backbone.strides": (32,)})
def project(inputs: Levels, *, channels: int = 256) -> Project:
    """One map at the width of the transformer behind it (DETR).

    channels: of the map that comes out.
    """
    if len(inputs.strides) != 1:
        raise LevelsError(f"reads one map, got {inputs}: use `level_projection`, or backbone.strides=32")
    neck = Project(inputs.channels[0], channels)
    neck.levels = Levels(inputs.strides, (channels,))
    return neck
