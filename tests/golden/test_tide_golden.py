"""Errors by kind against tidecv 1.0.1, the authors' program: `record_tide.py` made the file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from headway.data.dataset import DetectionData, Record
from headway.evaluate.kinds import KINDS, REPAIRS, tide
from headway.evaluate.matching import match

GOLDEN = json.loads((Path(__file__).parent / "tide" / "scenes.json").read_text(encoding="utf-8"))
THEIRS = dict(zip(REPAIRS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FalsePos", "FalseNeg")))


def analyse(scene):
    records, classes = [], tuple(f"class {i}" for i in range(scene["classes"]))
    for image in range(1, scene["images"] + 1):
        rows = np.array([row[1:] for row in scene["boxes"] if row[0] == image], np.float64).reshape(-1, 6)
        boxes = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], 1).astype(np.float32)
        labels, crowd, areas = rows[:, 0].astype(np.int64), rows[:, 5] > 0, rows[:, 3:5].prod(1).astype(np.float32)
        records.append(Record(image, Path("x.jpg"), None, boxes, labels, crowd, areas))
    data = DetectionData("val", Path("."), "coco", records, classes, tuple(range(scene["classes"])))
    rows = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, label, *box, score in scene["found"]
    ]
    theirs = scene["tidecv"]
    return tide(match(rows, data, theirs["foreground"]), classes, background=theirs["background"])


@pytest.mark.parametrize("name", GOLDEN)
def test_counts_are_tidecvs(name):
    theirs = GOLDEN[name]["tidecv"]["counts"]
    assert analyse(GOLDEN[name]).all.counts == {kind: theirs[THEIRS[kind]] for kind in KINDS}
    assert min(theirs.values()) > 0


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "a class without boxes"])
def test_gains_are_tidecvs(name):
    theirs = GOLDEN[name]["tidecv"]
    ours = analyse(GOLDEN[name]).all
    assert ours.ap == pytest.approx(theirs["ap"], abs=1e-6)
    assert ours.gains == pytest.approx({r: theirs["gains"][THEIRS[r]] for r in REPAIRS}, abs=1e-6)
    assert all(ours.gains[kind] > 0 for kind in KINDS)


def test_a_class_without_boxes_has_no_ap():
    """Where we differ: tidecv's mean is over four classes, one of them 0; ours, as COCO's, over those with boxes."""
    scene = GOLDEN["a class without boxes"]
    ours = analyse(scene)
    assert ours.all.ap == pytest.approx(scene["tidecv"]["ap"] * 4 / 3, abs=1e-6)
    assert math.isnan(ours.classes[3].ap)


def test_the_scenes_hold_what_is_hard():
    usual = GOLDEN["usual"]
    found = np.bincount([row[0] for row in usual["found"]])
    assert found.max() > 100  # more than count
    assert sum(row[-1] for row in usual["boxes"]) > 5  # crowd regions
    boxes = np.bincount([row[0] for row in usual["boxes"] if not row[-1]], minlength=len(found))
    assert ((boxes == 0) & (found > 0)).any()
    assert analyse(usual).errors.crowd.sum() > 5  # detections in crowd regions
