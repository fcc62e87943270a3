"""`headway view cascade` on two untrained detectors with stages and one without."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from PIL import Image

import headway as library
from headway.cli import main

from .conftest import Run
from .test_train import make_coco

NAMES = ("red", "blue")
SMALL = {"channels": 32, "input_size": (64, 64)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faster.safetensors, atss.safetensors and the run folder cascade; treat it as read-only."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    stages = {"hidden": 16, "proposals": (20, 20), **SMALL}
    (folder / "cascade").mkdir()
    for name, file, more in (
        ("faster_rcnn_r18_fpn", "faster", stages),
        ("cascade_rcnn_r18_fpn", "cascade/last", stages),
        ("atss_r18_fpn", "atss", SMALL),
    ):
        library.save(library.create_model(name, class_names=NAMES, **more), folder / f"{file}.safetensors")
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco(tmp_path_factory.mktemp("squares") / "data", NAMES, images=6)


def test_picture_and_numbers(headway: Run, models: Path, squares: Path, tmp_path: Path) -> None:
    files = [models / name for name in ("faster.safetensors", "cascade", "atss.safetensors")]
    result = headway("view", "cascade", *files, "--data", squares, "--limit", 4, "--out", "out", "--json")
    assert result.returncode == 0, result.stderr
    assert "atss: atss_r18_fpn has no stages, so it takes part in AP only" in result.stderr.splitlines()
    numbers = json.loads(result.stdout)
    assert numbers.pop("out") == "out"
    assert json.loads((tmp_path / "out/cascade.json").read_text()) == numbers
    assert numbers["version"] == library.__version__
    assert (numbers["data"]["images"], numbers["data"]["boxes"]) == (4, 4)
    assert [(row["name"], row["model"]) for row in numbers["models"]] == [
        ("faster", "faster_rcnn_r18_fpn"), ("cascade", "cascade_rcnn_r18_fpn"), ("atss", "atss_r18_fpn"),
    ]  # fmt: skip
    faster, cascade, atss = numbers["models"]
    assert [line["iou"] for line in cascade["localisation"]] == [0.5, 0.6, 0.7]
    assert "localisation" not in atss
    assert len(atss["ap_by_iou"]) == len(numbers["iou"]) == 10
    assert len(faster["localisation"]) == len(faster["proposals"]) == 1
    for row in faster["proposals"] + cascade["proposals"]:
        assert sum(row["count"]) == 4 * 20
        assert len(row["count"]) == len(numbers["proposal_edges"]) - 1
    for line in cascade["localisation"]:
        assert line["count"] == [4] * 13
        assert line["input"] == pytest.approx(faster["localisation"][0]["input"])
    with Image.open(tmp_path / "out/cascade.png") as picture:
        width, _ = picture.size
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert width == 1870
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colours  # a line of each model
    again = headway("view", "cascade", *files, "--data", squares, "--out", "out")
    assert (again.returncode, again.stdout) == (1, "")
    assert "out exists and is not empty; nothing is overwritten" in again.stderr


def test_for_people_and_by_name(headway: Run, models: Path, squares: Path, tmp_path: Path) -> None:
    files = (models / "faster.safetensors", models / "cascade/last.safetensors")
    result = headway("view", "cascade", *files, "--names", "one", "_three", "--data", squares, "--limit", 2)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "AP", "AP50", "AP75"]
    assert [line.split()[:3] for line in lines[7:11]] == [
        ["one", "1", "0.5"], ["_three", "1", "0.5"], ["_three", "2", "0.6"], ["_three", "3", "0.7"],
    ]  # fmt: skip
    assert lines[-1] == "drawn: runs/view/cascade.png"
    assert sorted(p.name for p in (tmp_path / "runs/view").iterdir()) == ["cascade.json", "cascade.png"]


def test_mistakes(
    models: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cascade, atss = models / "cascade", models / "atss.safetensors"
    content = json.loads((squares / "all.json").read_text())
    classes = [{"id": 1, "name": "green"}, {"id": 2, "name": "blue"}]
    for name, change in (("empty", {"annotations": []}), ("other", {"categories": classes})):
        copytree(squares / "images", tmp_path / name / "images")
        (tmp_path / name / "all.json").write_text(json.dumps({**content, **change}))
    for arguments, code, expected in (
        (["--data", squares], 2, "give at least one checkpoint or run folder"),
        ([cascade], 2, "say what to measure on: --data FOLDER"),
        ([cascade, "--data", squares, "--limit", 0], 2, "--limit must be at least 1, got 0"),
        ([cascade, "--data", squares, "--names", "a", "b"], 2, "one name per checkpoint, got 2 for 1"),
        ([cascade, cascade, "--data", squares], 2, "two checkpoints are called 'cascade': tell them apart by --names"),
        (["nowhere", "--data", squares], 1, "no checkpoint or run folder at nowhere"),
        ([atss, "--data", squares], 1, "no stages to look at in atss_r18_fpn: give at least one Faster or Cascade"),
        ([cascade, "--data", "empty"], 1, "no box in any of the 6 pictures of"),
        ([cascade, "--data", "other"], 1, "has boxes of ['green'], which the model does not know"),
    ):
        assert main(["view", "cascade", *map(str, arguments), "--out", "out"]) == code
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert expected in err
    assert not (tmp_path / "out").exists()
