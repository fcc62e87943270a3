"""What `headway.allocator.keep_memory` brings, in time and in memory: the same work in two processes, side by side.

    python benchmarks/allocator.py
    python benchmarks/allocator.py --rounds 9 --threads 1

One process has glibc as it is, the other has its thresholds raised, as the command line does. Both hold the same model
and take turns: one call, then the other's. Times are medians, the ratio is the median of the rounds' own ratios; peak
and resident memory are those of each process at the end. Linux with glibc only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CASES = ("inference, fcos_r50_fpn fp32", "inference, fcos_r50_fpn bf16", "training, fcos_r50_fpn bf16",
         "inference, shipped fp32")  # fmt: skip


def make_call(case: str) -> Callable[[], object]:
    import torch
    from train_step import make_batch, our_step

    import headway

    kind, name, precision = case.replace(",", "").split()
    if kind == "training":
        return our_step("fcos", "frozen", precision, make_batch(argparse.Namespace(batch=2, size=(320, 416))))
    from headway.commands.predict import SHIPPED

    model = headway.load(SHIPPED, fuse=True) if name == "shipped" else headway.fuse(headway.create_model(name).eval())
    size = model.card.input_size if name == "shipped" else (480, 640)
    images = torch.rand(1, 3, *size)

    def call() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model.detect(images)

    return call


def worker(case: str, kept: bool, threads: int) -> None:
    """Answer each line of stdin by the seconds of one call; the empty one by the memory."""
    from headway.allocator import keep_memory

    if kept and not keep_memory():
        raise SystemExit("this system has no glibc to set")
    import torch

    torch.set_num_threads(threads)
    call = make_call(case)
    for _ in range(2):
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(*(int(status[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS")), flush=True)


def measure(case: str, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    command = [sys.executable, __file__, "--threads", str(threads), "--worker", case]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {
        name: subprocess.Popen([*command, name], **pipes)
        for name in ("system", "kept")  # type: ignore[call-overload]
    }
    for process in processes.values():
        process.stdout.readline()
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()))
    rows: dict[str, dict[str, float]] = {}
    for name, process in processes.items():
        process.stdin.write("\n")
        process.stdin.flush()
        peak, left = map(float, process.stdout.readline().split())
        process.wait()
        rows[name] = {"ms": 1000 * statistics.median(seconds[name]), "peak_mib": peak, "resident_mib": left}
    rows["ratio"] = {"ms": statistics.median(a / b for a, b in zip(seconds["system"], seconds["kept"]))}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], options.worker[1] == "kept", options.threads)
        return
    rows = {case: measure(case, options.rounds, options.threads) for case in options.only}
    about = (
        f"{options.threads} threads, medians of {options.rounds} interleaved rounds, load average "
        f"{os.getloadavg()[0]:.1f} at the end."
    )
    (options.out / "allocator.json").write_text(json.dumps({"about": about, "cases": rows}, indent=1) + "\n")
    lines = ["# glibc's allocator as it is, and with freed memory kept", "", about, ""]
    lines += [
        "| work | as it is, ms | kept, ms | as it is / kept | peak, MiB | peak, kept | resident at the end | kept |"
    ]
    lines += ["|---" * 8 + "|"]
    for case, row in rows.items():
        before, after = row["system"], row["kept"]
        lines.append(
            f"| {case} | {before['ms']:.0f} | {after['ms']:.0f} | {row['ratio']['ms']:.2f}x | "
            f"{before['peak_mib']:.0f} | {after['peak_mib']:.0f} | "
            f"{before['resident_mib']:.0f} | {after['resident_mib']:.0f} |"
        )
    (options.out / "allocator.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
