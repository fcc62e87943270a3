"""Training targets that are not boxes: pure functions on tensors.

Legend: M ground-truth boxes of one image, C classes, h w the heat map, P cells that a box is learned at.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def centerness(distances: Tensor) -> Tensor:
    """How central a point lies in its box (FCOS, arXiv 1904.01355, equation 3), 0..1.

    distances: [..., 4] left, top, right, bottom, positive. Sides of length zero count as 1e-6 px.
    """
    left, top, right, bottom = distances.clamp(min=1e-6).unbind(-1)
    horizontal = left.minimum(right) / left.maximum(right)
    vertical = top.minimum(bottom) / top.maximum(bottom)
    return (horizontal * vertical).sqrt()


# ------------------------------------------------------------------------------------------------------ heat maps
class TTFTargets(NamedTuple):
    """heatmap [C, h, w] in 0..1, exactly 1 at the centre of every object; owner [h, w] int64, the row of the box that a
    cell must predict or -1; weight [h, w] of that box's loss, 0 without an owner."""

    heatmap: Tensor
    owner: Tensor
    weight: Tensor


class CenterNetTargets(NamedTuple):
    """heatmap [C, h, w] as above; cells [P] flat index y * w + x of the centre cells, each once; sizes [P, 2] width and
    height in cells; offsets [P, 2] x and y from the cell's corner to the centre, in cells, 0..1."""

    heatmap: Tensor
    cells: Tensor
    sizes: Tensor
    offsets: Tensor


def ttf_targets(
    boxes: Tensor, labels: Tensor, map_size: tuple[int, int], num_classes: int, *, stride: int = 4, alpha: float = 0.54
) -> TTFTargets:
    """Gaussian training samples of TTFNet (arXiv 1909.00700, 3.2 and 3.3), in the form PAFNet's weights were trained
    with (PaddleDetection 2.6.0, ppdet/data/transform/batch_operators.py, Gt2TTFTarget).

    boxes [M, 4]; labels [M]; M = 0 gives maps of zeros and no owner. map_size: (h, w), of any ratio.
    alpha: the Gaussian's window as a share of the box, per axis.

    With the box cut to the map's first and last cell, in cells: radius = int(side / 2 * alpha) and sigma =
    (2 radius + 1) / 6 per axis. The centre is that of the box as it is. Where two windows of one class meet the heat
    map is the greater of the two; a cell belongs to the smallest box whose window holds it, of boxes of one area to
    the earlier. weight = ln((width + 1)(height + 1)) g / sum(g), the side lengths in pixels, the sum over the whole
    window within the map. So two objects with one centre share a peak if they are of one class, and only the smaller
    one's box is learned in its window. An object whose centre lies outside the map has no target. A box smaller than
    a cell has its centre cell alone.

    Differs: upstream's map is square; it zeroes values below eps times the peak, which a window of three sigma never
    has (the corner is above exp(-9)); it cuts centres toward zero, so that one less than a cell left of or above the
    map counts as in it.
    """
    boxes = boxes.float()
    limit = boxes.new_tensor([map_size[1] - 1, map_size[0] - 1]).repeat(2)
    inside = (boxes / stride).clamp(min=0).minimum(limit)
    radius = ((inside[:, 2:] - inside[:, :2]) / 2 * alpha).long()
    windows = _windows(boxes, radius, map_size, stride)
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    total = torch.zeros_like(area).index_add(0, windows.box, windows.value)
    owner = _smallest(windows.box, windows.cell, area, map_size)
    owned = owner[windows.cell] == windows.box
    weight = torch.zeros_like(owner, dtype=torch.float32)
    weight[windows.cell[owned]] = (windows.value * (area.log() / total)[windows.box])[owned]
    heatmap = _heatmap(windows, labels, map_size, num_classes)
    return TTFTargets(heatmap, owner.view(map_size), weight.view(map_size))


def centernet_targets(
    boxes: Tensor, labels: Tensor, map_size: tuple[int, int], num_classes: int, *, stride: int = 4,
    min_overlap: float = 0.3,
) -> CenterNetTargets:  # fmt: skip
    """Targets of CenterNet (arXiv 1904.07850, 3): round Gaussians, and size and offset at the centre cells alone.

    boxes [M, 4]; labels [M]; M may be 0. map_size: (h, w). min_overlap: see `overlap_radius`.
    Of several objects with one centre cell the smallest keeps it, of equal areas the earlier; the peaks of all remain.
    An object whose centre lies outside the map has no target.
    Differs: mmdetection 3.3.0 (centernet_head.py) keeps the last box of a cell, the authors' code learns all of them;
    mmdetection cuts centres toward zero, see `ttf_targets`.
    """
    boxes = boxes.float()
    cells = boxes / stride
    sizes = cells[:, 2:] - cells[:, :2]
    radius = overlap_radius(sizes, min_overlap).long()
    windows = _windows(boxes, radius[:, None].expand(-1, 2), map_size, stride)
    centres = (cells[:, :2] + cells[:, 2:]) / 2
    column, row = centres.floor().long().unbind(1)
    middle = row * map_size[1] + column
    seen = _in_map(row, column, map_size).nonzero().squeeze(1)
    owner = _smallest(seen, middle[seen], sizes[:, 0] * sizes[:, 1], map_size)
    kept = seen[owner[middle[seen]] == seen]
    heatmap = _heatmap(windows, labels, map_size, num_classes)
    return CenterNetTargets(heatmap, middle[kept], sizes[kept], centres[kept] - centres[kept].floor())


def overlap_radius(sizes: Tensor, min_overlap: float) -> Tensor:
    """How far both corners of a box may move so that the IoU with the box stays `min_overlap`: the least over both
    moving the same way, both inwards and both outwards (CornerNet, arXiv 1808.01244, 3.2).

    sizes: [M, 2] width and height. Returns [M], before rounding, in the unit of the sizes.
    Differs: the authors' code of CornerNet and CenterNet divides the roots by 2 instead of 2a, so that their 0.7 gives
    a square of side s the radius 0.273 s; this, mmdetection's form, gives it 0.226 s for 0.3.
    """
    total, area = sizes.sum(1), sizes[:, 0] * sizes[:, 1]

    def root(a: float, b: Tensor, c: Tensor, sign: int) -> Tensor:
        return (b + sign * (b * b - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)

    shifted = root(1, total, area * (1 - min_overlap) / (1 + min_overlap), -1)
    inwards = root(4, 2 * total, area * (1 - min_overlap), -1)
    outwards = root(4 * min_overlap, -2 * min_overlap * total, area * (min_overlap - 1), 1)
    return torch.stack([shifted, inwards, outwards]).amin(0)


class _Windows(NamedTuple):
    """The cells of all objects' windows, one after the other. box, cell, value: [T] the row of the box, y * w + x, and
    the Gaussian there."""

    box: Tensor
    cell: Tensor
    value: Tensor


def _windows(boxes: Tensor, radius: Tensor, map_size: tuple[int, int], stride: int) -> _Windows:
    """Gaussians of value 1 at the centres of boxes [M, 4] px, cut at `radius` [M, 2] (x, y) cells and at the map."""
    height, width = map_size
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride).floor().long()
    low = (centre - radius).clamp(min=0)
    last = centre.new_tensor([width - 1, height - 1])
    count = ((centre + radius).minimum(last) - low + 1).clamp(min=0)
    cells = count.prod(1) * _in_map(centre[:, 1], centre[:, 0], map_size)
    box = torch.arange(len(boxes), device=boxes.device).repeat_interleave(cells)
    place = torch.arange(len(box), device=boxes.device) - (cells.cumsum(0) - cells)[box]
    across = count[box, 0]
    column, row = low[box, 0] + place % across, low[box, 1] + place // across
    away = torch.stack([column, row], 1) - centre[box]
    sigma = (2 * radius + 1).float() / 6
    value = (-(away / sigma[box]).square().sum(1) / 2).exp()
    return _Windows(box, row * width + column, value)


def _in_map(row: Tensor, column: Tensor, map_size: tuple[int, int]) -> Tensor:
    return (row >= 0) & (row < map_size[0]) & (column >= 0) & (column < map_size[1])


def _smallest(box: Tensor, cell: Tensor, area: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Of pairs box [T], cell [T]: per cell the box of least `area` [M], of equal areas the earlier; [h * w] or -1."""
    order = area.argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    none = len(order)
    best = torch.full((math.prod(map_size),), none, device=box.device).scatter_reduce(0, cell, rank[box], "amin")
    return torch.cat([order, order.new_tensor([-1])])[best]


def _heatmap(windows: _Windows, labels: Tensor, map_size: tuple[int, int], num_classes: int) -> Tensor:
    """[C, h, w] the greatest value per class and cell."""
    flat = windows.value.new_zeros(num_classes * math.prod(map_size))
    index = labels[windows.box] * math.prod(map_size) + windows.cell
    return flat.scatter_reduce(0, index, windows.value, "amax").view(num_classes, *map_size)
