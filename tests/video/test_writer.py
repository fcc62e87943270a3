"""What is written reads back: the same times, upright, in sizes that encoders take, and playable after a crash."""

import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from headway.errors import HeadwayError
from headway.predict import VideoWriter, open_frames
from headway.predict.frames import is_video

from .clips import grey


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_times_colours_and_an_even_size(tmp_path, monkeypatch, codec):
    """An odd size gets one more row and column, beside which nothing is moved or scaled."""
    monkeypatch.setattr(av, "codecs_available", {codec})
    colours, times = [(200, 30, 30), (30, 160, 60), (250, 250, 250)], [0.0, 0.0417, 1.5]
    with VideoWriter(tmp_path / "out.mp4", fps=24) as video:
        for colour, time in zip(colours, times):
            video.write(np.full((45, 63, 3), colour, np.uint8), time)
        assert video.codec == codec
    with open_frames(tmp_path / "out.mp4") as source:
        frames = list(source)
        assert (source.size, source.count, source.problem) == ((46, 64), 3, "")
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-4)
    for frame, colour in zip(frames, colours):
        assert frame.pixels.float().mean((1, 2)).tolist() == pytest.approx(colour, abs=6)


def test_pil_and_tensors_and_another_size(tmp_path):
    torch = pytest.importorskip("torch")
    with VideoWriter(tmp_path / "out.mp4") as video:
        video.write(Image.fromarray(grey(60)), 0.0)
        video.write(torch.full((3, 48, 64), 120, dtype=torch.uint8), 0.04)
        video.write(grey(180, 96, 200), 0.08)
        with pytest.raises(HeadwayError, match=r"array \[H, W, 3\] uint8"):
            video.write(np.zeros((4, 4)), 0.12)
    with open_frames(tmp_path / "out.mp4") as source:
        frames = list(source)
    assert [frame.pixels.float().mean().item() for frame in frames] == pytest.approx([60, 120, 180], abs=3)
    assert {tuple(frame.pixels.shape) for frame in frames} == {(3, 48, 64)}


def test_nothing_is_overwritten_and_nothing_written_for_nothing(tmp_path):
    with VideoWriter(tmp_path / "out.mp4"):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(HeadwayError, match="nothing is overwritten"):
        VideoWriter(tmp_path / "out.mp4")
    for fps in (-5, float("nan"), float("inf")):
        with pytest.raises(HeadwayError, match="fps must be a number"):
            VideoWriter(tmp_path / "new.mp4", fps=fps)


def test_what_cannot_be_written_is_told(tmp_path):
    """H.264 has sides up to 16384. A file at its greatest size is as on a full disk, and what is in it can be read."""
    wide = pytest.raises(HeadwayError, match=r"wide\.mp4 \(17000x16 pixels in libx264\) cannot be written")
    with wide, VideoWriter(tmp_path / "wide.mp4") as video:
        video.write(np.zeros((16, 17000, 3), np.uint8), 0)
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "full.mp4")], capture_output=True, text=True)
    assert "HeadwayError" in done.stdout, done.stderr
    assert "full.mp4 (256x256 pixels in libx264) cannot be written: File too large" in done.stdout
    assert (tmp_path / "full.mp4").stat().st_size <= 20_000


FULL = """
import resource, signal, sys, numpy
from headway.predict import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with VideoWriter(sys.argv[1], fps=25) as video:
        for number in range(60):
            video.write(numpy.random.default_rng(number).integers(0, 255, (256, 256, 3), numpy.uint8), number / 25)
except Exception as error:
    print(type(error).__name__, error)
"""

CRASH = """
import os, sys, numpy
from headway.predict import VideoWriter
video = VideoWriter(sys.argv[1], fps=10)
for number in range(400):
    video.write(numpy.random.default_rng(number).integers(0, 255, (48, 64, 3), numpy.uint8), number / 10)
os._exit(9)
"""


def test_a_crash_leaves_what_was_written_before(tmp_path):
    """The process ends without a word after 400 frames; the file has no table, but fragments. How many frames the
    encoder still held depends on its threads."""
    clip = tmp_path / "out.mp4"
    done = subprocess.run([sys.executable, "-c", CRASH, str(clip)], env={**os.environ}, check=False)
    assert done.returncode == 9
    assert is_video(clip)
    with open_frames(clip) as source:
        assert sum(1 for _ in source.arrays()) > 200
