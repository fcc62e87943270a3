"""Bidirectional feature pyramid (EfficientDet, arXiv 1911.09070, section 3).

Source: rwightman/efficientdet-pytorch 0.4.1, effdet/efficientdet.py and config/fpn_config.py, after google/automl,
efficientdet/ (Apache-2.0).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.levels import enough, extended, halving, several
from ..layers.separable import ACTIVATIONS, Activation, SeparableConv, init_glorot
from ..registry import register_neck
from ..types import Levels

Fusion = Literal["fast", "softmax", "sum"]
_EPS = 1e-4  # keeps fast fusion finite when every weight is 0


class Step(NamedTuple):
    """One node of a cell. level: of its map; inputs: ids of what it fuses, 0 .. levels - 1 the cell's own inputs and
    then the nodes in order; the first is of the node's level."""

    level: int
    inputs: tuple[int, ...]


def cell_plan(levels: int) -> list[Step]:
    """Top-down from the second coarsest level to the finest, then bottom-up to the coarsest; there every level sees
    the input, its top-down node where it has one, and the finer level (figure 2d)."""
    ids = [[level] for level in range(levels)]
    levels_down, levels_up = range(levels - 2, -1, -1), range(1, levels)
    plan: list[Step] = []
    for level, other, seen in (
        *((level, level + 1, slice(-1, None)) for level in levels_down),
        *((level, level - 1, slice(None)) for level in levels_up),
    ):
        plan.append(Step(level, (*ids[level][seen], ids[other][-1])))
        ids[level].append(levels + len(plan) - 1)
    return plan


class Projection(nn.Module):
    """1x1 convolution and norm to another width; nothing for maps that have it."""

    def __init__(self, in_channels: int, channels: int, *, bias: bool, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        same = in_channels == channels
        self.conv = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, bias=bias)
        self.norm = nn.Identity() if same else norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Node(nn.Module):
    """Bring maps to one width and size, add them up by weights of their own, and mix: activation, separable 3x3, norm.

    in_channels: of the inputs; steps: how many levels coarser than the node each is (negative: finer).
    """

    def __init__(
        self,
        in_channels: dict[int, int],
        steps: Sequence[int],
        channels: int,
        *,
        fusion: Fusion,
        act: Activation,
        bias: bool,
        symmetric: bool,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.steps, self.fusion, self.symmetric = tuple(steps), fusion, symmetric
        self.resample = nn.ModuleDict(
            {str(i): Projection(width, channels, bias=bias, norm=norm) for i, width in in_channels.items()}
        )
        self.weights = None if fusion == "sum" else nn.Parameter(torch.ones(len(in_channels)))
        self.act = ACTIVATIONS[act]()
        self.conv = SeparableConv(channels, channels, bias=bias)
        self.norm = norm(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: the inputs, the first of the node's own size."""
        size = maps[0].shape[-2:]
        resized = []
        for x, step, projection in zip(maps, self.steps, self.resample.values()):
            x = projection(x)
            if step > 0:
                x = F.interpolate(x, size=size, mode="nearest")
            for _ in range(-step):
                x = halve(x, self.symmetric)
            resized.append(x)
        shares = self.shares()
        mixed = sum(resized) if shares is None else sum(x * share for x, share in zip(resized, shares.unbind()))
        return self.norm(self.conv(self.act(mixed)))

    def shares(self) -> Tensor | None:
        """What each input counts, [inputs]: none below 0, with a sum of 1 (fast: nearly); None where each counts 1."""
        if self.weights is None:
            return None
        if self.fusion == "softmax":
            return self.weights.softmax(0)
        positive = F.relu(self.weights)
        return positive / (positive.sum() + _EPS)


class Cell(nn.Module):
    """One pass down and up. in_channels: of its maps, finest first; all outputs have `channels`.

    make_node: (width of each input by its id, levels that each is coarser by, channels) -> Node.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, make_node: Callable[..., Node]) -> None:
        super().__init__()
        self.plan = cell_plan(len(in_channels))
        level_of = [*range(len(in_channels)), *(step.level for step in self.plan)]
        widths = [*in_channels, *(channels for _ in self.plan)]
        self.nodes = nn.ModuleList(
            make_node({i: widths[i] for i in inputs}, [level_of[i] - level for i in inputs], channels)
            for level, inputs in self.plan
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        known = list(maps)
        for node, step in zip(self.nodes, self.plan):
            known.append(node([known[i] for i in step.inputs]))
        return known[-len(maps) :]


@register_neck("bifpn", shares=("act", "bias", "norm_momentum"))
class BiFPN(nn.Module):
    """Bidirectional pyramid with learned weights at every sum (BiFPN).

    The first level beyond the inputs is made from the coarsest of them, brought to `channels` by a 1x1 convolution with
    norm. In the first cell every *use* of an input has such a convolution of its own.

    channels: of every map that comes out.
    cells: passes down and up.
    levels: maps that come out; those beyond the inputs are made by halving.
    fusion: "fast" ReLU of the weights over their sum (equation 3.3), "softmax" of the weights, or "sum" without weights
        (D6 and up, for a stable training).
    act: activation.
    bias: of the convolutions in front of norms, which TensorFlow's models have and need not.
    symmetric: halving pads by 1 at both ends; else as TensorFlow's "SAME", at the right and bottom of an even map.
    norm_momentum: of the batch norms (torch's meaning); 0.01 as published, which small trainings are too short for.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        channels: int = 64,
        cells: int = 3,
        levels: int = 5,
        fusion: Fusion = "fast",
        act: Activation = "silu",
        bias: bool = True,
        symmetric: bool = False,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        several(inputs)
        halving(inputs)
        enough(inputs, levels, "bifpn")
        if cells < 1:
            raise ValueError(f"BiFPN needs at least one cell, got {cells}")
        in_channels = inputs.channels
        self.levels, self.symmetric = extended(inputs.strides, levels, channels), symmetric
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=norm_momentum)
        self.more = levels - len(in_channels)
        self.extra = Projection(in_channels[-1], channels, bias=bias, norm=norm) if self.more else None
        widths = [*in_channels, *[channels] * self.more]
        make_node = partial(Node, fusion=fusion, act=act, bias=bias, symmetric=symmetric, norm=norm)
        self.cells = nn.ModuleList(
            Cell([channels] * levels if i else widths, channels, make_node) for i in range(cells)
        )
        init_glorot(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first -> `levels` maps [B, channels, H_i, W_i], each half (rounded up) as
        large as the one before."""
        maps = list(features)
        for i in range(self.more):
            maps.append(halve(self.extra(maps[-1]) if i == 0 else maps[-1], self.symmetric))
        for cell in self.cells:
            maps = cell(maps)
        return maps


def halve(x: Tensor, symmetric: bool = False) -> Tensor:
    """3x3 maximum at every second position, [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)].

    symmetric: centred on the even positions. Else as TensorFlow's "SAME": an even map is not padded in front.
    """
    if symmetric:
        return F.max_pool2d(x, 3, 2, padding=1)
    height, width = x.shape[-2:]  # padded beforehand, since ceil_mode does not export with a free size
    return F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1), value=-torch.inf), 3, 2)
