"""The picture of `headway view scaling`: parameters and latency over multiply-adds, and multiply-adds over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from ..evaluate.curves import COLOURS, INK
from .scaling import LINES, Line, Point

_MARKERS = dict(zip(LINES, "osD^v"))
_COLOUR = dict(zip(LINES, COLOURS))
_NAMES: dict[Line, str] = {
    "width": "width alone", "depth": "depth alone", "resolution": "resolution alone",
    "compound": "all three (compound)", "published": "EfficientDet as published",
}  # fmt: skip
_GREY = "#7b8794"
_LABEL_HEIGHT, _AXES_HEIGHT = 13.0, 320.0  # in points, about
_STYLE = {
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def draw(points: Sequence[Point], path: Path, title: str) -> None:
    """Write a PNG. points: measured, the unscaled one first; without a latency each, its panel is left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = all(point.latency is not None for point in points)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(17 if timed else 11.6, 6.2), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, wspace=0.03)  # type: ignore[union-attr]
        figure.suptitle(title, fontsize=11, color="#52606d")
        panels = list(figure.subplots(1, 3 if timed else 2))
        handles = _draw_growth(panels[0], points)
        _draw_over_work(panels[1], points, lambda point: point.parameters / 1e6, "Parameters", "million parameters")
        if timed:
            _draw_over_work(panels[2], points, lambda point: 1e3 * (point.latency or 0.0), "Latency",
                            "ms of the network, one picture")  # fmt: skip
        for axes in panels:
            axes.grid(color=INK, alpha=0.13, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handlelength=3)
        figure.savefig(path, format="png")


def _lines(points: Sequence[Point]) -> dict[Line, list[Point]]:
    """Every line from the unscaled point on."""
    found = {line: [point for point in points[1:] if point.line == line] for line in LINES}
    return {line: [points[0], *rest] for line, rest in found.items() if rest}


def _draw_growth(axes: Any, points: Sequence[Point]) -> list[Any]:
    """Multiply-adds over steps, with the doubling that each step is meant to be. Returns what the legend shows."""
    lines = _lines(points)
    last = max(point.step for point in points)
    start = points[0].macs / 1e9
    axes.plot(range(last + 1), [start * 2**step for step in range(last + 1)], color=_GREY, linewidth=1.2,
              linestyle=(0, (4, 3)), label="doubled by every step")  # fmt: skip
    axes.legend(loc="upper left", frameon=False, labelcolor=_GREY, fontsize=9.5)
    handles = []
    for line, row in lines.items():
        values = [point.macs / 1e9 for point in row]
        style = {"color": _COLOUR[line], "marker": _MARKERS[line], "label": _NAMES[line]}
        handles += axes.plot([point.step for point in row], values, linewidth=2, markersize=6, **style)
    axes.set(title="What a step costs", xlabel="steps from D0", ylabel="GMAC a picture")
    axes.set_xticks(range(last + 1))
    _logarithmic(axes, "y", [point.macs / 1e9 for point in points])
    return handles


def _draw_over_work(
    axes: Any, points: Sequence[Point], value: Callable[[Point], float], title: str, label: str
) -> None:
    start = points[0]
    for line, row in _lines(points).items():
        style = {"color": _COLOUR[line], "marker": _MARKERS[line]}
        works, values = [point.macs / 1e9 for point in row], [value(point) for point in row]
        axes.plot(works, values, linewidth=2, markersize=6, **style)
    works = [point.macs / 1e9 for point in points]
    axes.plot([min(works), max(works)], [value(start), value(start) * max(works) / min(works)], color=_GREY,
              linewidth=1.2, linestyle=(0, (4, 3)), zorder=0, label="in proportion to the work")  # fmt: skip
    axes.legend(loc="upper left", frameon=False, labelcolor=_GREY, fontsize=9.5)
    axes.set(title=f"{title} at equal work", xlabel="GMAC a picture", ylabel=label)
    _logarithmic(axes, "x", works, room=0.45)
    _logarithmic(axes, "y", [value(point) for point in points])
    _label_ends(axes, {line: (row[-1], value(row[-1])) for line, row in _lines(points).items()})


def _label_ends(axes: Any, ends: dict[Line, tuple[Point, float]]) -> None:
    """What stands at the end of each line, from the lowest up, none on top of another."""
    low, high = axes.get_ylim()
    free = 0.0  # points of height above the x axis that the labels below have left
    for line, (point, value) in sorted(ends.items(), key=lambda item: item[1][1]):
        text = _end(point)
        half = _LABEL_HEIGHT * (text.count("\n") + 1) / 2
        place = math.log(value / low) / math.log(high / low) * _AXES_HEIGHT
        middle = max(place, free + half)
        free = middle + half
        axes.annotate(text, (point.macs / 1e9, value), xytext=(7, middle - place), textcoords="offset points",
                      va="center", color=_COLOUR[line], fontsize=9,
                      bbox={"fc": "white", "ec": "none", "pad": 0.8})  # fmt: skip


def _end(point: Point) -> str:
    """What stands at the end of a line: by how much it was scaled."""
    if point.line == "published":
        return f"D{point.step}"
    if point.line == "resolution":
        return f"{point.size[0]} px"
    if point.line == "width":
        return f"{point.width:.1f}× wide"
    if point.line == "depth":
        return f"{point.depth:.0f}× deep"
    return f"{point.width:.1f}× wide, {point.depth:.1f}× deep,\n{point.size[0]} px"


def _logarithmic(axes: Any, name: str, values: Sequence[float], room: float = 0.0) -> None:
    """A scale of powers of two, and once and a half these, written as plain numbers. room: for labels at the upper end,
    as a part of the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(values), max(values)
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low / 1.15, high * 1.15 * (high / low) ** room)})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5), numticks=16))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
