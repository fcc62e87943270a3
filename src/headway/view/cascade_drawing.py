"""The picture of `headway view cascade`: three panels from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ..evaluate.curves import COLOURS, INK
from .cascade import INPUT_EDGES, IOUS, PROPOSAL_EDGES

# A stage has the same line in every panel; its model has the same colour.
_LINES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_FIRST_BIN = 2  # of the proposals, that is drawn
_MARKERS = "osD^vP*X"
_STYLE = {
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def draw(models: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Write a PNG. models: numbers of each, as `cascade.to_dict` makes them, with "name"."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(models), sum(len(model.get("localisation", ())) for model in models))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(17, 5.6 + 0.22 * rows), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, wspace=0.03)  # type: ignore[union-attr]
        figure.suptitle(title, fontsize=11, color="#52606d")
        left, middle, right = figure.subplots(1, 3)
        _draw_ap(left, models)
        _draw_localisation(middle, models)
        _draw_proposals(right, models)
        for axes in (left, middle, right):
            axes.grid(color=INK, alpha=0.13, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, handlelength=3.4)
        figure.savefig(path, format="png")


def _draw_ap(axes: Any, models: Sequence[dict[str, Any]]) -> None:
    for number, model in enumerate(models):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        label = f"{_shown(model['name'])}: AP {_value(model['ap'])}"
        axes.plot(IOUS, _floats(model["ap_by_iou"]), linewidth=2, markersize=5, label=label, **style)
    axes.set(title="AP over IoU thresholds", xlabel="IoU that counts as found", ylabel="AP", xlim=(0.48, 0.97))
    axes.set_ylim(bottom=0)
    axes.set_xticks(IOUS[::2])


def _draw_localisation(axes: Any, models: Sequence[dict[str, Any]]) -> None:
    low, high = INPUT_EDGES[0], INPUT_EDGES[-1]
    axes.plot((low, high), (low, high), color="#7b8794", linewidth=1.2)
    axes.annotate("unchanged", (0.5, 0.49), rotation=45, rotation_mode="anchor", transform_rotates_text=True,
                  ha="center", va="top", color="#7b8794", fontsize=9.5)  # fmt: skip
    for number, model in enumerate(models):
        for k, line in enumerate(model.get("localisation", ())):
            label = f"{_stage(model, k)} (trained at {line['iou']:g})"
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": _LINES[k % len(_LINES)]}
            axes.plot(_floats(line["input"]), _floats(line["output"]), linewidth=2, label=label, **style)
    axes.set(title="What a stage makes of a box", xlabel="IoU of the box with its object before the stage",
             ylabel="mean IoU after it", xlim=(low - 0.01, high + 0.01))  # fmt: skip


def _draw_proposals(axes: Any, models: Sequence[dict[str, Any]]) -> None:
    """Of the models with most stages: that is where there is something between the stages. The many proposals next to
    nothing stay below the frame's left edge; the share is still one of all."""
    most = max(len(model.get("proposals", ())) for model in models)
    top = 0.0
    for number, model in enumerate(models):
        rows = model.get("proposals", ())
        for k, row in enumerate(rows if len(rows) == most else ()):
            share = 100 * np.array(row["count"]) / max(sum(row["count"]), 1)
            top = max(top, share[_FIRST_BIN:].max())
            many = row["positives"][f"{row['iou']:g}"]
            label = f"{_stage(model, k)}: {many:.0f} a picture with IoU ≥ {row['iou']:g}"
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": _LINES[k % len(_LINES)]}
            axes.stairs(share, PROPOSAL_EDGES, baseline=None, linewidth=2, label=label, **style)
    low = PROPOSAL_EDGES[_FIRST_BIN]
    axes.set(title="Proposals before each stage", xlabel=f"IoU with the best overlapping object, from {low:g}",
             ylabel="% of all proposals, per bin", xlim=(low, 1), ylim=(0, 1.08 * top or 1))  # fmt: skip


def _stage(model: dict[str, Any], k: int) -> str:
    return _shown(model["name"]) + (f", stage {k + 1}" if len(model["localisation"]) > 1 else "")


def _shown(name: str, limit: int = 34) -> str:
    """A label that begins with an underscore would be left out."""
    name = name if len(name) <= limit else f"{name[: limit - 1]}…"
    return f" {name}" if name.startswith("_") else name


def _value(ap: float | None) -> str:
    return "-" if ap is None else f"{ap:.3f}"


def _floats(values: Sequence[float | None]) -> list[float]:
    """A gap in the line where nothing is defined."""
    return [float("nan") if value is None else value for value in values]
