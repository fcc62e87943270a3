"""Jobs of `headway predict`: what one worker costs beside plain predict, how they scale, and what a million rows need.

python benchmarks/jobs.py overhead     # the shipped model: plain predict and --workers 1 in turn
python benchmarks/jobs.py scaling      # items of 50 ms: processes, and Ray actors on nodes of this machine
python benchmarks/jobs.py million      # a million rows of a detector that reads nothing: time and memory
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headway.jobs import Plan, Settings, make_plan, merge, run_local
from headway.jobs.ray_runner import run_ray
from headway.jobs.sources import Listed
from headway.process import peak_of_process


class Sleeping:
    """A detector that takes settings.model seconds for a picture and finds settings.max_detections things in it."""

    window, cap = 8, 100

    def __init__(self, settings: Settings) -> None:
        self.seconds, self.found = float(settings.model), settings.max_detections or 1

    def read(self, source: bytes | str, where: str) -> str:
        return where

    def detect(self, pictures: Sequence[str]) -> list[int]:
        if self.seconds:
            for _ in pictures:
                time.sleep(self.seconds)
        return [self.found for _ in pictures]

    def row(self, picture: str, found: int, image_id: int | str, file_name: str) -> dict[str, Any]:
        row = {"file_name": file_name, "image_id": image_id, "width": 640, "height": 480, "best": 0.5}
        one = {"category_id": 1, "bbox": [10.125, 20.25, 30.5, 40.625], "score": 0.512345, "category_name": "thing"}
        return row | {"detections": [one] * found}


def overhead(out: Path, copies: int, rounds: int) -> None:
    """CPU and wall seconds of whole commands with one thread, in turn; each starts anew and loads the model."""
    from headway.demo import ASSETS, DATA

    pictures = out / "in"
    for copy in range(copies):
        shutil.copytree(DATA / "val", pictures / f"{copy:03d}")
        shutil.copytree(DATA / "train", pictures / f"{copy:03d}/train")
    count = sum(1 for _ in pictures.rglob("*.jpg"))
    command = [sys.executable, "-m", "headway.cli", "predict", ASSETS / "demo.safetensors", pictures]
    kinds = {"plain predict": ["--recursive", "--no-pictures"], "--workers 1": ["--workers", "1"]}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name, options in kinds.items():
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            folder = out / f"{number}{options[0]}"
            one = os.environ | {"OMP_NUM_THREADS": "1"}  # as a worker has
            subprocess.run([*command, *options, "--out", folder], check=True, stdout=subprocess.DEVNULL, env=one)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            taken[name].append((time.perf_counter() - start, cpu))
            load = os.getloadavg()[0]
            print(f"{name}: {taken[name][-1][0]:.1f} s wall, {cpu:.1f} s CPU (load {load:.1f})", flush=True)
    for what, column in (("wall", 0), ("CPU", 1)):
        plain, job = (statistics.median(times[column] for times in taken[name]) for name in kinds)
        share = 100 * (job / plain - 1)
        print(f"{count} pictures, median of {rounds}: {what} {plain:.2f} and {job:.2f} s, {share:+.1f} %")


def listed(count: int) -> Iterator[Listed]:
    for number in range(count):
        yield Listed(f"far/{number % 1000:03d}/{number:08d}.jpg", 1000 + number)


def fake_plan(out: Path, count: int, seconds: float, found: int, shard_size: int | None) -> Plan:
    settings = Settings(str(seconds), detector="jobs:Sleeping", max_detections=found, shard_size=shard_size)
    return make_plan(out, settings, listed(count))


def measure(kind: str, workers: int, items: int, run: Callable[[Any], None]) -> None:
    """Efficiency: of the time from the first pictures that are known to be done to the end."""
    first: list[tuple[float, int]] = []

    def progress(done: int, total: int) -> None:
        if done and not first:
            first.append((time.perf_counter(), done))

    start = time.perf_counter()
    run(progress)
    end = time.perf_counter()
    moment, done = first[0]
    steady = end - moment
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    efficiency = (items - done) * 0.05 / workers / steady
    print(
        f"{workers} {kind}: {steady:.1f} s steady, {end - start:.1f} s whole, efficiency {efficiency:.3f} "
        f"(load {load})",
        flush=True,
    )


def scaling(out: Path, items: int) -> None:
    """The default shards; the four nodes are processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    for workers in (1, 2, 4):
        plan = fake_plan(out / f"local-{workers}", items, 0.05, 1, None)
        run = partial(run_local, plan, range(plan.shards), workers)
        measure("processes", workers, items, lambda p, run=run: run(progress=p))
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(4):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    for workers in (1, 2, 4):
        plan = fake_plan(out / f"ray-{workers}", items, 0.05, 1, None)
        run = partial(run_ray, plan, range(plan.shards), workers=workers, device="cpu")
        measure("Ray actors", workers, items, lambda p, run=run: run(progress=p))
    ray.shutdown()
    cluster.shutdown()


def million(out: Path, count: int) -> None:
    """Each step in this process, whose peak memory is read after it."""
    plan = fake_plan(out / "job", count, 0.0, 20, 256)
    steps: dict[str, Callable[[], object]] = {
        "plan": lambda: fake_plan(out / "job", count, 0.0, 20, 256),  # planned before: this is the check of a resume
        "2 workers": lambda: run_local(plan, range(plan.shards), 2),
        "merge": lambda: merge(plan),
    }
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        print(f"{name}: {time.perf_counter() - start:.0f} s, peak {peak_of_process() / 2**20:.0f} MiB", flush=True)
    sizes = {path: path.stat().st_size for path in plan.folder.iterdir()}
    print(f"{count} rows: {len(sizes)} files, {sum(sizes.values()) / 2**30:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "scaling", "million"))
    parser.add_argument("--count", type=int, help="rounds, items or rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if arguments.what == "overhead":
            overhead(out, 4, arguments.count or 3)
        elif arguments.what == "scaling":
            scaling(out, arguments.count or 800)
        else:
            million(out, arguments.count or 1_000_000)


if __name__ == "__main__":
    main()
