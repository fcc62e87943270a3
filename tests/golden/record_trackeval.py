"""Records what TrackEval 1.3.0 says of generated videos, in trackeval/videos.json. Run once, in an environment of its
own:

    python -m venv trackeval && trackeval/bin/pip install trackeval==1.3.0 && \\
        trackeval/bin/python tests/golden/record_trackeval.py

Boxes are in quarters of a pixel, so no rounding depends on who computes.
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("trackeval") / "videos.json"
# name: (seed, frames, objects, share of boxes lost, of identities switched per frame, false boxes a frame, jitter)
VIDEOS = {
    "usual": (0, 40, 8, 0.15, 0.03, 0.6, 0.06),
    "crowded": (1, 30, 25, 0.25, 0.05, 2.0, 0.12),
    "switching": (2, 50, 5, 0.05, 0.2, 0.2, 0.04),
    "coarse": (3, 30, 6, 0.1, 0.02, 0.5, 0.3),
    "nothing found": (4, 10, 3, 1.0, 0.0, 0.0, 0.0),
    "nothing there": (5, 10, 0, 0.0, 0.0, 1.5, 0.0),
    "with pauses": (6, 60, 4, 0.1, 0.05, 0.3, 0.05),
}


def make_video(seed: int, frames: int, objects: int, lost: float, switched: float, false: float, jitter: float) -> dict:
    """truth, found: rows [frame, id, x, y, w, h], frames from 1 on."""
    rng = np.random.default_rng(seed)
    place, step = rng.uniform(0, 300, (objects, 2)), rng.normal(0, 4, (objects, 2))
    side = rng.uniform(20, 60, (objects, 2))
    spans = np.sort(rng.integers(1, frames + 1, (objects, 2)), 1)
    names, free = list(range(1, objects + 1)), objects + 1
    truth, found = [], []
    for frame in range(1, frames + 1):
        if seed == 6 and frame % 20 in (7, 8, 9, 10):
            if frame % 2:  # frames without anything, and with boxes but no truth
                found.append([frame, free, *quarters([*rng.uniform(0, 300, 2), 30, 30])])
            continue
        there = [i for i in range(objects) if spans[i, 0] <= frame <= spans[i, 1]]
        for i in there:
            if rng.random() >= switched:
                continue
            if rng.random() < 0.5:
                other = int(rng.integers(objects))
                names[i], names[other] = names[other], names[i]
            else:
                names[i], free = free, free + 1
        for i in there:
            box = np.array([*(place[i] + frame * step[i]), *side[i]])
            truth.append([frame, i + 1, *quarters(box)])
            if rng.random() >= lost:
                moved = box + rng.normal(0, jitter, 4) * np.tile(box[2:], 2)
                moved[2:] = np.maximum(moved[2:], 2)
                found.append([frame, names[i], *quarters(moved)])
        for _ in range(rng.poisson(false)):
            found.append([frame, free, *quarters([*rng.uniform(0, 300, 2), *rng.uniform(15, 60, 2)])])
            free += 1
    return {"truth": truth, "found": found}


def quarters(values) -> list[float]:
    return (np.round(np.asarray(values) * 4) / 4).tolist()


def as_data(video: dict) -> dict:
    """What TrackEval's metrics take."""
    numbers = {key: {name: i for i, name in enumerate(sorted({row[1] for row in video[key]}))} for key in video}
    data = {
        "num_gt_ids": len(numbers["truth"]), "num_tracker_ids": len(numbers["found"]),
        "num_gt_dets": len(video["truth"]), "num_tracker_dets": len(video["found"]),
        "gt_ids": [], "tracker_ids": [], "similarity_scores": [],
    }  # fmt: skip
    last = max([row[0] for row in video["truth"] + video["found"]], default=0)
    for frame in range(1, last + 1):
        rows = {key: [row for row in video[key] if row[0] == frame] for key in video}
        data["gt_ids"].append(np.array([numbers["truth"][row[1]] for row in rows["truth"]], int))
        data["tracker_ids"].append(np.array([numbers["found"][row[1]] for row in rows["found"]], int))
        boxes = [np.array([row[2:] for row in rows[key]], float).reshape(-1, 4) for key in ("truth", "found")]
        from trackeval.datasets._base_dataset import _BaseDataset

        data["similarity_scores"].append(_BaseDataset._calculate_box_ious(*boxes, box_format="xywh"))
    data["num_timesteps"] = last
    return data


def plain(result: dict) -> dict:
    return {key: np.asarray(value, float).tolist() for key, value in result.items()}


if __name__ == "__main__":
    from trackeval.metrics import CLEAR, HOTA, Identity

    metrics = {"hota": HOTA(), "clear": CLEAR({"PRINT_CONFIG": False}), "identity": Identity({"PRINT_CONFIG": False})}
    videos = {name: make_video(*arguments) for name, arguments in VIDEOS.items()}
    single = {
        name: {metric: one.eval_sequence(as_data(video)) for metric, one in metrics.items()}
        for name, video in videos.items()
    }
    joined = {
        metric: plain(one.combine_sequences({name: result[metric] for name, result in single.items()}))
        for metric, one in metrics.items()
    }
    content = {
        "videos": {
            name: {**video, "trackeval": {metric: plain(result) for metric, result in single[name].items()}}
            for name, video in videos.items()
        },
        "all": joined,
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    for name, result in single.items():
        print(name, float(np.mean(result["hota"]["HOTA"])), result["clear"]["MOTA"], result["identity"]["IDF1"])
