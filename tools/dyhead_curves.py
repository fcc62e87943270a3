"""AP over epochs with and without a Dynamic Head, at two learning rates, from the finished runs of `claims.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

PANELS: dict[str, str] = {  # title: row without a Dynamic Head
    "ATSS, 24 epochs": "atss, 24 epochs", "ATSS, 8 epochs": "atss", "FCOS, 8 epochs": "fcos",
    "TTFNet, 8 epochs": "ttfnet", "Cascade R-CNN, 8 epochs": "cascade_rcnn",
}  # fmt: skip
_SLOW = ", at 6e-4"


def curves(runs: Mapping[str, Any], row: str) -> list[list[tuple[int, float]]]:
    """(epoch, AP) of every validation, a list for each seed that has run."""
    found = [run["curve"] for key, run in sorted(runs.items()) if key.rpartition("/")[0] == row]
    return [[(epoch, ap) for epoch, _, ap in curve if ap is not None] for curve in found]


def draw_curves(runs: Mapping[str, Any], path: Path) -> None:
    """A panel for each comparison: a thin line for each seed, a thick one for their mean. path: of the PNG."""
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    for axes, (title, plain) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for rate, style in (("", "-"), (_SLOW, ":")):
            for colour, label, row in (("C0", "without", plain), ("C1", "with a Dynamic Head", f"dyhead {plain}")):
                _draw_row(axes, curves(runs, row + rate), f"{label}{rate}", color=colour, linestyle=style)
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if plain == "atss":
            axes.legend(fontsize="small", loc="lower right")
    figure.axes[0].set_ylabel("AP")
    figure.savefig(path, dpi=90)


def _draw_row(axes: Any, seeds: Sequence[Sequence[tuple[int, float]]], label: str, **style: str) -> None:
    for points in seeds:
        axes.plot(*zip(*points), linewidth=0.8, alpha=0.5, **style)
    if seeds:
        middle = [(points[0][0], mean(ap for _, ap in points)) for points in zip(*seeds)]
        axes.plot(*zip(*middle), linewidth=2, marker="o", markersize=3, label=label, **style)
