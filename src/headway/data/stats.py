"""What is in a data set, as numbers and as one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..drawing import class_colour, draw_boxes
from ..errors import DataError
from .dataset import DetectionData, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL, MEDIUM = 32.0**2, 96.0**2  # COCO's limits of `area`, in pixels
_SIZES = ("small", "medium", "large")
_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}
_SHOWN_CLASSES = 30
_INK, _GREY, _BLUE = "#1f2933", "#7b8794", "#2b6cb0"


def stats(data: DetectionData) -> dict[str, Any]:
    """Counts and distributions of one split, ready for JSON; crowd regions are counted apart and enter nothing else.

    box_size is the square root of width x height in pixels, relative_size the same as a share of the picture's,
    aspect is width / height.
    """
    boxes, labels, areas, pictures = _objects(data)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    per_class = np.bincount(labels, minlength=len(data.class_names))
    images_with = np.zeros(len(data.class_names), dtype=np.int64)
    for record in data.records:
        images_with[np.unique(record.labels[~record.crowd])] += 1
    per_image = np.array([int((~record.crowd).sum()) for record in data.records])
    sizes = Counter(f"{record.size[1]}x{record.size[0]}" for record in data.records if record.size)
    return {
        "name": data.name,
        "root": str(data.root),
        "format": data.format,
        "images": len(data),
        "boxes": len(boxes),
        "crowd": data.num_crowd,
        "images_without_boxes": int((per_image == 0).sum()),
        "boxes_per_image": {"mean": round(float(per_image.mean()), 3) if len(per_image) else 0.0, **_spread(per_image)},
        "classes": [
            {"name": name, "boxes": int(count), "images": int(images)}
            for name, count, images in zip(data.class_names, per_class, images_with)
        ],
        "sizes": dict(zip(_SIZES, np.histogram(areas, (0, SMALL, MEDIUM, np.inf))[0].tolist())),
        "box_size": _spread(_sides(boxes)),
        "relative_size": _spread(_sides(boxes[pictures > 0].astype(np.float64)) / pictures[pictures > 0] ** 0.5),
        "aspect": _spread(width / height),
        "image_sizes": dict(sizes.most_common(10)),
    }


def _objects(data: DetectionData) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Boxes [M, 4], labels [M], areas [M] and the area of the picture [M] (0: unknown) of all images, without crowd
    regions."""
    pictures = [np.full(len(r.boxes), r.size[0] * r.size[1] if r.size else 0) for r in data.records]
    rows = [(r.boxes, r.labels, r.areas, area, r.crowd) for r, area in zip(data.records, pictures)]
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0), np.zeros(0, bool)
    boxes, labels, areas, sizes, crowd = (np.concatenate(column) for column in zip(empty, *rows))
    return boxes[~crowd], labels[~crowd], areas[~crowd], sizes[~crowd]


def _sides(boxes: NDArray[Any]) -> NDArray[Any]:
    """Square root of width x height."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _spread(values: NDArray[Any]) -> dict[str, float]:
    """Smallest, quantiles and largest; empty for no values."""
    if len(values) == 0:
        return {}
    ends = {"min": float(values.min()), "max": float(values.max())}
    spread = {"min": ends["min"], **{name: float(np.quantile(values, q)) for name, q in _QUANTILES.items()}, **ends}
    return {name: round(value, 4) for name, value in spread.items()}


def draw_stats(data: DetectionData, out_png: str | Path, *, samples: int = 6, seed: int = 0) -> Path:
    """One picture of class counts, box sizes and shapes, and sample images with their boxes.

    samples: how many images, drawn by `seed`, those with boxes first; one that cannot be read is passed over.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = _choose(data, samples, seed)
    rows = -(-len(shown) // 3)
    height = 5.2 + 3.6 * rows
    spacing = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.03, wspace=0.03)
    figure = Figure(figsize=(15, height), dpi=110, facecolor="white", layout=spacing)
    numbers = stats(data)
    figure.suptitle(_title(numbers), fontsize=13, color=_INK, ha="left", x=0.012)
    parts = figure.subfigures(1 + (rows > 0), 1, height_ratios=(5.0, 3.6 * rows)[: 1 + (rows > 0)], squeeze=False)[:, 0]
    left, middle, right = parts[0].subplots(1, 3, width_ratios=(1.15, 1, 1))
    _draw_classes(left, numbers["classes"])
    boxes, labels, *_ = _objects(data)
    _draw_sizes(middle, boxes)
    _draw_shapes(right, boxes, labels)
    if rows:
        _draw_samples(parts[1], shown, rows, data.class_names)
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _title(numbers: dict[str, Any]) -> str:
    counted = ((numbers["images"], "image"), (numbers["boxes"], "box"), (len(numbers["classes"]), "class"))
    parts = [_count(number, noun) for number, noun in counted]
    if numbers["boxes_per_image"]["mean"]:
        parts.append(f"{numbers['boxes_per_image']['mean']:.1f} boxes per image")
    if empty := numbers["images_without_boxes"]:
        parts.append(f"{_count(empty, 'image')} without boxes")
    if crowd := numbers["crowd"]:
        parts.append(_count(crowd, "crowd region"))
    return f"{Path(numbers['root']).resolve().name}, {numbers['name']} ({numbers['format']}): {', '.join(parts)}"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith(("x", "s")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, color=_INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, labelsize=9)


def _draw_classes(axes: Axes, classes: Sequence[dict[str, Any]]) -> None:
    """Bars by count, the most frequent on top, in each class's colour; a long tail is summed up."""
    order = sorted(range(len(classes)), key=lambda i: -classes[i]["boxes"])
    shown, rest = order[:_SHOWN_CLASSES], order[_SHOWN_CLASSES:]
    counts = [classes[i]["boxes"] for i in shown]
    names = [_short(classes[i]["name"]) for i in shown]
    colours: list[Any] = [tuple(v / 255 for v in class_colour(i)) for i in shown]
    if rest:
        tail, empty = sum(classes[i]["boxes"] for i in rest), sum(classes[i]["boxes"] == 0 for i in rest)
        counts.append(tail)
        names.append(f"{len(rest)} others" + (f" ({empty} without boxes)" if empty else ""))
        colours.append(_GREY)
    _style(axes, "Boxes per class")
    bars = axes.barh(range(len(counts)), counts, color=colours, height=min(0.8, 0.12 * max(len(counts), 4)))
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=9 if len(counts) < 20 else 7)
    axes.set_yticks(range(len(counts)), names, fontsize=9 if len(counts) < 20 else 7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _draw_sizes(axes: Axes, boxes: NDArray[np.float32]) -> None:
    """Histogram of sqrt(width x height), with COCO's limits of small and medium."""
    _style(axes, "Box size, √(width x height) in pixels")
    sides = _sides(boxes)
    if len(sides) == 0:
        axes.text(0.5, 0.5, "no boxes", transform=axes.transAxes, ha="center", color=_GREY)
        return
    low, high = max(min(float(sides.min()), 16.0), 1.0), max(float(sides.max()), 128.0)
    axes.hist(sides, bins=np.geomspace(low, high * 1.001, 33).tolist(), color=_BLUE, edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    ticks = [2**i for i in range(0, 14) if low <= 2**i <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("boxes", fontsize=9, color=_INK)
    axes.margins(y=0.12)
    limits = (low, SMALL**0.5, MEDIUM**0.5, high)
    shares = np.histogram(sides, (0, *limits[1:3], np.inf))[0] / len(sides)
    for name, share, start, end in zip(_SIZES, shares, limits, limits[1:]):
        axes.text(np.sqrt(start * end), 0.97, f"{name}\n{share:.0%}", transform=axes.get_xaxis_transform(), ha="center",
                  va="top", fontsize=9, color=_GREY)  # fmt: skip
    for limit in limits[1:3]:
        axes.axvline(limit, color=_GREY, linestyle="--", linewidth=1)


def _draw_shapes(axes: Axes, boxes: NDArray[np.float32], labels: NDArray[np.int64], most: int = 5000) -> None:
    """Width against height in each class's colour, rare classes on top; at most `most` boxes, evenly taken."""
    _style(axes, "Box shape, width and height in pixels")
    if len(boxes) == 0:
        return
    step = max(1, -(-len(boxes) // most))
    boxes, labels = boxes[::step], labels[::step]
    order = np.argsort(-np.bincount(labels)[labels], kind="stable")
    boxes, labels = boxes[order], labels[order]
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    palette = np.array([class_colour(label) for label in range(int(labels.max()) + 1)]) / 255
    axes.scatter(width, height, s=10, c=palette[labels], alpha=0.6, linewidths=0)
    limit = max(float(width.max()), float(height.max())) * 1.04
    for ratio, name in ((1, "1:1"), (2, "2:1"), (0.5, "1:2")):
        end = (limit, limit / ratio) if ratio >= 1 else (limit * ratio, limit)
        axes.plot((0, end[0]), (0, end[1]), color=_GREY, linewidth=0.8, linestyle=":")
        place: Any = {"ha": "right", "va": "top", "xytext": (-2, -2), "textcoords": "offset points"}
        axes.annotate(name, end, fontsize=8, color=_GREY, **place)
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.set_xlabel("width", fontsize=9, color=_INK)
    axes.set_ylabel("height", fontsize=9, color=_INK)


def _choose(data: DetectionData, count: int, seed: int) -> list[tuple[Record, Image.Image]]:
    """Records and their pictures, scaled so that text stays legible."""
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    order.sort(key=lambda i: len(data.records[i].boxes) == 0)
    chosen: list[tuple[Record, Image.Image]] = []
    for i in order:
        if len(chosen) == count:
            break
        with suppress(DataError):
            pixels = data.records[i].sample().image
            chosen.append((data.records[i], Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())))
    return chosen


def _draw_samples(
    figure: Any, shown: Sequence[tuple[Record, Image.Image]], rows: int, names: Sequence[str], side: int = 500
) -> None:
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (record, picture) in zip(grid, shown):
        scale = side / max(picture.size)
        size = tuple(max(1, round(v * scale)) for v in picture.size)
        scaled = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        axes.imshow(draw_boxes(scaled, record.boxes * scale, record.labels, names), interpolation="lanczos")
        axes.set_title(f"{_short(record.path.name)}  ·  {_count(len(record.boxes), 'box')}", fontsize=9, color=_INK)
