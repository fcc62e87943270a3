"""`headway predict`: pictures with boxes, and one JSON with all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ..errors import HeadwayError
from . import common
from .common import Device, Precision, UsageError, say, show, show_json

if TYPE_CHECKING:
    from ..predict import Prediction
    from ..types import Detections

SHIPPED = Path(__file__).parent.parent / "assets" / "demo.safetensors"
DEFAULT_OUT = Path("runs/predict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Detect in pictures: `headway predict CHECKPOINT PATHS...`, or `headway predict PATHS...` with the small
    checkpoint that ships inside (blood cells).

    Writes each picture with its boxes, and predictions.json with COCO result rows (bbox is x, y, width, height in
    pixels) that also hold the file and the class name; with a model that scores tags, tags.json with those of each
    picture. A file that cannot be read is reported and left out, and the
    exit code is then 1.
    """

    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="CHECKPOINT PATHS...")]
    """A checkpoint, run folder or published tag (atss_r50_fpn.mmdet), then picture files, folders and glob patterns."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the results. Default: runs/predict, or runs/predict-2 and so on when that is taken."""
    recursive: bool = False
    """Search folders to the bottom."""
    score_threshold: float = 0.3
    """Keep detections with a higher score (0.05 for a JSON that is to be evaluated)."""
    no_pictures: bool = False
    """Leave the pictures out and write the JSON only."""
    batch_size: int = 4
    """Most pictures per pass."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the result as JSON: the rows, and the files that failed."""

    def run(self) -> int:
        checkpoint, inputs = _split_inputs(self.inputs)
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not 0 <= self.score_threshold <= 1:
            raise UsageError(f"--score-threshold must be in 0..1, got {self.score_threshold}")

        from ..predict import Predictor, find_images

        paths = find_images(inputs, recursive=self.recursive)
        model = common.load_checkpoint(checkpoint)
        predictor = Predictor(
            model, common.pick_device(self.device), self.precision, self.batch_size, self.score_threshold
        )
        out = common.new_folder(DEFAULT_OUT) if self.out is None else common.claim_folder(self.out)
        rows, tags, failed, total = [], {}, {}, 0
        names = free_names(paths)
        with common.progress_bar("predicting") as progress:
            for number, prediction in enumerate(predictor.predict_paths(paths), start=1):
                progress(number, len(paths))
                if prediction.detections is None:
                    failed[str(prediction.path)] = prediction.error
                    say(f"skipped: {prediction.error}")
                    continue
                total += len(prediction.detections)
                if prediction.detections.tags is not None:
                    tags[str(prediction.path)] = _tags(prediction.detections)
                rows += _rows(number, prediction.path, prediction.detections, model.card.category_ids)
                if not self.no_pictures:
                    _draw(prediction, out / names[prediction.path])
        (out / "predictions.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if tags:
            (out / "tags.json").write_text(json.dumps(tags, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.json:
            result = {"out": out, "images": len(paths) - len(failed), "failed": failed, "predictions": rows}
            show_json(result | ({"tags": tags} if tags else {}))
        else:
            done = f"{len(paths) - len(failed)} of {len(paths)} pictures" if failed else f"{len(paths)} pictures"
            show(f"{total} detections in {done}: {out}")
        return 1 if failed else 0


def _split_inputs(inputs: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """(checkpoint, what to look at); the shipped checkpoint where the first input is a picture."""
    if not inputs:
        raise UsageError("name a checkpoint or run folder and pictures: headway predict best.safetensors photo.jpg")
    first = Path(inputs[0])
    run_folder = first.is_dir() and any((first / name).exists() for name in ("config.json", "last.safetensors"))
    if not (_image_name(first) or (first.is_dir() and not run_folder)):
        if len(inputs) == 1:
            raise UsageError(f"name the pictures too: headway predict {first} photo.jpg")
        return first, inputs[1:]
    if not SHIPPED.is_file():
        raise UsageError(f"{first} is no checkpoint, and none ships with this headway: name one before the pictures")
    return SHIPPED, inputs


def _image_name(path: Path) -> bool:
    from ..predict import is_image_name

    return is_image_name(path)


def free_names(paths: list[Path]) -> dict[Path, str]:
    """A name for each picture with boxes: its own as JPEG, with a number where two would be the same."""
    taken: set[str] = set()
    names = {}
    for path in paths:
        name, number = f"{path.stem}.jpg", 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}.jpg"
        taken.add(name.lower())
        names[path] = name
    return names


def _rows(number: int, path: Path, detections: Detections, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """COCO result rows, with the file and the class name beside them."""
    rows = detections.to_coco(number, category_ids or None)
    for row, found in zip(rows, detections):
        row |= {"file_name": str(path), "category_name": found.name}
    return rows


def _tags(detections: Detections) -> dict[str, float]:
    """Score by class name, best first."""
    assert detections.tags is not None
    scores = zip(detections.names, detections.tags.tolist())
    return {name: round(score, 6) for name, score in sorted(scores, key=lambda pair: -pair[1])}


def _draw(prediction: Prediction, path: Path) -> None:
    from ..drawing import draw_boxes

    found = prediction.detections
    if found is None or prediction.image is None:
        raise HeadwayError(f"nothing to draw for {prediction.path}")
    picture = draw_boxes(prediction.image, found.boxes, found.labels, found.names, scores=found.scores)
    picture.save(path, quality=92)
