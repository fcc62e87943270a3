"""Records what tidecv 1.0.1 says of generated scenes, in tide/scenes.json. Run once, in an environment of its own:

    python -m venv tide && tide/bin/pip install tidecv && tide/bin/python tests/golden/record_tide.py

Boxes are in quarters of a pixel, which float32 holds exactly, and no two scores are equal.
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("tide") / "scenes.json"
# name: (seed, images, classes with boxes, classes, thresholds)
SCENES = {
    "usual": (0, 40, 4, 4, (0.5, 0.1)),
    "strict": (1, 30, 4, 4, (0.75, 0.1)),
    "wide background": (2, 30, 3, 3, (0.5, 0.3)),
    "many classes": (3, 40, 12, 12, (0.5, 0.1)),
    "a class without boxes": (4, 30, 3, 4, (0.5, 0.1)),
}


def make_scene(seed: int, images: int, with_boxes: int, classes: int) -> dict:
    """Boxes [image, class, x, y, w, h, crowd] and detections [image, class, x, y, w, h, score]."""
    rng = np.random.default_rng(seed)
    boxes, found = [], []
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 9)) if image != 2 else 45):
            label, crowd = int(rng.integers(with_boxes)), bool(rng.random() < 0.08)
            box = np.array([*rng.uniform(0, 400, 2), *np.exp(rng.uniform(2.3, 5, 2))])
            box[2:] *= 2.5 if crowd else 1
            boxes.append([image, label, *quarters(box), int(crowd)])
            for _ in range(int(rng.integers(0, 6))):
                spread = rng.choice([0.03, 0.15, 0.4]) if not crowd else 0.4
                moved = box + rng.normal(0, spread, 4) * np.tile(box[2:], 2)
                moved[2:] = np.maximum(moved[2:] * (rng.uniform(0.2, 0.6) if crowd else 1), 2)
                named = label if rng.random() < 0.7 else int(rng.integers(classes))
                found.append([image, named, *quarters(moved)])
        for _ in range(int(rng.integers(0, 4))):
            box = [*rng.uniform(0, 400, 2), *rng.uniform(8, 90, 2)]
            found.append([image, int(rng.integers(classes)), *quarters(box)])
    scores = rng.permutation(len(found)) / len(found)
    return {"boxes": boxes, "found": [[*row, round(float(s), 6)] for row, s in zip(found, scores)]}


def quarters(values) -> list[float]:
    return (np.round(np.asarray(values) * 4) / 4).tolist()


def record(scene: dict, foreground: float, background: float) -> dict:
    """AP, counts and gains by tidecv's short names, AP in 0..1."""
    from tidecv import TIDE, Data

    truth, found = Data("truth"), Data("found")
    for image in range(1, max(row[0] for row in scene["boxes"] + scene["found"]) + 1):
        truth.add_image(image, str(image))
    for image, label, *box, crowd in scene["boxes"]:
        (truth.add_ignore_region if crowd else truth.add_ground_truth)(image, label, box)
    for image, label, *box, score in scene["found"]:
        found.add_detection(image, label, score, box)
    run = TIDE(foreground, background).evaluate(truth, found)
    gains = {**run.fix_main_errors(), **run.fix_special_errors()}
    return {
        "foreground": foreground, "background": background, "ap": run.ap / 100,
        "counts": {error.short_name: count for error, count in run.count_errors().items()},
        "gains": {error.short_name: gain / 100 for error, gain in gains.items()},
    }  # fmt: skip


if __name__ == "__main__":
    content = {}
    for name, (*arguments, thresholds) in SCENES.items():
        scene = make_scene(*arguments)
        theirs = record(scene, *thresholds)
        content[name] = {"classes": arguments[-1], "images": arguments[1], **scene, "tidecv": theirs}
        print(name, theirs)
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
