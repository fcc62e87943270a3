"""The papers' claims, trained under one budget: a queue that can be stopped and go on elsewhere, and the table of it.

    python benchmarks/claims.py run --bccd FOLDER --coco-person FOLDER           # trains what has not run, in order
    python benchmarks/claims.py run --claims 1 3 --minutes 60 ...                # of some claims; starts nothing later
    python benchmarks/claims.py run --rows atss "dyhead atss" --seeds 0 ...      # or some rows
    python benchmarks/claims.py table                                            # writes results/claims.md

A finished run is a row of results/claims_runs.json, which is in the repository, so that another machine goes on where
this one ended. Several processes may share the queue; a run that was stopped goes on from its last state. What is
trained stands in `claims_list.py`.
"""

import argparse
import fcntl
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from claims_list import CLAIMS, ROWS, Claim, Row
from claims_table import write_table

import headway
from headway.compare.entries import Entry, claimed
from headway.evaluate.api import open_data_splits
from headway.evaluate.coco import IOUS
from headway.files import pick_split, write_atomically
from headway.train.fit import TrainingStopped
from headway.train.state import STATE

RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "claims_runs.json"


def definition(row: Row) -> dict[str, Any]:
    """What makes a run the run that it is: as it is stored beside its figures."""
    of = {"model": row.model, "arguments": row.arguments, "data": row.data, "teacher": row.teacher, **row.settings}
    return json.loads(json.dumps(of))


def finished() -> dict[str, dict[str, Any]]:
    """Runs by "row/seed", without those whose definition has changed since."""
    runs = json.loads(RUNS.read_text()) if RUNS.is_file() else {}
    return {key: run for key, run in runs.items()
            if key.rpartition("/")[0] in ROWS and run["of"] == definition(ROWS[key.rpartition("/")[0]])}  # fmt: skip


def keep(key: str, result: dict[str, Any]) -> None:
    """Add one run to the file, beside whatever other processes add."""
    with (Path(tempfile.gettempdir()) / "headway-claims.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = json.loads(RUNS.read_text()) if RUNS.is_file() else {}
        runs[key] = result
        lines = (f"{json.dumps(name)}: {json.dumps(run)}" for name, run in sorted(runs.items()))
        write_atomically(RUNS, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def train(name: str, seed: int, data: dict[str, Path], out: Path) -> dict[str, Any]:
    """One run, gone on with where it was stopped."""
    row, place = ROWS[name], Entry(name, "").folder(out, seed) / "run"
    settings = dict(row.settings)
    if row.teacher:  # of the same seed, so that every seed is independent of the others
        teacher = Entry(row.teacher, "").folder(out, seed) / "run"
        if not (teacher / "last.safetensors").is_file() or (teacher / STATE).is_file():  # none, or half of one
            train(row.teacher, seed, data, out)
        settings["teacher"] = str(teacher)
    resume = (place / STATE).is_file()
    if not resume:
        shutil.rmtree(place, ignore_errors=True)
    cpu, wall = time.process_time(), time.monotonic()
    run = headway.train(
        row.model, data[row.data], out=place, seed=seed, resume=resume, arguments=row.arguments, **settings
    )
    figures = {key: value for key, value in run.metrics.items() if isinstance(value, float)}
    result = {
        "of": definition(row),
        "metrics": figures | by_iou(place / "best.safetensors", data[row.data], row),
        "curve": [[line["epoch"], round(line["train_loss"], 4), _round(line.get("ap"))] for line in run.curve],
        "seconds": round(time.monotonic() - wall), "cpu_seconds": round(time.process_time() - cpu),
        "hardware": f"{_cpu()}, {_threads()}, torch {torch.__version__.partition('+')[0]}",
    }  # fmt: skip
    shutil.rmtree(place / "state", ignore_errors=True)
    return result


def by_iou(best: Path, data: Path, row: Row) -> dict[str, float]:
    """The best checkpoint's AP at each overlap, "ap50" to "ap95", measured as the training did."""
    split, settings = pick_split(open_data_splits(data), "val"), row.settings
    found = headway.evaluate.measure(
        headway.load(best), split, batch_size=settings["batch_size"], precision=settings["precision"]
    )
    metrics = headway.evaluate.evaluate(found.rows, split, max_detections=100)
    return {f"ap{round(100 * iou)}": value for iou, value in zip(IOUS, metrics.ap_by_iou)}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count > 1)}"


def _cpu() -> str:
    """The CPU's name, for people."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def queue(claims: list[Claim], rows: list[str], seeds: list[int]) -> list[tuple[str, int]]:
    """Claim by claim, seed by seed, so that what has run can be read early; each run once."""
    names = [([row for pair in claim.pairs for row in reversed(pair)]) for claim in claims] if not rows else [rows]
    return list(dict.fromkeys((name, seed) for group in names for seed in seeds for name in group))


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    data = {"bccd": options.bccd, "coco-person": options.coco_person}
    claims = [claim for claim in CLAIMS if not options.claims or claim.number in options.claims]
    for name, seed in queue(claims, options.rows, options.seeds):
        if time.monotonic() - started > 60 * options.minutes:
            break
        key = f"{name}/{seed}"
        if key in finished() or data[ROWS[name].data] is None:
            continue
        with claimed(Entry(name, ""), options.out, seed) as mine:
            if mine and key not in finished():
                try:
                    keep(key, train(name, seed, data, options.out))
                except TrainingStopped as stopped:
                    raise SystemExit(f"{key}: {stopped}") from None
                except headway.HeadwayError as error:
                    print(f"{key}: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--bccd", type=Path)
    parser.add_argument("--coco-person", type=Path)
    parser.add_argument("--claims", nargs="+", help="numbers of claims; by default all")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help="names of rows, instead of claims")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further run begins")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="folder of the runs themselves")
    options = parser.parse_args()
    if options.do == "run":
        run(options)
    write_table(finished(), RESULTS / "claims.md")


if __name__ == "__main__":
    main()
