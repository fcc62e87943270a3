"""How long errors by kind take: 5,000 pictures with 100 detections each, 80 classes, one thread.

OMP_NUM_THREADS=1 python benchmarks/errors.py
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from headway.data.dataset import DetectionData, Record
from headway.evaluate.coco import check_results
from headway.evaluate.kinds import KINDS, tide
from headway.evaluate.matching import match
from headway.evaluate.results import read_results


def make(images: int, detections: int, classes: int = 80) -> tuple[DetectionData, list[dict]]:
    """COCO's mean of 7 boxes; detections around them and elsewhere, a third with another class."""
    rng = np.random.default_rng(0)
    records, rows = [], []
    for image in range(1, images + 1):
        count = int(rng.poisson(7))
        corner, side = rng.uniform(0, 500, (count, 2)), np.exp(rng.uniform(2.3, 5.5, (count, 2)))
        boxes, labels = np.concatenate([corner, side], 1), rng.integers(0, classes, count)
        xyxy = np.concatenate([corner, corner + side], 1).astype(np.float32)
        areas = side.prod(1).astype(np.float32)
        records.append(Record(image, Path(f"{image}.jpg"), None, xyxy, labels, rng.random(count) < 0.01, areas))
        for score in rng.random(detections).tolist():
            near = count and rng.random() < 0.7
            i = int(rng.integers(count)) if near else -1
            box = boxes[i] if near else np.array([*rng.uniform(0, 500, 2), *np.exp(rng.uniform(2.3, 5.5, 2))])
            moved = box + rng.normal(0, 0.15, 4) * np.tile(box[2:], 2)
            label = int(labels[i]) if near and rng.random() < 0.67 else int(rng.integers(classes))
            bbox = [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()]
            rows.append({"image_id": image, "category_id": label, "bbox": bbox, "score": score})
    names = tuple(f"class {i}" for i in range(classes))
    return DetectionData("val", Path("."), "coco", records, names, tuple(range(classes))), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    options = parser.parse_args()
    data, rows = make(options.images, options.detections)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        path.write_text(json.dumps(rows))
        marks = [("", time.perf_counter(), time.process_time())]
        rows = read_results(path, data)
        marks.append(("read", time.perf_counter(), time.process_time()))
        rows = check_results(rows, data)
        marks.append(("check", time.perf_counter(), time.process_time()))
        matches = match(rows, data)
        marks.append(("match", time.perf_counter(), time.process_time()))
        found = tide(matches, data.class_names)
        marks.append(("kinds", time.perf_counter(), time.process_time()))
    for (_, wall, cpu), (name, wall_after, cpu_after) in pairwise(marks):
        print(f"{name:6} {wall_after - wall:6.2f} s, of the processor {cpu_after - cpu:6.2f} s")
    print(f"all    {marks[-1][1] - marks[0][1]:6.2f} s, of the processor {marks[-1][2] - marks[0][2]:6.2f} s")
    print(", ".join(f"{kind} {found.all.counts[kind]} (+{found.all.gains[kind]:.4f})" for kind in KINDS))


if __name__ == "__main__":
    main()
