"""`headway view implicit` on checkpoints that were never trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import headway as library
from headway.cli import main

from .conftest import Run

NAMES = ("red", "blue")


@pytest.fixture(scope="session")
def yolor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small one; treat it as read-only."""
    folder = tmp_path_factory.mktemp("implicit") / "run"
    torch.manual_seed(0)
    model = library.create_model("yolor_s", class_names=NAMES, width=0.125)
    return library.save(model, folder / "last.safetensors").parent


def test_picture_and_numbers(headway: Run, yolor: Path, tmp_path: Path) -> None:
    result = headway("view", "implicit", yolor, "--out", "out", "--json")
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout)
    assert numbers.pop("out") == "out"
    assert json.loads((tmp_path / "out/implicit.json").read_text()) == numbers
    assert numbers["model"] == "yolor_s"
    assert [(row["stride"], row["position"]) for row in numbers["vectors"]] == [
        (stride, position) for stride in (8, 16, 32) for position in ("align", "refine")
    ]
    state = library.load(yolor / "last.safetensors").state_dict()
    for row in numbers["vectors"]:
        expected = state[f"{row['layer']}.{row['position']}.value"].flatten()
        torch.testing.assert_close(torch.tensor(row["values"]), expected)
    with Image.open(tmp_path / "out/implicit.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colours  # box, objectness, class


def test_for_people(yolor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert main(["view", "implicit", str(yolor)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:6] == ["head.predictions.0", "8", "align", "add", "vector", "32"]
    assert lines[-1] == "drawn: runs/view/implicit.png"
    assert sorted(p.name for p in (tmp_path / "runs/view").iterdir()) == ["implicit.json", "implicit.png"]


def test_mistakes(
    checkpoint: Path, yolor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for arguments, expected in (
        ([checkpoint], "atss_r18_fpn_dyhead has no implicit values"),
        (["nowhere"], "nowhere is no file or folder here"),
        ([yolor, "--out", "full"], "nothing is overwritten"),
    ):
        assert main(["view", "implicit", *map(str, arguments)]) == 1
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert expected in err
