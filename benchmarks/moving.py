"""Videos with identities, made of photographs: objects are cut out along COCO's polygons and move over other
photographs, behind an occluder, nearer and farther, while the camera pans and zooms. Seeds are fixed: every
run writes the same files.

    python benchmarks/moving.py --photos COCO_TINY_FOLDER --out moving
    headway train yolor_s --data moving --set embedding=64

Writes a COCO-VID data set (train/, val/, annotations/) and MOTChallenge's lines of each clip (mot/CLIP.txt). Objects,
occluders and grounds of val are of other photographs than those of train. A box is that of the part that can be seen;
an object of which less than a quarter can be seen is not annotated. All objects are of one class, since the question is
which object it is. The kinds of clips take turns:

    cross    two objects of one size meet behind the occluder and walk on
    turn     two objects meet behind the occluder, and each walks back where it came from
    free     objects walk across, before and behind each other, with no occluder
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from headway.track import Tracks, write_mot

SIZE = (192, 256)  # height, width
FPS = 25
KINDS = ("cross", "turn", "free")
SEEN = 0.25  # share of an object that must be seen for its box to be annotated
LEAST_SIDE, MOST_SIDE = 34, 60  # of an object, in pixels
Array = np.ndarray[Any, Any]


@dataclass
class Walker:
    """An object with its way. places: [T, 2] of its centre in the world, scales: [T], behind: of the occluder."""

    cutout: Image.Image
    places: Array
    scales: Array
    behind: bool


# --------------------------------------------------------------------------------------------------- what is cut out
def cutouts_of(folder: Path, split: str) -> list[Image.Image]:
    """Every whole object of some size, RGBA, in the order of its annotation."""
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    found = []
    for entry in sorted(content["annotations"], key=lambda entry: entry["id"]):
        image, (x, y, width, height) = images[entry["image_id"]], entry["bbox"]
        whole = x > 2 and y > 2 and x + width < image["width"] - 2 and y + height < image["height"] - 2
        solid = entry["area"] > 0.35 * width * height
        if entry.get("iscrowd") or min(width, height) < 44 or not whole or not solid or max(width, height) > 360:
            continue
        picture = Image.open(folder / split / image["file_name"]).convert("RGB")
        mask = Image.new("L", picture.size)
        for polygon in entry["segmentation"]:
            ImageDraw.Draw(mask).polygon(polygon, fill=255)
        picture.putalpha(mask.filter(ImageFilter.GaussianBlur(0.7)))
        found.append(picture.crop((int(x), int(y), math.ceil(x + width), math.ceil(y + height))))
    return found


def grounds_of(folder: Path, split: str) -> list[Path]:
    return sorted((folder / split).glob("*.jpg"))


# ------------------------------------------------------------------------------------------------------------ ways
def smooth(values: Array, times: int) -> Array:
    """Values [K, ...] at even distances, at `times` moments: straight lines with round corners."""
    at = np.linspace(0, len(values) - 1, times)
    low = np.minimum(at.astype(int), len(values) - 2)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
    line = values[low] * (1 - share) + values[low + 1] * share
    kernel = np.hanning(7)[1:-1]
    padded = np.concatenate([line[:1]] * 2 + [line] + [line[-1:]] * 2)
    return sum(weight * padded[i : i + times] for i, weight in enumerate(kernel / kernel.sum()))


def meeting(kind: str, cutouts: list[Image.Image], frames: int, rng: np.random.Generator) -> list[Walker]:
    """Two objects from left and right to the occluder in the middle, and on or back."""
    height, width = SIZE
    y = height / 2 + rng.uniform(-22, 22)
    middle = width / 2 + rng.uniform(-12, 12)
    walkers = []
    for side, cutout in zip((-1, 1), cutouts):
        begin, end = (middle + side * rng.uniform(82, 104) for _ in range(2))
        if kind == "cross":
            end = 2 * middle - end
        lift = y + rng.uniform(-4, 4)
        xs = np.array([begin, middle - side * 6 if kind == "cross" else middle + side * 4, end])
        scales = smooth(np.array([1, rng.uniform(0.85, 1.15), rng.uniform(0.8, 1.25)]), frames)
        places = np.stack([smooth(xs, frames), np.full(frames, lift)], 1)
        walkers.append(Walker(cutout, places, scales, behind=True))
    return walkers


def strolling(cutout: Image.Image, frames: int, rng: np.random.Generator) -> Walker:
    """One object from one side to the other."""
    height, width = SIZE
    ends = (-10, width + 10)[:: rng.choice([-1, 1])]
    xs = np.array([ends[0], rng.uniform(0.3, 0.7) * width, ends[1]])
    ys = rng.uniform(0.2, 0.8, 3) * height
    scales = smooth(rng.uniform(0.7, 1.3, 3), frames)
    return Walker(cutout, np.stack([smooth(xs, frames), smooth(ys, frames)], 1), scales, behind=False)


def scaled(cutout: Image.Image, side: float) -> Image.Image:
    factor = side / max(cutout.size)
    return cutout.resize([max(2, round(s * factor)) for s in cutout.size], Image.Resampling.LANCZOS)


# ---------------------------------------------------------------------------------------------------------- a clip
def clip(
    kind: str, frames: int, cutouts: list[Image.Image], grounds: list[Path], rng: np.random.Generator
) -> Iterator[tuple[Image.Image, list[tuple[int, tuple[float, ...], float]]]]:
    """Each frame with (identity, xyxy box, share that is seen) of its objects."""
    height, width = SIZE
    side = rng.uniform(LEAST_SIDE, MOST_SIDE)
    chosen = [scaled(cutouts[i], side) for i in rng.choice(len(cutouts), 5, replace=False)]
    others = [strolling(cutout, frames, rng) for cutout in chosen[2:]]
    walkers = others if kind == "free" else meeting(kind, chosen[:2], frames, rng) + others[: int(rng.integers(1, 3))]
    walkers.sort(key=lambda walker: not walker.behind)
    ground, wall = (Image.open(grounds[i]).convert("RGB") for i in rng.choice(len(grounds), 2, replace=False))
    ground = ground.resize((round(width * 1.5), round(height * 1.5))).filter(ImageFilter.GaussianBlur(2.5))
    wide, high = round(side * rng.uniform(1.2, 1.6)), round(height * rng.uniform(0.75, 0.95))
    wall = wall.resize((wide, high)).convert("RGBA")
    middle = np.array([width / 2, height / 2])
    if kind != "free":
        middle = np.mean([walker.places[frames // 2] for walker in walkers if walker.behind], 0)
    pan = smooth(np.concatenate([np.zeros((1, 2)), rng.uniform(-14, 14, (2, 2))]), frames)
    zoom = smooth(np.concatenate([np.ones(1), rng.uniform(0.9, 1.12, 2)]), frames)

    for t in range(frames):

        def place(point: Array, t: int = t) -> Array:
            """From the world to the frame."""
            return (point - (width / 2, height / 2) - pan[t]) * zoom[t] + (width / 2, height / 2)

        corner = (np.array(ground.size) - (width, height)) / 2 + pan[t] * 0.7
        inverse = 1 / zoom[t]
        origin = corner + (1 - inverse) * np.array([width, height]) / 2
        data = (inverse, 0, origin[0], 0, inverse, origin[1])
        frame = ground.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        owner = np.full(SIZE, -1)  # which object each pixel shows
        full = []
        layers = [(i, w.cutout, w.places[t], w.scales[t]) for i, w in enumerate(walkers)]
        if kind != "free":
            layers.insert(sum(w.behind for w in walkers), (-1, wall, middle, 1.0))
        for i, cutout, point, scale in layers:
            picture = scaled(cutout, max(cutout.size) * scale * zoom[t])
            left, top = np.round(place(point) - np.array(picture.size) / 2).astype(int).tolist()
            frame.paste(picture, (left, top), picture)
            alpha = np.asarray(picture.getchannel("A")) > 127
            shown = np.zeros(SIZE, bool)
            y1, y2 = max(top, 0), min(top + alpha.shape[0], height)
            x1, x2 = max(left, 0), min(left + alpha.shape[1], width)
            if y2 > y1 and x2 > x1:
                shown[y1:y2, x1:x2] = alpha[y1 - top : y2 - top, x1 - left : x2 - left]
            owner[shown] = i
            if i >= 0:
                full.append((i, int(alpha.sum())))
        yield frame, [(i + 1, *seen) for i, count in full if (seen := visible(owner == i, count))]


def visible(shown: Array, count: int) -> tuple[tuple[float, ...], float] | None:
    """(box, share) of what is seen of an object of `count` pixels, None for too little of it."""
    share = float(shown.sum()) / max(1, count)
    if share < SEEN or shown.sum() < 60:
        return None
    ys, xs = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)), round(share, 4)


# -------------------------------------------------------------------------------------------------------- data set
def write_split(photos: Path, out: Path, split: str, clips: int, frames: int, seed: int) -> None:
    cutouts, grounds = cutouts_of(photos, split), grounds_of(photos, split)
    print(f"{split}: {len(cutouts)} objects, {len(grounds)} grounds, {clips} clips of {frames} frames", flush=True)
    content: dict[str, list[dict[str, Any]]] = {
        "videos": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]
    }  # fmt: skip
    for folder in (out / split, out / "mot", out / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(clips):
        name, kind = f"{split}{number:03d}", KINDS[number % len(KINDS)]
        content["videos"].append({"id": number + 1, "name": name, "kind": kind, "fps": FPS})
        rng = np.random.default_rng([seed, split == "val", number])
        rows = []
        for t, (frame, objects) in enumerate(clip(kind, frames, cutouts, grounds, rng)):
            file, image = f"{name}_{t:04d}.jpg", len(content["images"]) + 1
            frame.save(out / split / file, quality=90)
            content["images"].append({
                "id": image, "video_id": number + 1, "frame_id": t, "file_name": file, "width": SIZE[1],
                "height": SIZE[0], "time": round(t / FPS, 6),
            })  # fmt: skip
            for identity, (x1, y1, x2, y2), share in objects:
                content["annotations"].append({
                    "id": len(content["annotations"]) + 1, "image_id": image, "video_id": number + 1, "category_id": 1,
                    "track_id": identity, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0, "visibility": share,
                })  # fmt: skip
                rows.append((t + 1, identity, x1, y1, x2, y2, 1, 0))
        write_mot(out / "mot" / f"{name}.txt", Tracks.of_rows(rows))
    (out / "annotations" / f"{split}.json").write_text(json.dumps(content) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="coco-tiny, or as it: polygons")
    parser.add_argument("--out", type=Path, required=True, help="new folder of the data set")
    parser.add_argument("--clips", type=int, nargs=2, default=(60, 30), help="of train and val")
    parser.add_argument("--frames", type=int, default=40, help="of each clip")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists; nothing is overwritten")
    for split, clips in zip(("train", "val"), options.clips):
        write_split(options.photos, options.out, split, clips, options.frames, options.seed)


if __name__ == "__main__":
    main()
