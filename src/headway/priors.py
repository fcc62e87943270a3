"""Anchors and points: where a dense head looks. Pure functions of the map sizes.

Order: levels finest first, then (y, x, anchor); the anchors of a cell are ratio-major, scale-minor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .types import Priors


def anchor_grid(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    *,
    scales: Sequence[float],
    ratios: Sequence[float],
    center_offset: float = 0.0,
) -> Priors:
    """Anchors of side scale * stride and ratio h / w, centred at (cell + center_offset) * stride.

    center_offset: 0 in mmdetection and detectron2, 0.5 in the authors' Dynamic Head.
    """
    levels = []
    for (height, width), stride in zip(map_sizes, strides):
        shapes = [(s * stride / math.sqrt(r), s * stride * math.sqrt(r)) for r in ratios for s in scales]
        half = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in shapes], device=device)
        centre = _centres(height, width, stride, center_offset, device)
        levels.append((centre[:, None] + half[None]).view(-1, 4))
    return _priors(levels, strides)


def point_grid(
    map_sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device, *, center_offset: float = 0.5
) -> Priors:
    """Points at (cell + center_offset) * stride, as boxes without area."""
    levels = [
        _centres(height, width, stride, center_offset, device) for (height, width), stride in zip(map_sizes, strides)
    ]
    return _priors(levels, strides)


def _centres(height: int, width: int, stride: int, offset: float, device: torch.device) -> Tensor:
    """[H * W, 4]: x, y, x, y of every cell, in (y, x) order."""
    ys = (torch.arange(height, device=device) + offset) * stride
    xs = (torch.arange(width, device=device) + offset) * stride
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).view(-1, 4).float()


def _priors(levels: list[Tensor], strides: Sequence[int]) -> Priors:
    stride = torch.cat([level.new_full((level.shape[0],), s) for level, s in zip(levels, strides)])
    return Priors(torch.cat(levels), stride, tuple(level.shape[0] for level in levels))
