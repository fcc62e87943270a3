"""Small detectors on BCCD from random weights under one budget, with and without Dynamic Head.

    python benchmarks/bccd.py --data BCCD_FOLDER                      # every experiment, one after the other
    python benchmarks/bccd.py --data BCCD_FOLDER --only atss_r18_fpn_dyhead --seed 1 --threads 2

Each experiment trains in a folder of its own under --runs. A run that was stopped goes on where it was, a finished one
is only read. After each, benchmarks/results/bccd.json and .md are written anew from all finished runs: the metrics of
every validation, the best and the last, and the seconds spent.
"""

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path

import torch

from headway import create_model
from headway.data.open import open_splits
from headway.train.config import TrainConfig
from headway.train.fit import fit
from headway.train.recipes import small

RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = {
    "atss_r18_fpn_dyhead": {},
    "atss_r18_fpn": {},
}


def settings(out: Path, seed: int) -> TrainConfig:
    """The `small` recipe, with what is known of microscopy: no up or down, one magnification."""
    return replace(
        small(),
        out=out,
        seed=seed,
        vertical_flip=0.5,
        scale=(0.75, 1.35),
        precision="bf16",
        validate_every=5,
        save_every=0,
    )


def train(name: str, arguments: dict, data: Path, out: Path, seed: int) -> None:
    splits = open_splits(data)
    config = settings(out, seed)
    if finished(out, config.epochs):
        return
    torch.manual_seed(seed)
    model = create_model(name, class_names=splits["train"].class_names, **arguments)
    fit(model, splits["train"], splits["val"], config, resume=(out / "state").exists())


def epochs_of(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["kind"] == "epoch"]


def finished(out: Path, epochs: int) -> bool:
    rows = epochs_of(out)
    return bool(rows) and rows[-1]["epoch"] >= epochs


def write_table(runs: Path, hardware: dict) -> None:
    """benchmarks/results/bccd.{json,md} from every finished run."""
    table = {}
    for folder in sorted(path for path in runs.iterdir() if (path / "config.json").exists()):
        config = json.loads((folder / "config.json").read_text())
        if not finished(folder, config["epochs"]):
            continue
        rows = epochs_of(folder)
        curve = [row for row in rows if "ap" in row]
        best = max(curve, key=lambda row: row["ap"])
        table[folder.name] = {
            "config": config,
            "seconds": rows[-1]["seconds"],
            "best": best,
            "last": curve[-1],
            "curve": curve,
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bccd.json").write_text(json.dumps({"hardware": hardware, "runs": table}, indent=1, default=str) + "\n")
    header = "| run | epochs | best AP | AP50 | AP75 | at epoch | last AP | AP50 | AP75 |\n" + "|---" * 9 + "|"
    about = f"torch {hardware['torch']}, {hardware['machine']}. {hardware['note']}"
    lines = ["# BCCD val, from random weights", "", about, "", header]
    for name, run in table.items():
        best, last = run["best"], run["last"]
        numbers = [f"{row[key]:.3f}" for row in (best, last) for key in ("ap", "ap50", "ap75")]
        lines.append(
            f"| {name} | {last['epoch']} | {' | '.join(numbers[:3])} | {best['epoch']} | {' | '.join(numbers[3:])} |"
        )
    (RESULTS / "bccd.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", default="", help="a sentence for the table: how and where this ran")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": arguments.note}
    for name in [] if arguments.table else arguments.only:
        out = arguments.runs / f"{name}-seed{arguments.seed}"
        train(name, EXPERIMENTS[name], arguments.data, out, arguments.seed)
        write_table(arguments.runs, hardware)
    write_table(arguments.runs, hardware)


if __name__ == "__main__":
    main()
