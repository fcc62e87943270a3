"""The picture of `headway view deform`: sampling points on the photograph."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure

from .deform import Recording, Sampling

_COLOURS = ("#ffe600", "#31d0ff", "#ff4d4d", "#7cff6b", "#ff7be5")


def draw(recording: Recording, samplings: Sequence[Sampling], path: Path) -> None:
    """The photograph with every pixel's points, the stronger the more they weigh; a dashed frame around what plain
    convolutions would see; a cross on the pixel and a ring on the centre of its cell."""
    height, width = recording.scene.image.shape[1:]
    unit = 10.0 / max(height, width)
    across = max(width * unit, 5.0)
    lines = [line for text in _caption(recording, samplings) for line in wrap(text, int(11.6 * across))]
    below = 0.2 + 0.24 * len(lines)
    size = (across, height * unit + below)
    figure = Figure(figsize=size, dpi=120, facecolor="white")
    axes = figure.add_axes((0, below / size[1], 1, 1 - below / size[1]))
    axes.imshow(recording.scene.image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for sampling, colour in zip(samplings, cycle(_COLOURS)):
        _draw_points(axes, sampling, colour)
    for i, line in enumerate(lines):
        figure.text(0.012, (below - 0.28 - 0.24 * i) / size[1], line, fontsize=10.5, color="#1f2933")
    figure.savefig(path, format="png")


def _draw_points(axes: Any, sampling: Sampling, colour: str) -> None:
    area = max(13.0, 260.0 / len(sampling.points) ** 0.48)  # typographic points squared: 90 for 9, 13 for 729
    strength = (sampling.weights / sampling.weights.max().clamp(min=1e-6)).numpy()
    visible = strength > 0
    x, y = sampling.points.T.numpy()[:, visible]
    x1, y1, x2, y2 = sampling.frame
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="black", linewidth=2.0, alpha=0.35)
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=1.1, linestyle=(0, (5, 4)))
    order = strength[visible].argsort()
    axes.scatter(
        x[order], y[order], s=area, color=colour, alpha=0.25 + 0.75 * strength[visible][order],
        edgecolors="black", linewidths=0.05 * area**0.65,
    )  # fmt: skip
    for width, ink in ((4.5, "black"), (2.2, "white")):
        axes.plot(*sampling.center, "o", markersize=11, markeredgewidth=width * 0.8, color=ink, fillstyle="none")
        axes.plot(*sampling.pixel, "+", markersize=16, markeredgewidth=width, color=ink)


def _caption(recording: Recording, samplings: Sequence[Sampling]) -> tuple[str, str]:
    names = [name.removeprefix("backbone.body.") for name in samplings[0].layers]
    where = "one pixel" if len(samplings) == 1 else f"each of {len(samplings)} pixels"
    spread = recording.offset_statistics(recording.layers[samplings[0].layers[0]])
    return (
        f"{len(samplings[0].points)} sampling points of {where} (+; ring: its cell) through {' ← '.join(names)}",
        f"The stronger a dot, the more it weighs. Dashed: what plain convolutions would see. Offsets of {names[0]} on "
        f"this photograph: {spread['mean']:.1f} ± {spread['std']:.1f} pixels",
    )
