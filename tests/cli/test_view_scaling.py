"""`headway view scaling` without timing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from headway.cli import main


def test_picture_numbers_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["view", "scaling", "--steps", "1", "--repeats", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["not", "0", "1.00", "1.00", "512x512", "3,874,217", "2.46", "-", "-"]
    assert lines[-1] == "drawn: runs/view/scaling.png"
    numbers = json.loads((tmp_path / "runs/view/scaling.json").read_text())
    assert [(row["line"], row["step"]) for row in numbers["networks"]] == [
        ("compound", 0), ("width", 1), ("depth", 1), ("resolution", 1), ("compound", 1), ("published", 1),
    ]  # fmt: skip
    assert all(row["latency"] is None for row in numbers["networks"])
    with Image.open(tmp_path / "runs/view/scaling.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0)} <= colours  # a line each


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--steps", "8"], 2, "--steps must be from 1 to 7, got 8"),
        (["--repeats", "-1"], 2, "--repeats must be from 0 to 1000, got -1"),
        (["--precision", "fp16", "--device", "cpu"], 1, "fp16 needs a GPU"),
        (["--out", "full"], 1, "nothing is overwritten"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, expected: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert main(["view", "scaling", *arguments]) == code
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert expected in err
