"""Whether the heat of `headway view cam` marks what a score comes from: the deletion test of trained models.

    python benchmarks/cam.py RUN... --data DIR
    python benchmarks/cam.py runs/atss runs/detr/best.safetensors --data bccd --pictures 20 --best 3

The hottest pixels of each detection, half as many as its box has, get the mean colour of the photograph, and the
network looks again; the same arrangement of pixels is moved to eight random places (headway.view.cam). For each model:
mean scores before, without the marked pixels and without those elsewhere, and in how many detections the marked ones
count for more. Detections are the best of each of some photographs of the validation split. Writes results/cam.json
and .md; a model that is there already is measured again, others stay.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import headway
from headway.data.formats.any_format import open_splits
from headway.view.cam import explain

RESULTS = Path(__file__).parent / "results"


def measure(model: headway.Detector, pictures: list[Path], best: int) -> dict[str, Any]:
    found = []
    for picture in pictures:
        try:
            found += [cam.deletion for cam in explain(model, picture, best=best)[1]]
        except headway.HeadwayError as error:
            print(f"{picture.name}: {error}", flush=True)
    if not found:
        raise SystemExit(f"{model.card.model} finds nothing in these photographs")
    return {
        "pictures": len(pictures),
        "best": best,
        "detections": len(found),
        "before": round(fmean(gone.before for gone in found), 4),
        "marked": round(fmean(gone.marked for gone in found), 4),
        "elsewhere": round(fmean(gone.random for gone in found), 4),
        "lower": sum(gone.marked < gone.random for gone in found),
        "ap": model.card.metrics.get("ap"),
    }


def table(results: dict[str, Any]) -> str:
    lines = ["# Does the heat of `view cam` mark what the score comes from?", "", results["about"], ""]
    lines += ["| model | its AP | detections | score | without the marked pixels | without as many elsewhere | marked "
              "count for more |", "|---" * 7 + "|"]  # fmt: skip
    for name, row in results["models"].items():
        cells = [f"{row[column]:.3f}" for column in ("before", "marked", "elsewhere")]
        quality = "" if row["ap"] is None else f"{row['ap']:.3f}"
        share = f"{row['lower']} of {row['detections']}"
        lines.append(f"| {name} | {quality} | {row['detections']} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="checkpoints, or run folders")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--best", type=int, default=3, help="detections of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_splits(options.data)["val"]
    step = max(1, len(data) // options.pictures)
    pictures = [data.records[number].path for number in range(0, len(data), step)][: options.pictures]
    file = options.out / "cam.json"
    results = json.loads(file.read_text()) if file.is_file() else {"models": {}}
    results["about"] = (
        f"`python benchmarks/cam.py RUNS --data {options.data.name}`: the {options.best} best detections of each of "
        f"{len(pictures)} photographs of its validation split, of those that score 0.3 and more or else the best "
        "alone; mean scores."
    )
    for run in options.runs:
        model = headway.load(run / "last.safetensors" if run.is_dir() else run)
        results["models"][model.card.model] = measure(model, pictures, options.best)
        print(model.card.model, results["models"][model.card.model], flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "cam.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
