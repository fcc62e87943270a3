"""The report of an evaluation: a folder with report.json, one self-contained report.html, and its pictures.

report.json         every number of the page
report.html         the page, pictures inside
precision_recall.png, confusion.png
worst/01_NAME.jpg   the worst images, ground truth at the left and detections at the right
"""

import base64
import io
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .. import __version__
from ..data.dataset import DetectionData
from ..drawing import draw_boxes
from ..errors import DataError
from ..files import claim_folder
from ..types import ModelCard
from . import errors_page, mistakes, page
from .coco import Metrics, check_results, without_nan
from .crops import worst_crops
from .curves import draw_confusion, draw_precision_recall
from .kinds import tide
from .matching import IOU, WRONG, Matched, match
from .mistakes import ImageError

PICTURE_SIDE = 640  # longest side in pixels at which a worst image is shown
_GAP = 12  # pixels between ground truth and detections
_FALLBACK_THRESHOLD = 0.5  # where no threshold finds anything
_SIZES = (("small", "under 32²", 0.0, 32.0**2), ("medium", "32² to 96²", 32.0**2, 96.0**2),
          ("large", "over 96²", 96.0**2, math.inf))  # fmt: skip


def write_report(
    folder: str | Path,
    *,
    data: DetectionData,
    results: Sequence[dict[str, Any]],
    metrics: Metrics,
    card: ModelCard,
    seconds: float | None = None,
    score_threshold: float | None = None,
    worst: int = 12,
    crops: int = 24,
    matches: Sequence[Matched] | None = None,
) -> Path:
    """Write the report and return the path of report.html.

    results, metrics: of `detect_dataset` and `evaluate` on `data`.
    seconds: what the detection took, for the images per second.
    score_threshold: of the confusion matrix and the worst images; None: where all classes together have the best F1.
    worst: how many of the worst images are shown. crops: how many of the worst errors of each kind.
    matches: of `results`, where they are made already.

    Raises: HeadwayError when the folder is not empty.
    """
    folder = claim_folder(Path(folder), remedy="name another folder")
    if matches is None:
        matches = match(check_results(results, data), data)
    found = tide(matches, data.class_names, max_detections=metrics.max_detections)
    report, errors = _make_report(data, matches, metrics, card, seconds, score_threshold, worst)
    curves = draw_precision_recall(metrics)
    confusion = draw_confusion(np.array(report["confusion"]["matrix"]), data.class_names)
    (folder / "precision_recall.png").write_bytes(curves.png)
    (folder / "confusion.png").write_bytes(confusion.png)
    pictures = [_write_picture(folder, row, e.matched, data) for row, e in zip(report["worst"], errors)]
    report = without_nan({**report, "errors": found.to_dict()})
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    errors_tab = errors_page.sections({"": found}, worst_crops(found, matches, data, crops))
    text = page.render(
        report, curves.svg, confusion.svg, pictures, errors_tab, css=errors_page.CSS, script=errors_page.script()
    )
    (folder / "report.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    return folder / "report.html"


def _make_report(
    data: DetectionData, matches: Sequence[Matched], metrics: Metrics, card: ModelCard,
    seconds: float | None, score_threshold: float | None, worst: int,
) -> tuple[dict[str, Any], list[ImageError]]:  # fmt: skip
    """(what report.json holds, with nan for undefined; the worst images it lists). Arguments as `write_report`."""
    point, of_classes = mistakes.best_thresholds(matches, len(data.class_names))
    if score_threshold is not None:
        point = mistakes.operating_point(matches, score_threshold)
    threshold = _FALLBACK_THRESHOLD if math.isnan(point.threshold) else point.threshold
    errors = mistakes.worst_images(matches, threshold, worst)
    report = {
        "title": f"{card.model or 'detector'} on {data.name}",
        "headway": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": card.to_dict(),
        "data": {
            "name": data.name, "root": str(data.root), "format": data.format, "notes": data.notes,
            "images": metrics.images, "boxes": metrics.boxes, "crowd": metrics.crowd,
        },
        "seconds": seconds,
        "metrics": asdict(metrics),
        "operating_point": {**asdict(point), "threshold": threshold, "given": score_threshold is not None},
        "classes": [
            {k: v for k, v in (asdict(c) | asdict(best)).items() if k not in ("precision50", "precision75")}
            for c, best in zip(metrics.per_class, of_classes)  # the curves stand under "metrics"
        ],
        "sizes": _sizes(data, metrics),
        "confusion": {
            "iou": IOU, "names": [*data.class_names, "background"],
            "matrix": mistakes.confusion_matrix(matches, len(data.class_names), threshold).tolist(),
        },
        "worst": [_describe(number, error, data) for number, error in enumerate(errors, 1)],
    }  # fmt: skip
    return report, errors


def _sizes(data: DetectionData, metrics: Metrics) -> list[dict[str, Any]]:
    """Boxes, AP and AR of the small, the medium and the large."""
    areas = np.concatenate([r.areas[~r.crowd] for r in data.records] or [np.zeros(0, np.float32)])
    return [
        {
            "size": name, "area": area, "boxes": int(((areas >= low) & (areas < high)).sum()),
            "ap": getattr(metrics, f"ap_{name}"), "ar": getattr(metrics, f"ar_{name}"),
        }
        for name, area, low, high in _SIZES
    ]  # fmt: skip


def _describe(number: int, error: ImageError, data: DetectionData) -> dict[str, Any]:
    """One of the worst images: what was missed and what was wrong, by class."""
    m, names = error.matched, data.class_names
    wrong = m.truth == WRONG
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", m.record.path.stem)[:60]
    found = zip(m.labels[wrong].tolist(), m.scores[wrong].tolist())
    return {
        "image_id": m.record.image_id, "file": m.record.path.name, "picture": f"worst/{number:02d}_{stem}.jpg",
        "problem": "", "error": error.error,
        "missed": dict(Counter(names[label] for label in m.record.labels[m.missed].tolist())),
        "wrong": [{"name": names[label], "score": score} for label, score in found],
    }  # fmt: skip


def _write_picture(folder: Path, row: dict[str, Any], matched: Matched, data: DetectionData) -> str:
    """Write a worst image's picture and return it as a data URI; empty, with the reason in `row`, if it is broken."""
    try:
        picture = _draw_pair(matched, data.class_names)
    except DataError as error:
        row["picture"], row["problem"] = "", str(error)
        return ""
    path = folder / row["picture"]
    path.parent.mkdir(exist_ok=True)
    jpeg = io.BytesIO()  # a PNG takes a tenth of a second, and three times the space
    picture.save(jpeg, "JPEG", quality=85)
    path.write_bytes(jpeg.getvalue())
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def _draw_pair(m: Matched, names: tuple[str, ...]) -> Image.Image:
    """Ground truth (without crowd) at the left, detections at the right; the missed and the wrong framed in white."""
    picture = Image.fromarray(m.record.sample().image.permute(1, 2, 0).numpy())
    scale = min(1.0, PICTURE_SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    real = ~m.record.crowd
    left = _frame(picture, m.record.boxes[m.missed] * scale)
    right = _frame(picture, m.boxes[m.truth == WRONG] * scale)
    truth = draw_boxes(left, m.record.boxes[real] * scale, m.record.labels[real], names)
    found = draw_boxes(right, m.boxes * scale, m.labels, names, scores=m.scores)
    pair = Image.new("RGB", (2 * width + _GAP, height), "#8a94a0")
    pair.paste(truth, (0, 0))
    pair.paste(found, (width + _GAP, 0))
    return pair


def _frame(picture: Image.Image, boxes: NDArray[Any]) -> Image.Image:
    """A copy with a wide frame, white between black lines, just outside of each of boxes [N, 4]."""
    framed = picture.copy()
    draw = ImageDraw.Draw(framed)
    for x1, y1, x2, y2 in boxes.tolist():
        for margin, colour, width in ((6, "black", 7), (5, "white", 4)):
            corners = (x1 - margin, y1 - margin, max(x1, x2) + margin, max(y1, y2) + margin)
            draw.rectangle(corners, outline=colour, width=width)
    return framed
