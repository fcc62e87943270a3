"""Scenes of a few boxes, and data sets on the disk."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from headway.data.dataset import DetectionData, Record
from headway.evaluate.matching import match

NAMES = ("cat", "dog")
A, B, FAR = [0, 0, 20, 20], [40, 0, 60, 20], [100, 100, 140, 140]
SIZE = (64, 48)  # width, height
TRUTH = {"a.jpg": [([4, 6, 24, 30], 0), ([30, 8, 60, 40], 1)], "b.jpg": [([10, 10, 20, 22], 1)], "c.jpg": []}


def record(boxes=(), labels=(), crowd=(), image_id=1, path="a.jpg"):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    flags, areas = np.isin(np.arange(len(boxes)), crowd), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Record(image_id, Path(path), (200, 200), boxes, np.asarray(labels, np.int64), flags, areas)


def row(label, box, score, image_id=1, **more):
    x1, y1, x2, y2 = box
    return {"image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score, **more}


def matched(one, rows):
    """Of one record."""
    return match(rows, DetectionData("val", Path("."), "coco", [one], NAMES, (1, 2)))[0]


def coco(folder, split="train", truth=None, names=NAMES, size=SIZE):
    """A split of pictures of one colour each. truth: file name -> [(xyxy box, label)]."""
    truth, rows = TRUTH if truth is None else truth, []
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number, (name, boxes) in enumerate(truth.items(), 1):
        Image.new("RGB", size, (40 * number % 256, 200, len(split) * 20)).save(folder / split / name)
        for (x1, y1, x2, y2), label in boxes:
            entry = {"id": len(rows) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            rows.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    images = [{"id": n, "file_name": f, "width": size[0], "height": size[1]} for n, f in enumerate(truth, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def results(path, rows):
    path.write_text(json.dumps(rows))
    return path
