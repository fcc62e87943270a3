"""Statistics against numbers counted by hand, and the picture that shows them."""

import json

import builders as make
import numpy as np
import pytest
from PIL import Image

from headway.data.open import open_dataset
from headway.data.stats import draw_stats, stats
from headway.drawing import class_colour


@pytest.fixture
def data(tmp_path):
    """Boxes 20x24 (cat), 30x32 (dog), 10x12 (dog) in 64x48, a picture without boxes, and one crowd region."""
    content = make.coco_content()
    row = {"id": 9, "image_id": 2, "category_id": 1, "bbox": [0, 0, 60, 40], "area": 2000, "iscrowd": 1}
    content["annotations"].append(row)
    return open_dataset(make.coco(tmp_path / "pets", content))


def test_stats_by_hand(data):
    found = stats(data)
    assert json.loads(json.dumps(found)) == found
    assert (found["images"], found["boxes"], found["crowd"], found["images_without_boxes"]) == (3, 3, 1, 1)
    assert found["classes"] == [{"name": "cat", "boxes": 1, "images": 1}, {"name": "dog", "boxes": 2, "images": 2}]
    assert found["sizes"] == {"small": 3, "medium": 0, "large": 0}, "all areas are under 32 x 32"
    assert found["boxes_per_image"] | {"p5": 0, "p95": 0} == {
        "mean": 1.0,
        "min": 0,
        "p5": 0,
        "median": 1,
        "p95": 0,
        "max": 2,
    }
    assert (found["aspect"]["min"], found["aspect"]["max"]) == (round(20 / 24, 4), round(30 / 32, 4))
    assert (found["box_size"]["min"], found["box_size"]["max"]) == (round(120**0.5, 4), round(960**0.5, 4))
    assert found["relative_size"]["max"] == round((960 / (64 * 48)) ** 0.5, 4)
    assert found["image_sizes"] == {"64x48": 3}


@pytest.mark.parametrize(("area", "name"), [(1023.9, "small"), (1024, "medium"), (9215.9, "medium"), (9216, "large")])
def test_sizes_follow_the_annotated_area(tmp_path, area, name):
    content = make.coco_content()
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["area"] = area
    assert stats(open_dataset(make.coco(tmp_path, content)))["sizes"][name] == 1


def test_sample_counts_are_those_of_its_annotation(tmp_path):
    found = stats(open_dataset(make.bccd(tmp_path, "coco"), split="train"))
    content = json.loads((make.SAMPLE / "coco" / "train.json").read_text())
    for category, entry in zip(content["categories"], found["classes"]):
        rows = [row for row in content["annotations"] if row["category_id"] == category["id"]]
        expected = {"name": category["name"], "boxes": len(rows), "images": len({row["image_id"] for row in rows})}
        assert entry == expected


def test_picture_shows_the_data(tmp_path, data):
    path = draw_stats(data, tmp_path / "new" / "stats.png", samples=3)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 600
    for label in (0, 1):  # bars, points and frames are in the class's colour
        near = np.abs(pixels - np.array(class_colour(label))).max(-1) < 8
        assert near.sum() > 2000
    backgrounds = [np.asarray(Image.open(record.path))[0, 0].astype(int) for record in data.records]
    for colour in backgrounds:
        assert (np.abs(pixels - colour).max(-1) < 8).sum() > 5000, "every sample picture is there"


def test_picture_without_boxes_or_readable_samples(tmp_path):
    content = make.coco_content()
    content["annotations"] = []
    folder = make.coco(tmp_path, content)
    data = open_dataset(folder)
    assert stats(data)["box_size"] == {}
    for name in make.TRUTH:
        (folder / "train" / name).write_text("gone")
    path = draw_stats(data, tmp_path / "stats.png")
    assert Image.open(path).size[0] > 600


def test_picture_of_many_classes_is_not_overgrown(tmp_path):
    content = make.coco_content()
    content["categories"] += [{"id": 10 + i, "name": f"a rather long name of class {i}"} for i in range(300)]
    path = draw_stats(open_dataset(make.coco(tmp_path, content)), tmp_path / "stats.png", samples=0)
    assert max(Image.open(path).size) < 2500
