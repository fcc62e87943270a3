"""What looks at the pictures of a shard, in a worker process: a checkpoint through `Predictor`, or an exported file
through `Runtime`, which imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from ..options import FEW, LOW
from ..resolve import is_exported, resolve_model
from .drawn import jpeg_of
from .plan import Settings


class Detector(Protocol):
    """window: pictures that are read before they are detected together; cap: detections of a picture at most."""

    window: int
    cap: int

    def read(self, source: bytes | str, where: str) -> Any:
        """A picture. Raises: DataError."""

    def detect(self, pictures: Sequence[Any]) -> list[Any]:
        """`Findings` of each."""

    def row(self, picture: Any, found: Any, image_id: int | str, file_name: str) -> dict[str, Any]:
        """What the part holds of a picture: see `row_of`."""

    def draw(self, picture: Any, found: Any) -> bytes:
        """The picture with its boxes, as the content of a JPEG file."""


def open_detector(settings: Settings, start: dict[str, Any]) -> Detector:
    """The detector of a job. start: device; worker, its number, which takes the GPU of that number where there are
    several; count, pictures of the job; white, of their 16-bit pixels where the card has none.

    Raises: HeadwayError for a model or option that cannot be used.
    """
    if settings.detector:
        module, _, name = settings.detector.partition(":")
        detector: Detector = getattr(import_module(module), name)(settings)
        return detector
    found = resolve_model(settings.model)
    if is_exported(found.path):
        return _OfFile(found.path, settings, start["white"])
    return _OfModel(settings, start)


class _OfModel:
    def __init__(self, settings: Settings, start: dict[str, Any]) -> None:
        import torch

        from ..precision import pick_device
        from ..predict import Predictor
        from ..resolve import load_model

        torch.set_num_threads(settings.threads)
        target = pick_device(start["device"])
        if target.type == "cuda" and target.index is None:
            target = torch.device("cuda", start["worker"] % torch.cuda.device_count())
        model = load_model(settings.model)
        self.predictor = Predictor(
            model, target, settings.precision, settings.batch_size, min(settings.threshold, LOW),
            max_detections=settings.max_detections, nms_iou=None if settings.nms_iou == "none" else settings.nms_iou,
            classes=settings.classes or None, white=model.card.white or start["white"], fuse=start["count"] > FEW,
        )  # fmt: skip
        self.card, self.threshold, self.cap = model.card, settings.threshold, self.predictor.max_detections
        self.window = 8 * settings.batch_size

    def read(self, source: bytes | str, where: str) -> Any:
        from ..predict.sources import read_picture

        return read_picture(source, where, white=self.predictor.white).pixels

    def detect(self, pictures: Sequence[Any]) -> list[Any]:
        return list(self.predictor.stream(pictures))

    def row(self, picture: Any, found: Any, image_id: int | str, file_name: str) -> dict[str, Any]:
        return row_of(found, picture.shape[1:], self.card.category_ids, self.threshold, image_id, file_name)

    def draw(self, picture: Any, found: Any) -> bytes:
        return jpeg_of(found.filter(threshold=self.threshold).plot(picture))


class _OfFile:
    def __init__(self, path: Path, settings: Settings, white: int | None) -> None:
        from ..options import check_options, labels_of
        from ..runtime import Runtime

        self.runtime = Runtime(path, threads=settings.threads, precision=settings.precision)  # type: ignore[arg-type]
        self.runtime.white = self.runtime.white or white
        check_options(settings.batch_size, settings.threshold, settings.max_detections)
        labels_of(settings.classes, self.runtime.names)
        self.card, self.threshold = SimpleNamespace(**self.runtime.card), settings.threshold
        self.cap, self.window = self.runtime.most(settings.max_detections), self.runtime.batch or settings.batch_size
        self.options = {
            "batch_size": settings.batch_size, "threshold": min(settings.threshold, LOW),
            "classes": settings.classes or None, "max_detections": settings.max_detections,
        }  # fmt: skip

    def read(self, source: bytes | str, where: str) -> Any:
        return self.runtime.read(source, where)

    def detect(self, pictures: Sequence[Any]) -> list[Any]:
        found: list[Any] = self.runtime(pictures, **self.options)
        return found

    def row(self, picture: Any, found: Any, image_id: int | str, file_name: str) -> dict[str, Any]:
        return row_of(found, picture.shape[:2], self.card.category_ids, self.threshold, image_id, file_name)

    def draw(self, picture: Any, found: Any) -> bytes:
        return jpeg_of(found.filter(threshold=self.threshold).plot(picture))


def row_of(
    found: Any, size: Sequence[int], category_ids: Sequence[int], threshold: float, image_id: int | str, file_name: str
) -> dict[str, Any]:
    """file_name, image_id, width, height; detections with what COCO's results have of each, and the class's name; best:
    the highest score, below the threshold too; tags where the model scores them."""
    kept = found.filter(threshold=threshold)
    rows = kept.to_coco(image_id, category_ids or None)
    row: dict[str, Any] = {"file_name": file_name, "image_id": image_id, "width": int(size[1]), "height": int(size[0])}
    row["best"] = round(max(found.scores.tolist(), default=0.0), 6)
    if kept.tags is not None:
        row["tags"] = kept.tag_scores()
    row["detections"] = [
        {"category_id": r["category_id"], "bbox": r["bbox"], "score": r["score"], "category_name": d.name}
        for r, d in zip(rows, kept)
    ]
    return row
