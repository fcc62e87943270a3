"""SIGTERM, as a scheduler or a container sends it, ends a run as Ctrl-C does: what was done is in the files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from headway.demo import ASSETS, DATA

CHECKPOINT = ASSETS / "demo.safetensors"
FRAMES = 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    photo = Image.open(DATA / "val" / "BloodImage_00037.jpg")
    for number in range(FRAMES):
        photo.crop((number % 80, 60, number % 80 + 480, 420)).save(tmp_path / f"frames/{number:03d}.jpg")
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
@pytest.mark.parametrize(("verb", "first"), [("track", "frames/000000.jpg"), ("predict", "000.jpg")])
def test_what_was_done_is_written(folder: Path, verb: str, first: str) -> None:
    command = [sys.executable, "-m", "headway.cli", verb, str(CHECKPOINT), "frames", "--out", "out"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (folder / "out" / first).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        for _ in range(3):  # as some senders do, a few milliseconds apart
            process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "interrupted after" in said
    assert "Traceback" not in said
    if verb == "track":
        frames = json.loads((folder / "out/tracks.json").read_text())["images"]
        assert 0 < len(frames) < FRAMES
        assert (folder / "out/tracks.txt").stat().st_size > 0
    else:
        images = json.loads((folder / "out/predictions.json").read_text())
        assert 0 < len({entry["image_id"] for entry in images}) < FRAMES
