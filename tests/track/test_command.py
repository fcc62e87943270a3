"""`headway track` over a moving window of a photograph, with the shipped detector of blood cells."""

import json
import shutil

import pytest
import torch
from PIL import Image

import headway
from headway import cli
from headway.demo import ASSETS, DATA

CHECKPOINT = ASSETS / "demo.safetensors"


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "frames"
    folder.mkdir()
    photo = Image.open(DATA / "val" / "BloodImage_00037.jpg")
    for t in range(5):
        photo.crop((8 * t, 60, 8 * t + 560, 480)).save(folder / f"{t}.png")
    return folder


@pytest.fixture(scope="module")
def done(frames, tmp_path_factory):
    """The folder of a run."""
    out = tmp_path_factory.mktemp("run") / "track"
    assert cli.main(["track", str(CHECKPOINT), str(frames), "--out", str(out), "--json"]) == 0
    return out


def test_every_detection_stands_once_and_the_files_agree(done, frames):
    content = json.loads((done / "tracks.json").read_text())
    assert [image["frame_id"] for image in content["images"]] == [0, 1, 2, 3, 4]
    assert content["images"][1]["time"] == 0.04
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (560, 420)
    rows = content["annotations"]
    model = headway.load(CHECKPOINT)
    detected = model.predict(sorted(frames.iterdir()), threshold=0.1)
    assert len(rows) == sum(map(len, detected))
    first = [row["bbox"][0] for row in rows if row["image_id"] == 1]
    assert sorted(first) == pytest.approx(sorted(detected[0].boxes[:, 0].tolist()), abs=0.01)
    assert all(row["track_id"] >= 1 or row["track_id"] == -1 for row in rows)
    lines = (done / "tracks.txt").read_text().splitlines()
    assert len(lines) == sum(row["track_id"] > 0 for row in rows)
    assert len([*(done / "frames").iterdir()]) == 5


def test_cells_keep_their_identities(done):
    """The window moves 8 pixels a frame: of the objects with an identity in the first frame most are in the last."""
    lines = [line.split(",") for line in (done / "tracks.txt").read_text().splitlines()]
    first, last = ({line[1]: float(line[2]) for line in lines if line[0] == frame} for frame in "15")
    both = {name for name in first if name in last}
    assert len(both) >= 5
    moved = [first[name] - last[name] for name in both]
    assert sorted(moved)[len(moved) // 2] == pytest.approx(32, abs=3)


def test_frames_in_tiles_and_mirrored(frames, tmp_path):
    """The command and `headway.track` see in a frame what `model.predict` sees with the same views."""
    (tmp_path / "one").mkdir()
    shutil.copy(frames / "0.png", tmp_path / "one")
    views = {"tiles": 400, "overlap": 0.1, "tta": "flip"}
    model = headway.load(CHECKPOINT)
    expected = model.predict(frames / "0.png", threshold=0.1, batch_size=4, **views)
    ((_, found),) = headway.track(model, tmp_path / "one", batch_size=4, **views)
    torch.testing.assert_close(found.boxes, expected.boxes)
    out = tmp_path / "track"
    options = [text for name, value in views.items() for text in (f"--{name}", str(value))]
    assert cli.main(["track", str(CHECKPOINT), str(tmp_path / "one"), *options, "--no-video", "--out", str(out)]) == 0
    rows = json.loads((out / "tracks.json").read_text())["annotations"]
    assert [row["bbox"][0] for row in rows] == pytest.approx(expected.boxes[:, 0].tolist(), abs=0.01)
    assert len(expected) != len(model.predict(frames / "0.png", threshold=0.1))


def test_tracks_are_perfect_beside_themselves(done, capsys):
    assert cli.main(["track", "eval", "--truth", str(done / "tracks.json"), "--results", str(done / "tracks.txt")]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    figures = dict(zip(header.split(), row.split()[1:]))
    assert (figures["HOTA"], figures["IDF1"], figures["MOTA"], figures["IDSW"]) == ("1", "1", "1", "0")
    files = ["--truth", str(done / "tracks.json"), "--results", str(done / "tracks.json"), "--json"]
    assert cli.main(["track", "eval", *files]) == 0
    assert len(json.loads(capsys.readouterr().out)["alphas"]["HOTA"]) == 19


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["MODEL", "FRAMES", "--out", "DONE"], 1, "nothing is overwritten"),
        (["MODEL", "FRAMES", "--tracker", "jde"], 1, "--set embedding=64"),
        (["MODEL", "FRAMES", "--new-score", "0.05"], 1, "new_score must be a number in 0.1..1"),
        (["MODEL", "FRAMES", "--min-score", "2"], 2, "--min-score must be in 0..1, got 2"),
        (["MODEL", "FRAMES", "--out", "FRAMES/0.png/x"], 1, "cannot be made: Not a directory"),
        (["MODEL", "gone.mp4"], 1, "gone.mp4"),
        (["MODEL", "FRAMES", "--batch-size", "0"], 2, "--batch-size"),
        (["MODEL", "FRAMES", "--tiles", "8"], 2, "--tiles (the side of a tile in pixels) must be"),
        (["MODEL", "FRAMES", "--tta", "turn"], 2, "--tta is a list of 'flip'"),
        (["gone.safetensors", "FRAMES"], 1, "gone.safetensors"),
        (["eval", "--truth", "gt.txt"], 2, "name both files"),
        (["eval", "--truth", "gt.txt", "--results", "t.txt"], 1, "gt.txt"),
    ],
)
def test_mistakes_are_one_line(arguments, code, words, frames, done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": CHECKPOINT, "FRAMES": frames, "DONE": done}
    assert (
        cli.main(["track", *(str(names.get(word, word)).replace("FRAMES/", f"{frames}/") for word in arguments)])
        == code
    )
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert "Traceback" not in line


def test_embeddings_from_end_to_end(frames):
    """A network with embeddings, random weights: all boxes are followed, and the loop gives frames with times."""
    torch.manual_seed(0)
    model = headway.create_model("yolor_s", num_classes=2, width=0.125, depth=0.33, embedding=8, input_size=(64, 96))
    seen = [*headway.track(model, frames, method="jde", min_score=0, new_score=0, max_detections=6, nms_iou=0.5)]
    assert [frame.time for frame, _ in seen] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert all(set(found.extras) >= {"embeddings", "track"} for _, found in seen)
    assert seen[0][1].extras["track"].tolist() == list(range(1, len(seen[0][1]) + 1))


def test_the_score_that_begins_a_track_is_the_models():
    """Its best F1 in validation, never below what is looked at; 0.3 where it is not known."""
    from headway.track.api import usual_new_score

    assert usual_new_score(headway.ModelCard(class_names=("a",), metrics={"threshold": 0.42}), 0.1) == 0.42
    assert usual_new_score({"metrics": {"threshold": 0.05}}, 0.1) == 0.1
    assert usual_new_score({"metrics": {}}, 0.1) == 0.3


def test_frames_that_cannot_be_read_are_told_in_python_too(tmp_path, caplog):
    """Failed before: `headway.track` went over them without a word, where `predict.video` logs them."""

    class Blind:
        path = "blind.onnx"
        card = {"metrics": {}}  # noqa: RUF012

        def predict(self, pictures, **options):
            return [headway.Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=int)) for _ in pictures]

    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    assert [frame.number for frame, _ in headway.track(Blind(), tmp_path)] == [0, 2]
    assert "1 of its frames could not be read" in caplog.text


def test_a_video_by_its_own_times(frames, tmp_path, capsys):
    """Six frames of which every second one is looked at; they come 0, 0.1 and 0.5 s after the first."""
    from headway.predict.frames import open_frames
    from headway.predict.video_writer import VideoWriter

    pictures = [Image.open(path) for path in sorted(frames.iterdir())]
    with VideoWriter(tmp_path / "clip.mp4", fps=20) as video:
        for picture, time in zip([*pictures, pictures[-1]], (0, 0.05, 0.1, 0.4, 0.5, 0.6)):
            video.write(picture, time)
    out = tmp_path / "track"
    assert cli.main(["track", str(CHECKPOINT), str(tmp_path / "clip.mp4"), "--every", "2", "--out", str(out)]) == 0
    assert " objects (" in capsys.readouterr().out
    images = json.loads((out / "tracks.json").read_text())["images"]
    assert [image["frame_id"] for image in images] == [0, 2, 4]
    assert [image["time"] for image in images] == pytest.approx([0, 0.1, 0.5], abs=1e-3)
    assert {line.split(",")[0] for line in (out / "tracks.txt").read_text().splitlines()} == {"1", "3", "5"}
    with open_frames(out / "video.mp4") as drawn:
        assert [round(frame.time, 2) for frame in drawn] == [0, 0.1, 0.5]
    assert not (out / "frames").exists()


def stopping(monkeypatch, error):
    """The tracker raises at the third frame or later."""
    from headway.track import tracker

    update = tracker.Tracker.update

    def stopped(self, found, time=None):
        if time > 0.07:
            raise error
        return update(self, found, time)

    monkeypatch.setattr(tracker.Tracker, "update", stopped)


def test_tracks_are_kept_whatever_ends_the_run(frames, tmp_path, monkeypatch, capsys):
    stopping(monkeypatch, OSError(28, "No space left on device"))
    out = tmp_path / "track"
    arguments = ["track", str(CHECKPOINT), str(frames), "--out", str(out), "--batch-size", "1", "--no-video"]
    assert cli.main(arguments) == 1
    assert "No space left" in capsys.readouterr().err
    assert len(json.loads((out / "tracks.json").read_text())["images"]) == 2
    assert (out / "tracks.txt").read_text()


def test_ctrl_c_is_how_a_live_source_ends(frames, tmp_path, monkeypatch, capsys):
    from headway.predict import frames as module

    opened = module.open_frames
    monkeypatch.setattr(module, "open_frames", lambda source, **how: opened(source, live=True, **how))
    stopping(monkeypatch, KeyboardInterrupt())
    arguments = ["track", str(CHECKPOINT), str(frames), "--out", str(tmp_path / "track"), "--no-video", "--json"]
    assert cli.main(arguments) == 0
    done, told = capsys.readouterr()
    assert json.loads(done)["frames"] in (1, 2)
    assert "Ctrl-C" not in told


def test_a_video_with_a_bracket_in_its_name_is_a_video(frames, tmp_path):
    from headway.predict.video_writer import VideoWriter

    with VideoWriter(tmp_path / "clip [x1].mp4", fps=20) as video:
        video.write(Image.open(frames / "0.png"), 0)
    out = tmp_path / "track"
    assert cli.main(["track", str(CHECKPOINT), str(tmp_path / "clip [x1].mp4"), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"tracks.txt", "tracks.json", "video.mp4"}


def test_what_was_done_is_kept_after_an_interruption(frames, tmp_path, monkeypatch, capsys):
    from headway.track import tracker

    update = tracker.Tracker.update

    def interrupted(self, found, time=None):
        if time > 0.1:
            raise KeyboardInterrupt
        return update(self, found, time)

    monkeypatch.setattr(tracker.Tracker, "update", interrupted)
    out = tmp_path / "track"
    arguments = ["track", str(CHECKPOINT), str(frames), "--out", str(out), "--batch-size", "1", "--no-video"]
    assert cli.main(arguments) == 130
    assert "interrupted after 3 frames" in capsys.readouterr().err
    assert len(json.loads((out / "tracks.json").read_text())["images"]) == 3
    assert {path.name for path in out.iterdir()} == {"tracks.txt", "tracks.json"}
