"""The pictures of `headway view attention`: sheets of heat maps over the photograph, and histograms of the gates."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ..evaluate.curves import COLOURS, INK, STYLE
from .gates import KINDS, Gates, ratio_edges, ratios_by_level
from .scene import Heat, Scene, Sheet

_QUIET = "#52606d"
_PANEL = 2.5  # inches of the photograph's longer side
_BEHIND = 480  # pixels of the photograph's longer side under the heat


def draw_sheet(scene: Scene, sheet: Sheet, path: Path) -> None:
    """Write a PNG: the photograph in grey under every heat map, confident detections as thin frames."""
    height, width = scene.image.shape[1:]
    unit = _PANEL / max(height, width)
    across, down = width * unit, height * unit
    longest = max(len(line) * (8 if i else 10) for label, _ in sheet.rows for i, line in enumerate(label.split("\n")))
    left, gap, above = 0.14 + 0.0081 * longest, 0.07, 0.24
    size = [left + len(sheet.columns) * (across + gap), 0.0]
    lines = wrap(sheet.caption, int(13 * size[0]))
    below = 0.12 + 0.2 * len(lines)
    size[1] = len(sheet.rows) * (down + above) + below
    behind = _grey(scene)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0], size[1]), dpi=100, facecolor="white")
        for row, (label, heats) in enumerate(sheet.rows):
            bottom = size[1] - above - row * (down + above) - down
            texts = label.split("\n")
            for i, text in enumerate(texts):
                place = (bottom + down / 2 + 0.18 * ((len(texts) - 1) / 2 - i)) / size[1]
                figure.text(0.08 / size[0], place, text, fontsize=8 if i else 10, va="center")
            for column, heat in enumerate(heats):
                if heat is None:
                    continue
                corner = (left + column * (across + gap)) / size[0]
                axes = figure.add_axes((corner, bottom / size[1], across / size[0], down / size[1]))
                _draw_heat(axes, scene, behind, heat)
                title = sheet.columns[column] if row == 0 else ""
                text = "   ".join(part for part in (title, heat.text) if part)
                axes.set_title(text, fontsize=9.5 if row == 0 else 8.5, pad=3, color=INK if row == 0 else _QUIET)
        for i, line in enumerate(lines):
            figure.text(0.08 / size[0], (below - 0.24 - 0.2 * i) / size[1], line, fontsize=10, color=_QUIET)
        figure.savefig(path, format="png")


def _grey(scene: Scene) -> NDArray[Any]:
    """The photograph, small and in grey between 0 and 1."""
    image = scene.image.float()[None] / 255
    scale = _BEHIND / max(image.shape[2:])
    if scale < 1:
        image = torch.nn.functional.interpolate(image, scale_factor=scale, mode="area")
    return image[0].mean(0).numpy()


def _draw_heat(axes: Any, scene: Scene, behind: NDArray[Any], heat: Heat) -> None:
    height, width = scene.image.shape[1:]
    axes.imshow(behind, cmap="gray", vmin=-0.15, vmax=1.15, extent=(0, width, height, 0), interpolation="lanczos")
    values, visible = strength(heat.values).numpy(), (heat.values > 0).numpy()
    left, right, bottom, top = heat.extent()
    beyond = [max(0, math.ceil(gap / step)) for gap, step in zip((width - right, height - bottom), heat.step)]
    frame = ((0, beyond[1]), (0, beyond[0]))  # coarse cells need not reach the photograph's edge
    values, visible = np.pad(values, frame, mode="edge"), np.pad(visible, frame, mode="edge")
    extent = (left, right + beyond[0] * heat.step[0], bottom + beyond[1] * heat.step[1], top)
    colours = matplotlib.colormaps["inferno"](values)
    colours[..., 3] = (0.15 + 0.75 * values**0.7) * visible
    axes.imshow(colours, extent=extent, interpolation="bilinear")
    for x1, y1, x2, y2 in scene.confident().boxes.tolist():
        axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="white", linewidth=0.5, alpha=0.6)
    if heat.box is not None:
        x1, y1, x2, y2 = heat.box
        for colour, line in (("black", 2.6), ("#31d0ff", 1.5)):
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=line)
    if heat.mark is not None:
        for colour, line in (("black", 3.2), ("#31d0ff", 1.6)):
            axes.plot(*heat.mark, "+", markersize=11, markeredgewidth=line, color=colour)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")


def strength(values: Tensor) -> Tensor:
    """A map between its lowest positive value, 0, and its highest, 1; one that is the same everywhere is 0."""
    low, high = values[values > 0].min() if (values > 0).any() else values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(min=0)


def draw_gates(found: Sequence[Gates], path: Path, title: str) -> None:
    """Write a PNG: for every level the histogram of the ratio of its gates, stacked by block, above the gates
    themselves."""
    levels = sorted({gates.level for gates in found})
    blocks = sorted({gates.block for gates in found})
    edges = ratio_edges(found).numpy()
    means = {level: ratios.mean().item() for level, ratios in ratios_by_level(found).items()}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(levels) + 1.1, 5.6), dpi=110, facecolor="white", layout="constrained")
        figure.suptitle(title, fontsize=11, color=_QUIET)
        grid = figure.subplots(2, len(levels), sharey="row", sharex="row", squeeze=False)
        for column, level in enumerate(levels):
            of_level = [gates for gates in found if gates.level == level]
            end = " (finest)" if column == 0 else " (coarsest)" if column == len(levels) - 1 else ""
            _draw_ratios(grid[0, column], of_level, blocks, edges)
            grid[0, column].set_title(f"level {level + 1}{end}: mean {means[level]:.2f}", fontsize=10.5)
            _draw_kinds(grid[1, column], of_level)
        for row in (0, 1):
            grid[row, 0].set_ylabel("pictures and blocks")
            handles, labels = grid[row, len(levels) // 2].get_legend_handles_labels()
            grid[row, -1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        for axes in grid.flat:
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
            axes.set_axisbelow(True)
        figure.savefig(path, format="png")


def _draw_ratios(axes: Any, of_level: Sequence[Gates], blocks: Sequence[int], edges: NDArray[Any]) -> None:
    by_block = [torch.cat([g.ratio() for g in of_level if g.block == block]).numpy() for block in blocks]
    colours = [COLOURS[block % len(COLOURS)] for block in blocks]
    axes.hist(by_block, bins=edges, stacked=True, color=colours, label=[f"block {block + 1}" for block in blocks])
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel("gate of the finest / of the coarsest", fontsize=9)


def _draw_kinds(axes: Any, of_level: Sequence[Gates]) -> None:
    for kind, colour in zip(KINDS, COLOURS):
        values = [g.values[kind] for g in of_level if kind in g.values]
        if values:
            axes.hist(torch.cat(values).numpy(), bins=np.linspace(0, 1, 51), histtype="step", linewidth=1.6,
                      color=colour, label=kind)  # fmt: skip
    axes.set(xlabel="gate", xlim=(-0.02, 1.02))
