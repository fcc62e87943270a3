"""What each number format costs in AP, head by head, on trained models: float32, bfloat16 and int8.

    python benchmarks/formats.py runs/claims/*/seed-0/run --data BCCD_FOLDER
    python benchmarks/formats.py                  # only the table

Each checkpoint is measured on the validation split in fp32 and bf16 by torch, and as an OpenVINO file in bf16 and in
int8 (calibrated on 128 training pictures). A checkpoint that has a row is left alone.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import headway
from headway.checkpoint import read_card
from headway.evaluate.api import evaluate, open_data_splits
from headway.export.openvino import from_onnx
from headway.export.quantize import quantize
from headway.files import find_checkpoint, write_atomically
from headway.runtime import Runtime

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "formats.json"
FORMS = ("bf16", "OpenVINO bf16", "OpenVINO int8")


def measure(checkpoint: Path, data: Any) -> dict[str, Any]:
    """AP by form."""
    result = {precision: evaluate(checkpoint, data, precision=precision).AP for precision in ("fp32", "bf16")}
    with tempfile.TemporaryDirectory() as folder:
        exact, eight = Path(folder) / "exact.onnx", Path(folder) / "int8.onnx"
        headway.export(checkpoint, exact, verify=0)
        quantize(exact, eight, data["train"])
        for label, file, precision in (("OpenVINO bf16", exact, "bf16"), ("OpenVINO int8", eight, "fp32")):
            from_onnx(file, file.with_suffix(".xml"))
            result[label] = evaluate(Runtime(file.with_suffix(".xml"), precision=precision), data).AP
    return {name: round(value, 4) for name, value in result.items()}


def write_table(rows: dict[str, Any]) -> None:
    lines = ["# What each number format costs in AP\n", "BCCD's 87 held-back photographs, models of `claims.py`: "
             "`python benchmarks/formats.py RUNS --data FOLDER`. Differences are to fp32.\n",
             f"| model | AP in fp32 | {' | '.join(FORMS)} |", "|---" * (2 + len(FORMS)) + "|"]  # fmt: skip
    for name, row in sorted(rows.items()):
        apart = (f"{row[form] - row['fp32']:+.4f}" for form in FORMS)
        lines.append(f"| `{name}` | {row['fp32']:.4f} | {' | '.join(apart)} |")
    (RESULTS / "formats.md").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for run in options.runs:
        checkpoint = find_checkpoint(run)
        name = read_card(checkpoint).model
        if name not in rows:
            rows[name] = measure(checkpoint, open_data_splits(options.data))
            print(name, rows[name], flush=True)
            write_atomically(FILE, (json.dumps(rows, indent=1) + "\n").encode())
    write_table(rows)


if __name__ == "__main__":
    main()
