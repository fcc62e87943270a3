"""What tiles find of tiny objects in large pictures, what they cost, and what each rule of their borders is worth.

python benchmarks/tiles.py FOLDER [--split test] [--mosaics 3] [--only set views rules tta batches]

FOLDER: a data set of photographs (BCCD). Each large picture is a mosaic of ACROSS x ACROSS of them, shrunk to half
their sides: 2560 x 1920 pixels of photographs of 640 x 480. The detector is the shipped one, which was trained on
photographs of 640 x 480 scaled to 320 x 240. So tiles of its input size show cells as large as it knows them, and the
whole picture shows them at an eighth. Photographs that it was trained on are left out.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import headway
from headway.data.dataset import DetectionData, Record
from headway.data.formats.any_format import open_dataset
from headway.demo import ASSETS, DATA
from headway.evaluate.api import evaluate
from headway.evaluate.coco import evaluate as coco
from headway.evaluate.views import measure_views
from headway.overlap import iou_of
from headway.predict import Predictor, tiles
from headway.predict.tiles import Joined

RESULTS = Path(__file__).parent / "results"
ACROSS, SHRUNK = 8, (320, 240)


def make_set(data: DetectionData, folder: Path, mosaics: int, across: int) -> DetectionData:
    """Mosaics of across x across photographs in their order; where there are too few they begin again, mirrored."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SHRUNK
    records = []
    for number in range(mosaics):
        picture = Image.new("RGB", (across * width, across * height))
        boxes, labels = [], []
        for place in range(across**2):
            again, index = divmod(number * across**2 + place, len(data))
            record = data.records[index]
            photo = Image.open(record.path).convert("RGB")
            scale = np.float32([width / photo.width, height / photo.height] * 2)
            small, own = photo.resize(SHRUNK, Image.Resampling.LANCZOS), record.boxes * scale
            if again % 2:
                small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                own = np.stack([width - own[:, 2], own[:, 1], width - own[:, 0], own[:, 3]], 1)
            x, y = place % across * width, place // across * height
            picture.paste(small, (x, y))
            boxes.append(own + np.float32([x, y, x, y]))
            labels.append(record.labels)
        path = folder / f"mosaic_{number}.png"
        picture.save(path)
        every = np.concatenate(boxes).astype(np.float32)
        areas = (every[:, 2:] - every[:, :2]).prod(1)
        size = (picture.height, picture.width)
        crowd = np.zeros(len(every), bool)
        records.append(Record(number + 1, path, size, every, np.concatenate(labels), crowd, areas))
    return replace(data, name="mosaics", root=folder, records=records)


# ------------------------------------------------------------------------------------------------- ways to join
def suppressed(views: Any, boxes: Any, scores: Any, labels: Any, repeated: float = 0.5) -> Joined:
    """Suppression alone, by IoU, over all views."""
    return greedy(boxes, scores, labels, lambda others, box: iou_of(box[None], others)[0] > repeated)


def smaller(views: Any, boxes: Any, scores: Any, labels: Any) -> Joined:
    """By the measure of SAHI's default: greedy, boxes that share half of the smaller area become their hull. Here over
    all boxes, weak ones too, as AP needs them."""

    def half(others: Any, box: Any) -> Any:
        sides = (np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])).clip(0)
        areas = (others[:, 2:] - others[:, :2]).prod(1)
        return sides.prod(1) / np.maximum(np.minimum(areas, (box[2:] - box[:2]).prod()), 1e-9) > 0.5

    return greedy(boxes, scores, labels, half, hull=True)


def greedy(boxes: Any, scores: Any, labels: Any, same: Callable[[Any, Any], Any], hull: bool = False) -> Joined:
    every, score, label = (np.concatenate(parts).astype(np.float64) for parts in (boxes, scores, labels))
    chosen, new = [], every.copy()
    for each in np.unique(label):
        left = np.flatnonzero(label == each)
        left = left[np.argsort(-score[left], kind="stable")]
        while len(left):
            first, left = left[0], left[1:]
            again = same(every[left], every[first])
            chosen.append(first)
            if hull:
                group = every[[first, *left[again]]]
                new[first] = [*group[:, :2].min(0), *group[:, 2:].max(0)]
            left = left[~again]
    index = np.array(chosen)
    index = index[np.argsort(-score[index], kind="stable")]
    return Joined(new[index], score[index], index)


def without_cut(views: Any, boxes: Any, scores: Any, labels: Any) -> Joined:
    """Every box at an inner border is dropped; then suppression."""
    windows = np.array(views, np.float64)
    kept = [
        ~tiles._cut(b.astype(np.float64), np.tile(w, (len(b), 1)), windows[-1]).any(1) for b, w in zip(boxes, windows)
    ]
    rows = np.flatnonzero(np.concatenate(kept))
    parts = ([values[k] for values, k in zip(each, kept)] for each in (boxes, scores, labels))
    joined = suppressed(views, *parts)
    return joined._replace(index=rows[joined.index])


def only_explained(*given: Any) -> Joined:
    """The rules without the second."""
    plain, tiles._unite = tiles._unite, lambda seen: None
    try:
        return tiles.join(*given)
    finally:
        tiles._unite = plain


def same_class(*given: Any) -> Joined:
    """The rules without the fourth."""
    own, tiles._not_outdone = tiles._not_outdone, lambda boxes, *_: np.ones(len(boxes), bool)
    try:
        return tiles.join(*given)
    finally:
        tiles._not_outdone = own


def without_whole(views: Any, boxes: Any, scores: Any, labels: Any) -> Joined:
    """The rules over the tiles alone."""
    none = [np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)]
    boxes, scores, labels = ([*values[:-1], empty] for values, empty in zip((boxes, scores, labels), none))
    return tiles.join(views, boxes, scores, labels)


WAYS = {
    "the four rules": tiles.join,
    "without rule 2 (hulls)": only_explained,
    "without rule 4 (classes)": same_class,
    "without the whole picture": without_whole,
    "every cut box dropped": without_cut,
    "suppression alone, IoU 0.5": suppressed,
    "suppression alone, IoU 0.6": lambda *given: suppressed(*given, repeated=0.6),
    "hulls by the smaller area, over weak boxes too": smaller,
}


def compare_rules(model: Any, name: str, data: DetectionData, tile: int) -> list[dict[str, Any]]:
    """The same detections of all views, joined in each way."""
    cap = max(100, 2 * data.most_boxes)
    predictor = Predictor(model, batch_size=8, tiles=tile)
    views = predictor.views
    seen = []
    for record in data.records:
        pixels = record.sample().image
        windows = views.windows(pixels.shape[1:])
        samples = [views._sample(pixels, window, views.variants[0]) for window in windows]
        found = predictor._passes(samples, predictor._options)
        boxes = [one.boxes.numpy() + np.float32([w.x1, w.y1] * 2) for one, w in zip(found, windows)]
        rest = ([getattr(one, name).numpy() for one in found] for name in ("scores", "labels"))
        seen.append((record, (windows, boxes, *rest)))
    rows = []
    for how, way in WAYS.items():
        results, start = [], time.process_time()
        for record, given in seen:
            joined = way(*given)
            labels = np.concatenate(given[3])[joined.index]
            found = headway.Detections(*(torch.from_numpy(x) for x in (joined.boxes, joined.scores, labels)))
            results += found[:cap].to_coco(record.image_id, data.category_ids)
        seconds = (time.process_time() - start) / len(data)
        rows.append({"pictures": name, "tiles": tile, "joined by": how, **figures(results, data), "s of CPU": seconds})
        print(rows[-1], flush=True)
    return rows


def figures(rows: Sequence[dict[str, Any]], data: DetectionData) -> dict[str, float]:
    found = coco(list(rows), data, max_detections=max(100, 2 * data.most_boxes))
    return {"AP": found.ap, "AP50": found.ap50, "AP75": found.ap75, "AR": found.ar_100}


def of(name: str, metrics: Any) -> dict[str, Any]:
    got = {"AP": metrics.coco.ap, "AP50": metrics.coco.ap50, "AP75": metrics.coco.ap75, "AR": metrics.coco.ar_100}
    row = {"views": name, **got, "s a picture": metrics.seconds / len(metrics.data)}
    print(row, flush=True)
    return row


def look(model: Any, data: DetectionData, photos: DetectionData) -> list[dict[str, Any]]:
    """Plain, in tiles, and the photographs by themselves, which the model reads as large as the mosaics' tiles show."""
    rows = []
    for name, options in {
        "tiles 320, overlap 0.2": {"tiles": True},
    }.items():
        found = evaluate(model, data, batch_size=8, **options)
        if not rows:
            rows.append(of("plain", found.plain))
        rows.append(of(name, found))
    rows.append(of("photographs by themselves", evaluate(model, photos, max_detections=2 * photos.most_boxes)))
    return rows


def augmented(model: Any, photos: DetectionData) -> list[dict[str, Any]]:
    """Test-time augmentation on the photographs as they are; boxes fused too, as a two-stage head's would be."""
    rows = []
    for tta in (None, "flip", "flip,0.83,1.17"):
        for fuses in (False, True) if tta else (False,):
            model.head.fuses_views = fuses
            found = measure_views(model, photos, max_detections=100, tta=tta)
            merged = "" if tta is None else "weighted box fusion" if fuses else "one suppression"
            got = figures(found.rows, photos)
            rows.append(
                {"views": tta or "plain", "merged by": merged, **got, "s a picture": found.seconds / len(photos)}
            )
            print(rows[-1], flush=True)
    del model.head.fuses_views
    return rows


def batches(model: Any, data: DetectionData) -> list[dict[str, Any]]:
    """Seconds of one large picture in tiles, by the size of the batch; alternating, the best of two."""
    pixels = data.records[0].sample().image
    predictors = {size: Predictor(model, batch_size=size, tiles=True) for size in (1, 4)}
    taken: dict[int, list[float]] = {size: [] for size in predictors}
    for _ in range(2):
        for size, predictor in predictors.items():
            start = time.perf_counter()
            predictor(pixels)
            taken[size].append(time.perf_counter() - start)
    return [{"batch": size, "s a picture": min(seconds)} for size, seconds in taken.items()]


def markdown(result: dict[str, Any]) -> str:
    lines = ["# Tiles and test-time augmentation", "", f"`{result['command']}`, {result['where']}", ""]
    lines += [result["set"], ""]
    titles = {
        "views": "Tiny objects in large pictures",
        "rules": "The rules of the borders: the same detections joined in several ways; mosaics of 1280 x 960",
        "tta": "Test-time augmentation: every sixth photograph, as large as those of the training",
        "batches": "Tiles in batches: one picture of 1280 x 960, the best of two",
    }
    for key, title in titles.items():
        if rows := result.get(key):
            lines += [f"## {title}", "", f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
            lines += [f"| {' | '.join(shown(value) for value in row.values())} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--mosaics", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["views", "rules", "tta", "batches"])
    parser.add_argument("--out", type=Path, default=RESULTS / "tiles")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = {path.name for path in (DATA / "train").iterdir()}
    photos = open_dataset(options.folder, split=options.split)
    unseen = [i for i, record in enumerate(photos.records) if record.path.name not in trained]
    photos = photos.subset(unseen, options.split)
    model = headway.load(ASSETS / "demo.safetensors")
    path = options.out.with_suffix(".json")
    result = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        data = make_set(photos, Path(folder) / "large", options.mosaics, ACROSS)
        few = make_set(photos, Path(folder) / "smaller", 3, ACROSS // 2)
        result["command"] = f"python benchmarks/tiles.py BCCD --split {options.split} --mosaics {options.mosaics}"
        load = os.getloadavg()[0]
        result["where"] = (
            f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, load average {load:.1f}"
        )
        sides = np.concatenate([record.boxes[:, 2:] - record.boxes[:, :2] for record in data.records])
        low, middle, high = (int(x) for x in np.quantile(np.sqrt(sides.prod(1)), (0.05, 0.5, 0.95)))
        result["set"] = (
            f"Mosaics: {len(data)}, of {ACROSS**2} photographs each ({len(photos)} of the split {options.split!r}), "
            f"2560 x 1920 pixels, {data.num_boxes} boxes with sides of {low}, {middle} and {high} pixels "
            "(5th, 50th, 95th percentile)."
        )
        for key in options.only:
            if key == "views":
                result[key] = look(model, data, photos)
            elif key == "rules":
                some = photos.subset([*range(0, len(photos), 4)], "some")
                two = few.subset([0, 1], "two")
                sets = (("three mosaics", few, 320), ("two mosaics", two, 160), (f"{len(some)} photographs", some, 320))
                result[key] = [row for each in sets for row in compare_rules(model, *each)]
            elif key == "tta":
                result[key] = augmented(model, photos.subset([*range(0, len(photos), 6)], "some"))
            else:
                result[key] = batches(model, few)
            path.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
