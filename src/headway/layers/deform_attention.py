"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, 4.1) in plain PyTorch.

A query does not look at every cell of every map: each head reads K points of each of the L maps, where the query itself
says, and the sum of their shares is one. On the CPU the points are read by `embedding_bag`, on other devices and while
a graph is captured by `grid_sample`, map by map: the same result, the first several times as fast on a CPU.

    B images, Q queries, P cells of all maps, C width, n heads, L maps, K points per head and map
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .bags import capturing, factor_grad, scatter_add

_ENTRIES = 2**20  # of bags that are read at once
Shapes = Sequence[tuple[int, int]]  # (rows, columns) of each map, finest first, as they lie one after the other in P


class Points(NamedTuple):
    """What the queries read. places: [B, Q, n, L, K, 2] x and y in widths and heights of the maps, cell centres at
    (i + 0.5) / width. shares: [B, Q, n, L, K], over L and K together a softmax. Both float32 at least."""

    places: Tensor
    shares: Tensor


def read_points(values: Tensor, shapes: Shapes, points: Points) -> Tensor:
    """The mean of the values at the points by their shares, bilinear between cells and zero beyond the maps (equation 3
    without its linear layers).

    values: [B, P, n, C / n] -> [B, Q, C], in the dtype of `values`; computed in float32 at least.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    with torch.autocast(values.device.type, enabled=False):
        by_bags = values.device.type == "cpu" and not capturing(values)
        read = _read_by_bags if by_bags else _read_by_grid
        return read(values.to(dtype), shapes, Points(points.places.to(dtype), points.shares.to(dtype))).to(values.dtype)


def _read_by_grid(values: Tensor, shapes: Shapes, points: Points) -> Tensor:
    total, maps = None, values.split([height * width for height, width in shapes], dim=1)
    for level, (height, width) in enumerate(shapes):
        picture = maps[level].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))  # [B * n, C / n, h, w]
        grid = (2 * points.places[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # [B * n, Q, K, 2]
        read = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = points.shares[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]  # [B * n, 1, Q, K]
        part = (read * share).sum(3)
        total = part if total is None else total + part
    return total.unflatten(0, (values.shape[0], -1)).permute(0, 3, 1, 2).flatten(2)


def _read_by_bags(values: Tensor, shapes: Shapes, points: Points) -> Tensor:
    by_head = values.transpose(1, 2).flatten(0, 1)  # [B * n, P, C / n]
    places, shares = (x.transpose(1, 2).flatten(0, 1) for x in points)
    read: Tensor = _Read.apply(by_head.contiguous(), places.contiguous(), shares.contiguous(), shapes)
    return read.unflatten(0, (values.shape[0], values.shape[2])).transpose(1, 2).flatten(2)


class _Read(torch.autograd.Function):
    """values [H, P, W], places [H, Q, L, K, 2] and shares [H, Q, L, K] of H = B * n heads -> [H, Q, W]. The backward
    pass computes the corners again, so that only the inputs are kept."""

    @staticmethod
    def forward(ctx, values, places, shares, shapes):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(values, places, shares)
        ctx.shapes = shapes
        result = values.new_empty(places.shape[0], places.shape[1], values.shape[2])
        for part in _parts(values, shares, values.shape[0]):
            row, factor = _bags(values, Points(places[part], shares[part]), shapes)
            read = F.embedding_bag(row, values[part].flatten(0, 1), mode="sum", per_sample_weights=factor)
            result[part] = read.view(result[part].shape)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        values, places, shares = ctx.saved_tensors
        grad_values, grad_places, grad_shares = (torch.zeros_like(x) for x in (values, places, shares))
        # Rows that 16 bits can number are soon sorted.
        for part in _parts(values, shares, 2**16 // max(values.shape[1], 1)):
            table, of_read = values[part].flatten(0, 1), grad[part].flatten(0, 1)
            with torch.enable_grad():
                points = Points(*(x[part].detach().requires_grad_() for x in (places, shares)))
                row, factor = _bags(values, points, ctx.shapes)
            of_factor = factor_grad(table, row, of_read)
            grad_places[part], grad_shares[part] = torch.autograd.grad(factor, points, of_factor)
            if ctx.needs_input_grad[0]:
                scatter_add(grad_values[part].flatten(0, 1), row, factor.detach(), of_read)
        return grad_values, grad_places, grad_shares, None


def _parts(values: Tensor, shares: Tensor, most: int) -> Iterator[slice]:
    """Heads that are read at once: as many as have few entries in their bags, and at most so many."""
    entries = 4 * math.prod(shares.shape[1:])
    size = max(1, min(_ENTRIES // max(entries, 1), most))
    for start in range(0, values.shape[0], size):
        yield slice(start, start + size)


def _bags(values: Tensor, points: Points, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """`corners` of some heads, as bags of the rows of their tables joined: two of [h * Q, L * K * 4]."""
    cell, factor = corners(points, shapes)
    head = torch.arange(cell.shape[0], dtype=cell.dtype).view(-1, 1, 1) * values.shape[1]
    return (cell + head).flatten(0, 1), factor.flatten(0, 1)


def corners(points: Points, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """The four cells around every point and what each contributes, of [..., L, K, 2] places and [..., L, K] shares: two
    of [..., L * K * 4], integers 0..P-1 and the bilinear weight times the point's share, zero for a cell beyond the map
    (whose number is that of the nearest)."""
    size = sizes_of(shapes, points.places)[:, None]  # [L, 1, 2]
    kind = torch.int32
    first = torch.tensor([0, *(height * width for height, width in shapes[:-1])], dtype=kind, device=size.device)
    numbers, weights = [], []  # of the lower and upper column, and row
    for axis in (0, 1):
        sides = size[..., axis]
        # Beyond one cell outside nothing is read, and a whole number must remain one as an integer.
        place = (points.places[..., axis] * sides - 0.5).nan_to_num(nan=-1.0)  # a place outside
        place = torch.minimum(place.clamp(min=-1), sides)
        low = place.detach().floor()
        part = place - low
        last = (sides - 1).to(kind)
        cell = [low.to(kind), (low + 1).to(kind)]
        numbers.append([torch.minimum(number.clamp(min=0), last) for number in cell])
        weights.append([
            weight * ((number >= 0) & (number <= last)) for weight, number in zip((1 - part, part), cell)
        ])  # fmt: skip
    width, start = size[..., 0].to(kind), first.cumsum(0, dtype=kind)[:, None]
    rows = [number * width + start for number in numbers[1]]
    shares = [weight * points.shares for weight in weights[1]]
    cell = torch.stack([row + column for row in rows for column in numbers[0]], -1)
    factor = torch.stack([share * weight for share in shares for weight in weights[0]], -1)
    return cell.flatten(-3), factor.flatten(-3)


def sizes_of(shapes: Shapes, like: Tensor) -> Tensor:
    """[L, 2] width and height of each map, as `like` is. Filled number by number: a list of them would fix the sizes of
    an exported graph, and have a GPU waited for."""
    return torch.stack([like.new_full((), side) for height, width in shapes for side in (width, height)]).view(-1, 2)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its linear layers (arXiv 2010.04159, equation 3).

    channels: a multiple of `heads`; levels: maps; points: per head and map.
    Starts as published (appendix A.4 there): all shares alike, and head i reads in the direction 2 pi i / heads, its
    points 1, 2, ... cells away along the longer of x and y, whatever the query.
    """

    def __init__(self, channels: int, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; choose a divisor of {channels}")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.scores = nn.Linear(channels, heads * levels * points)
        self.value, self.output = nn.Linear(channels, channels), nn.Linear(channels, channels)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.sampling_offsets, self.scores):
            nn.init.zeros_(layer.weight)
        for layer in (self.scores, self.value, self.output):
            nn.init.zeros_(layer.bias)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], 1)
        direction = direction / direction.abs().amax(1, keepdim=True)
        offsets = direction[:, None, None] * torch.arange(1, points + 1)[:, None].expand(levels, points, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, mask: Tensor | None = None
    ) -> Tensor:
        """query [B, Q, C], memory [B, P, C] -> [B, Q, C].

        reference: [B, Q, L, 2] points x, y, or [B, Q, L, 4] boxes cx, cy, w, h, in widths and heights of each map;
            offsets count in cells from a point, and in parts of half a box's sides (over K) from a box's centre.
        mask: [B, P] bool, True on the picture; beyond it the values are zero.
        Raises: ValueError when memory does not have a row for every cell of `shapes`.
        """
        cells = sum(height * width for height, width in shapes)
        if memory.shape[1] != cells or len(shapes) != self.levels:
            raise ValueError(
                f"deformable attention over {self.levels} maps got {memory.shape[1]} rows and the shapes "
                f"{list(shapes)}, which have {cells}; join the maps' cells in the order of the shapes"
            )
        values = self.value(memory)
        if mask is not None:
            values = values.masked_fill(~mask[..., None], 0.0)
        values = values.unflatten(2, (self.heads, -1))
        return self.output(read_points(values, shapes, self.read(query, reference, shapes)))

    def read(self, query: Tensor, reference: Tensor, shapes: Shapes) -> Points:
        """What `forward` reads, of its first arguments. Places are computed in float32 even where autocast is on: in
        bfloat16 a map had 256 of them."""
        form = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(2, (*form, 2))
        shares = self.scores(query).unflatten(2, (self.heads, -1)).to(reference.dtype).softmax(3).unflatten(3, form[1:])
        reference = reference[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        if reference.shape[-1] == 2:
            scale = 1 / sizes_of(shapes, reference)[:, None]
        else:
            scale = reference[..., 2:] * (0.5 / self.points)
        return Points(reference[..., :2] + offsets.to(reference.dtype) * scale, shares)

    def weights(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, mask: Tensor | None = None
    ) -> Tensor:
        """What each cell counts in the sums, [B, heads, Q, P], of the arguments that `forward` takes: for looking at.
        A row sums to one, less what lies beyond the picture."""
        cell, factor = corners(self.read(query, reference, shapes), shapes)
        counts = factor.new_zeros(*cell.shape[:3], memory.shape[1]).scatter_add(3, cell.long(), factor).transpose(1, 2)
        return counts if mask is None else counts * mask[:, None, None]
