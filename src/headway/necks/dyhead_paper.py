"""Dynamic Head as the paper's equations 2 to 5 have it (arXiv 2106.08322), which the released code does not follow.

    B images, C channels, L levels, S = h x w positions of the common size, the median level's, K = 9 taps

The tensor of L x S x C is kept as a list of L maps [B, C, h, w].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.deform import DeformConv2d
from .dyhead_options import CommonSize, DyHeadOptions

_TAPS = 9  # of the 3x3 kernels


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]: shrunk by averaging areas, so that no position is skipped, or grown bilinearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if x.shape[2] * x.shape[3] > size[0] * size[1]:
        return F.adaptive_avg_pool2d(x, tuple(size))
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def common_map(maps: Sequence[Tensor], size: CommonSize) -> Tensor:
    """The map to whose size all are brought: the finest, or the middle one (of an even number, the finer of two)."""
    return maps[0] if size == "finest" else maps[(len(maps) - 1) // 2]


class PaperBlock(nn.Module):
    """W(F) = piC(piS(piL(F) F) F) F (Eq. 2), on L maps of one size; L is fixed, since the weights are per level.

    piL, scale (Eq. 3): F_l times g_l, where g = sigma(f(mean of F over S and C)),
        sigma(x) = max(0, min(1, (x + 1) / 2)).
    piS, space (Eq. 4): A = 1/L sum_l D_l with D_l = sum_k w_{l,k} F(l; p + p_k + dp_k) dm_k; the offsets dp and the
        importances dm come from the median level and are shared by all levels. With `common_size="finest"` the finest
        level takes the median's place, here and as the common size.
    piC, task (Eq. 5): max(a1 F_c + b1, a2 F_c + b2), [a1, a2, b1, b2] = [1, 0, 0, 0] + theta(F), theta in [-1, 1].

    What the paper leaves open, and what is done here:
    - f maps the L means to L numbers: a 1x1 convolution with the levels as its channels.
    - w_{l,k} is a C x C matrix, as in any deformable convolution.
    - Eq. 4 has no level axis in its result, though Eq. 5 and the next block need one. Here level l becomes
      (D_l + A) / 2: the mean over the levels is Eq. 4's A exactly, one level is Eq. 4 itself, and the levels stay
      apart. Handing A to every level instead would make all of them equal after the first block, with nothing left
      for the scale attention, or for resizing back.
    - theta: mean over L and S, C -> C/4, ReLU, C/4 -> 4C, LayerNorm, 2 sigmoid - 1. The LayerNorm's factors start at
      zero, hence the block with the paper's [1, 0, 0, 0].
    - The equations have no other normalisation; the deformable weights start with the variance that keeps a stack's
      signal from fading (`_start_std`).

    Cost in multiply-adds per image: L S K C^2 (sampling) + 27 S K C (offsets) + 1.25 C^2 (task): with P3 to P7 and
    256 channels at 800 x 1344, 3.2 G a block against 21.2 G of the released form, since the median level is P5.

    Switches: without scale g = 1; without spatial D_l is a plain convolution with a bias; without task ReLU.
    """

    def __init__(self, in_channels: int, channels: int, levels: int, options: DyHeadOptions) -> None:
        super().__init__()
        self.scale = PaperScale(levels) if options.scale else nn.Identity()
        self.spatial = PaperSpatial(in_channels, channels, levels, options)
        self.task = PaperTask(channels) if options.task else RectifyAll()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps [B, C_in, h, w] -> L maps [B, C, h, w]."""
        return self.task(self.spatial(self.scale(maps)))


class PaperScale(nn.Module):
    """Eq. 3: one gate in [0, 1] per image and level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.gate = nn.Conv1d(levels, levels, 1)
        nn.init.normal_(self.gate.weight, std=0.01)
        nn.init.zeros_(self.gate.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps [B, C, h, w] -> the same, each times its gate."""
        gates = self.gates(maps)
        return [x * gates[:, level, None, None, None] for level, x in enumerate(maps)]

    def gates(self, maps: list[Tensor]) -> Tensor:
        """L maps [B, C, h, w] -> [B, L] in [0, 1]."""
        means = torch.stack([x.mean((1, 2, 3)) for x in maps], dim=1)
        return ((self.gate(means[:, :, None])[:, :, 0] + 1) / 2).clamp(0, 1)


class PaperSpatial(nn.Module):
    """Eq. 4 with the level axis kept."""

    def __init__(self, in_channels: int, channels: int, levels: int, options: DyHeadOptions) -> None:
        super().__init__()
        self.common_size = options.common_size
        gain = 2.0 if options.scale else 1.0  # what the gates before it take from the signal at the start
        self.offset = nn.Conv2d(in_channels, 3 * _TAPS, 3, padding=1) if options.spatial else None
        if options.spatial:
            gain *= 2.0
            convs = [DeformConv2d(in_channels, channels, 3, padding=1, bias=options.deform_bias) for _ in range(levels)]
        else:
            convs = [nn.Conv2d(in_channels, channels, 3, padding=1) for _ in range(levels)]
        self.convs = nn.ModuleList(convs)
        for conv in convs:
            nn.init.normal_(conv.weight, std=_start_std(in_channels, levels, gain))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if self.offset is not None:
            nn.init.normal_(self.offset.weight, std=0.0 if options.zero_init_offset else 0.01)
            nn.init.zeros_(self.offset.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps [B, C_in, h, w] -> L maps [B, C, h, w], whose mean is Eq. 4."""
        if self.offset is None:
            sampled = [conv(x) for conv, x in zip(self.convs, maps)]
        else:
            predicted = self.offset(common_map(maps, self.common_size))  # per tap dy, dx; then the importances
            offset, mask = predicted[:, : 2 * _TAPS], predicted[:, 2 * _TAPS :].sigmoid()
            sampled = [conv(x, offset, mask) for conv, x in zip(self.convs, maps)]
        shared = sum(sampled[1:], start=sampled[0]) / len(sampled)
        return [(x + shared) / 2 for x in sampled]


def _start_std(in_channels: int, levels: int, gain: float) -> float:
    """He's 2 / fan-in for a ReLU behind, times `gain` for the halving gates, undoing also the loss of averaging with
    the other levels: (D_l + A) / 2 of L independent maps has the variance (1 + 3 / L) / 4 of one."""
    return gain * math.sqrt(2 / (_TAPS * in_channels)) / math.sqrt((1 + 3 / levels) / 4)


class PaperTask(nn.Module):
    """Eq. 5: Dynamic ReLU with coefficients of the mean over all levels and positions, the same for all levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // 4)
        self.expand = nn.Linear(channels // 4, 4 * channels)
        self.norm = nn.LayerNorm(4 * channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps [B, C, h, w] -> the same shapes."""
        a1, a2, b1, b2 = (part[:, :, None, None] for part in self.theta(maps).chunk(4, dim=1))
        return [torch.maximum(torch.addcmul(b1, x, 1 + a1), torch.addcmul(b2, x, a2)) for x in maps]

    def theta(self, maps: list[Tensor]) -> Tensor:
        """L maps [B, C, h, w] -> [B, 4C] in [-1, 1]: a1 - 1, a2, b1, b2 of every channel."""
        pooled = torch.stack([x.mean((2, 3)) for x in maps]).mean(0)
        return 2 * self.norm(self.expand(F.relu(self.reduce(pooled)))).sigmoid() - 1


class RectifyAll(nn.Module):
    """ReLU of every map: what is left of the task attention without its coefficients."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps -> L maps of the same shapes."""
        return [F.relu(x) for x in maps]
