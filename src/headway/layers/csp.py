"""The blocks of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR, in the two forms that published weights exist for.

Sources: CSPNet (arXiv 1911.11929), Scaled-YOLOv4 (arXiv 2011.08036), YOLOR (arXiv 2105.04206). Written from the papers
and from measured facts; no code of the originals was read.

    B images, C channels, H W the map
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Literal["cfg", "yaml"]
Activation = Literal["silu", "mish", "leaky"]
_EPS = {"cfg": 1e-4, "yaml": 1e-3}


class Style(NamedTuple):
    """What all blocks of a network share.

    form: "cfg" normalises and activates each branch of a block by itself; "yaml" leaves the end of each branch bare and
        normalises and activates both at once behind the concatenation, whatever stands there already. The two also
        order the maps of `SPPCSP` differently.
    act: leaky has slope 0.1. norm_eps: of the batch norms; None: 1e-4 (cfg), 1e-3 (yaml).
    """

    form: Form = "cfg"
    act: Activation = "silu"
    norm_eps: float | None = None

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps or _EPS[self.form], momentum=0.03)

    def activation(self) -> nn.Module:
        if self.act == "leaky":
            return nn.LeakyReLU(0.1, inplace=True)
        return nn.SiLU(inplace=True) if self.act == "silu" else nn.Mish(inplace=True)

    def branch_end(self, in_channels: int, channels: int) -> nn.Module:
        """The 1x1 convolution before a concatenation: bare in the yaml form."""
        if self.form == "yaml":
            return nn.Conv2d(in_channels, channels, 1, bias=False)
        return ConvNormAct(in_channels, channels, style=self)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation; padded so that stride 1 keeps the size, stride 2 rounds up."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, *, style: Style) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = style.norm(channels)
        self.act = style.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 to `hidden` channels, 3x3 back to `channels`, plus the input if `residual`."""

    def __init__(self, channels: int, hidden: int, *, residual: bool = True, style: Style) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, hidden, style=style)
        self.conv2 = ConvNormAct(hidden, channels, 3, style=style)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


def _bottlenecks(count: int, channels: int, *, residual: bool, style: Style) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(channels, channels, residual=residual, style=style) for _ in range(count)))


class _Merge(nn.Module):
    """Concatenation of [main, bypass], 1x1 convolution; in the yaml form batch norm and activation before it."""

    norm: nn.BatchNorm2d | None
    act: nn.Module | None

    def _make_merge(self, half: int, channels: int, style: Style) -> None:
        self.norm = style.norm(2 * half) if style.form == "yaml" else None
        self.act = style.activation() if style.form == "yaml" else None
        self.merge = ConvNormAct(2 * half, channels, style=style)

    def _merge(self, main: Tensor, bypass: Tensor) -> Tensor:
        x = torch.cat([main, bypass], 1)
        if self.norm is not None and self.act is not None:
            x = self.act(self.norm(x))
        return self.merge(x)


class CSP(_Merge):
    """A stage of the backbone: half of the channels through `blocks` residual bottlenecks, half past them.

    transition: a 1x1 convolution ends the main branch (YOLOv4-CSP); without it the stage is "fusion first" (YOLOR-P6).
    """

    def __init__(self, channels: int, blocks: int, *, transition: bool, style: Style) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = ConvNormAct(channels, half, style=style)
        self.blocks = _bottlenecks(blocks, half, residual=True, style=style)
        self.transition = style.branch_end(half, half) if transition else None
        self.bypass = style.branch_end(channels, half)
        self._make_merge(half, channels, style)

    def forward(self, x: Tensor) -> Tensor:
        main = self.blocks(self.cv1(x))
        if self.transition is not None:
            main = self.transition(main)
        return self._merge(main, self.bypass(x))


class CSP2(_Merge):
    """A node of the neck ("reversed CSP"): both branches read the entry's map, and no channels are halved."""

    def __init__(self, in_channels: int, channels: int, blocks: int, *, style: Style) -> None:
        super().__init__()
        self.entry = ConvNormAct(in_channels, channels, style=style)
        self.bypass = style.branch_end(channels, channels)
        self.blocks = _bottlenecks(blocks, channels, residual=False, style=style)
        self._make_merge(channels, channels, style)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        return self._merge(self.blocks(x), self.bypass(x))


class SPPCSP(_Merge):
    """Spatial pyramid pooling (arXiv 1406.4729) in the main branch of a CSP block: the map beside its maxima over 5x5,
    9x9 and 13x13. extra: two more convolutions end the main branch (CSP-X)."""

    def __init__(self, in_channels: int, channels: int, *, extra: bool = False, style: Style) -> None:
        super().__init__()
        self.bypass = style.branch_end(in_channels, channels)
        self.conv1 = ConvNormAct(in_channels, channels, style=style)
        self.conv2 = ConvNormAct(channels, channels, 3, style=style)
        self.conv3 = ConvNormAct(channels, channels, style=style)
        self.after1 = ConvNormAct(4 * channels, channels, style=style)
        self.after2 = ConvNormAct(channels, channels, 3, style=style)
        self.extra1 = ConvNormAct(channels, channels, style=style) if extra else None
        self.extra2 = ConvNormAct(channels, channels, 3, style=style) if extra else None
        self._make_merge(channels, channels, style)
        self.widest_first = style.form == "cfg"

    def forward(self, x: Tensor) -> Tensor:
        pools = [self.conv3(self.conv2(self.conv1(x)))]
        for _ in range(3):  # the maximum over 5x5 of that over 5x5 is that over 9x9, and so on, also at the border
            pools.append(F.max_pool2d(pools[-1], 5, stride=1, padding=2))
        main = self.after2(self.after1(torch.cat(pools[::-1] if self.widest_first else pools, 1)))
        if self.extra1 is not None and self.extra2 is not None:
            main = self.extra2(self.extra1(main))
        return self._merge(main, self.bypass(x))


class DownC(nn.Module):
    """Halves a map in two ways side by side: 1x1 and a 3x3 of stride 2; a 2x2 maximum and 1x1 (YOLOR-E6 and -D6)."""

    def __init__(self, in_channels: int, channels: int, *, style: Style) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, in_channels, style=style)
        self.conv2 = ConvNormAct(in_channels, channels // 2, 3, 2, style=style)
        self.pooled = ConvNormAct(in_channels, channels // 2, style=style)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 2, ceil_mode=True)  # odd sizes round up, as the strided convolution's do
        return torch.cat([self.conv2(self.conv1(x)), self.pooled(pooled)], 1)


def make_down(in_channels: int, channels: int, *, csp: bool, style: Style) -> nn.Module:
    """Halves a map: `DownC`, or a 3x3 convolution of stride 2."""
    if csp:
        return DownC(in_channels, channels, style=style)
    return ConvNormAct(in_channels, channels, 3, 2, style=style)


class SpaceToDepth(nn.Module):
    """[B, C, H, W] -> [B, 4 C, H / 2, W / 2]: the four subsamplings at (row, column) offsets (0, 0), (1, 0), (0, 1),
    (1, 1), each with all channels ("ReOrg", "Focus"). An odd size gets a row or column of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        x = _even(x)
        return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)


class HaarWavelet(nn.Module):
    """[B, C, H, W] -> [B, 4 C, H / 2, W / 2]: the Haar wavelet of every 2x2 block: the mean, and the differences along
    rows, columns and the diagonal, shifted to lie around 0.5 (for pixels in 0..1 all are in 0..1)."""

    def forward(self, x: Tensor) -> Tensor:
        x = _even(x)
        a, b, c, d = (x[..., row::2, column::2] for row in (0, 1) for column in (0, 1))
        details = [(a + b - c - d) / 4, (a - b + c - d) / 4, (a - b - c + d) / 4]
        return torch.cat([(a + b + c + d) / 4, *(band + 0.5 for band in details)], 1)


def _even(x: Tensor) -> Tensor:
    return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Channels times `factor`, rounded up to multiples of 8."""
    return tuple(math.ceil(width * factor / 8) * 8 for width in widths)


def repeated(counts: Sequence[int], factor: float) -> tuple[int, ...]:
    """Numbers of blocks times `factor`, at least 1."""
    return tuple(max(round(count * factor), 1) for count in counts)
