"""The picture of a comparison: AP of every run, its mean, and what it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .table import METRICS


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One panel per metric, a row per model: a dot per seed, a bar at their mean; and AP against multiply-adds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = 1.6 + 0.42 * len(lines)
    figure = Figure(figsize=(13, max(3.4, height)), layout="constrained")
    axes = figure.subplots(1, len(METRICS) + 1, width_ratios=[*[1] * len(METRICS), 1.4])
    for axis, name in zip(axes, METRICS):
        for row, line in enumerate(lines):
            values = list(line[name]["by_seed"].values())
            axis.plot(values, [row] * len(values), "o", color=f"C{row % 10}", alpha=0.6, markersize=5)
            if values:
                axis.plot([line[name]["mean"]] * 2, [row - 0.3, row + 0.3], color=f"C{row % 10}", linewidth=2.5)
        axis.set_title(name)
        axis.set_ylim(len(lines) - 0.5, -0.5)
        labels = [line["label"] for line in lines] if axis is axes[0] else [""] * len(lines)
        axis.set_yticks(range(len(lines)), labels)
        axis.grid(axis="x", alpha=0.3)
    last = axes[-1]
    for row, line in enumerate(lines):
        if line["macs"] is not None and line["AP"]["mean"] is not None:
            last.plot(line["macs"] / 1e9, line["AP"]["mean"], "o", color=f"C{row % 10}", label=line["label"])
    last.set_xlabel("GMAC of one picture")
    last.set_ylabel("AP, mean over seeds")
    last.set_title("what it costs")
    last.grid(alpha=0.3)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(4))
    figure.savefig(path, dpi=110)
