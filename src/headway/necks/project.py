"""The neck of set prediction: the backbone's last map at the width of the transformer."""

from torch import Tensor, nn

from ..errors import LevelsError
from ..registry import register_neck
from ..types import Levels


@register_neck("project", wants={"backbone.strides": (32,)})
class Project(nn.Module):
    """One map at the width of the transformer behind it, by a 1x1 convolution (DETR).

    channels: of the map that comes out.
    """

    def __init__(self, inputs: Levels, *, channels: int = 256) -> None:
        super().__init__()
        if len(inputs.strides) != 1:
            raise LevelsError(f"reads one map, got {inputs}: use `level_projection`, or backbone.strides=32")
        self.levels = Levels(inputs.strides, (channels,))
        self.conv = nn.Conv2d(inputs.channels[0], channels, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[x [B, in_channels, h, w]] -> [[B, channels, h, w]]."""
        return [self.conv(maps[-1])]
