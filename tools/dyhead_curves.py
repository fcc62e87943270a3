"""AP over epochs with and without a Dynamic Head, from the finished runs of `claims.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

_FULL = "offsets at the full rate"
PANELS: dict[str, dict[str, str]] = {  # title: label of a line, and its row
    title: {"without": row, "with a Dynamic Head": f"dyhead {row}"}
    for title, row in (
        ("ATSS, 24 epochs", "atss, 24 epochs"), ("ATSS, 8 epochs", "atss"), ("TTFNet, 8 epochs", "ttfnet"),
        ("Faster R-CNN, 8 epochs", "faster_rcnn"), ("ATSS, coco-person", "atss, people"),
    )
}  # fmt: skip
for _lines in list(PANELS.values())[1:4]:
    _lines[f"with it, {_FULL}"] = f"{_lines['with a Dynamic Head']}, {_FULL}"


def curves(runs: Mapping[str, Any], row: str) -> list[list[tuple[int, float]]]:
    """(epoch, AP) of every validation, a list for each seed that has run."""
    found = [run["curve"] for key, run in sorted(runs.items()) if key.rpartition("/")[0] == row]
    return [[(epoch, ap) for epoch, _, ap in curve if ap is not None] for curve in found]


def draw_curves(runs: Mapping[str, Any], path: Path) -> None:
    """A panel for each comparison: a thin line for each seed, a thick one for their mean. path: of the PNG."""
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, (label, row) in enumerate(lines.items()):
            _draw_row(axes, curves(runs, row), f"C{number}", label)
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if lines is PANELS["ATSS, 8 epochs"]:
            axes.legend(fontsize="small", loc="lower right")
    figure.axes[0].set_ylabel("AP")
    figure.savefig(path, dpi=90)


def _draw_row(axes: Any, seeds: Sequence[Sequence[tuple[int, float]]], colour: str, label: str) -> None:
    for points in seeds:
        axes.plot(*zip(*points), color=colour, linewidth=0.8, alpha=0.5)
    if seeds:
        middle = [(points[0][0], mean(ap for _, ap in points)) for points in zip(*seeds)]
        axes.plot(*zip(*middle), color=colour, linewidth=2, marker="o", markersize=3, label=label)
