"""A check by several processes: the report of one, after a kill too, and pictures that kill their process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import builders as make
import pytest

from headway import cli
from headway.data.formats import look
from headway.data.formats.check import check
from headway.data.formats.raw import RawImage
from headway.errors import HeadwayError


def spoiled(folder: Path, count: int = 40) -> Path:
    """Pictures of which one is cut off, one empty, one missing and one the same as another."""
    content = make.coco_content()
    content["images"] += [
        {"id": 10 + i, "file_name": f"{i:03d}.jpg", "width": 64, "height": 48 + (i == 9)} for i in range(count)
    ]
    make.coco(folder, content)
    make.pictures(folder / "train", [f"{i:03d}.jpg" for i in range(count)], 3)
    broken = folder / "train/005.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    (folder / "train/006.jpg").write_bytes(b"")
    (folder / "train/007.jpg").unlink()
    (folder / "train/008.jpg").write_bytes((folder / "train/009.jpg").read_bytes())
    return folder


def test_two_processes_report_what_one_does_and_go_on_after_a_kill(tmp_path: Path) -> None:
    """The command is killed once its state knows 16 pictures; a picture that changed meanwhile is looked at again."""
    folder, state = spoiled(tmp_path / "set", 200), tmp_path / "state.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = (
        "import sys, time; from pathlib import Path; from headway.data.formats import check;"
        "check.check(sys.argv[1], workers=2, state=Path(sys.argv[2]), progress=lambda *_: time.sleep(0.02))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, folder, state], env=environment)
    deadline = time.monotonic() + 60
    while not (state.exists() and state.read_bytes().count(b"\n") > 16) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = state.read_bytes().count(b"\n") - 1
    assert 16 <= known < 200
    with state.open("ab") as stream:
        stream.write(b'["cut off')
    first = folder / "train/a.jpg"
    first.write_bytes(first.read_bytes()[:-100])
    seen: list[int] = []
    report = check(folder, workers=2, state=state, progress=lambda done, total: seen.append(done))
    assert json.dumps(report.to_dict()) == json.dumps(check(folder).to_dict())
    assert seen[-1] == 203
    assert {"broken_image", "empty_image", "duplicate_image", "wrong_size"} <= report.by_kind().keys()
    assert report.by_kind()["broken_image"][0].where.startswith("train: train.json, image 1 ")
    assert not state.exists()


def test_the_command_prints_the_same_with_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spoiled(tmp_path / "set", 12)
    codes = [cli.main(["data", "check", "set", "--json"])]
    plain = capfd.readouterr().out
    codes.append(cli.main(["data", "check", "set", "--json", "--workers", "2"]))
    assert capfd.readouterr().out == plain
    assert codes == [1, 1]
    assert not [*(tmp_path / "runs/check").iterdir()]
    assert cli.main(["data", "check", "set", "--state", "x"]) == 2
    assert "--state is where a check with several processes goes on: add --workers N" in capfd.readouterr().err
    assert cli.main(["data", "check", "set", "--workers", "0"]) == 2


def test_what_is_known_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.pictures(tmp_path)
    images = [RawImage(i, name, tmp_path / name, None, name) for i, name in enumerate(make.TRUTH)]
    looked: list[str] = []
    monkeypatch.setattr(look, "look_at", lambda image: looked.append(image.name) or look.Look((1, 2), [], image.name))
    state = tmp_path / "runs/state.jsonl"
    stopped = look.look_at_all(images, state=state)
    first = next(stopped), next(stopped)
    stopped.close()
    assert [*look.look_at_all(images, state=state)][:2] == [*first]
    assert looked == [*make.TRUTH]
    assert not state.exists()


def test_a_file_that_is_no_state_is_left_alone_and_a_state_is_used_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("mine\n")
    image = RawImage(1, "a.jpg", None, None, "a.jpg")
    with pytest.raises(HeadwayError, match=r"mine.txt is no state of a check: remove it, or name another --state"):
        next(look.look_at_all([image], state=path))
    assert path.read_text() == "mine\n"
    other = tmp_path / "state"
    busy = look.look_at_all([image], state=other)
    next(busy)
    with pytest.raises(HeadwayError, match=r"another check writes to .*state now"):
        next(look.look_at_all([image], state=other))
    busy.close()
    other.write_text(look._MARK)  # of an older version, or cut off
    assert len([*look.look_at_all([image], state=other)]) == 1


def test_a_state_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    image = RawImage(1, "a.jpg", None, None, "a.jpg")
    (tmp_path / "file").touch()
    for name, message in ((".", "is no file, and a state is one"), ("file/state", "cannot be written: File exists")):
        with pytest.raises(HeadwayError, match=message):
            next(look.look_at_all([image], state=tmp_path / name))


def test_processes_that_cannot_start_are_no_pictures_fault(tmp_path: Path) -> None:
    """A script that lacks its guard runs itself again in each process. Before, every picture was called broken."""
    make.coco(tmp_path / "set")
    script = tmp_path / "script.py"
    script.write_text(
        "from headway.data.formats.check import check\n"
        "from headway.errors import HeadwayError\n"
        f"try:\n    check({str(tmp_path / 'set')!r}, workers=1)\n"
        "except HeadwayError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("the processes that decode pictures end before they see one; a script that starts")


def test_a_picture_that_kills_its_process_is_told_and_the_others_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    make.pictures(tmp_path)
    images = [RawImage(i, name, tmp_path / name, None, name) for i, name in enumerate(make.TRUTH)]
    images[1] = RawImage(1, "deadly.jpg", Deadly(tmp_path / "deadly.jpg"), None, "deadly.jpg")
    found = [*look.look_at_all(images, workers=2)]
    assert [one.size for one in found] == [(48, 64), None, (48, 64)]
    assert [problem.kind for one in found for problem in one.problems] == ["broken_image"]
    assert "ended the process that decoded it" in found[1].problems[0].detail


class Deadly(type(Path())):  # type: ignore[misc]
    """A path that ends a worker process which asks for it."""

    def is_file(self) -> bool:
        os._exit(9)
