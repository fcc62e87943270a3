"""`headway data anchors` and what `headway train` makes of its answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from headway.commands.train import parse_arguments
from headway.factory import create_model

from .conftest import Run


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Twenty boxes of 16 to 40 pixels in four pictures of 320x320."""
    draw = random.Random(0)
    folder = tmp_path / "boxes"
    (folder / "images").mkdir(parents=True)
    images, rows = [], []
    for i in range(4):
        Image.new("RGB", (320, 320)).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 320, "height": 320})
        for _ in range(5):
            width, height = draw.randint(16, 40), draw.randint(16, 40)
            rows.append({"id": len(rows) + 1, "image_id": i + 1, "category_id": 1, "bbox": [5, 5, width, height],
                         "area": width * height, "iscrowd": 0})  # fmt: skip
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "all.json").write_text(json.dumps(content))
    return folder


def test_anchors_before_and_after(headway: Run, boxes: Path) -> None:
    """Most published anchors are larger than the boxes; the new ones are among them, and build a model."""
    told = headway("data", "anchors", "boxes", "--model", "yolor_s", "--input-size", 320, 320)
    assert told.returncode == 0, told.stderr
    assert "20 boxes of 4 pictures at 320x320, anchors within a factor of 4" in told.stdout
    assert "yolor_s (before)" in told.stdout
    assert "stride 32: " in told.stdout
    answer = headway("data", "anchors", "boxes", "--model", "yolor_s", "--input-size", 320, 320, "--json")
    found = json.loads(answer.stdout)
    assert found["boxes"] == 20
    assert found["before"]["recall"] == found["after"]["recall"] == 1
    assert found["before"]["best_ratio"] < 0.8 < found["after"]["best_ratio"]
    assert told.stdout.rstrip().splitlines()[-1] == f"--set '{found['set']}'"
    assert all(16 <= side <= 40 for level in found["anchors"] for anchor in level for side in anchor)
    model = create_model("yolor_s", num_classes=1, **parse_arguments([found["set"]]))
    assert model.head.anchors.flatten().tolist() == pytest.approx(
        [side for level in found["anchors"] for anchor in level for side in anchor]
    )


def test_what_has_no_anchors_is_refused(headway: Run, boxes: Path) -> None:
    refused = headway("data", "anchors", "boxes", "--model", "atss_r18_fpn")
    assert refused.returncode == 1
    assert "atss_r18_fpn has no anchors of YOLO's kind" in refused.stderr
    refused = headway("data", "anchors", "boxes", "--split", "test")
    assert refused.returncode == 2
    assert "has no split 'test', it has" in refused.stderr
