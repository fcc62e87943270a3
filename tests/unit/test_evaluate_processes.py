"""`headway eval` under torchrun: each picture once, whatever the number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headway.demo import ASSETS, DATA


def test_three_processes_measure_what_one_does(tmp_path: Path) -> None:
    """Three on 20 pictures, which they do not divide: AP to 1e-6, as many detections, one answer and one report."""
    arguments = ["-m", "headway.cli", "eval", str(ASSETS / "demo.safetensors"), "--data", str(DATA), "--json"]
    arguments += ["--device", "cpu", "--out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone"]
    answers = []
    for start, out in (([], "one"), (torchrun, "three")):
        command = [sys.executable, *start, *arguments, str(tmp_path / out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        answers.append(json.loads(done.stdout))
        assert (tmp_path / out / "report.html").is_file()
    one, three = answers
    assert one["ap"] > 0.4
    for name in ("ap", "ap50", "ap75", "ar_100"):
        assert three[name] == pytest.approx(one[name], abs=1e-6)
    for mine, theirs in zip(one["per_class"], three["per_class"]):
        assert (mine["name"], mine["boxes"]) == (theirs["name"], theirs["boxes"])
        assert theirs["ap"] == pytest.approx(mine["ap"], abs=1e-6)
