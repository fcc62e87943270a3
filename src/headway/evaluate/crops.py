"""The worst errors of each kind as small pictures: the box, what was found, and what is around them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from ..data.dataset import DetectionData
from ..drawing import draw_boxes
from ..errors import DataError
from .kinds import KINDS, MISSED, SIZES, Tide
from .matching import Floats, Matched

SIDE = 256  # longest side in pixels at which a crop is shown
_AROUND, _LEAST = 0.5, 24  # what is shown around the boxes: so many of their longer sides, and at least so many pixels
_ENLARGED = 4.0  # times at most


def worst_crops(
    found: Tide, matches: Sequence[Matched], data: DetectionData, count: int, run: str = ""
) -> list[dict[str, Any]]:
    """The `count` worst errors of each kind, as the page lists them, with a picture as a data URI.

    The kind that costs most comes first. Worst is the detection with the highest score, and the missed box with the
    largest area. Detections in crowd regions are left out.
    matches: those that `found` is of. run: the name to list them under.
    Entries: run, kind, class, size, file, text, detail, picture (empty where the file is broken) and problem.
    """
    costs = [0.0 if math.isnan(gain) else gain for gain in (found.all.gains[kind] for kind in KINDS)]
    kinds = np.argsort(-np.asarray(costs), kind="stable").tolist()
    chosen = [e for kind in kinds for e in _worst(found, matches, kind)[:count]]
    rows: dict[int, dict[str, Any]] = {}
    image = found.errors.image
    for place, same in groupby(sorted(chosen, key=lambda e: int(image[e])), lambda e: int(image[e])):
        m = matches[place]
        picture, problem = _read(m)
        for e in same:
            shown = "" if picture is None else _as_uri(_draw(picture, found, e, m, data))
            rows[e] = {"run": run, **_describe(found, e, m, data), "picture": shown, "problem": problem}
    return [rows[e] for e in chosen]


def _worst(found: Tide, matches: Sequence[Matched], kind: int) -> list[int]:
    """The numbers of the errors of one kind, worst first."""
    numbers = ((found.errors.kind == kind) & ~found.errors.crowd).nonzero()[0].tolist()
    if kind != MISSED:
        return numbers  # best scored first already
    areas = [matches[found.errors.image[e]].record.areas[found.errors.truth[e]] for e in numbers]
    return [numbers[i] for i in np.argsort(-np.asarray(areas), kind="stable")]


def _read(m: Matched) -> tuple[Image.Image | None, str]:
    """(the picture, "") or (None, the reason)."""
    try:
        return Image.fromarray(m.record.sample().image.permute(1, 2, 0).numpy()), ""
    except DataError as error:
        return None, str(error)


def _boxes(found: Tide, e: int, m: Matched) -> tuple[Floats, Floats]:
    """([0 or 1, 4] the detection, [0 or 1, 4] the box it is about)."""
    d, t = int(found.errors.detection[e]), int(found.errors.truth[e])
    return m.boxes[d : d + 1] if d >= 0 else m.boxes[:0], m.record.boxes[t : t + 1] if t >= 0 else m.record.boxes[:0]


def _describe(found: Tide, e: int, m: Matched, data: DetectionData) -> dict[str, Any]:
    kind, d, t = (int(column[e]) for column in (found.errors.kind, found.errors.detection, found.errors.truth))
    names = data.class_names
    truth = names[m.record.labels[t]] if t >= 0 else ""
    name = names[m.labels[d]] if d >= 0 else truth
    text = f"{name} {m.scores[d]:.2f}" if d >= 0 else name
    text += f" on a {truth}" if truth not in ("", name) else ""
    detail = []
    if t >= 0 and d >= 0:
        overlap = float(m.best(d + 1).overlaps()[d, t])
        detail.append(f"IoU {overlap:.2f} with a box of {truth}")
    boxes = _boxes(found, e, m)
    x1, y1, x2, y2 = (float(v) for v in (boxes[0] if d >= 0 else boxes[1])[0])
    detail.append(f"at {x1:.0f}, {y1:.0f}, {x2 - x1:.0f} x {y2 - y1:.0f} pixels")
    area = (x2 - x1) * (y2 - y1) if d >= 0 else float(m.record.areas[t])
    size = next((size for size, low, high in SIZES if low <= area < high), SIZES[0][0])
    return {
        "kind": KINDS[kind], "class": name, "size": size, "file": m.record.path.name,
        "text": text, "detail": ", ".join(detail),
    }  # fmt: skip


def _draw(picture: Image.Image, found: Tide, e: int, m: Matched, data: DetectionData) -> Image.Image:
    """The part of the picture around both boxes; the detection in its colour, the box dashed in white."""
    detection, truth = _boxes(found, e, m)
    limit = np.array(picture.size)
    both = np.concatenate([detection, truth]).clip(0, np.tile(limit, 2))
    low, high = both[:, :2].min(0), both[:, 2:].max(0)
    half = (high - low).max() / 2 + max(_LEAST, _AROUND * (high - low).max())
    middle = (low + high) / 2
    start = np.clip(np.floor(middle - half), 0, limit - 1).astype(int)
    end = np.clip(np.ceil(middle + half), start + 1, limit).astype(int)
    scale = min(SIDE / (end - start).max(), _ENLARGED)
    size = tuple(max(1, round(side * scale)) for side in (end - start).tolist())
    part = picture.crop((*start.tolist(), *end.tolist())).resize(size, Image.Resampling.LANCZOS)
    shift = np.tile(start, 2)
    its = slice(*(found.errors.detection[e] + (0, len(detection))))
    boxes, truth = (detection - shift) * scale, (truth - shift) * scale
    return draw_boxes(part, boxes, m.labels[its], data.class_names, scores=m.scores[its], truth=truth)


def _as_uri(picture: Image.Image) -> str:
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
