"""`headway.evaluate.errors`: the errors of one model or several by kind, and a page to look at them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..data.dataset import DetectionData
from ..errors import HeadwayError, check_number
from ..files import claim_folder
from ..progress import progress_bar
from ..runtime import Runtime
from .api import card_of, card_of_results, detection_cap, measure_any, open_data_splits, opened, split_of
from .coco import check_results, without_nan
from .crops import worst_crops
from .errors_page import render
from .kinds import Tide, tide
from .matching import match
from .results import read_results
from .run import Precision, Progress

if TYPE_CHECKING:
    from .api import ModelLike


@dataclass(frozen=True, eq=False)
class ErrorsFound:
    """What `errors` gives. runs: `Tide` by the name of the run. data: the split. page: errors.html, if written."""

    runs: dict[str, Tide]
    data: DetectionData
    page: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON holds them: undefined is None."""
        about = {"data": self.data.name, "root": str(self.data.root), "images": len(self.data)}
        return {**about, "runs": {name: without_nan(found.to_dict()) for name, found in self.runs.items()}}


def errors(
    models: Sequence[ModelLike | Runtime] | ModelLike | Runtime = (),
    data: Any = None,
    *,
    results: Sequence[str | Path] | str | Path = (),
    split: str = "val",
    format: str | None = None,
    iou: float = 0.5,
    background: float = 0.1,
    max_detections: int | None = None,
    pictures: int = 40,
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "fp32",
    device: str | torch.device | None = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> ErrorsFound:
    """The errors of each model by kind, and what repairing a kind would add to AP (TIDE, see `kinds`).

    models: one or several, and the other arguments, as of `headway.evaluate`. results: files of detections as well.
    iou: from which a detection finds a box of its class. background: up to which it is of nothing.
    out: a new folder for errors.html and errors.json. pictures: how many of the worst errors of each kind of each run
        it shows.
    max_detections: of each picture, whatever the class; None: 100, and more where `headway.evaluate` counts more.

    Raises: HeadwayError, DataError.
    """
    check_number("iou", iou, 0.01, 1)
    check_number("background", background, 0, iou)
    for what, value, low in (("pictures", pictures, 0), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        check_number(what, value, low, whole=True)
    if max_detections is not None:
        check_number("max_detections", max_detections, 1, whole=True)
    given, files = several(models), several(results)
    names = names_of_runs([*given, *files])
    chosen = split_of(open_data_splits(data, format), split)
    folder = None if out is None else claim_folder(Path(out))
    runs, crops = {}, []
    settings = {"batch_size": batch_size, "workers": workers, "precision": precision, "device": device}
    rows_of = chain(
        _detected(given, chosen, max_detections, progress, **settings), _read(files, chosen, max_detections)
    )
    for name, (rows, cap) in zip(names, rows_of):
        matches = match(check_results(rows, chosen), chosen, iou)
        runs[name] = tide(matches, chosen.class_names, background=background, max_detections=cap)
        if folder is not None:
            crops += worst_crops(runs[name], matches, chosen, pictures, name)
    found = ErrorsFound(runs, chosen, None if folder is None else folder / "errors.html")
    if folder is not None:
        _write(folder, found, crops)
    return found


def _detected(
    models: Sequence[Any], data: DetectionData, limit: int | None, progress: Progress | None, *, precision: Precision,
    **settings: Any,
) -> Iterator[tuple[list[dict[str, Any]], int]]:  # fmt: skip
    """(result rows, detections of a picture that count) of each model. limit: as `max_detections` of `errors`."""
    for model in models:
        detector = opened(model, precision)
        cap = detection_cap(data, card_of(detector)) if limit is None else limit
        with nullcontext(progress) if progress is not None else progress_bar("evaluating") as told:
            found = measure_any(detector, data, precision=precision, max_detections=cap, progress=told, **settings)
        yield found.rows, cap


def _read(
    files: Sequence[str | Path], data: DetectionData, limit: int | None
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The same of each file of results."""
    for path in files:
        rows = read_results(path, data)
        yield rows, detection_cap(data, card_of_results(path, rows, data)) if limit is None else limit


def several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def names_of_runs(given: Sequence[Any]) -> list[str]:
    """A short name for each run: the last part of its path, the whole path where another has the same."""
    if not given:
        raise HeadwayError("there is nothing to analyse: name a model or a file of results")
    whole = [str(g) if isinstance(g, (str, Path)) else card_of(g).model or "model" for g in given]
    short = [Path(w).name or w for w in whole]
    names = [s if short.count(s) == 1 else w for s, w in zip(short, whole)]
    if twice := [name for name in names if names.count(name) > 1 and isinstance(given[names.index(name)], (str, Path))]:
        raise HeadwayError(f"{twice[0]} is named twice; name each run once")
    return [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names, 1)]


def _write(folder: Path, found: ErrorsFound, crops: Sequence[dict[str, Any]]) -> None:
    """errors.json and errors.html."""
    text = json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "errors.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    data = found.data
    facts = [
        f"{len(data):,} images of {data.name} ({data.format}, {data.root})", *found.runs,
        f"headway {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
    ]  # fmt: skip
    title = f"Errors of {' and '.join(found.runs)} on {data.name}"
    (folder / "errors.html").write_text(
        render(title, facts, found.runs, crops), encoding="utf-8", errors="backslashreplace"
    )
