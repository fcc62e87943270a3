"""What HTTP costs beside plain `predict`, and what many clients do to the service: benchmarks/results/serve.md.

python benchmarks/serve.py [MODEL ...] [--minutes 5] [--clients 16] [--requests 200] [--connections 10000]

The service is a process of its own, and this one asks it over the loopback; every loop ends after its count or time.
Cost: one HTTP request and one `predict` in this process take turns, so that what else runs on the machine is the same
for both. Load: clients ask without a pause, each with one connection. Idle: connections that are opened and left.
"""

import argparse
import http.client
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import headway
from headway.demo import ASSETS, DATA

PICTURES = [path.read_bytes() for path in sorted((DATA / "val").glob("*.jpg"))[:8]]
RESULTS = Path(__file__).parent / "results"


@contextmanager
def serving(model: Path) -> Iterator[tuple[str, int]]:
    """(address, process id) of `headway serve`, warmed up."""
    command = [sys.executable, "-m", "headway.cli", "serve", str(model), "--port", "0", "--threads", "1", "--json"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        url = json.loads("".join(process.stdout.readline() for _ in range(5)))["url"]
        while ask(url, "GET", "/readyz")[0] != 200:
            time.sleep(0.1)
        yield url, process.pid
        process.terminate()
        assert process.wait(30) == 0, "SIGTERM did not end it in order"


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)


def ask(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = connect(url)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def predictor_of(model: Path) -> Callable[[bytes], Any]:
    """Plain `predict` on one thread."""
    if model.suffix == ".onnx":
        return headway.runtime.Runtime(model, threads=1)
    import torch

    torch.set_num_threads(1)
    return headway.load(model).predict


def cost(url: str, model: Path, requests: int) -> dict[str, float]:
    """Milliseconds of a request, of `predict`, and of the difference of neighbours."""
    predict, connection = predictor_of(model), connect(url)
    over_http, plain, outside = [], [], []
    for number in range(requests + 5):
        body = PICTURES[number % len(PICTURES)]
        start = time.perf_counter()
        connection.request("POST", "/v1/detect", body)
        answer = json.loads(connection.getresponse().read())
        between = time.perf_counter()
        found = predict(body)
        end = time.perf_counter()
        assert [row["score"] for row in answer["detections"]] == found.scores.tolist()
        if number >= 5:
            over_http.append(1000 * (between - start))
            plain.append(1000 * (end - between))
            outside.append(over_http[-1] - sum(answer["ms"].values()))
    return {
        "requests": requests, "http_p50": percentile(over_http, 50), "http_p99": percentile(over_http, 99),
        "predict_p50": percentile(plain, 50), "predict_p99": percentile(plain, 99),
        "overhead_p50": statistics.median(a - b for a, b in zip(over_http, plain)),
        "outside_p50": percentile(outside, 50), "outside_p99": percentile(outside, 99),
    }  # fmt: skip


def load(url: str, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Statuses, milliseconds and the memory of the service over time."""
    statuses, times, sent, end = Counter[int](), [], [0] * clients, time.monotonic() + seconds

    def client(number: int) -> None:
        connection = connect(url)
        while time.monotonic() < end:
            start = time.perf_counter()
            connection.request("POST", "/v1/detect?threshold=0.05", PICTURES[sent[number] % len(PICTURES)])
            sent[number] += 1
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            times.append(1000 * (time.perf_counter() - start))
            if answer.status == 503:
                time.sleep(0.2)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(rss_of(pid))
        time.sleep(seconds / 100)
    fifth = max(len(memory) // 5, 1)
    early, late = statistics.mean(memory[fifth : 2 * fifth]), statistics.mean(memory[-fifth:])
    return {
        "clients": clients, "seconds": seconds, "sent": sum(sent), "statuses": dict(statuses),
        "lost": sum(sent) - statuses.total(), "per_second": statuses[200] / seconds,
        "p50": percentile(times, 50), "p99": percentile(times, 99), "mib_early": early, "mib_late": late,
        "growth": late / early - 1, "mib": memory[:: max(len(memory) // 20, 1)],
    }  # fmt: skip


def idle(url: str, pid: int, count: int) -> dict[str, Any]:
    """Open connections and leave them; one request in between each hundred must be answered."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = min(count, hard - 200)
    before, statuses, slowest = rss_of(pid), Counter[int](), 0.0
    with ExitStack() as stack:
        for number in range(possible):
            opened = socket.create_connection(urlsplit(url).netloc.split(":"), timeout=20)
            stack.callback(opened.close)
            if number % 100 == 99:
                start = time.perf_counter()
                statuses[ask(url, "POST", "/v1/detect", PICTURES[0])[0]] += 1
                slowest = max(slowest, 1000 * (time.perf_counter() - start))
        files = len(os.listdir(f"/proc/{pid}/fd"))
    return {
        "opened": possible, "statuses": dict(statuses), "slowest": slowest, "files": files, "mib_before": before,
        "mib_after": rss_of(pid),
    }  # fmt: skip


def percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100)[share - 1]


def rss_of(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def table(rows: list[dict[str, Any]], about: str) -> str:
    lines = [
        "# HTTP beside plain predict", "", about, "",
        "Outside: the time of a request less what the service says of its reading, queue and network.", "",
        "| model | HTTP p50 / p99 ms | predict p50 / p99 ms | overhead p50 ms | outside p50 ms |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        c = row["cost"]
        lines.append(
            f"| {row['model']} | {c['http_p50']:.1f} / {c['http_p99']:.1f} | {c['predict_p50']:.1f} / "
            f"{c['predict_p99']:.1f} | {c['overhead_p50']:.2f} | {c['outside_p50']:.2f} |"
        )
    lines += [
        "",
        "| model | clients, seconds | sent | 200 | 503 | other | lost | a second | p50 / p99 ms | MiB early, late |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        r = row["load"]
        other = sum(count for status, count in r["statuses"].items() if status not in (200, 503))
        lines.append(
            f"| {row['model']} | {r['clients']}, {r['seconds']:.0f} | {r['sent']} | {r['statuses'].get(200, 0)} | "
            f"{r['statuses'].get(503, 0)} | {other} | {r['lost']} | {r['per_second']:.1f} | {r['p50']:.0f} / "
            f"{r['p99']:.0f} | {r['mib_early']:.0f}, {r['mib_late']:.0f} ({100 * r['growth']:+.1f} %) |"
        )
    lines += [
        "", "| model | left open | answers in between | slowest ms | files of the service | MiB before, after |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        r = row["idle"]
        statuses = ", ".join(f"{count} x {status}" for status, count in r["statuses"].items())
        lines.append(
            f"| {row['model']} | {r['opened']} | {statuses} | {r['slowest']:.0f} | {r['files']} | "
            f"{r['mib_before']:.0f}, {r['mib_after']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, default=[ASSETS / "demo.safetensors"])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "serve")
    options = parser.parse_args()
    rows = []
    for model in options.models:
        with serving(model) as (url, pid):
            row: dict[str, Any] = {"model": model.name, "cost": cost(url, model, options.requests)}
            row["load"] = load(url, pid, options.clients, 60 * options.minutes)
            row["idle"] = idle(url, pid, options.connections)
        rows.append(row)
        print(json.dumps(row))
    busy = os.getloadavg()[0]
    about = (
        f"`python benchmarks/serve.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, one "
        f"thread for the network, load average {busy:.1f} at the end; eight JPEGs of 640 x 480, about 22 kB each."
    )
    options.out.with_suffix(".md").write_text(table(rows, about))
    options.out.with_suffix(".json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
