"""A job on Ray whose cable is cut: three nodes in network namespaces of this machine, one of which falls silent.

    sudo python benchmarks/jobs_cable.py       # Linux, root, iproute2; about two minutes

The head is on the bridge, each node behind a cable of its own. When a third of the pictures is done, the cable of a
node that works is taken down: no connection ends, no answer comes. Every row must be there once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import ray

from headway.jobs import merge
from headway.jobs.ray_runner import run_ray
from headway.jobs.runners import missing_shards
from jobs import fake_plan

NODES, PORT = 3, 6399
HEAD = "10.77.0.254"


def run(command: str, check: bool = True, **options: object) -> None:
    subprocess.run(command.split(), check=check, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **options)


def build() -> None:
    run("ip link add hwbridge type bridge")
    run(f"ip addr add {HEAD}/24 dev hwbridge")
    run("ip link set hwbridge up")
    for n in range(1, NODES + 1):
        run(f"ip netns add hwnode{n}")
        run(f"ip link add hwcable{n} type veth peer name eth0 netns hwnode{n}")
        run(f"ip link set hwcable{n} master hwbridge up")
        run(f"ip -n hwnode{n} addr add 10.77.0.{n}/24 dev eth0")
        run(f"ip -n hwnode{n} link set eth0 up")
        run(f"ip -n hwnode{n} link set lo up")


def remove() -> None:
    for n in range(1, NODES + 1):
        run(f"ip netns del hwnode{n}", check=False)
        run(f"ip link del hwcable{n}", check=False)
    run("ip link del hwbridge", check=False)


def start_ray(folder: str) -> list[subprocess.Popen[bytes]]:
    """The head and the nodes, in the foreground, so that each is ended with its process."""
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    head = [*program, "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0"]
    head += ["--include-dashboard=false", f"--temp-dir={folder}/ray"]

    def begin(command: list[str], name: str) -> subprocess.Popen[bytes]:
        with open(f"{folder}/{name}.log", "wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    processes = [begin(head, "head")]
    time.sleep(12)
    for n in range(1, NODES + 1):
        inside = ["ip", "netns", "exec", f"hwnode{n}", *program, f"--address={HEAD}:{PORT}", "--num-cpus=1"]
        processes.append(begin([*inside, f"--node-ip-address=10.77.0.{n}"], f"node{n}"))
    return processes


def main() -> None:
    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    items, processes = 1200, []
    with tempfile.TemporaryDirectory(prefix="hw") as folder:
        try:
            build()
            processes = start_ray(folder)
            while True:
                try:
                    ray.init(address=f"{HEAD}:{PORT}", log_to_driver=False, _node_ip_address=HEAD)
                    break
                except ConnectionError:
                    time.sleep(2)
            for _ in range(60):
                if sum(node["Alive"] for node in ray.nodes()) == NODES + 1:
                    break
                time.sleep(1)
            else:
                raise SystemExit("the nodes do not join: " + Path(f"{folder}/node1.log").read_text()[-2000:])
            plan = fake_plan(Path(folder) / "job", items, 0.05, 1, 16)

            def cut() -> None:
                while len(missing_shards(plan)) > 2 * plan.shards // 3:
                    time.sleep(0.1)
                run("ip link set hwcable2 down")
                print(f"cut at {time.monotonic() - start:.1f} s", flush=True)

            start = time.monotonic()
            thread = threading.Thread(target=cut)
            thread.start()
            run_ray(plan, range(plan.shards), device="cpu")
            thread.join()
            took = time.monotonic() - start
            summary = merge(plan)
            rows = Counter(r["file_name"] for r in json.loads((plan.folder / "predictions.json").read_text()))
            assert len(rows) == items
            assert set(rows.values()) == {1}
            print(f"{len(rows)} of {items} rows, each once, {summary['failed']} failed, in {took:.1f} s")
            print(f"(three nodes without a cut would take {items * 0.05 / 3:.0f} s and the start of the actors)")
        finally:
            ray.shutdown()
            for process in processes[::-1]:
                process.terminate()
                process.wait()
            remove()


if __name__ == "__main__":
    main()
