"""Training targets that are not boxes: pure functions on tensors."""

from __future__ import annotations

from torch import Tensor


def centerness(distances: Tensor) -> Tensor:
    """How central a point lies in its box (FCOS, arXiv 1904.01355, equation 3), 0..1.

    distances: [..., 4] left, top, right, bottom, positive. Sides of length zero count as 1e-6 px.
    """
    left, top, right, bottom = distances.clamp(min=1e-6).unbind(-1)
    horizontal = left.minimum(right) / left.maximum(right)
    vertical = top.minimum(bottom) / top.maximum(bottom)
    return (horizontal * vertical).sqrt()
