"""The multi-task benchmark on four tiny pictures: started, stopped, continued, its table written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "multitask.py"


@pytest.fixture
def data(tmp_path):
    """Two splits of four pictures of 64x48; a box of class 0 in the left upper quarter of each, one of class 1 that
    has three quarters of its area in the right lower quarter, and one of class 0 on the cross of all four."""
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = [(1, [2, 2, 12, 10]), (2, [36, 20, 20, 16]), (1, [24, 16, 16, 16])]
    for split in ("train", "val"):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1, 5):
            Image.fromarray(generator.integers(0, 256, (48, 64, 3), np.uint8)).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
            for category, box in rows:
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
                annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]}  # fmt: skip
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_it_starts_stops_and_continues(data, tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", str(data), "--runs", str(tmp_path / "runs"), "--results",
               str(tmp_path / "results"), "--epochs", "3", "--threads", "1", "--only", "detect+tags+embed"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "runs" / "detect_tags_embed-seed0" / "metrics.jsonl"

    def epochs():
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [row["epoch"] for row in rows if row["kind"] == "epoch"]

    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not epochs() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    errors = first.communicate(timeout=120)[1]
    stopped = epochs()
    assert stopped in ([1], [1, 2]), errors
    assert not (tmp_path / "results" / "multitask.md").exists()

    subprocess.run(command, env=environment, check=True, timeout=280)
    assert epochs() == [1, 2, 3]  # none of them twice
    content = json.loads((tmp_path / "results" / "multitask.json").read_text())
    run = content["runs"]["detect+tags+embed"]["0"]
    assert {"ap", "tag_map", "rank1", "retrieval_map"} <= set(run)
    assert content["images"] == {"train": 16, "val": 16}
    # Of each picture's quarters one has the class red, one white; the box on the cross has a quarter of itself in each.
    assert content["tags"]["val"] == {"red": 4, "white": 4}
    assert "| detect+tags+embed | " in (tmp_path / "results" / "multitask.md").read_text()

    subprocess.run([*command, "--measure"], env=environment, check=True, timeout=280)
    assert json.loads((tmp_path / "runs" / "measured.json").read_text())["ms"]["detect+tags+embed"] > 0
