"""What the service answers, as OpenAPI shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .. import __version__
from ..files import image_id_of
from .bodies import BODY
from .service import Seen, Service, Unread, line_of, status_of

_FOUND = {"box": [241.5, 80.25, 395.0, 220.75], "score": 0.93, "label": 0, "name": "RBC"}
_MS = {"read": 4.1, "queue": 0.1, "network": 92.4}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FoundObject(_Answer):
    """One object, best first in its list."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels of the upright picture")
    score: float
    label: int = Field(description="0 .. classes - 1")
    name: str = Field(description="of the class")


class Milliseconds(_Answer):
    """read: decoding and scaling; queue: until the pass began; network: the pass, with suppression."""

    read: float
    queue: float
    network: float


class PictureAnswer(_Answer):
    """One picture of a form. `error` and `status` are there where it could not be read, the rest where it could."""

    file: str = Field(description="the file's name in the form")
    width: int | None = None
    height: int | None = None
    detections: list[FoundObject] | None = None
    tags: dict[str, float] | None = Field(None, description="of a model that scores tags of the whole picture")
    ms: Milliseconds | None = None
    error: str | None = None
    status: int | None = None


class Answer(_Answer):
    """Of a body that is one picture."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"model": "best.safetensors", "width": 640, "height": 480, "detections": [_FOUND], "ms": _MS}
    ]})  # fmt: skip

    model: str
    width: int
    height: int
    detections: list[FoundObject]
    tags: dict[str, float] | None = Field(None, description="of a model that scores tags of the whole picture")
    ms: Milliseconds


class Answers(_Answer):
    """Of a form: its pictures in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "best.safetensors", "pictures": [
        {"file": "a.jpg", "width": 640, "height": 480, "detections": [_FOUND], "ms": _MS},
        {"file": "b.jpg", "error": "image b.jpg is truncated or damaged", "status": 422},
    ]}]})  # fmt: skip

    model: str
    pictures: list[PictureAnswer]


class CocoRow(_Answer):
    """A COCO result row."""

    image_id: int | str = Field(description="the file's name without its ending, as a number where it is one; else 0")
    category_id: int
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height in pixels")
    score: float
    file_name: str
    category_name: str


class ClassInfo(_Answer):
    """category_id: of the data set that the model was trained on."""

    label: int
    name: str
    category_id: int


class ModelInfo(_Answer):
    """The model that answers, and the bounds of a request."""

    name: str
    kind: Literal["checkpoint", "exported"]
    architecture: str
    classes: list[ClassInfo]
    input_size: tuple[int, int] = Field(description="short, long: neither is exceeded when a picture is scaled")
    threshold: float = Field(description="of a request that gives none")
    best_threshold: float | None = Field(description="with the best F1 in validation, where that is known")
    max_detections: int
    views: list[str]
    metrics: dict[str, float]
    licence: str
    version: str = Field(description="of headway")
    max_bytes: int = Field(description="of a body")
    max_pixels: int = Field(description="width x height of a picture")
    max_pictures: int = Field(description="of a form")


class GateRow(_Answer):
    """The gates of one level in one block, counted from 1."""

    block: int
    level: int
    finer: float | None = None
    own: float | None = None
    coarser: float | None = None


class ViewAnswer(_Answer):
    """gates: what scale attention let through on this picture, by block and level. sampling: where the network looked
    for one pixel, in pixels of the picture; weights 0..1."""

    view: Literal["gates", "sampling"]
    rows: list[GateRow] | None = None
    pixel: tuple[float, float] | None = None
    center: tuple[float, float] | None = None
    layers: list[str] | None = None
    plain_frame: tuple[float, float, float, float] | None = None
    points: list[tuple[float, float]] | None = None
    weights: list[float] | None = None


class Problem(_Answer):
    """What was expected, and what came."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"error": "threshold must be at most 1, got 2"}
    ]})  # fmt: skip

    error: str


class State(_Answer):
    """Of the service."""

    status: Literal["ok", "warming up"]


def numbers_of(seen: Seen) -> dict[str, Any]:
    """Size, detections, tags and times of a picture. Scores and boxes are those that were found, to the bit."""
    height, width = seen.size
    rows = [{"box": d.box, "score": d.score, "label": d.label, "name": d.name} for d in seen.found]
    tags = None if seen.found.tags is None else seen.found.tag_scores()
    times = {name: round(1000 * getattr(seen, name), 3) for name in ("read", "queue", "network")}
    return {"width": width, "height": height, "detections": rows, "tags": tags, "ms": Milliseconds(**times)}


def of_picture(result: Seen | Unread) -> PictureAnswer:
    """One picture of a form."""
    if isinstance(result, Unread):
        return PictureAnswer(file=result.name, error=line_of(result.error), status=status_of(result.error))
    return PictureAnswer(file=result.upload.name, **numbers_of(result))


def coco_rows(seen: Sequence[Seen], category_ids: Sequence[int] | None) -> list[dict[str, Any]]:
    """COCO result rows of all pictures, as those of `headway predict`."""
    rows = []
    for name, found in ((one.upload.name, one.found) for one in seen):
        image_id = 0 if name == BODY else image_id_of(name)
        rows += [
            row | {"file_name": name, "category_name": detection.name}
            for row, detection in zip(found.to_coco(image_id, category_ids), found)
        ]
    return rows


def model_info(service: Service) -> ModelInfo:
    """For `/v1/model`."""
    engine, settings = service.engine, service.settings
    card = engine.card
    ids = card["category_ids"] or range(1, len(card["class_names"]) + 1)
    classes = [
        ClassInfo(label=label, name=name, category_id=number)
        for label, (name, number) in enumerate(zip(card["class_names"], ids))
    ]
    metrics = {name: value for name, value in card["metrics"].items() if isinstance(value, int | float)}
    return ModelInfo(
        name=engine.name, kind=engine.kind, architecture=card.get("model", ""), classes=classes,
        input_size=tuple(card["input_size"]), threshold=engine.default_threshold,
        best_threshold=metrics.get("threshold"), max_detections=card["max_detections"], views=sorted(engine.views),
        metrics=metrics, licence=card.get("licence", ""), version=__version__, max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels, max_pictures=settings.pictures,
    )  # fmt: skip
