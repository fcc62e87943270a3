"""`headway predict --as-labels` and `--threshold best` on real photographs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import headway as library
from headway.cli import main
from headway.data.formats.any_format import open_dataset
from headway.demo import ASSETS, DATA
from headway.evaluate import errors

PHOTOS = sorted((DATA / "val").glob("*.jpg"))[:2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped one as a training leaves it, with thresholds of its classes: RBC, WBC, Platelets by their labels."""
    model = library.load(ASSETS / "demo.safetensors")
    model.card.thresholds = (0.55, 0.35, None)
    model.card.metrics = {**model.card.metrics, "threshold": 0.45}
    return library.save(model, tmp_path_factory.mktemp("model") / "cells.safetensors")


def run(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_the_folder_is_a_data_set(
    format: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jpg").write_bytes(b"\xff\xd8 no picture")
    assert run(checkpoint, *PHOTOS, "broken.jpg", "--as-labels", format, "--threshold", "best", "--out", "out") == 1
    assert "skipped: " in capsys.readouterr().err
    rows = json.loads(Path("out/predictions.json").read_text())
    limits = dict(zip((1, 2, 3), (0.55, 0.35, 0.45)))
    assert rows
    assert all(row["score"] > limits[row["category_id"]] - 1e-5 for row in rows)
    data = open_dataset("out")
    assert [record.path.name for record in data.records] == [photo.name for photo in PHOTOS]
    for record in data.records:
        own = [row for row in rows if Path(row["file_name"]).name == record.path.name]
        assert [data.class_names[label] for label in record.labels] == [row["category_name"] for row in own]
        sides = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in record.boxes.tolist()]
        assert sides == [pytest.approx(row["bbox"], abs=0.01) for row in own]
    tasks = json.loads(Path("out/label_studio.json").read_text())
    kept = [region["score"] for task in tasks for region in task["predictions"][0]["result"]]
    assert kept == [row["score"] for row in rows]


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_pictures_of_one_name_and_names_that_are_not_utf_8(
    format: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are those of the data set's own pictures. Failed before: a/1.jpg and b/1.jpg were both 1.jpg, and a name
    that is not UTF-8 ended the command with half a data set."""
    monkeypatch.chdir(tmp_path)
    for name, photo in zip((b"a/1.jpg", b"b/1.jpg", b"b/f\xe9e.jpg"), (*PHOTOS, PHOTOS[0])):
        os.makedirs(os.path.dirname(name), exist_ok=True)
        Path(os.fsdecode(name)).write_bytes(photo.read_bytes())
    assert run(checkpoint, "a", "b", "--as-labels", format, "--out", "out") == 0
    assert [record.path.name for record in open_dataset("out").records] == ["1.jpg", "b_1.jpg", "f_e.jpg"]
    found = errors(data="out", results="out/predictions.json", split="train").runs["predictions.json"]
    assert found.all.boxes > 20
    assert (found.all.ap, sum(found.all.counts.values())) == (pytest.approx(1), 0)


def test_rows_of_a_name_that_is_not_utf_8_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    """Failed before: predictions.json was empty, after all the work."""
    name = os.fsdecode(b"f\xe9e.jpg")
    (tmp_path / name).write_bytes(PHOTOS[0].read_bytes())
    assert run(checkpoint, tmp_path / name, "--out", tmp_path / "out") == 0
    assert {
        Path(row["file_name"]).name for row in json.loads((tmp_path / "out" / "predictions.json").read_bytes())
    } == {name}


def test_best_keeps_what_each_class_is_best_with(checkpoint: Path, tmp_path: Path) -> None:
    for threshold in ("0.01", "best"):
        assert run(checkpoint, PHOTOS[0], "--no-pictures", "--threshold", threshold, "--out", tmp_path / threshold) == 0
    every, best = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("0.01", "best"))
    assert best == [row for row in every if row["score"] > (0.55, 0.35, 0.45)[row["category_id"] - 1]]
    assert 0 < len(best) < len(every)


def test_what_cannot_be_meant(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, said in [
        (("--as-labels", "yolo", "--workers", "1", "--out", "job"), "a job does not take --as-labels"),
        (("--threshold", "best", "--workers", "1", "--out", "job"), "a job does not take --threshold best"),
        (("--hardlink",), "--hardlink is for the pictures of a data set"),
        (("--threshold", "2"), "--threshold must be in 0..1, got 2"),
    ]:
        assert run(checkpoint, PHOTOS[0], *options) == 2
        assert said in capsys.readouterr().err
    model = library.load(ASSETS / "demo.safetensors")
    model.card.metrics, model.card.thresholds = {}, ()
    library.save(model, tmp_path / "bare.safetensors")
    assert run("bare.safetensors", PHOTOS[0], "--threshold", "best") == 1
    assert "has no best threshold, which a training keeps from its validation; give a number" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
