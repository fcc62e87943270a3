"""`headway.evaluate`: a model on a data set, from Python and from the command line."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.dataset import DetectionData
from ..data.windows import OVERLAP, check_tiles
from ..detector import Detector
from ..errors import check_number
from ..files import claim_folder, pick_split
from ..layers.fuse import fuse
from ..precision import pick_device
from ..predict.tta import check_exported, variants_of
from ..progress import progress_bar, say
from ..resolve import is_exported, load_model, resolve_model
from ..runtime import Runtime
from ..types import ModelCard
from . import coco
from .coco import without_nan
from .exported import measure_exported
from .matching import match
from .processes import Processes, check_alike, digest_of, join_processes, none_lost
from .results import read_results
from .run import Measured, Precision, Progress, measure
from .tasks import detects, summary
from .views import measure_views

if TYPE_CHECKING:
    import os

    ModelLike = Detector | str | os.PathLike[str]

ALONE = Processes()
_COCO_CAP = 100  # detections of a picture that the COCO evaluation counts
_NAMES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large",
          "AR100": "ar_100"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Metrics(Mapping[str, float]):
    """What `evaluate` gives: headline figures by name, in 0..1, nan where undefined.

    metrics["AP"] and metrics.AP are the same; the names are COCO's (AP, AP50, AP75, APs, APm, APl, AR100), and those of
    further tasks (tag_map, rank1, retrieval_map).
    coco: all figures, also by class. per_class: AP by class name. tasks: `TaskScores` by task. detects: whether the
    model predicts boxes. data: the split. seconds: of the detector alone. report: report.html, if one was written.
    """

    coco: coco.Metrics
    tasks: dict[str, Any]
    detects: bool
    data: DetectionData
    seconds: float
    report: Path | None = None
    plain: Metrics | None = None

    @property
    def price(self) -> float | None:
        """How many times the seconds of `plain` these figures took."""
        return None if self.plain is None or not self.plain.seconds else self.seconds / self.plain.seconds

    @property
    def crowded(self) -> int:
        """Pictures with more boxes than `coco.max_detections`, which no detector can find all."""
        return sum(int((~record.crowd).sum()) > self.coco.max_detections for record in self.data.records)

    @property
    def per_class(self) -> dict[str, float]:
        return {row.name: row.ap for row in self.coco.per_class}

    def _values(self) -> dict[str, float]:
        own = {name: getattr(self.coco, field) for name, field in _NAMES.items()} if self.detects else {}
        return own | {name: math.nan if v is None else v for name, v in summary(self.tasks).items()}

    def __getitem__(self, name: str) -> float:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values():
            raise AttributeError(f"metrics have no {name!r}, only {', '.join(self._values())}")
        return self[name]

    def __repr__(self) -> str:
        return f"Metrics({', '.join(f'{name}={value:.4f}' for name, value in self.items())})"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it: COCO's figures, those of the tasks, seconds and report; undefined is None."""
        own = {"tasks": self.tasks_to_dict(), "seconds": self.seconds, "report": self.report}
        plain = {} if self.plain is None else {"price": self.price, "plain": self.plain.to_dict()}
        return {**self.coco.to_dict(), **own, **plain}

    def tasks_to_dict(self) -> dict[str, Any]:
        """The figures of further tasks, as JSON holds them."""
        content: dict[str, Any] = summary(self.tasks)
        for task in self.tasks.values():
            content |= without_nan(task.details)
        return content


def evaluate(
    model: ModelLike | Runtime,
    data: Any,
    *,
    split: str = "val",
    format: str | None = None,
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "fp32",
    device: str | torch.device | None = "auto",
    report: str | Path | None = None,
    progress: Progress | None = None,
    max_detections: int | None = None,
    distributed: bool = False,
    tiles: int | bool | None = None,
    overlap: float = OVERLAP,
    tta: str | None = None,
) -> Metrics:
    """Measure `model` on a split of `data`: COCO's AP by IoU, size and class, and the figures of further tasks.

    model: a Detector, a checkpoint, a run folder, a published tag, or an exported file (on the CPU; `precision` counts
        for OpenVINO's).
    data: a folder or COCO file, an opened split, a mapping of splits, or a map-style Dataset of samples.
    split: of several. format: "coco", "voc" or "yolo" instead of recognising it.
    batch_size: pictures per pass of each process; the figures do not depend on it.
    device: "auto" is CUDA where there is one; None leaves a Detector where it is.
    report: a new folder for the report (HTML, JSON, pictures).
    progress: called after each batch with (images done, images in all), instead of a bar.
    max_detections: of a picture, the best so many count. None: COCO's 100; where a picture has more boxes than that,
        as many as the model's card says, if those are more.
    distributed: share the pictures among the processes that torchrun started, each once; all must call this. Every
        process gets the figures, the first writes the report.
    tiles, overlap, tta: look at each picture in several views, as `headway.predict` does with these. The figures
        without them are measured too and stand in `plain`; the report is of the views. Where pictures have more boxes
        than 100, tiles and plain count twice as many detections of a picture as the fullest one has boxes.

    Raises: HeadwayError for a model, split, setting or folder that cannot be meant.
    """
    check_number("batch_size", batch_size, 1, whole=True)
    check_number("workers", workers, 0, whole=True)
    chosen = split_of(open_data_splits(data, format), split)
    detector = opened(model, precision)
    card = card_of(detector)
    views = _views(detector, tiles, overlap, tta)
    cap = detection_cap(chosen, card, tiles=bool(tiles)) if max_detections is None else max_detections
    check_number("max_detections", cap, 1, whole=True)
    joined = join_processes(device) if distributed and isinstance(detector, Detector) else Processes()
    folder = None if report is None or joined.share.rank else claim_folder(Path(report))
    again = none_lost(lambda: "start all nodes again")
    with again, nullcontext(progress) if progress is not None else progress_bar("evaluating") as told:
        if joined.share.world > 1:
            check_alike(digest_of(chosen), f"pictures ({chosen.name})", joined.gather)
        found = measure_any(
            detector, chosen, batch_size=batch_size, workers=workers, precision=precision, device=device,
            max_detections=cap, progress=told, tasks=True, joined=joined,
        )  # fmt: skip
    boxes = isinstance(detector, Runtime) or detects(detector)
    plain = _metrics(found, chosen, card, cap, None if views else folder, boxes)
    if not views:
        return plain
    with nullcontext(progress) if progress is not None else progress_bar("evaluating in views") as told:
        options = {"batch_size": batch_size, "max_detections": cap, "progress": told, **views}
        if isinstance(detector, Runtime):
            seen = measure_exported(detector, chosen, **options)
        else:  # which is on its device
            share = {"share": joined.share, "gather": joined.gather}
            seen = measure_views(detector, chosen, precision=precision, **share, **options)
    return replace(_metrics(replace(seen, tasks=found.tasks), chosen, card, cap, folder, boxes), plain=plain)


def _views(model: Detector | Runtime, tiles: int | bool | None, overlap: float, tta: Any) -> dict[str, Any]:
    """What was asked for beside the plain look; nothing where nothing was. Raises: HeadwayError."""
    check_tiles(tiles, overlap)
    if isinstance(model, Runtime):
        check_exported(model.path, tta)
    several = len(variants_of(tta)) > 1  # before the plain look, which takes long
    asked = {"tiles": tiles or None, "tta": tta if several else None}
    asked = {name: value for name, value in asked.items() if value is not None}
    return asked | {"overlap": overlap} if asked else {}


def measure_any(
    model: Detector | Runtime, data: DetectionData, *, batch_size: int, workers: int, precision: Precision,
    device: str | torch.device | None, max_detections: int, progress: Progress, tasks: bool = False,
    joined: Processes = ALONE,
) -> Measured:  # fmt: skip
    """A model, fused and on its device, or an exported file over a split; arguments as of `evaluate` and `measure`."""
    if isinstance(model, Runtime):
        return measure_exported(model, data, batch_size=batch_size, max_detections=max_detections, progress=progress)
    if device is not None:
        model = model.to(pick_device(device) if joined.device is None else joined.device)
    return measure(
        fuse(model), data, batch_size=batch_size, workers=workers, precision=precision, max_detections=max_detections,
        progress=progress, tasks=tasks, share=joined.share, gather=joined.gather,
    )  # fmt: skip


def evaluate_results(
    results: str | Path,
    data: Any,
    *,
    split: str = "val",
    format: str | None = None,
    report: str | Path | None = None,
    max_detections: int | None = None,
) -> Metrics:
    """Measure detections in a file, see `read_results`, on a split of `data`; the other arguments as of `evaluate`.

    max_detections: None: COCO's 100, or the most that the file has of a picture where a picture has more boxes.
    Raises: DataError, HeadwayError.
    """
    chosen = split_of(open_data_splits(data, format), split)
    rows = read_results(results, chosen)
    card = card_of_results(results, rows, chosen)
    cap = detection_cap(chosen, card) if max_detections is None else max_detections
    check_number("max_detections", cap, 1, whole=True)
    coco.check_results(rows, chosen)  # before a folder is made
    folder = None if report is None else claim_folder(Path(report))
    return _metrics(Measured(rows), chosen, card, cap, folder, True)


def split_of(splits: Mapping[str, DetectionData], name: str) -> DetectionData:
    """The split to measure on; "test" in place of a "val" that is not there, as training holds back its own."""
    if name == "val" and name not in splits and "test" in splits and len(splits) > 1:
        say("there is no val split: measuring on test")
        name = "test"
    return pick_split(splits, name)


def card_of_results(path: str | Path, rows: Sequence[Mapping[str, Any]], data: DetectionData) -> ModelCard:
    """In place of the card of the model that made them."""
    most = max(Counter(row["image_id"] for row in rows).values(), default=1)
    return ModelCard(model=Path(path).name, class_names=data.class_names, max_detections=most)


def detection_cap(data: DetectionData, card: ModelCard, *, tiles: bool = False) -> int:
    """Detections of a picture that count: COCO's 100, or the card's where a picture has more boxes than 100; of tiles,
    which find more than one view does, twice the most boxes then."""
    if data.most_boxes <= _COCO_CAP:
        return _COCO_CAP
    return max(_COCO_CAP, card.max_detections, 2 * data.most_boxes if tiles else 0)


def _metrics(
    found: Measured, data: DetectionData, card: ModelCard, cap: int, folder: Path | None, detects: bool
) -> Metrics:
    """The figures of what was found, and the report in `folder`."""
    matches = match(coco.check_results(found.rows, data), data)
    metrics = coco.evaluate(found.rows, data, max_detections=cap, matches=matches)
    page = None
    if folder is not None:
        from .report import write_report

        page = write_report(
            folder, data=data, results=found.rows, metrics=metrics, card=card, seconds=found.seconds or None,
            matches=matches,
        )  # fmt: skip
    result = Metrics(metrics, found.tasks, detects, data, found.seconds, page)
    if folder is not None and found.tasks:
        text = json.dumps(result.tasks_to_dict(), indent=1, ensure_ascii=False)
        (folder / "tasks.json").write_text(text + "\n", "utf-8")
    return result


def opened(model: ModelLike | Runtime, precision: Precision) -> Detector | Runtime:
    """The model, or the exported file, that is meant."""
    if isinstance(model, Runtime):
        return model
    path = None if isinstance(model, Detector) else resolve_model(model).path
    return Runtime(path, precision=precision) if is_exported(path) else as_detector(model)


def card_of(model: Detector | Runtime) -> ModelCard:
    return model.card if isinstance(model, Detector) else ModelCard.from_dict(model.card)


def as_detector(model: ModelLike) -> Detector:
    """A Detector as it is; a checkpoint, a run folder or a published tag loaded."""
    return model if isinstance(model, Detector) else load_model(model)


def open_data_splits(
    data: Any, format: str | None = None, class_names: tuple[str, ...] | None = None
) -> dict[str, DetectionData]:
    """The splits of whatever holds pictures and boxes. class_names: of a Dataset that does not state its own."""
    from ..data.open_data import open_data

    stated = isinstance(data, (str, Path, DetectionData, Mapping)) or hasattr(data, "class_names")
    return open_data(data, None if stated else class_names, format=format)
