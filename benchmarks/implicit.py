"""YOLOR's ablations of implicit knowledge on BCCD, from random weights: a YOLOR-S without and with each form.

    python benchmarks/implicit.py --data BCCD_FOLDER                      # everything that has not run
    python benchmarks/implicit.py --data BCCD_FOLDER --only none "align +, refine x" --seeds 0 --threads 1
    python benchmarks/implicit.py --data BCCD_FOLDER --table

The rows are those of the paper (arXiv 2105.04206, tables 4, 6 and 7): alignment of the features by addition,
multiplication and concatenation, refinement of the predictions by addition and multiplication; the first as a network
and as a factorisation too; and addition with multiplication, which is YOLOR. Every run has the same budget of pictures;
all twenty-seven take about two hours on two cores, a process with --threads 1 on each. A run that was stopped goes on
where it was, a finished one is only read, and one that another process is at is left to it, so two processes may share
the work. The table in benchmarks/results has the mean over seeds of the last validation, the spread (highest less
lowest), and the difference from the one without, seed by seed. One within the spread shows nothing. On a GPU more
epochs say more; give them a folder of their own (--epochs, --runs).
"""

import argparse
import json
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bccd import RESULTS, read_json, seeds_of, settings, spread, to_do, train, write

from headway import create_model
from headway.data.formats.any_format import open_splits

MODEL = "yolor_s"
NONE: dict[str, Any] = {"align": None, "refine": None}
FORMS: dict[str, dict[str, Any]] = {
    "none": NONE,
    "align +": {**NONE, "align": "add"},
    "align x": {**NONE, "align": "mul"},
    "align concat": {**NONE, "align": "concat"},
    "align +, network": {**NONE, "align": "add", "implicit": "network"},
    "align +, factors": {**NONE, "align": "add", "implicit": "factors"},
    "refine +": {**NONE, "refine": "add"},
    "refine x": {**NONE, "refine": "mul"},
    "align +, refine x": {"align": "add", "refine": "mul"},
}
METRICS = ("ap", "ap50", "ap75")


def folder(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name.replace('+', 'add').replace(' x', ' mul').replace(',', '').replace(' ', '_')}-seed{seed}"


def collect(runs: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{form: {seed: last metrics and seconds}} of the finished runs."""
    found = {name: seeds_of(runs, folder(runs, name, 0).name.removesuffix("-seed0"), METRICS) for name in FORMS}
    return {name: seeds for name, seeds in found.items() if seeds}


def parameters(name: str, num_classes: int) -> int:
    """What the form adds to the plain model while it is trained; folded, none of it is left."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in create_model(MODEL, num_classes=num_classes, **form).parameters())
            for form in (FORMS[name], NONE)
        ]
    return sizes[0] - sizes[1]


def write_table(runs: Path, num_classes: int, note: str | None) -> None:
    path = RESULTS / "implicit.json"
    if note is None:
        note = read_json(path).get("hardware", {}).get("note", "")
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": note}
    table = collect(runs)
    content = {"hardware": hardware, "model": MODEL, "forms": FORMS, "runs": table}
    write(path, json.dumps(content, indent=1) + "\n")
    lines = ["# Implicit knowledge, YOLOR-S on BCCD", "",
             f"torch {hardware['torch']}, {hardware['machine']}. {note}", "",
             "| form | parameters in training | seeds | epochs | AP | spread | AP50 | spread | AP75 | spread "
             "| AP less none, by seed |",
             "|---" * 11 + "|"]  # fmt: skip
    plain = table.get("none", {})
    for name, seeds in table.items():
        cells = [name, f"+{parameters(name, num_classes):,}", ", ".join(seeds)]
        cells.append(str(max(int(row["epoch"]) for row in seeds.values())))
        for key in METRICS:
            values = [row[key] for row in seeds.values()]
            cells += [f"{statistics.mean(values):.3f}", spread(values)]
        both = [seed for seed in seeds if seed in plain and name != "none"]
        cells.append(", ".join(f"{seeds[seed]['ap'] - plain[seed]['ap']:+.3f}" for seed in both) or "-")
        lines.append(f"| {' | '.join(cells)} |")
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/implicit"))
    parser.add_argument("--only", nargs="*", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=192, help="of the input, in both directions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    splits = open_splits(arguments.data)
    num_classes = len(splits["train"].class_names)
    for seed in [] if arguments.table else arguments.seeds:
        for name in arguments.only:
            out = folder(arguments.runs, name, seed)
            with to_do(out) as ours:
                if ours:
                    config = replace(settings(out, seed, arguments.epochs), validate_every=arguments.epochs)
                    train((MODEL, {**FORMS[name], "input_size": (arguments.size,) * 2}), splits, config)
            write_table(arguments.runs, num_classes, arguments.note)
    write_table(arguments.runs, num_classes, arguments.note)


if __name__ == "__main__":
    main()
