"""Detection with tags and with embeddings in one network, against a network for each task, from random weights.

    python benchmarks/multitask.py --data BCCD_FOLDER                      # everything that has not run
    python benchmarks/multitask.py --data BCCD_FOLDER --only detect detect+tags --seeds 0 --threads 1
    python benchmarks/multitask.py --data BCCD_FOLDER --measure --threads 1    # milliseconds, on an idle machine
    python benchmarks/multitask.py --data BCCD_FOLDER --table

The pictures are the quarters of BCCD's: of the whole ones nearly all have red and white cells (83 and 86 of 87 in val),
so that their tags say nothing; of the quarters a fifth has a white cell and a fifth a platelet. They are written to
--runs once. Boxes of which less than half lies in a quarter are no objects of it.

Every model is a YOLOR-S of half the width and sees the same pictures, each twice in a batch (what embeddings learn
from). Each comes with implicit knowledge, also of each task, and without any ("plain"). All twelve take about two hours
on two cores, a process with --threads 1 on each. A run that was stopped goes on where it was, a finished one is only
read, and one that another process is at is left to it. The table in benchmarks/results has the mean over seeds of the
last validation and, where there are several, the spread (highest less lowest).
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bccd import RESULTS, read_json, seeds_of, settings, to_do, train, write
from torchvision.io import write_png

from headway import create_model, load
from headway.data.batch import to_model_input
from headway.data.dataset import DetectionData, Record
from headway.data.formats.any_format import open_splits
from headway.data.image import read_image
from headway.data.loader import make_loader
from headway.profile import count_parameters

MODEL = "yolor_s"
BASE: dict[str, Any] = {"width": 0.25, "input_size": (192, 256)}
TASKS: dict[str, dict[str, Any]] = {
    "detect": {},
    "tags": {"tags": True, "detect": False},
    "embed": {"embedding": 64, "detect": False},
    "detect+tags": {"tags": True},
    "detect+embed": {"embedding": 64},
    "detect+tags+embed": {"tags": True, "embedding": 64},
}
PLAIN: dict[str, Any] = {"align": None, "refine": None}
MODELS = {**TASKS, **{f"{name}, plain": {**arguments, **PLAIN} for name, arguments in TASKS.items()}}
METRICS = {"ap": "AP", "ap50": "AP50", "tag_map": "tag mAP", "rank1": "rank-1", "retrieval_map": "retrieval mAP"}
MIN_VISIBLE, ROUNDS = 0.5, 15


def quarters(data: DetectionData, folder: Path) -> DetectionData:
    """Every picture in four, left to right and top to bottom; the files are written where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for record in data.records:
        picture = None
        height, width = record.size or tuple(read_image(record.path).shape[1:])
        for part in range(4):
            top, left = part // 2 * (height // 2), part % 2 * (width // 2)
            path = folder / f"{record.path.stem}-{part}.png"
            if not path.exists():
                picture = read_image(record.path) if picture is None else picture
                temporary = path.with_name(f".{path.name}")
                write_png(picture[:, top : top + height // 2, left : left + width // 2].contiguous(), str(temporary))
                temporary.replace(path)
            window = np.array([left, top, left + width // 2, top + height // 2], np.float32)
            cut = np.concatenate(
                [np.maximum(record.boxes[:, :2], window[:2]), np.minimum(record.boxes[:, 2:], window[2:])], 1
            )
            areas = np.prod(np.clip(cut[:, 2:] - cut[:, :2], 0, None), 1)
            seen = areas >= MIN_VISIBLE * np.prod(record.boxes[:, 2:] - record.boxes[:, :2], 1)
            records.append(
                Record(
                    len(records) + 1, path, (height // 2, width // 2), (cut - window[[0, 1, 0, 1]])[seen],
                    record.labels[seen], record.crowd[seen], areas[seen],
                )
            )  # fmt: skip
    return replace(data, root=folder, records=records)


def folder_of(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name.replace(', ', '_').replace('+', '_')}-seed{seed}"


def measure(runs: Path, seeds: list[int], data: DetectionData) -> None:
    """Milliseconds of `detect` on one picture, the median over rounds in which every trained model has its turn, so
    that what else the machine does meets all alike."""
    models = {}
    for name in MODELS:
        found = [out for seed in seeds if (out := folder_of(runs, name, seed) / "last.safetensors").exists()]
        if found:
            models[name] = load(found[0]).eval()
    if not models:
        raise SystemExit(f"no trained model in {runs}: train first, then measure")
    batch = next(iter(make_loader(data, next(iter(models.values())).card, batch_size=1, train=False)))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.detect(to_model_input(batch, "cpu"), batch.sizes)
            if turn:  # the first folds the network
                seconds[name].append(time.perf_counter() - start)
    content = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    write(runs / "measured.json", json.dumps({"threads": torch.get_num_threads(), "ms": content}, indent=1) + "\n")


def collect(runs: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {seed: last metrics and seconds}} of the finished runs."""
    found = {name: seeds_of(runs, folder_of(runs, name, 0).name.removesuffix("-seed0"), METRICS) for name in MODELS}
    return {name: seeds for name, seeds in found.items() if seeds}


def count(name: str, num_classes: int) -> int:
    with torch.device("meta"):
        return count_parameters(create_model(MODEL, num_classes=num_classes, **BASE, **MODELS[name]))


def count_tags(data: DetectionData) -> dict[str, int]:
    """Pictures that have each class."""
    return {
        name: int(sum(bool((record.labels == label).any()) for record in data.records))
        for label, name in enumerate(data.class_names)
    }


def write_table(results: Path, runs: Path, splits: dict[str, DetectionData], note: str | None) -> None:
    results.mkdir(parents=True, exist_ok=True)
    path = results / "multitask.json"
    if note is None:
        note = read_json(path).get("hardware", {}).get("note", "")
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": note}
    table, measured = collect(runs), read_json(runs / "measured.json")
    num_classes = len(splits["train"].class_names)
    tags = {split: count_tags(data) for split, data in splits.items()}
    content = {"hardware": hardware, "model": [MODEL, BASE], "models": MODELS, "measured": measured, "runs": table,
               "images": {split: len(data) for split, data in splits.items()}, "tags": tags}  # fmt: skip
    write(path, json.dumps(content, indent=1) + "\n")
    shares = ", ".join(f"{name} in {number}" for name, number in tags["val"].items())
    columns = ["model", "parameters", "ms", "seeds", "epochs", *METRICS.values()]
    lines = ["# Several tasks in one network, YOLOR-S of half the width on quarters of BCCD's pictures", "",
             f"torch {hardware['torch']}, {hardware['machine']}. {note}", "",
             f"Of {len(splits['val'])} pictures in val: {shares}. ms: `detect` on one picture, folded"
             + (f", {measured['threads']} thread(s)." if measured else ", not measured."), "",
             f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]  # fmt: skip
    for name, seeds in table.items():
        ms = measured.get("ms", {}).get(name)
        cells = [name, f"{count(name, num_classes):,}", f"{ms:.1f}" if ms else "-", ", ".join(seeds)]
        cells.append(str(max(int(row["epoch"]) for row in seeds.values())))
        for key in METRICS:
            values = [row[key] for row in seeds.values() if key in row]
            spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "-")
        lines.append(f"| {' | '.join(cells)} |")
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/multitask"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table is written")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    parser.add_argument("--measure", action="store_true", help="only time the trained models")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    splits = {
        name: quarters(data, arguments.runs / "quarters" / name)
        for name, data in open_splits(arguments.data).items()
        if name in ("train", "val")
    }
    if arguments.measure:
        measure(arguments.runs, arguments.seeds, splits["val"])
    for seed in [] if arguments.table or arguments.measure else arguments.seeds:
        for name in arguments.only:
            out = folder_of(arguments.runs, name, seed)
            with to_do(out) as ours:
                if ours:
                    plain = settings(out, seed, arguments.epochs)
                    config = replace(plain, batch_size=16, views=2, validate_every=arguments.epochs, save_every=100)
                    train((MODEL, {**BASE, **MODELS[name]}), splits, config)
            write_table(arguments.results, arguments.runs, splits, arguments.note)
    write_table(arguments.results, arguments.runs, splits, arguments.note)


if __name__ == "__main__":
    main()
