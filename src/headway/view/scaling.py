"""What it costs to make a detector larger: parameters, multiply-adds and measured latency of EfficientDet-D0 scaled in
width, in depth, in resolution, and in all three (EfficientNet, arXiv 1905.11946, sections 3.2 and 3.3), beside the
published D1 to D7."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from .. import profile
from ..errors import HeadwayError
from ..factory import create_model

Line = Literal["width", "depth", "resolution", "compound", "published"]
LINES: tuple[Line, ...] = ("width", "depth", "resolution", "compound", "published")
MOST_STEPS = 7  # D7 is the last that the coefficient gives
_DEPTH, _WIDTH, _RESOLUTION = 1.2, 1.1, 1.15  # equation 3: each step of all three together about doubles the work
_NETWORK = ("normalize", "backbone", "neck", "head")  # the parts of `detect` that scaling changes


@dataclass(frozen=True, slots=True)
class Point:
    """One network. line, step: how it was scaled, from D0 at step 0; width, depth, resolution: factors of D0's, None
    where they differ by part (published). size: (height, width) of its picture; latency: median seconds of the network
    for one picture, without decoding and suppression; None where it was not measured."""

    line: Line
    step: int
    model: str
    width: float | None
    depth: float | None
    resolution: float | None
    size: tuple[int, int] = (0, 0)
    parameters: int = 0
    macs: int = 0
    latency: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Of `create_model`."""
        if self.line == "published":
            return {}
        return {"width": self.width, "depth": self.depth, "resolution": self.resolution}


def plan(steps: int, lines: Sequence[Line] = LINES) -> list[Point]:
    """The networks of `lines`, each from step 1 to `steps` and all from the same D0, which comes first.

    A step of one factor alone doubles the multiply-adds as a step of all three nearly does (1.2 * 1.1^2 * 1.15^2 =
    1.92): the width by the root of 2, the depth by 2, the side of the picture by the root of 2.
    Raises: HeadwayError for steps out of 1 to 7.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise HeadwayError(f"steps must be from 1 to {MOST_STEPS}, got {steps}")
    points = [Point("compound", 0, "efficientdet_scaled", 1.0, 1.0, 1.0)]
    for line in lines:
        for step in range(1, steps + 1):
            if line == "published":
                points.append(Point(line, step, f"efficientdet_d{step}", None, None, None))
                continue
            width = {"width": math.sqrt(2), "compound": _WIDTH}.get(line, 1.0) ** step
            depth = {"depth": 2.0, "compound": _DEPTH}.get(line, 1.0) ** step
            resolution = {"resolution": math.sqrt(2), "compound": _RESOLUTION}.get(line, 1.0) ** step
            points.append(Point(line, step, "efficientdet_scaled", width, depth, resolution))
    return points


def measure(
    points: Sequence[Point],
    device: torch.device,
    *,
    repeats: int = 3,
    precision: str = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Point]:
    """The same points with their size, parameters and multiply-adds, and with their latency unless `repeats` is 0."""
    measured = []
    for done, point in enumerate(points):
        progress(done, len(points))
        measured.append(_measured(point, device, repeats, precision))
    progress(len(points), len(points))
    return measured


def _measured(point: Point, device: torch.device, repeats: int, precision: str) -> Point:
    torch.manual_seed(0)
    with torch.device(device if repeats else "meta"):
        model = create_model(point.model, **point.arguments()).eval()
    size = model.card.input_size
    counted = replace(
        point, size=size, parameters=profile.count_parameters(model), macs=profile.count_macs(model, size)
    )
    if not repeats:
        return counted
    timing = profile.time_detect(model, torch.rand(1, 3, *size, device=device), precision=precision, repeats=repeats)
    return replace(counted, latency=sum(timing.parts[name] for name in _NETWORK))


def to_dict(points: Sequence[Point]) -> list[dict[str, Any]]:
    """For JSON: every field of every point."""
    return [asdict(point) for point in points]
