"""CSPDarknet (arXiv 1911.11929, 2011.08036): a stem, then per stage a halving and a CSP block."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ..errors import HeadwayError
from ..layers.csp import (
    CSP,
    Activation,
    Bottleneck,
    ConvNormAct,
    Form,
    HaarWavelet,
    SpaceToDepth,
    Style,
    make_down,
    repeated,
    scaled,
)
from ..registry import register_backbone
from ..types import Levels
from .timm import chosen_strides

StemKind = Literal["conv", "reorg", "haar"]
LayoutName = Literal["csp", "csp_x", "v4_p5", "v4_p6", "v4_p7", "p6", "w6", "e6", "d6"]
_MAX_FACTOR = 4.0


class Layout(NamedTuple):
    """Widths and depths of a network.

    stem: channels of the convolution at full size and of that at half of it; alone, the stages begin at full size.
    widths, blocks: channels and bottlenecks of every stage; each halves the map first (csp_down: with `DownC`).
    residual: one plain bottleneck behind the stem (YOLOv4-CSP). transition: see `CSP`.
    """

    stem: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    residual: bool = False
    transition: bool = False
    csp_down: bool = False


_E6 = Layout((40, 80), (160, 320, 640, 960, 1280), (3, 7, 7, 3, 3), csp_down=True)
LAYOUTS: dict[str, Layout] = {
    "csp": Layout((32, 64), (128, 256, 512, 1024), (2, 8, 8, 4), residual=True, transition=True),
    "csp_x": Layout((32, 80), (160, 320, 640, 1280), (3, 10, 10, 5), residual=True, transition=True),
    "v4_p5": Layout((32,), (64, 128, 256, 512, 1024), (1, 3, 15, 15, 7), transition=True),
    "v4_p6": Layout((32,), (64, 128, 256, 512, 1024, 1024), (1, 3, 15, 15, 7, 7), transition=True),
    "v4_p7": Layout((40,), (80, 160, 320, 640, 1280, 1280, 1280), (1, 3, 15, 15, 7, 7, 7), transition=True),
    "p6": Layout((32, 64), (128, 256, 384, 512, 640), (3, 7, 7, 3, 3)),
    "w6": Layout((32, 64), (128, 256, 512, 768, 1024), (3, 7, 7, 3, 3)),
    "e6": _E6,
    "d6": _E6._replace(blocks=(3, 15, 15, 7, 7)),
}


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


@register_backbone("csp_darknet", shares=("form", "act", "norm_eps", "depth"))
class CSPDarknet(nn.Module):
    """CSPDarknet of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR.

    layout: widths and blocks, see `LAYOUTS`.
    form: of the blocks, see `headway.layers.csp.Style`; weights of one do not fit the other.
    act: activation; leaky has slope 0.1.
    stem: "conv"; "reorg" (space to depth; YOLOv4-CSP-fast) and "haar" halve the picture without a convolution, which
        Scaled-YOLOv4's networks do not do.
    depth, width: factors of the blocks and of the channels (rounded up to multiples of 8).
    norm_eps: of the batch norms; None: the form's.
    strides: of the maps that come out; None: 8 and every coarser one. Stages behind the coarsest are not built.
    """

    def __init__(
        self,
        *,
        layout: LayoutName = "csp",
        form: Form = "cfg",
        act: Activation = "silu",
        stem: StemKind = "conv",
        depth: float = 1.0,
        width: float = 1.0,
        norm_eps: float | None = None,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        for name, factor in (("depth", depth), ("width", width)):
            if not 0 < factor <= _MAX_FACTOR:
                raise HeadwayError(f"{name} must be above 0 and at most {_MAX_FACTOR}, got {factor}")
        plan, style = LAYOUTS[layout], Style(form, act, norm_eps)
        halves = len(plan.stem) == 2
        if not halves and stem != "conv":
            raise HeadwayError(f"stem={stem!r} halves the picture, and {layout!r} begins at its full size; use 'conv'")
        stem_widths, widths, blocks = scaled(plan.stem, width), scaled(plan.widths, width), repeated(plan.blocks, depth)
        self.stem = make_stem(stem, stem_widths, style=style)
        stem_width = stem_widths[-1]
        self.residual = Bottleneck(stem_width, stem_width // 2, style=style) if plan.residual else None
        before = (stem_width, *widths[:-1])
        every = [(2 if halves else 1) * 2 ** (i + 1) for i in range(len(widths))]
        self.strides = tuple(s for s in every if s >= 8) if strides is None else chosen_strides(layout, strides, every)
        self.out_stages = [every.index(stride) for stride in self.strides]
        built = self.out_stages[-1] + 1
        plans = [*zip(before, widths, blocks)][:built]
        self.downs = nn.ModuleList(make_down(a, b, csp=plan.csp_down, style=style) for a, b, _ in plans)
        self.stages = nn.ModuleList(CSP(w, n, transition=plan.transition, style=style) for _, w, n in plans)
        self.channels = tuple(widths[i] for i in self.out_stages)
        self.levels = Levels(self.strides, self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        x = self.stem(images)
        if self.residual is not None:
            x = self.residual(x)
        maps = []
        for down, stage in zip(self.downs, self.stages):
            x = stage(down(x))
            maps.append(x)
        return [maps[i] for i in self.out_stages]
