"""Small detectors on BCCD from random weights, each group under one budget, in one table.

    python benchmarks/bccd.py --data BCCD_FOLDER                      # group dense, one experiment after the other
    python benchmarks/bccd.py --data BCCD_FOLDER --group two_stage    # Faster, Cascade, RepPoints, with DyHead
    python benchmarks/bccd.py --data BCCD_FOLDER --group heatmap      # TTFNet-R18 and PAFNet-Lite
    python benchmarks/bccd.py --data BCCD_FOLDER --group grid         # YOLOR-S beside ATSS with DyHead
    python benchmarks/bccd.py --data BCCD_FOLDER --group transformers # EfficientDet, Swin, ViT, DETR, Deformable DETR
    python benchmarks/bccd.py --data BCCD_FOLDER --only atss_r18_fpn_dyhead --seed 1 --threads 2
    python benchmarks/bccd.py --data BCCD_FOLDER --group two_stage --measure    # speed and memory, on an idle machine

Each experiment trains in a folder of its own under --runs. A run that was stopped goes on where it was, a finished one
is only read, and one that another process is at is left to it, so several processes may share a list. After each, the
group's table in benchmarks/results is written anew from all finished runs: the metrics of every validation, the best
and the last, and the seconds spent. --measure times and weighs each model in fresh processes (see bccd_speed.py).
"""

import argparse
import fcntl
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from headway import create_model
from headway.data.formats.any_format import open_splits
from headway.train.config import TrainConfig
from headway.train.fit import fit
from headway.train.log import read_rows
from headway.train.recipes import recipe

RESULTS = Path(__file__).parent / "results"
GROUPS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {  # experiment: registered model and its arguments
    "dense": {name: (name, {}) for name in ("atss_r18_fpn_dyhead", "atss_r18_fpn")},
    "two_stage": {
        **{
            f"{family}_r18_fpn{form}": (f"{family}_r18_fpn{form}", {})
            for form in ("", "_dyhead")
            for family in ("faster_rcnn", "cascade_rcnn", "reppoints")
        },
        **{f"{f}_rcnn_r18_fpn_dyhead_roi": (f"{f}_rcnn_r18_fpn_dyhead_roi", {}) for f in ("faster", "cascade")},
        "faster_rcnn_r18_fpn-u60": ("faster_rcnn_r18_fpn", {"ious": (0.6,)}),
        "faster_rcnn_r18_fpn-u70": ("faster_rcnn_r18_fpn", {"ious": (0.7,)}),
        **{name: (name, {}) for name in ("atss_r18_fpn", "atss_r18_fpn_dyhead")},  # one stage, for reference
    },
    "heatmap": {name: (name, {"input_size": (320, 320)}) for name in ("ttfnet_r18", "pafnet_lite")},
    "grid": {"yolor_s": ("yolor_s", {"input_size": (320, 320)}), "atss_r18_fpn_dyhead": ("atss_r18_fpn_dyhead", {})},
    "transformers": {
        "efficientdet_d0": ("efficientdet_d0", {"input_size": (320, 320), "norm_momentum": 0.1, "drop_path": 0.0}),
        **{name: (name, {}) for name in ("efficientdet_tiny", "atss_swin_nano_fpn_dyhead", "atss_vit_tiny_dyhead")},
        **{name: (name, {"input_size": (320, 320)}) for name in ("detr_tiny", "deformable_detr_tiny")},
        "atss_r18_fpn_dyhead": ("atss_r18_fpn_dyhead", {}),  # for reference
    },
}
CHANGES: dict[str, dict[str, Any]] = {  # of the settings that a group shares; epochs: about 18 minutes of one core
    "efficientdet_d0": {"epochs": 16},
    "efficientdet_tiny": {"epochs": 48},
    "atss_swin_nano_fpn_dyhead": {"epochs": 20},
    "atss_vit_tiny_dyhead": {"epochs": 16},
    "detr_tiny": {"epochs": 36, "learning_rate": 3e-4},
    "deformable_detr_tiny": {"epochs": 14, "learning_rate": 2e-4},
}
TABLES = {"dense": "bccd", "two_stage": "bccd_two_stage", "heatmap": "bccd_heatmap", "grid": "bccd_grid",
          "transformers": "bccd_transformers"}  # fmt: skip
EPOCHS = {"dense": 60, "two_stage": 16, "heatmap": 24, "grid": 60, "transformers": 24}
VALIDATE_EVERY = {"transformers": 2}  # epochs; in the other groups 5
COLUMNS = (
    "run", "parameters, M", "epochs", "AP", "AP50", "AP75", "best AP", "AP50", "AP75", "at epoch",
    "half the last AP at", "in the run: images/s (threads)", "training: images/s", "MiB", "inference: images/s", "ms",
    "MiB",
)  # fmt: skip


def settings(out: Path, seed: int, epochs: int) -> TrainConfig:
    """The `small` recipe, with what is known of microscopy: no up or down, one magnification."""
    return replace(
        recipe("small"),
        out=out,
        seed=seed,
        epochs=epochs,
        vertical_flip=0.5,
        scale=(0.75, 1.35),
        precision="bf16",
        validate_every=5,
        save_every=0,
    )


def train(experiment: tuple[str, dict[str, Any]], splits: dict, config: TrainConfig) -> None:
    """Start a run or go on with it; a folder that was killed before its first save begins anew."""
    out = config.out
    resume = (out / "state").exists()
    if (out / "config.json").exists() and not resume:
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"threads": torch.get_num_threads(), "images": len(splits["train"]), "torch": torch.__version__}
    write(beside(out, "about"), json.dumps(about) + "\n")
    torch.manual_seed(config.seed)
    name, arguments = experiment
    model = create_model(name, class_names=splits["train"].class_names, **arguments)
    fit(model, splits["train"], splits["val"], config, resume=resume)


@contextmanager
def to_do(out: Path) -> Iterator[bool]:
    """Whether this run is not finished and no other process is at it; it is then ours until the end, however that
    comes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out, "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield not finished(out)


def beside(out: Path, what: str) -> Path:
    """A file next to a run folder, which belongs to the run alone."""
    return out.with_name(f"{out.name}.{what}")


def write(path: Path, text: str) -> None:
    """The file appears whole or not at all, also when two processes write it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def epochs_of(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    return [row for row in read_rows(path) if row["kind"] == "epoch"] if path.exists() else []


def finished(out: Path) -> bool:
    rows = epochs_of(out)
    return bool(rows) and rows[-1]["epoch"] >= read_json(out / "config.json")["epochs"]


def seeds_of(runs: Path, name: str, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
    """{seed: what the last epoch has of the metrics, epoch, seconds and threads} of the finished runs
    <runs>/NAME-seedN."""
    found = {}
    for out in sorted(path for path in runs.glob(f"{name}-seed*") if path.is_dir() and finished(path)):
        last = epochs_of(out)[-1]
        row = {key: last[key] for key in (*metrics, "seconds", "epoch") if last.get(key) is not None}
        row["threads"] = read_json(beside(out, "about")).get("threads", 0)
        found[out.name.rpartition("-seed")[2]] = row
    return found


def spread(values: list[float]) -> str:
    """The highest less the lowest, where there are several."""
    return f"{max(values) - min(values):.3f}" if len(values) > 1 else "-"


def measure(name: str, experiment: tuple[str, dict[str, Any]], data: Path, out: Path) -> None:
    """Speed and memory of training and of inference, each in a process of its own, into <runs>/NAME.measured."""
    parts = {}
    for part in ("training", "inference"):
        command = [sys.executable, str(Path(__file__).with_name("bccd_speed.py")), part, json.dumps(experiment),
                   str(data), str(out / "last.safetensors"), str(torch.get_num_threads())]  # fmt: skip
        parts[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out.with_name(f"{name}.measured"), json.dumps(parts, indent=1) + "\n")
    print(name, parts, flush=True)


def collect(runs: Path, group: str) -> dict[str, dict[str, Any]]:
    """Every finished run of the group, in its order, and what was measured of its model."""
    table = {}
    for name in GROUPS[group]:
        for out in sorted(path for path in runs.glob(f"{name}-seed*") if path.is_dir()):
            if not finished(out):
                continue
            rows = epochs_of(out)
            curve = [row for row in rows if "ap" in row]
            ends = [0.0, *(row["seconds"] for row in rows)]
            table[out.name] = {
                "config": read_json(out / "config.json"),
                "seconds": rows[-1]["seconds"],
                "seconds_per_epoch": statistics.median(b - a for a, b in pairwise(ends)),
                "about": read_json(beside(out, "about")),
                "measured": read_json(runs / f"{name}.measured"),
                "best": max(curve, key=lambda row: row["ap"]),
                "last": curve[-1],
                "curve": curve,
            }
    return table


def write_table(runs: Path, group: str, note: str | None) -> None:
    """The group's .json and .md in benchmarks/results. note: None keeps the one that is there."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{TABLES[group]}.json"
    if note is None:
        note = read_json(path).get("hardware", {}).get("note", "")
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": note}
    table = collect(runs, group)
    write(path, json.dumps({"hardware": hardware, "runs": table}, indent=1, default=str) + "\n")
    about = f"torch {hardware['torch']}, {hardware['machine']}. {hardware['note']}"
    lines = ["# BCCD val, from random weights", "", about, ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row(name, run))} |" for name, run in table.items()]
    lines += ["", "AP: of the last validation, then of the best one; half the last AP: the first "
              "epoch whose validation has that much. Speed and memory columns are explained at the top "
              "of benchmarks/bccd_speed.py; a dash was not measured."]  # fmt: skip
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def row(name: str, run: dict[str, Any]) -> list[str]:
    best, last, about = run["best"], run["last"], run["about"]
    ap = [f"{r[key]:.3f}" for r in (last, best) for key in ("ap", "ap50", "ap75")]
    training, inference = (run["measured"].get(part, {}) for part in ("training", "inference"))

    def number(part: dict[str, float], key: str, form: str = ".1f", scale: float = 1.0) -> str:
        return f"{part[key] * scale:{form}}" if key in part else "-"

    speed = f"{about['images'] / run['seconds_per_epoch']:.1f} ({about['threads']})" if about else "-"
    return [
        name, number(training, "parameters", ".2f", 1e-6), str(last["epoch"]), *ap, str(best["epoch"]),
        str(next(r["epoch"] for r in run["curve"] if 2 * r["ap"] >= last["ap"])), speed,
        number(training, "images_per_s"), number(training, "peak_mib", ".0f"),
        number(inference, "images_per_s"), number(inference, "ms"), number(inference, "peak_mib", ".0f"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--group", choices=list(GROUPS), default="dense")
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default runs/ and the name of the table")
    parser.add_argument("--only", nargs="*", help="of the group's experiments, these")
    parser.add_argument("--epochs", type=int, help=f"by default {EPOCHS}, and what CHANGES says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    parser.add_argument("--measure", action="store_true", help="measure speed and memory instead of training")
    arguments = parser.parse_args()
    group, runs = GROUPS[arguments.group], arguments.runs or Path("runs") / TABLES[arguments.group]
    names = list(group) if arguments.only is None else arguments.only
    if unknown := set(names) - set(group):
        parser.error(f"--group {arguments.group} has no {', '.join(sorted(unknown))}, but {', '.join(group)}")
    torch.set_num_threads(arguments.threads)
    splits = open_splits(arguments.data)
    for name in [] if arguments.table else names:
        out = runs / f"{name}-seed{arguments.seed}"
        if arguments.measure:
            measure(name, group[name], arguments.data, out)
        else:
            with to_do(out) as ours:
                if ours:
                    config = settings(out, arguments.seed, EPOCHS[arguments.group])
                    every = VALIDATE_EVERY.get(arguments.group, config.validate_every)
                    config = replace(config, validate_every=every, **CHANGES.get(name, {}))
                    train(group[name], splits, replace(config, epochs=arguments.epochs or config.epochs))
        write_table(runs, arguments.group, arguments.note)
    write_table(runs, arguments.group, arguments.note)


if __name__ == "__main__":
    main()
