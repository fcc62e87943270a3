"""The processes of runs on this machine, forked from one that has imported torch, as torchrun would start them.

    python ranks.py JSON      a list of jobs, one after the other, each with "world" many processes

A job trains: {"world", "data": folder, "count", "settings", "model", "resume", "stop_at": step or 0}, or measures:
{"world", "count": pictures, "batch_size", "out": folder}; then each process writes out/WORLD-COUNT-RANK.json. Or it is
{"copy": [folder, new folder]}.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from headway.checkpoint import load
from headway.data.open_data import open_data
from headway.demo import ASSETS, DATA
from headway.evaluate.coco import evaluate
from headway.evaluate.processes import join_processes
from headway.evaluate.run import measure
from headway.train import TrainConfig
from headway.train.fit import TrainingStopped, fit

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_data, make_model


def train(job: dict[str, Any]) -> None:
    folder = Path(job["data"])
    data, val = make_data(folder, job["count"]), make_data(folder, 5, seed=1, name="val")
    model = make_model(**job["model"])
    original, calls = model.head.loss, [0]

    def loss(*arguments: Any) -> Any:
        calls[0] += model.training
        if model.training and calls[0] == job["stop_at"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    model.head.loss = loss  # type: ignore[method-assign]
    try:
        fit(model, data, val, TrainConfig.from_dict(job["settings"]), resume=job["resume"])
    except TrainingStopped:
        return


def measured(job: dict[str, Any], rank: int) -> None:
    """Detections, losses and AP of the shipped model on some pictures, and how many pictures this process looked at."""
    data = open_data(DATA)["val"]
    data = data.subset(list(range(job["count"])), "some")
    joined = join_processes("cpu")
    model = load(ASSETS / "demo.safetensors")
    seen = []
    model.backbone.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    found = measure(
        model, data, batch_size=job["batch_size"], losses=True, tasks=True, share=joined.share, gather=joined.gather
    )
    ap = evaluate(found.rows, data).ap
    answer = {"seen": sum(seen), "rows": found.rows, "losses": found.losses, "ap": ap}
    (Path(job["out"]) / f"{job['world']}-{job['count']}-{rank}.json").write_text(json.dumps(answer))


def do(job: dict[str, Any], rank: int, port: int) -> None:
    torch.set_num_threads(1)
    if job["world"] > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world"], "LOCAL_WORLD_SIZE": job["world"]}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
    if "settings" in job:
        train(job)
    else:
        measured(job, rank)


def main(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        if "copy" in job:
            shutil.copytree(*job["copy"])
            continue
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = []
        for rank in range(job["world"]):
            child = os.fork()
            if child == 0:
                try:
                    do(job, rank, port)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        ends = [os.waitpid(child, 0)[1] for child in children]
        if any(ends):
            sys.exit(f"a process of {job} failed")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
