"""Seconds until a command is ready, and how fast a checkpoint is read.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 7

Every command runs in a process of its own, on the shipped checkpoint and data set. Counted is the time of the processor
(user and system), which other load on the machine changes little, and beside it the wall clock; medians of interleaved
rounds. "ready" is the whole of a command that has one small picture, or data set, to work on. Reading a checkpoint is
compared with `safetensors.torch.load_file` of the same file.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SHIPPED = "headway.commands.predict import SHIPPED"
BARE = "import torch"
DATA = "data = SHIPPED.parent / 'bccd-mini'; "


def commands(folder: str) -> dict[str, str]:
    """What to run, as Python. The number in a folder's name is new each time."""
    main = "from headway.cli import main; raise SystemExit(main({}))"
    shipped = f"from {SHIPPED}; {DATA}"
    picture = f"{shipped}picture = str(next(p for p in sorted(data.rglob('*.jpg')))); "
    return {
        "import torch": BARE,
        "headway --help": main.format("['--help']"),
        "headway predict, one picture": picture + main.format(f"['predict', picture, '--out', '{folder}/p']"),
        "headway eval": shipped + main.format(f"['eval', str(SHIPPED), '--data', str(data), '--out', '{folder}/e']"),
        "headway eval, its imports": "import headway.evaluate.api",
        "headway predict, its imports": "import headway.predict.predictor, headway.checkpoint",
        "headway data check": shipped + main.format("['data', 'check', str(data)]"),
    }


def run(code: str) -> tuple[float, float]:
    """(seconds of the processor, of the wall clock)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if result.returncode:
        raise SystemExit(f"{code}: {result.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def reading(rounds: int) -> dict[str, float]:
    """MB/s of `headway.load` of an R50 detector from the page cache, and of safetensors alone."""
    import torch
    from safetensors.torch import load_file

    import headway

    with tempfile.TemporaryDirectory() as folder:
        path = headway.save(headway.create_model("fcos_r50_fpn"), Path(folder) / "model.safetensors")
        size = path.stat().st_size / 1e6
        seconds: dict[str, list[float]] = {"headway.load": [], "safetensors": []}
        for _ in range(rounds + 1):
            # load_file alone maps the file and reads nothing.
            for name, call in (
                ("headway.load", headway.load),
                ("safetensors", lambda path: {key: value.clone() for key, value in load_file(path).items()}),
            ):
                start = time.process_time()
                call(path)
                seconds[name].append(time.process_time() - start)
    del torch
    return {name: size / statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, code in commands(folder).items():
                times.setdefault(name, []).append(run(code))
        print(f"round {number + 1} of {options.rounds}", flush=True)
    rows = {
        name: {"cpu_s": statistics.median(cpu for cpu, _ in pairs), "wall_s": statistics.median(w for _, w in pairs)}
        for name, pairs in times.items()
    }
    speeds = reading(options.rounds)
    about = f"Load average {os.getloadavg()[0]:.1f} at the end, medians of {options.rounds} interleaved rounds."
    result = {"about": about, "commands": rows, "megabytes_per_second": speeds}
    (options.out / "startup.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = ["# Start-up", "", about, "", "| command | seconds of the processor | of the wall clock |", "|---|---|---|"]
    lines += [f"| {name} | {row['cpu_s']:.2f} | {row['wall_s']:.2f} |" for name, row in rows.items()]
    lines += ["", "| reading a checkpoint of FCOS R50 | MB/s |", "|---|---|"]
    lines += [f"| {name} | {speed:.0f} |" for name, speed in speeds.items()]
    (options.out / "startup.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
