"""The picture of `headway view implicit`: a row of bars per prediction, one column for each position."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..evaluate.curves import COLOURS, INK, STYLE
from .implicit import ROLES, Vector

_COLOUR = dict(zip(ROLES, (COLOURS[0], COLOURS[1], COLOURS[2], "#7b8794")))
_PLAIN = "#7b8794"
_TITLES = {"align": "before the prediction (alignment)", "refine": "after the prediction (refinement)"}


def draw(found: Sequence[Vector], path: Path, title: str) -> None:
    """Write a PNG. Bars begin at the value that changes nothing; those of one operator and position share their scale,
    so that levels can be compared."""
    layers = list(dict.fromkeys(vector.layer for vector in found))
    positions = list(dict.fromkeys(vector.position for vector in found))
    with matplotlib.rc_context(STYLE | {"axes.titlesize": 10.5}):
        size = (7.4 * len(positions) + 0.6, 2.1 * len(layers) + 1.2)
        figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
        figure.suptitle(title, fontsize=11, color="#52606d")
        grid = figure.subplots(len(layers), len(positions), squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for vector in found:
            axes = grid[layers.index(vector.layer), positions.index(vector.position)]
            axes.set_visible(True)
            comparable = [v.values for v in found if (v.operator, v.position) == (vector.operator, vector.position)]
            _draw_bars(axes, vector, max(float((values - vector.start).abs().max()) for values in comparable))
        roles = [role for role in ROLES if any(len(vector.values_of(role)) for vector in found)]
        if roles:
            handles = [Patch(color=_COLOUR[role], label=role) for role in roles]
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(path, format="png")


def _draw_bars(axes: Any, vector: Vector, reach: float) -> None:
    """reach: the largest distance from the neutral value that the scale must hold."""
    values, place = vector.values.numpy(), np.arange(len(vector.values))
    colours = np.full(len(values), _PLAIN, dtype=object)
    for role, start, end in vector.roles:
        colours[start:end] = _COLOUR[role]
    axes.bar(place, values - vector.start, bottom=vector.start, width=0.86 if len(values) < 200 else 1.0,
             color=list(colours), linewidth=0)  # fmt: skip
    axes.axhline(vector.start, color=INK, linewidth=0.7)
    for _, start, _ in [run for run in vector.roles if run[0] == "box"][1:]:  # where another anchor begins
        axes.axvline(start - 0.5, color=INK, alpha=0.35, linewidth=0.8, linestyle=(0, (4, 3)))
    margin = 1.08 * reach or 1.0
    where = vector.layer.removeprefix("head.") if vector.stride is None else f"stride {vector.stride}"
    sign = {"add": "+", "mul": "×", "concat": "concatenated"}[vector.operator]
    text = f"{where}: {sign} {_TITLES.get(vector.position, vector.position)}, {len(values)} values"
    axes.set(title=text, xlim=(-0.5, len(values) - 0.5), ylim=(vector.start - margin, vector.start + margin))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
    axes.set_axisbelow(True)
