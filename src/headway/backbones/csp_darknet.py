"""CSPDarknet (arXiv 1911.11929, 2011.08036): a stem, then per stage a halving and a CSP block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ..layers.csp import CSP, Bottleneck, ConvNormAct, HaarWavelet, SpaceToDepth, Style, make_down

StemKind = Literal["conv", "reorg", "haar"]


def make_stem(kind: StemKind, widths: Sequence[int], *, style: Style) -> nn.Sequential:
    """[B, 3, H, W] -> [B, widths[-1], ceil(H / 2), ceil(W / 2)], or for one width at full size.

    kind: "conv" a 3x3 convolution per width, the second of stride 2; "reorg", "haar" space to depth or the Haar
        wavelet, then a 3x3 convolution of the last width.
    """
    if kind == "conv":
        pairs = zip((3, *widths), widths)
        return nn.Sequential(*(ConvNormAct(a, b, 3, 1 + i, style=style) for i, (a, b) in enumerate(pairs)))
    fold = SpaceToDepth() if kind == "reorg" else HaarWavelet()
    return nn.Sequential(fold, ConvNormAct(12, widths[-1], 3, style=style))


class CSPDarknet(nn.Module):
    """Feature maps of strides 8 and more.

    stem: [B, 3, H, W] -> [B, stem_width, H / stem_stride, W / stem_stride], see `make_stem`.
    residual: one plain bottleneck behind the stem (YOLOv4-CSP).
    widths, blocks: channels and bottlenecks of every stage; each halves the map first (csp_down: with `DownC`).
    transition: see `CSP`.

    channels, strides: of the maps that `forward` returns, finest first.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_width: int,
        stem_stride: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        residual: bool,
        transition: bool,
        csp_down: bool = False,
        style: Style,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.residual = Bottleneck(stem_width, stem_width // 2, style=style) if residual else None
        before = (stem_width, *widths[:-1])
        self.downs = nn.ModuleList(make_down(a, b, csp=csp_down, style=style) for a, b in zip(before, widths))
        self.stages = nn.ModuleList(CSP(w, n, transition=transition, style=style) for w, n in zip(widths, blocks))
        strides = [stem_stride * 2 ** (i + 1) for i in range(len(widths))]
        self.first = next(i for i, stride in enumerate(strides) if stride >= 8)
        self.channels, self.strides = tuple(widths[self.first :]), tuple(strides[self.first :])

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        x = self.stem(images)
        if self.residual is not None:
            x = self.residual(x)
        maps = []
        for down, stage in zip(self.downs, self.stages):
            x = stage(down(x))
            maps.append(x)
        return maps[self.first :]
