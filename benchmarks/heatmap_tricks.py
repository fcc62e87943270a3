"""PAFNet's tricks one at a time on BCCD, from random weights: a TTFNet-R18 without any, and with each of them.

    python benchmarks/heatmap_tricks.py --data BCCD_FOLDER                      # everything that has not run
    python benchmarks/heatmap_tricks.py --data BCCD_FOLDER --only ags --seeds 0 --threads 1
    python benchmarks/heatmap_tricks.py --data BCCD_FOLDER --table

Every run has the same budget of pictures; all eighteen take about two hours on two cores, a process on each. A run that
was stopped goes on where it was, a finished one is only read, and one that another process is at is left to it, so two
processes may share the work. The table in benchmarks/results has the mean over seeds of the last validation, the spread
(highest less lowest), and the difference from the plain one, seed by seed. One within the spread shows nothing.
"""

import argparse
import json
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bccd import RESULTS, read_json, seeds_of, settings, spread, to_do, train, write

from headway.data.formats.any_format import open_splits

MODEL = "ttfnet_r18"
SIZE = (224, 224)


class Trick(NamedTuple):
    """What it changes: arguments of the model, settings of the training."""

    model: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)
    training: dict[str, Any] = {}  # noqa: RUF012


PLAIN = Trick({"deformable": False, "ags": "off", "input_size": SIZE}, {"ema": 0.0, "cutmix": 0.0, "gridmask": 0.0})
TRICKS: dict[str, Trick] = {
    "plain": Trick(),
    "ags": Trick({"ags": "gaussian"}),
    "dcn": Trick({"deformable": True}),
    "ema": Trick(training={"ema": 0.998}),
    "cutmix": Trick(training={"cutmix": 0.5}),
    "gridmask": Trick(training={"gridmask": 0.7}),
}
METRICS = ("ap", "ap50", "ap75")


def run(name: str, seed: int, out: Path, splits: dict, epochs: int) -> None:
    trick = TRICKS[name]
    changes = {**PLAIN.training, **trick.training, "validate_every": epochs}
    config = replace(settings(out, seed, epochs), **changes)
    train((MODEL, {**PLAIN.model, **trick.model}), splits, config)


def collect(runs: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{trick: {seed: last metrics and seconds}} of the finished runs."""
    found = {name: seeds_of(runs, name, METRICS) for name in TRICKS}
    return {name: seeds for name, seeds in found.items() if seeds}


def write_table(runs: Path, note: str | None) -> None:
    path = RESULTS / "heatmap_tricks.json"
    if note is None:
        note = read_json(path).get("hardware", {}).get("note", "")
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": note}
    table = collect(runs)
    content = {"hardware": hardware, "model": MODEL, "plain": PLAIN._asdict(), "runs": table}
    write(path, json.dumps(content, indent=1) + "\n")
    lines = ["# PAFNet's tricks one at a time, TTFNet-R18 on BCCD", "",
             f"torch {hardware['torch']}, {hardware['machine']}. {note}", "",
             "| trick | seeds | epochs | AP | spread | AP50 | spread | AP75 | spread | AP less plain, by seed |",
             "|---" * 10 + "|"]  # fmt: skip
    plain = table.get("plain", {})
    for name, seeds in table.items():
        cells = [name, ", ".join(seeds), str(max(int(row["epoch"]) for row in seeds.values()))]
        for key in METRICS:
            values = [row[key] for row in seeds.values()]
            cells += [f"{statistics.mean(values):.3f}", spread(values)]
        both = [seed for seed in seeds if seed in plain and name != "plain"]
        cells.append(", ".join(f"{seeds[seed]['ap'] - plain[seed]['ap']:+.3f}" for seed in both) or "-")
        lines.append(f"| {' | '.join(cells)} |")
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/heatmap_tricks"))
    parser.add_argument("--only", nargs="*", choices=list(TRICKS), default=list(TRICKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    splits = open_splits(arguments.data)
    for seed in [] if arguments.table else arguments.seeds:
        for name in arguments.only:
            out = arguments.runs / f"{name}-seed{seed}"
            with to_do(out) as ours:
                if ours:
                    run(name, seed, out, splits, arguments.epochs)
            write_table(arguments.runs, arguments.note)
    write_table(arguments.runs, arguments.note)


if __name__ == "__main__":
    main()
