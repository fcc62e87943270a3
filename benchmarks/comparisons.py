"""Lists of models for `headway compare`: heads on one data set, the tables of the Dynamic Head paper, the forms of
implicit knowledge, PAFNet's tricks.

    python benchmarks/comparisons.py dense --data BCCD_FOLDER                 # trains what has not run
    python benchmarks/comparisons.py ablation --data BCCD_FOLDER --epochs 48 --seeds 3 --threads 1
    python benchmarks/comparisons.py ablation --data BCCD_FOLDER --table      # only the table of what has finished

A run that was stopped goes on, a finished one is only read, and several processes may share a list. The tables in
benchmarks/results from before this script (bccd*, dyhead_tables, heatmap_tricks, implicit, full_head, multitask) were
made by scripts that stand in the history: `git show 4027a7e:benchmarks/bccd.py`, and so on (results/README.md).
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch

import headway

Models = dict[str, str | tuple[str, dict[str, Any]]]
SMALL: dict[str, Any] = {"input_size": (320, 320)}
# What is known of microscopy: no up or down, one magnification.
SETTINGS: dict[str, Any] = {"vertical_flip": 0.5, "scale": (0.75, 1.35), "precision": "bf16", "validate_every": 5}
R18, LITE = "resnet18/fpn", "tf_efficientnet_lite0/fpn"
DYHEAD: dict[str, Any] = {"fpn.channels": 64, "dyhead.blocks": 2}
HEADS = ("retinanet", "fcos", "atss", "reppoints", "faster_rcnn", "cascade_rcnn")


def published(*names: str, **arguments: Any) -> Models:
    return {name: (name, arguments) for name in names}


def ablation() -> Models:
    """Table 1 of the paper, in both forms: every combination of scale (L), spatial (S) and task (C) attention."""
    rows: Models = {"towers": (f"{R18}/atss", {"fpn.channels": 64})}
    for form, *flags in product(("released", "paper"), *[(False, True)] * 3):
        letters = "".join(letter for letter, on in zip("LSC", flags) if on) or "none"
        switches = dict(zip(("dyhead.scale", "dyhead.spatial", "dyhead.task"), flags))
        rows[f"{form} {letters}"] = f"{R18}/dyhead/atss", {**DYHEAD, "dyhead.form": form, **switches}
    return rows


def depth() -> Models:
    """Table 2, in both forms: the number of blocks."""
    rows: Models = {"towers": (f"{R18}/atss", {"fpn.channels": 64})}
    for form, blocks in product(("released", "paper"), (1, 2, 4, 6, 8, 10)):
        rows[f"{form} {blocks}"] = f"{R18}/dyhead/atss", {**DYHEAD, "dyhead.form": form, "dyhead.blocks": blocks}
    return rows


def generalisation() -> Models:
    """Table 3 and more: every head without and with a Dynamic Head."""
    rows: Models = {}
    for head in HEADS:
        rows[head] = f"{R18}/{head}", {"fpn.channels": 64}
        rows[f"dyhead {head}"] = f"{R18}/dyhead/{head}", DYHEAD
    return rows


LISTS: dict[str, tuple[int, Models]] = {  # epochs of about twenty minutes of one core each, and the models
    "dense": (60, published("atss_r18_fpn_dyhead", "atss_r18_fpn")),
    "two_stage": (16, published(
        *(f"{family}_r18_fpn{form}" for form in ("", "_dyhead") for family in ("faster_rcnn", "cascade_rcnn")),
        "reppoints_r18_fpn", "reppoints_r18_fpn_dyhead", "faster_rcnn_r18_fpn_dyhead_roi", "atss_r18_fpn",
    )),
    "heatmap": (24, published("ttfnet_r18", "pafnet_lite", **SMALL)),
    "grid": (60, {"yolor_s": ("yolor_s", SMALL), "atss_r18_fpn_dyhead": "atss_r18_fpn_dyhead"}),
    "transformers": (24, {
        **published("efficientdet_tiny", "atss_swin_nano_fpn_dyhead", "atss_vit_tiny_dyhead", "atss_r18_fpn_dyhead"),
        **published("detr_tiny", "deformable_detr_tiny", **SMALL),
    }),
    "ablation": (16, ablation()),
    "depth": (16, depth()),
    "generalisation": (16, generalisation()),
    "forms": (16, {"flat": (f"{R18}/dyhead/atss", DYHEAD), "paper": (
        f"{R18}/dyhead/atss", {**DYHEAD, "dyhead.form": "paper"}
    ), **{mode: (f"{R18}/dyhead/atss", {**DYHEAD, "dyhead.high_offset": mode}) for mode in (
        "crop", "resize", "upsample_first"
    )}}),
    "start": (8, {name: (path, {"backbone.weights": True, "fpn.channels": 64, "input_size": (192, 256), **more})
                  for name, path, more in (
        ("towers", f"{LITE}/atss", {}),
        ("no towers", f"{LITE}/atss", {"head.tower_depth": 0}),
        ("dyhead, begins with all", f"{LITE}/dyhead/atss", {"dyhead.blocks": 2, "dyhead.start": "all"}),
        ("dyhead, begins with its level", f"{LITE}/dyhead/atss", {"dyhead.blocks": 2}),
        ("the same, a tower of 1", f"{LITE}/dyhead/atss", {"dyhead.blocks": 2, "head.tower_depth": 1}),
    )}),
    "heatmap_tricks": (12, {
        "plain": ("ttfnet_r18", {"deformable": False, "input_size": (224, 224)}),
        "ags": ("ttfnet_r18", {"deformable": False, "ags": "gaussian", "input_size": (224, 224)}),
        "dcn": ("ttfnet_r18", {"input_size": (224, 224)}),
    }),
    "implicit": (20, {
        f"{align or 'no'} before, {refine or 'no'} after": (
            "yolor_s", {"align": align, "refine": refine, "input_size": (192, 192)}
        ) for align, refine in product((None, "add", "mul", "concat"), (None, "add", "mul"))
    }),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", choices=LISTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder of the runs and the table; by default runs/ and the list")
    parser.add_argument("--epochs", type=int, help="by default the list's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="only write the table of what has finished")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    epochs, models = LISTS[options.list]
    table = headway.compare(
        models, options.data, seeds=options.seeds, epochs=options.epochs or epochs, only_table=options.table,
        out=options.out or Path("runs") / options.list, **SETTINGS,
    )  # fmt: skip
    print(table.markdown())


if __name__ == "__main__":
    main()
