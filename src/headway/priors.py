"""Anchors and points: where a dense head looks. Pure functions of the map sizes.

Order: levels finest first, then (y, x, anchor); the anchors of a cell are ratio-major, scale-minor.
"""

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
    rounded: bool = False,
    step_from_image: bool = False,
) -> Priors:
    """Anchors of side scale * stride and ratio h / w, centred at (cell + center_offset) * step.

    center_offset: 0 in mmdetection, detectron2 and torchvision, 0.5 in the authors' Dynamic Head.
    rounded: sides are cut and corners rounded to whole pixels around a centre of (0, 0) (torchvision).
    step_from_image: see `_centres`.
    """
    levels = []
    for centre, stride in zip(_centres(map_sizes, strides, center_offset, step_from_image, device), strides):
        sides = [float(int(s * stride)) if rounded else s * stride for s in scales]
        shapes = [(side / math.sqrt(r), side * math.sqrt(r)) for r in ratios for side in sides]
        half = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in shapes], device=device)
        levels.append((centre[:, None] + (half.round() if rounded else half)).view(-1, 4))
    return _priors(levels, strides)


def shaped_anchors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    *,
    shapes: Sequence[tuple[float, float]],
) -> Priors:
    """Anchors of given (width, height) in strides in the middle of every cell, in the order of `shapes` (EfficientDet).

    Computed in double precision, as upstream: which anchor a small box overlaps best is decided by the last bit.
    """
    half = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in shapes], dtype=torch.float64, device=device)
    levels = []
    for centre, stride in zip(_centres(map_sizes, strides, 0.5, False, device), strides):
        levels.append((centre.double()[:, None] + half * stride).float().view(-1, 4))
    return _priors(levels, strides)


def point_grid(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    *,
    center_offset: float = 0.5,
    step_from_image: bool = False,
) -> Priors:
    """Points at (cell + center_offset) * step, as boxes without area. center_offset: 0 in torchvision.

    step_from_image: see `_centres`.
    """
    return _priors(_centres(map_sizes, strides, center_offset, step_from_image, device), strides)


def grid_anchors(map_sizes: Sequence[tuple[int, int]], strides: Sequence[int], anchors: Tensor) -> Priors:
    """Given anchors in the middle of every cell (YOLO). anchors: [L, n, 2] width and height in pixels.

    Differs in the order within a level: (anchor, y, x), that of the published detectors' rows.
    """
    centres = _centres(map_sizes, strides, 0.5, False, anchors.device)
    levels = []
    for centre, sides in zip(centres, anchors):
        half = torch.cat([-sides, sides], 1) / 2
        levels.append((half[:, None] + centre).flatten(0, 1))
    return _priors(levels, strides)


def _centres(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    offset: float,
    step_from_image: bool,
    device: torch.device,
) -> list[Tensor]:
    """Per level [H * W, 4]: x, y, x, y of every cell, in (y, x) order.

    The step between two cells is the stride. step_from_image: it is what the padded image has room for instead, in
    whole pixels and per axis (torchvision, models/detection/anchor_utils.py): of 416 pixels a map of 7 cells makes
    59, not 64. The image is as many finest strides wide as the finest map has cells.
    """
    height, width = map_sizes[0][0] * strides[0], map_sizes[0][1] * strides[0]
    levels = []
    for (rows, columns), stride in zip(map_sizes, strides):
        step_y, step_x = (height // rows, width // columns) if step_from_image else (stride, stride)
        ys = (torch.arange(rows, device=device) + offset) * step_y
        xs = (torch.arange(columns, device=device) + offset) * step_x
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        levels.append(torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).view(-1, 4).float())
    return levels


def _priors(levels: list[Tensor], strides: Sequence[int]) -> Priors:
    stride = torch.cat([level.new_full((level.shape[0],), s) for level, s in zip(levels, strides)])
    return Priors(torch.cat(levels), stride, tuple(level.shape[0] for level in levels))
