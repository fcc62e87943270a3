"""The neck of set prediction: the backbone's last map at the width of the transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Project(nn.Module):
    """A 1x1 convolution of the last map to `channels`; the maps before it pass as they are.

    in_channels: of the incoming maps, finest first.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(in_channels[-1], channels, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, in_channels[i], h, w] -> the same, the last one [B, channels, h, w]."""
        return [*maps[:-1], self.conv(maps[-1])]
