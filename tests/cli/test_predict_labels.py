"""`headway predict --as-labels` and `--threshold best` on real photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import headway as library
from headway.cli import main
from headway.data.formats.any_format import open_dataset
from headway.demo import ASSETS, DATA

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
