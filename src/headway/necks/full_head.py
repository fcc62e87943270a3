"""Full attention over level, space and channel at once, which Dynamic Head (arXiv 2106.08322, section 3.2) gives up for
its cost and leaves to future work in its conclusion: here at a cost linear in the number of positions.

No published network: the design is this project's. What it stands on: keys near by one by one and far ones in groups,
as in fast multipole methods; groups read by learned queries (Set Transformer, arXiv 1810.00825; Perceiver, 2103.03206);
channels attending to channels (XCiT, 2106.09681); pre-norm blocks (ViT, 2010.11929) whose second half has a depthwise
convolution (PVT v2, 2106.13797).

    B images, C channels in h heads of d, L levels finest first, H x W of one level, N positions of all levels, M groups
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.levels import check_maps, halving, one_width
from ..registry import register_neck
from ..types import Levels

_TAPS = 9  # of the 3x3 cells around a place
_HEAD = 32  # channels of a head, where they are not given
_NEAR_SHARE = 0.75  # of a query's attention that near keys get at the start
_OWN_SHARE = 0.9  # of a channel's attention that it gets itself at the start


@register_neck("fullhead", wants={"pan.channels": 256, "head.tower_depth": 0})
class FullHead(nn.Module):
    """Tower of full attention over level, space and channel at linear cost: every number of a pyramid attends to every
    other.

    The full attention over the L x S x C numbers of a pyramid would weigh (LSC)^2 pairs. Here the weight of number
    (j, c) in number (i, e), where i and j are positions of any level, is a product

        W[(i, e), (j, c)] = A[i, j] G[e, c]

    of an attention A over all positions of all levels and an attention G over all channels of a head, both softmaxes
    of products of the same queries q = W_q (x + level) and keys k = W_k (x + level), so that each row of W sums to 1.

    A is exact for near keys and of rank M for far ones. M learned queries z_m each gather a group from all positions,
    R[m, j] = softmax_j(z_m k_j / sqrt(d)), whose mean key and value then stand for its members:

        k'_m = sum_j R[m, j] k_j,    v'_m = sum_j R[m, j] v_j
        [a_i, f_i] = softmax([q_i k_j / sqrt(d) + b_j for j near i,  q_i k'_m / sqrt(d) + b'_m for m = 1..M])
        A[i, j] = a_i[j] + sum_m f_i[m] R[m, j]

    near i: the 3x3 cells around it on its own level, and around its place on the next finer and coarser ones, 27 keys.
    G = softmax_c(t <q_e, k_c> + s [e = c]) with q_e and k_c the maps of channels e and c over all N positions, brought
    to length 1. Then y = W v, x + W_o y, and x + MLP(x) with a depthwise 3x3 between its two layers; a LayerNorm in
    front of either, and after the last block.

    Cost in multiply-adds per position and block, so linear in N, with the MLP r C wide (r: expansion):

        4 C^2 (q, k, v, o) + 2 r C^2 + 9 r C (MLP) + 5 M C (groups) + 54 C (near) + 2 d C (channels)

    Of these `FullAttention.products` counts what is no layer. With the default M and r, and the 256 channels and five
    levels of an 800 x 1344 picture, a block costs 21.2 G, as one of DyHead's released form; quadratic attention over
    the 22,400 positions would add 257 G.

    blocks: of the tower.
    heads: of the attention, of d channels each; None: d = 32, or all channels where they are no multiple of 32.
    latents: M, groups of far keys; None: 3 / 8 of the channels.
    expansion: r, of the MLP.
    near, far, channel: the parts of the attention, each of which can be taken out: near keys, groups, and G (identity
        without).

    Attributes: blocks, each a module from ([B, N, C], sizes of the levels) to [B, N, C].
    Raises: ValueError for arguments or maps that do not fit.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        blocks: int = 6,
        heads: int | None = None,
        latents: int | None = None,
        expansion: float = 4.0,
        near: bool = True,
        far: bool = True,
        channel: bool = True,
    ) -> None:
        super().__init__()
        channels, levels = one_width(inputs), len(inputs.strides)
        halving(inputs)
        if blocks < 1:
            raise ValueError(f"FullHead needs at least one block, got {blocks}")
        if heads is None:
            heads = 1 if channels % _HEAD else channels // _HEAD
        if heads < 1 or channels % heads:
            raise ValueError(f"FullHead: {channels} channels cannot be shared by {heads} heads; choose a divisor")
        latents = max(3 * channels // 8, 1) if latents is None else latents
        if not near and not far:
            raise ValueError("FullHead: near and far cannot both be off, a query would have no key; leave one on")
        if far and latents < 1:
            raise ValueError(f"FullHead: latents must be at least 1, got {latents}; far=False goes without groups")
        self.levels, switches = inputs, {"near": near, "far": far, "channel": channel}
        self.blocks = nn.ModuleList(
            FullBlock(channels, heads, latents if far else 0, expansion, levels, **switches) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """L maps [B, C, H_l, W_l], finest first, each half the one before (rounded up) -> the same shapes."""
        check_maps("FullHead", features, self.levels.channels[0], len(self.levels.strides))
        sizes = [(int(x.shape[2]), int(x.shape[3])) for x in features]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in features], dim=1)
        for block in self.blocks:
            tokens = block(tokens, sizes)
        return [x.permute(0, 3, 1, 2) for x in to_maps(self.norm(tokens), sizes)]


def to_maps(tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[B, N, ...] -> one [B, H, W, ...] for each level."""
    parts = tokens.split([height * width for height, width in sizes], dim=1)
    return [x.unflatten(1, size) for x, size in zip(parts, sizes)]


class FullBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(
        self, channels: int, heads: int, latents: int, expansion: float, levels: int, *, near: bool, far: bool,
        channel: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = FullAttention(channels, heads, latents, levels, near=near, far=far, channel=channel)
        self.mlp = ConvMLP(channels, round(expansion * channels))

    def forward(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        tokens = tokens + self.attention(self.norm1(tokens), sizes)
        return tokens + self.mlp(self.norm2(tokens), sizes)


class ConvMLP(nn.Module):
    """Linear, depthwise 3x3 on every level, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.reduce = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        maps = [self.depthwise(x.permute(0, 3, 1, 2)).flatten(2) for x in to_maps(self.expand(tokens), sizes)]
        return self.reduce(F.gelu(torch.cat(maps, dim=2).transpose(1, 2)))


class FullWeights(NamedTuple):
    """The attention of one call. near: per level [B, H, W, h, 9, 18 or 27], of the 3x3 cells on the own level, then the
    finer, then the coarser one, where there are such; far: per level [B, H, W, h, M]; groups: [B, h, M, N], R;
    channels: [B, h, d, d], G. A part that is taken out is None."""

    near: list[Tensor] | None
    far: list[Tensor] | None
    groups: Tensor | None
    channels: Tensor | None


class FullAttention(nn.Module):
    """The attention of `FullHead`, whose docstring has the formula."""

    def __init__(
        self, channels: int, heads: int, latents: int, levels: int, *, near: bool, far: bool, channel: bool
    ) -> None:
        super().__init__()
        width = channels // heads
        self.heads, self.scale = heads, width**-0.5
        # Without biases, which the softmaxes over keys would cancel.
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.output = nn.Linear(channels, channels)
        self.level = nn.Parameter(0.02 * torch.randn(levels, channels))
        # Biases and what scales logits are kept flat, since weight decay leaves parameters of one dimension alone.
        self.near_bias = nn.Parameter(torch.zeros(heads * 3 * _TAPS)) if near else None
        self.groups = nn.Parameter(torch.randn(heads, latents, width)) if far else None
        start = math.log(3 * _TAPS / latents * (1 - _NEAR_SHARE) / _NEAR_SHARE) if near and far else 0.0
        self.far_bias = nn.Parameter(torch.full((heads * latents,), start)) if far else None
        own = math.log(_OWN_SHARE / (1 - _OWN_SHARE) * max(width - 1, 1))
        self.sharpness = nn.Parameter(torch.ones(heads)) if channel else None
        self.own = nn.Parameter(torch.full((heads,), own)) if channel else None
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        q, k, v = self._project(tokens, sizes)
        far_keys, far_values = self._gather(k, v)
        values = to_maps(v, sizes)
        joined = []
        for level, (near, far) in enumerate(self._spread(to_maps(q, sizes), to_maps(k, sizes), far_keys)):
            y = torch.zeros_like(values[level]) if far is None else torch.einsum("bywhm,bhmd->bywhd", far, far_values)
            if near is not None:
                for weight, value in zip(near.unbind(4), _neighbours(values, level)):
                    y = torch.addcmul(y, weight[..., None].to(y.dtype), value)
            joined.append(y.flatten(1, 2))
        y = torch.cat(joined, dim=1)
        mixing = self._channels(q, k)
        if mixing is not None:
            y = torch.einsum("bnhc,bhec->bnhe", y, mixing.to(y.dtype))
        return self.output(y.flatten(2))

    def weights(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> FullWeights:
        """The softmaxes themselves, of the arguments that `forward` takes: for looking at."""
        q, k, v = self._project(tokens, sizes)
        spread = self._spread(to_maps(q, sizes), to_maps(k, sizes), self._gather(k, v)[0])
        near, far = ([part for part in parts if part is not None] or None for parts in zip(*spread))
        groups = None
        if self.groups is not None:
            groups = (torch.einsum("hmd,bnhd->bhmn", self.groups, k) * self.scale).float().softmax(3)
        return FullWeights(near, far, groups, self._channels(q, k))

    def products(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Multiply-adds of the products between queries, keys and values, of one picture with levels of these sizes."""
        channels, positions = self.level.shape[1], sum(height * width for height, width in sizes)
        total = 0
        if self.groups is not None:  # three products make the groups, two read them
            total += 5 * self.groups.shape[1] * channels * positions
        if self.near_bias is not None:
            for level, (height, width) in enumerate(sizes):
                others = (level > 0) + (level + 1 < len(sizes))
                total += 2 * _TAPS * (1 + others) * channels * height * width
        if self.sharpness is not None:
            total += 2 * channels // self.heads * channels * positions
        return total

    def _project(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v: [B, N, h, d]."""
        counts = [height * width for height, width in sizes]
        coded = tokens + torch.cat([code.expand(count, -1) for code, count in zip(self.level, counts)])
        parts = (self.query(coded), self.key(coded), self.value(tokens))
        q, k, v = (x.unflatten(2, (self.heads, -1)) for x in parts)
        return q, k, v

    def _gather(self, k: Tensor, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Mean keys and values of the groups, [B, h, M, d] each."""
        if self.groups is None:
            return None, None
        members = torch.cat([k, v], dim=3).transpose(1, 2)
        queries = self.groups.to(k.dtype).expand(k.shape[0], -1, -1, -1)
        means = F.scaled_dot_product_attention(queries, k.transpose(1, 2), members, scale=self.scale)
        far_keys, far_values = means.chunk(2, dim=3)
        return far_keys, far_values

    def _spread(
        self, queries: list[Tensor], keys: list[Tensor], far_keys: Tensor | None
    ) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Maps [B, H, W, h, d] -> for each level what a query gives to near keys and to the groups; together 1."""
        for level, query in enumerate(queries):
            logits, count = [], 0
            if self.near_bias is not None:
                kinds = [0] + [1] * (level > 0) + [2] * (level + 1 < len(queries))
                bias = self.near_bias.view(self.heads, 3, _TAPS)[:, kinds].flatten(1)
                near = _near_products(query, keys, level) * self.scale + bias
                logits, count = [near], near.shape[4]
            if far_keys is not None:
                far = torch.einsum("bywhd,bhmd->bywhm", query, far_keys) * self.scale
                logits.append(far + self.far_bias.view(self.heads, -1))
            weights = torch.cat(logits, dim=4).softmax(4)
            yield (weights[..., :count] if count else None, weights[..., count:] if far_keys is not None else None)

    def _channels(self, q: Tensor, k: Tensor) -> Tensor | None:
        """[B, h, d, d]: of every channel what it takes from which."""
        if self.sharpness is None:
            return None
        q, k = F.normalize(q.float(), dim=1), F.normalize(k.float(), dim=1)
        logits = self.sharpness[:, None, None] * torch.einsum("bnhe,bnhc->bhec", q, k)
        return (logits + self.own[:, None, None] * torch.eye(q.shape[3], device=q.device)).softmax(3)


def _near_products(query: Tensor, keys: list[Tensor], level: int) -> Tensor:
    """[B, H, W, h, d] with the keys of all levels -> [B, H, W, h, 9, 18 or 27], -inf outside of the maps."""
    products = torch.stack([(query * key).sum(4) for key in _neighbours(keys, level)], dim=4)
    cells = [torch.ones(1, *x.shape[1:3], 1, 1, dtype=torch.bool, device=x.device) for x in keys]
    inside = torch.stack([x[..., 0] for x in _neighbours(cells, level)], dim=4)
    return products.masked_fill(~inside, -math.inf)


def _neighbours(maps: list[Tensor], level: int) -> list[Tensor]:
    """Maps [B, H_l, W_l, ...] -> 9, 18 or 27 of [B, H, W, ...], what stands near every cell of one of them, zero
    outside: row by row the 3x3 cells around it, around the cell of twice its coordinates on the finer level, and around
    that of half of them on the coarser one."""
    height, width = maps[level].shape[1:3]

    def around(x: Tensor, move: int, step: int) -> list[Tensor]:
        return [
            x[:, top : top + step * height : step, left : left + step * width : step]
            for top in range(0, 3 * move, move)
            for left in range(0, 3 * move, move)
        ]

    found = around(_framed(maps[level]), 1, 1)
    if level > 0:
        found += around(_framed(maps[level - 1]), 1, 2)
    if level + 1 < len(maps):
        found += around(_framed(maps[level + 1]).repeat_interleave(2, 1).repeat_interleave(2, 2), 2, 1)
    return found


def _framed(x: Tensor) -> Tensor:
    """[B, H, W, ...] -> [B, H + 2, W + 2, ...] with zeros around it."""
    return F.pad(x, (0, 0) * (x.dim() - 3) + (1, 1, 1, 1))
