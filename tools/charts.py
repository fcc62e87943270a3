"""The charts of the documentation: every number is read from benchmarks/results or from the tables of
published models."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyhead_curves import draw_curves
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from headway.demo import ASSETS
from headway.models.weights import ROWS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BLUE, ORANGE, GREEN, GREY, INK = "#0072b2", "#d55e00", "#009e73", "#8794a3", "#1f2933"
SPLIT = "BCCD val, random weights, within 320 x 320"
TO_THE_LEFT = ("faster_rcnn_r18_fpn-seed0", "cascade_rcnn_r18_fpn_dyhead-seed0")  # labels that would meet others
FAMILIES = {
    "retinanet": "RetinaNet", "fcos": "FCOS", "atss": "ATSS", "reppoints": "RepPoints", "efficientdet": "EfficientDet",
    "faster_rcnn": "Faster R-CNN", "cascade_rcnn": "Cascade R-CNN", "detr": "DETR",
    "deformable_detr": "Deformable DETR", "yolor": "YOLOR", "yolov4": "YOLOv4",
}  # fmt: skip


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def new(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=10)
    return figure, axes


def bars(path: Path, rows: Mapping[str, Sequence[float]], caption: str, marked: Sequence[str] = ()) -> None:
    """A bar of the mean AP for each row, best first, with a dot for each seed where there are several."""
    order = sorted(rows, key=lambda name: sum(rows[name]) / len(rows[name]))
    figure, axes = new(8.2, 0.9 + 0.36 * len(rows))
    for y, name in enumerate(order):
        values = rows[name]
        mean = sum(values) / len(values)
        axes.barh(y, mean, 0.66, color=ORANGE if name in marked else BLUE, alpha=0.85)
        if len(values) > 1:
            axes.plot(values, [y] * len(values), "o", color=INK, markersize=4)
        axes.text(max(values) + 0.008, y, f"{mean:.3f}", va="center", fontsize=10, color=INK)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlim(0, max(map(max, rows.values())) * 1.12)
    axes.set_title(caption, color=GREY, fontsize=9.5, loc="left")
    axes.tick_params(axis="y", length=0)
    figure.savefig(path)


def last_ap(name: str) -> dict[str, list[float]]:
    """AP of the last validation of each run, labelled by model and epochs."""
    runs = read(name)["runs"].items()
    return {f"{run.removesuffix('-seed0')}, {row['last']['epoch']} epochs": [row["last"]["ap"]] for run, row in runs}


def seeds_ap(name: str, rename: Mapping[str, str] = {}) -> dict[str, list[float]]:
    return {
        rename.get(k, k): [row["ap"] for row in runs.values() if "ap" in row] for k, runs in read(name)["runs"].items()
    }


def transformers(path: Path) -> None:
    bars(path, last_ap("bccd_transformers"), f"AP on {SPLIT};\nabout 18 minutes of one core each, one seed")


def two_stage(path: Path) -> None:
    rows = {k: v for k, v in last_ap("bccd_two_stage").items() if "-u" not in k}
    bars(path, rows, f"AP on {SPLIT};\none seed: differences below about 0.02 are not established")


def tricks(path: Path) -> None:
    caption = "AP of TTFNet-R18 on BCCD val at 224 x 224, 12 epochs; dots: three seeds"
    bars(path, seeds_ap("heatmap_tricks"), caption, marked=["plain"])


def implicit(path: Path) -> None:
    caption = "AP of YOLOR-S on BCCD val at 192 x 192, 20 epochs; dots: two seeds"
    bars(path, seeds_ap("implicit"), caption, marked=["none"])


def full_head(path: Path) -> None:
    caption = "AP of ATSS-R18 on BCCD val at 192 x 192, 12 epochs; dots: three seeds"
    bars(path, seeds_ap("full_head", {"dyhead": "Dynamic Head", "full": "FullHead"}), caption)


def multitask(path: Path) -> None:
    rows = {name: values for name, values in seeds_ap("multitask").items() if values}
    marked = ["detect", "detect, plain"]
    bars(path, rows, "AP on quarters of BCCD's pictures, 8 epochs, one seed; plain: without implicit values", marked)


def speed(path: Path) -> None:
    """Inference time over AP of everything trained on BCCD for 14 to 60 epochs."""
    figure, axes = new(8.6, 5.0)
    for name in ("bccd_grid", "bccd_heatmap", "bccd_transformers", "bccd_two_stage"):
        for run, row in read(name)["runs"].items():
            if (
                "inference" not in row.get("measured", {})
                or row["last"]["ap"] < 0.1
                or (name == "bccd_transformers" and "atss_r18" in run)
            ):
                continue
            ms, ap, epochs = row["measured"]["inference"]["ms"], row["last"]["ap"], row["last"]["epoch"]
            colour = ORANGE if "dyhead" in run else BLUE
            axes.scatter(ms, ap, s=24 + 1.5 * epochs, color=colour, alpha=0.85)
            label = f"{run.removesuffix('-seed0').replace('_fpn', '')} · {epochs}"
            left = run in TO_THE_LEFT
            place = {"xytext": (-6, 4) if left else (6, 4), "ha": "right" if left else "left"}
            axes.annotate(label, (ms, ap), **place, textcoords="offset points", fontsize=8.5, color=INK)
    axes.set_xlim(20, 145)
    axes.set_xlabel("milliseconds a picture, two threads of a CPU", color=INK)
    axes.set_ylabel("AP", color=INK)
    axes.grid(alpha=0.25)
    note = f"{SPLIT}, one seed. Behind a name: epochs. Orange: with Dynamic Head"
    axes.set_title(note, fontsize=9, color=GREY, loc="left")
    figure.savefig(path)


def published(path: Path) -> None:
    """Published AP of all tags over their multiply-adds."""
    counts = json.loads((ASSETS / "model_counts.json").read_text(encoding="utf-8"))
    figure, axes = new(8.6, 5.0)
    styles = [(colour, marker) for marker in "os^D" for colour in (BLUE, ORANGE, GREEN, GREY)]
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in ROWS:
        ap, macs = row.metrics.get("AP"), counts.get(row.model, {}).get("macs")
        if ap and macs:
            family = next(
                (v for k, v in sorted(FAMILIES.items(), key=lambda p: -len(p[0])) if row.model.startswith(k)),
                "heat maps",
            )
            groups.setdefault(family + (" + Dynamic Head" if "dyhead" in row.model else ""), []).append(
                (macs / 1e9, ap)
            )
    for (family, places), (colour, marker) in zip(sorted(groups.items()), styles):
        axes.scatter(*zip(*places), color=colour, marker=marker, s=34, alpha=0.85, label=family)
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of one picture, in billions", color=INK)
    axes.set_ylabel("published AP, COCO val2017", color=INK)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def parts(path: Path) -> None:
    """A detector as a path of parts."""
    figure, axes = new(9.0, 1.9)
    axes.axis("off")
    axes.set(xlim=(0, 9), ylim=(0, 1.9))
    boxes = [("picture", "uint8", GREY), ("resnet18", "backbone", BLUE), ("fpn", "neck", GREEN),
             ("dyhead", "neck", GREEN), ("atss", "head", ORANGE), ("boxes", "scores, labels", GREY)]  # fmt: skip
    flows = ["", "C3 C4 C5", "P3 .. P7", "P3 .. P7", ""]
    for i, (name, kind, colour) in enumerate(boxes):
        x = 0.1 + 1.53 * i
        style = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 0}
        axes.add_patch(FancyBboxPatch((x, 0.6), 1.05, 0.8, facecolor=colour, alpha=0.9, **style))
        axes.text(x + 0.52, 1.1, name, ha="center", va="center", color="white", fontsize=12, weight="bold")
        axes.text(x + 0.52, 0.8, kind, ha="center", va="center", color="white", fontsize=9)
        if i < len(flows):
            arrow = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK}
            axes.add_patch(FancyArrowPatch((x + 1.08, 1.0), (x + 1.52, 1.0), **arrow))
            axes.text(x + 1.3, 0.36, flows[i], ha="center", fontsize=9, color=INK)
    axes.text(4.5, 1.68, "resnet18/fpn/dyhead/atss", ha="center", family="monospace", fontsize=12, color=INK)
    figure.savefig(path)


def jobs(path: Path) -> None:
    """A job: plan, shards, whoever works on them, parts, and one result."""
    figure, axes = new(9.0, 2.6)
    axes.axis("off")
    axes.set(xlim=(0, 9), ylim=(0, 2.6))
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 0, "alpha": 0.9}

    def box(x: float, y: float, width: float, text: str, colour: str, size: float = 10) -> None:
        axes.add_patch(FancyBboxPatch((x, y), width, 0.5, facecolor=colour, **style))
        axes.text(x + width / 2, y + 0.25, text, ha="center", va="center", color="white", fontsize=size)

    box(0.1, 1.05, 1.1, "pictures", GREY)
    box(1.7, 1.05, 1.1, "plan", BLUE)
    for row, who in enumerate(("process", "Ray actor", "array task")):
        y = 1.9 - 0.85 * row
        box(3.3, y, 1.1, f"shard {row}", GREEN)
        box(4.7, y, 1.2, who, ORANGE)
        box(6.2, y, 1.1, f"part {row}", GREEN)
        axes.plot([2.85, 3.25], [1.3, y + 0.25], color=INK, linewidth=1)
        axes.plot([7.35, 7.7], [y + 0.25, 1.3], color=INK, linewidth=1)
    box(7.75, 1.05, 1.15, "predictions", BLUE)
    axes.plot([1.25, 1.65], [1.3, 1.3], color=INK, linewidth=1)
    figure.savefig(path)


def dyhead_curves(path: Path) -> None:
    """AP over epochs with and without a Dynamic Head, of the finished runs of `benchmarks/claims.py`."""
    draw_curves(read("claims_runs"), path)


CHARTS: dict[str, Callable[[Path], None]] = {
    f"{chart.__name__}.png": chart
    for chart in (
        transformers,
        two_stage,
        tricks,
        implicit,
        full_head,
        multitask,
        speed,
        published,
        parts,
        jobs,
        dyhead_curves,
    )
}
