"""The report's two figures: precision over recall, and the confusion matrix; as SVG for the page and PNG beside it.

The SVG is drawn without a background and its ink becomes `currentColor`, so it follows a light or a dark page.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from .coco import RECALLS, Metrics

INK = "#1c2530"
# Okabe and Ito's colours that can be told apart by the colour-blind and stand out on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
_NAMED_CURVES, _NAMED_CELLS, _COUNTED_CELLS = 8, 40, 16  # classes up to which a figure says so much
_RIGHT, _WRONG = (
    LinearSegmentedColormap.from_list("share", [(*colour, 0.0), (*colour, 0.75)])
    for colour in ((0.0, 0.45, 0.7), (0.84, 0.37, 0.0))
)
STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "none",
    "svg.hashsalt": "headway",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Drawing(NamedTuple):
    """One figure. svg: an element to be put into a page; png: a file's bytes, on white."""

    svg: str
    png: bytes


def draw_precision_recall(metrics: Metrics) -> Drawing:
    """Precision over recall at IoU 0.5 and 0.75, a line per class and their mean."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4), layout=ConstrainedLayoutEngine(wspace=0.06))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, iou, name in zip(panels, ("0.50", "0.75"), ("precision50", "precision75")):
            curves = [(c.name, getattr(c, name)) for c in metrics.per_class if getattr(c, name)]
            few = len(curves) <= _NAMED_CURVES
            for i, (_, curve) in enumerate(curves):
                colour = COLOURS[i] if few else "#8a94a0"
                axes.plot(RECALLS, curve, color=colour, linewidth=1.8 if few else 0.7, alpha=1 if few else 0.5)
            if len(curves) > 1:
                mean = np.mean([curve for _, curve in curves], 0)
                axes.plot(RECALLS, mean, color=INK, linewidth=2, linestyle=(0, (4, 2)))
            axes.set(title=f"IoU {iou}", xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
            axes.grid(color=INK, alpha=0.15, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("precision")
        if curves:
            names = [name for name, _ in curves] if few else [f"{len(curves)} classes"]
            names += ["mean"] if len(curves) > 1 else []
            lines = panels[1].get_lines()
            handles = lines if few else [lines[0], lines[-1]]
            # A label that begins with an underscore would be left out.
            labels = [f" {_short(name)}" if name.startswith("_") else _short(name) for name in names]
            figure.legend(handles, labels, loc="outside right upper", frameon=False)
        return _finish(figure, "Precision over recall")


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> Drawing:
    """A confusion matrix [C + 1, C + 1] (true by row, predicted by column, background last) shaded by the share of
    each row, blue where right; with counts and names as far as there is room."""
    count = len(names) + 1
    with matplotlib.rc_context(STYLE):
        named = count <= _NAMED_CELLS
        side = min(max(3.4, 1.6 + 0.62 * count), 9.0) if named else 5.0
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        right = np.eye(count, dtype=bool)
        grid = {"edgecolors": (0.5, 0.5, 0.5, 0.3), "linewidth": 0.5} if named else {"rasterized": True}
        for shade, hidden in ((_RIGHT, ~right), (_WRONG, right)):
            axes.pcolormesh(np.ma.masked_array(share, hidden), cmap=shade, vmin=0, vmax=1, **grid)
        axes.set(xlabel="predicted", ylabel="true", aspect="equal")
        axes.invert_yaxis()
        if count <= _COUNTED_CELLS:
            for (y, x), n in np.ndenumerate(matrix):
                weight = "bold" if x == y else "normal"
                axes.text(x + 0.5, y + 0.5, str(n), ha="center", va="center", weight=weight, alpha=1 if n else 0.35)
        if named:
            labels = [*map(_short, names), "background"]
            axes.set_xticks(np.arange(count) + 0.5, labels, rotation=35, ha="right", rotation_mode="anchor")
            axes.set_yticks(np.arange(count) + 0.5, labels)
        else:
            axes.set(xticks=[], yticks=[])
        axes.tick_params(length=0)
        axes.spines[:].set(visible=not named, alpha=0.3)
        return _finish(figure, "Confusion matrix")


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _finish(figure: Figure, title: str) -> Drawing:
    """Both forms of a figure. `title` is for screen readers."""
    svg, png = io.StringIO(), io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's own fonts will have it
        figure.savefig(png, format="png", dpi=130, facecolor="white")
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    text = svg.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")  # without the XML prologue
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{title}"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return Drawing(text, png.getvalue())
