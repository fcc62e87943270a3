"""Trainings in processes of their own, for the tests that kill them or run two at once.

    python child.py train JSON      one training, as `torchrun` and `accelerate launch` start it
    python child.py kills JSON      the same training over and over, each in a fork that is killed, until one finishes

JSON: {"data": folder, "settings": {...}, "model": {...}, "kills": [[when, number], ...]}
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from headway.train import TrainConfig
from headway.train.fit import fit
from headway.train.state import STATE, read_state

sys.path.insert(0, str(Path(__file__).parent))
from tiny import make_data, make_model


def train(job: dict[str, Any], resume: bool) -> None:
    torch.set_num_threads(1)
    config = TrainConfig.from_dict(job["settings"])
    folder = Path(job["data"])
    data, val = make_data(folder, 20), make_data(folder, 4, seed=1, name="val")
    fit(make_model(**job["model"]), data, val, config, resume=resume)


def arm(when: str, number: float) -> None:
    """Kill this process `number` seconds from now, or at the given call of a function that completes a write."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if when == "seconds":
        threading.Thread(target=lambda: (time.sleep(number), die()), daemon=True).start()
        return
    original, calls = getattr(os, when), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            die()
        return original(*arguments, **named)

    setattr(os, when, counted)


def check(out: Path) -> None:
    """Whatever is in the run folder can be read: raises otherwise."""
    read_state(out)
    for path in out.glob("*.safetensors"):
        load_file(path)


def kills(job: dict[str, Any]) -> None:
    out = Path(job["settings"]["out"])
    died = 0
    for kill in [*job["kills"], None]:
        if (out / STATE).exists():
            check(out)
        elif out.exists():
            shutil.rmtree(out)
        child = os.fork()
        if child == 0:
            if kill:
                arm(*kill)
            train(job, resume=(out / STATE).exists())
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        died += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
            sys.exit("a training failed by itself")
    print(died)


if __name__ == "__main__":
    task, text = sys.argv[1:]
    job = json.loads(text)
    if task == "kills":
        kills(job)
    else:
        train(job, resume=False)
