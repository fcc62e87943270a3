"""`headway predict MODEL VIDEO` and `headway.predict.video`."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headway
from headway import cli
from headway.commands import predict_video
from headway.commands.predict_video import name_of
from headway.predict import open_frames, video
from headway.predict.video_writer import VideoWriter
from headway.progress import Pace

from .clips import grey_clip, write_clip


def noise(count: int, height: int = 46, width: int = 62) -> list[np.ndarray]:
    """Coarse coloured noise, in which a random network finds something."""
    small = np.random.default_rng(0).integers(0, 255, (count, 6, 8, 3), np.uint8)
    return [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.NEAREST)) for one in small]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    times = [0, 0.04, 0.08, 0.5, 0.54, 1.5, 1.52]
    write_clip(tmp_path / "clip.mp4", noise(7), times, turn=(90, False, False))
    return tmp_path


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main([*map(str, words)])
    return (code, *capsys.readouterr())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_video_with_boxes_and_a_line_for_each_frame(desk, checkpoint, capsys):
    """Times that vary and a turn by a quarter: both come back, and each frame has what `predict` finds in it."""
    code, out, err = run(capsys, "predict", checkpoint, "clip.mp4", "--threshold", 0.001, "--out", "out")
    assert code == 0, err
    assert sorted(path.name for path in Path("out").iterdir()) == ["clip.mp4", "predictions.jsonl"]
    rows = lines(desk / "out/predictions.jsonl")
    with open_frames("clip.mp4") as source, open_frames("out/clip.mp4") as drawn:
        frames, boxes = list(source), list(drawn)
        assert source.size == drawn.size == (62, 46)
    assert [frame.time for frame in boxes] == pytest.approx([frame.time for frame in frames], abs=1e-4)
    assert [(row["source"], row["frame"]) for row in rows] == [("clip.mp4", number) for number in range(7)]
    assert [row["time"] for row in rows] == pytest.approx([frame.time for frame in frames], abs=1e-6)
    model, total = headway.load(checkpoint), 0
    for row, frame in zip(rows, frames):
        found = model.predict(frame.pixels, threshold=0.001)
        assert [one["category_name"] for one in row["detections"]] == [one.name for one in found]
        wanted = [one["bbox"] for one in found.to_coco()]
        assert np.allclose([one["bbox"] for one in row["detections"]], wanted, atol=0.01)
        assert found.plot().size == (46, 62)
        total += len(found)
    assert total > 7
    assert out == f"{total} detections in 7 frames: out\n"
    plain = np.mean([np.abs(a.pixels.float() - b.pixels.float()).mean() for a, b in zip(frames, boxes)])
    assert plain > 2  # boxes are drawn


def test_every_and_seconds_and_json(desk, checkpoint, capsys):
    words = ("predict", checkpoint, "clip.mp4", "--every", 2, "--seconds", 0.54, "--json", "--no-pictures")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    summary = json.loads(out)
    assert summary == summary | {"out": "runs/predict", "frames": 2, "dropped": 0, "videos": [], "failed": {}}
    assert [row["frame"] for row in lines(desk / "runs/predict/predictions.jsonl")] == [0, 2]


def test_a_folder_of_pictures_is_a_video_where_fps_says_so(desk, checkpoint, capsys):
    Path("shots").mkdir()
    for number, picture in enumerate(noise(3, 46, 63), 9):
        Image.fromarray(picture).save(f"shots/{number}.png")
    code, _, err = run(capsys, "predict", checkpoint, "shots", "--fps", 5, "--out", "out")
    assert code == 0, err
    assert [row["source"] for row in lines(desk / "out/predictions.jsonl")] == [f"shots/{n}.png" for n in (9, 10, 11)]
    with open_frames("out/shots.mp4") as drawn:
        assert [frame.time for frame in drawn] == pytest.approx([0, 0.2, 0.4], abs=1e-4)
        assert drawn.size == (46, 64)
    code, out, _ = run(capsys, "predict", checkpoint, "shots", "--json")
    assert (code, json.loads(out)["images"]) == (0, 3)


def test_a_damaged_video_gives_its_readable_frames(desk, checkpoint, capsys):
    clip = write_clip(
        desk / "long.mp4", noise(40), container={"movflags": "faststart"}, options={"g": "10", "crf": "5"}
    )
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, out, err = run(capsys, "predict", checkpoint, "clip.mp4", "long.mp4", "--out", "out")
    assert code == 1
    assert "long.mp4 is damaged or was cut off: " in err
    rows = [row for row in lines(desk / "out/predictions.jsonl") if row["source"] == "long.mp4"]
    assert 10 < len(rows) < 30
    assert f"in {7 + len(rows)} frames of 2 videos: out" in out
    with open_frames("out/long.mp4") as drawn:
        assert (len(list(drawn)), drawn.problem) == (len(rows), "")


def test_after_ctrl_c_the_video_plays(desk, checkpoint, capsys, monkeypatch):
    """Ctrl-C at the fifth frame."""
    write, count = VideoWriter.write, iter(range(100))

    def interrupted(*arguments):
        if next(count) == 4:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    code, _, err = run(capsys, "predict", checkpoint, "clip.mp4", "--out", "out", "--batch-size", 1)
    assert (code, "interrupted after 5 frames of clip.mp4; out holds those" in err) == (130, True), err
    with open_frames("out/clip.mp4") as drawn:
        assert len(list(drawn)) == 4
        assert drawn.problem == ""
    assert len(lines(desk / "out/predictions.jsonl")) == 5


def test_ctrl_c_is_how_a_live_source_ends(desk, checkpoint, capsys, monkeypatch):
    """The clip plays as a camera would; Ctrl-C comes at the first frame, and frames that were dropped are told."""
    opened = open_frames
    monkeypatch.setattr("headway.predict.frames.open_frames", lambda source, **how: opened(source, live=True, **how))
    times = [number / 1000 for number in range(200)]
    grey_clip(desk / "fast.mp4", 200, times)
    find = predict_video._Results._add

    def interrupted(*arguments):
        find(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_video._Results, "_add", interrupted)
    code, out, err = run(capsys, "predict", checkpoint, "fast.mp4", "--out", "out", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["frames"] == 1
    assert (summary["dropped"] > 0) == ("frames came while others were looked at" in err)
    assert len(lines(desk / "out/predictions.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["gone.mp4"], "there is no video gone.mp4", 1),
        (["clip.mp4", "photo.jpg"], "photo.jpg is no video", 2),
        (["clip.mp4", "http://me:secret@x.org/a.jpg"], "http://me:***@x.org/a.jpg is no video", 2),
        (["clip.mp4", "--fps", "10"], "clip.mp4 has times of its own", 1),
        (["clip.mp4", "--every", "0"], "--every must be at least 1", 2),
        (["clip.mp4", "--seconds", "0"], "--seconds must be more than 0", 2),
        (["clip.mp4", "--workers", "2"], "a job looks at pictures", 2),
        (["photo.jpg", "--every", "2"], "--every and --seconds are of videos", 2),
        (["empty", "--fps", "3"], "folder empty holds no picture\n", 1),
        (["text.mp4"], "video text.mp4 cannot be opened (Invalid data", 1),
    ],
)
def test_mistakes_are_one_line_and_no_folder(desk, checkpoint, capsys, words, message, code):
    Image.new("RGB", (20, 20)).save("photo.jpg")
    Path("text.mp4").write_text("no video")
    Path("empty").mkdir()
    got, out, err = run(capsys, "predict", checkpoint, *words)
    assert (got, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()


def test_nothing_to_look_at_has_no_folder(desk, checkpoint, capsys):
    Path("text.mp4").write_text("no video")
    code, out, err = run(capsys, "predict", checkpoint, "text.mp4", "text.mp4")
    assert (code, out) == (1, "0 detections in 0 frames of 2 videos\n"), err


def test_names_of_videos():
    sources = (
        "a/clip.mov",
        "0",
        "/dev/video2",
        "rtsp://cam/1",
        "https://x.org/b.mp4?key=1",
        "shots/*.png",
        "video=A B",
    )
    names = ["clip", "camera-0", "video2", "stream", "b", "shots", "video-A B"]
    assert [name_of(source) for source in sources] == names


# --------------------------------------------------------------------------------------------------------- in Python
def test_frames_come_with_what_was_found_and_are_let_go(desk, checkpoint):
    """Only the frames of a batch are alive at a time, however long the video."""
    model = headway.load(checkpoint)
    clip = grey_clip(desk / "long.mp4", 30)
    alive, most, seen = [], 0, []
    for frame, found in headway.predict.video(model, clip, threshold=0.001, batch_size=2, every=2):
        alive.append(weakref.ref(frame.pixels))
        most = max(most, sum(one() is not None for one in alive))
        seen.append(frame.number)
        assert found.size == (48, 64)
        assert torch.equal(found.source, frame.pixels)
    assert seen == list(range(0, 30, 2))
    assert most <= 4


def test_the_model_keeps_its_mode_and_a_batch_changes_nothing(desk, checkpoint):
    model = headway.load(checkpoint).train()
    one = [found for _, found in video(model, "clip.mp4", threshold=0.001)]
    four = [found for _, found in video(model, "clip.mp4", threshold=0.001, batch_size=4)]
    assert model.training
    for a, b in zip(one, four, strict=True):
        assert torch.allclose(a.boxes, b.boxes, atol=1e-3)


def test_damage_is_told_in_the_log(desk, checkpoint, caplog):
    clip = write_clip(desk / "long.mp4", noise(40), container={"movflags": "faststart"}, options={"g": "5", "crf": "5"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 3 // 4])
    assert 0 < len(list(video(headway.load(checkpoint), clip))) < 40
    assert "long.mp4 is damaged or was cut off" in caplog.text


def test_neither_torch_nor_pyav_is_imported_before_it_is_needed():
    code = "import sys, headway.predict as p; p.open_frames, p.VideoWriter; print({'torch', 'av'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_the_pace_of_what_has_no_end():
    """From 0 s: 10 after 2 s are 5 a second; a log gets a line after 30 s."""
    times = iter([0.0, 2.0, 2.0, 29.0, 31.0])
    pace = Pace(lambda: next(times))
    assert not pace.due(0, None)
    assert not pace.due(10, None)
    assert pace.rate(10) == 5
    assert [pace.due(100, None), pace.due(110, None)] == [False, True]


EXPORTED = """
import json, sys
import numpy as np
from headway import cli
from headway.runtime import runtime

card = {"class_names": ["red", "white"], "category_ids": [], "metrics": {}, "input_size": [48, 64], "pad_multiple": 32,
        "max_detections": 100}

class Engine:
    name, notes, shape = "fake", {"card": json.dumps(card), "export": "{}"}, [None, 3, None, None]
    def __call__(self, images, sizes):
        count = len(images)
        return [np.full((count, 1, 4), [8, 8, 24, 24], "f4"), np.full((count, 1), 0.9, "f4"), np.ones((count, 1), int)]

runtime.open_engine = lambda *_: Engine()
code = cli.main(["predict", "fake.onnx", "clip.mp4", "--out", "out"])
sys.exit(7 if "torch" in sys.modules else code)
"""


def test_an_exported_file_looks_at_video_without_torch(desk):
    """The engine finds one box in each frame, which is 46 wide where the engine's input is 48: 24 pixels are 23."""
    Path("fake.onnx").write_text("")
    done = subprocess.run([sys.executable, "-c", EXPORTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "7 detections in 7 frames: out\n"), done.stderr
    boxes = [one["bbox"] for row in lines(desk / "out/predictions.jsonl") for one in row["detections"]]
    assert np.allclose(boxes, [[8 * 46 / 48, 8 * 62 / 64, 16 * 46 / 48, 16 * 62 / 64]] * 7, atol=0.6)
    assert Path("out/clip.mp4").is_file()
