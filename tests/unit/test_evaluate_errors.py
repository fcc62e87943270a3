"""`headway.evaluate.errors` and `headway errors` on files of results: names, folders, refusals."""

import json
from pathlib import Path

import pytest

from headway import cli
from headway.data.formats.any_format import open_splits
from headway.demo import DATA
from headway.errors import HeadwayError
from headway.evaluate import errors
from headway.evaluate.kinds import KINDS


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """a.json finds every box of the shipped val split; b.json names each as the next class, and one box twice."""
    monkeypatch.chdir(tmp_path)
    data = open_splits(DATA)["val"]
    runs = {"a": [], "b": []}
    for record in data.records:
        for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist()):
            row = {"image_id": record.image_id, "score": 0.9, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            runs["a"].append({**row, "category_id": data.category_ids[label]})
            runs["b"].append({**row, "category_id": data.category_ids[(label + 1) % 3]})
    runs["a"].append({**runs["a"][0], "score": 0.1})
    for name, rows in runs.items():
        Path(f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_runs_side_by_side(desk):
    found = errors(results=["a.json", "b.json"], data=DATA, out="out", pictures=2)
    counts = {name: {k: n for k, n in run.all.counts.items() if n} for name, run in found.runs.items()}
    boxes = found.data.num_boxes
    assert counts["a.json"] == {"duplicate": 1}
    assert sum(n for kind, n in counts["b.json"].items() if kind != "missed") == boxes
    assert counts["b.json"]["classification"] > 0.9 * boxes
    assert found.runs["a.json"].all.ap == 1
    written = json.loads(Path("out/errors.json").read_text())
    assert written["runs"]["b.json"]["all"]["counts"] == dict.fromkeys(KINDS, 0) | counts["b.json"]
    assert "a.json" in Path("out/errors.html").read_text()
    with pytest.raises(HeadwayError, match="not empty"):
        errors(results="a.json", data=DATA, out="out")


def test_nothing_is_written_unasked(desk):
    found = errors(results="a.json", data=DATA)
    assert found.page is None
    assert sorted(path.name for path in desk.iterdir()) == ["a.json", "b.json"]


def test_two_of_one_name_go_by_their_paths(desk):
    (desk / "other").mkdir()
    (desk / "other" / "a.json").write_text("[]")
    found = errors(results=["a.json", "other/a.json"], data=DATA)
    assert [*found.runs] == ["a.json", "other/a.json"]
    assert found.runs["other/a.json"].all.counts["missed"] == found.data.num_boxes
    with pytest.raises(HeadwayError, match="named twice"):
        errors(results=["a.json", "a.json"], data=DATA)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "nothing to analyse"),
        ({"results": "a.json", "iou": 0}, "iou must be"),
        ({"results": "a.json", "background": 0.6}, "background must be a number in 0..0.5"),
        ({"results": "a.json", "max_detections": 0}, "max_detections must be"),
        ({"results": "a.json", "pictures": -1}, "pictures must be"),
        ({"results": "gone.json"}, "gone.json"),
    ],
)
def test_what_cannot_be_meant(desk, arguments, what):
    with pytest.raises(HeadwayError, match=what):
        errors(data=DATA, out="out", **arguments)


def test_the_command(desk, capsys):
    files = ["--results", "a.json", "b.json"]
    assert cli.main(["errors", *files, "--data", str(DATA), "--by", "class,size", "--pictures", "1"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split("  ")[0].strip(): line.split() for line in shown.splitlines()}
    assert lines["AP50"][1] == "1.0000"
    assert lines["duplicate"][1:3] == ["+0.0000", "1"]
    assert "a.json by class" in shown
    assert "b.json by size" in shown
    assert Path("runs/errors/errors.html").is_file()
    assert cli.main(["errors", *files, "--data", str(DATA), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(Path("runs/errors-2/errors.html"))
    assert found["runs"]["a.json"]["all"]["counts"]["duplicate"] == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "--data FOLDER"),
        (["--data", "photos"], "say whose errors"),
        (["--data", "photos", "--results", "a.json", "--by", "colour"], "got 'colour'"),
    ],
)
def test_wrong_usage(desk, arguments, what, capsys):
    assert cli.main(["errors", *arguments]) == 2
    assert what in capsys.readouterr().err
