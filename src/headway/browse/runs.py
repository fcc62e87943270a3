"""The splits of a data set as one list of pictures, and what each run found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import DetectionData, Record
from ..detector import Detector
from ..errors import DataError, HeadwayError
from ..evaluate.api import card_of, detection_cap, measure_any, opened
from ..evaluate.coco import check_results
from ..evaluate.kinds import Tide, tide
from ..evaluate.matching import Floats, Ints, Matched, match
from ..evaluate.mistakes import best_thresholds
from ..evaluate.picture_loss import picture_losses
from ..evaluate.results import are_named, read_results, read_rows
from ..evaluate.run import Precision, Progress
from ..precision import pick_device
from ..progress import progress_bar
from ..resolve import is_exported
from ..runtime import Runtime

FALLBACK = 0.5  # threshold and `sure` of a run without a right detection


@dataclass(frozen=True, slots=True)
class Joined:
    """Several splits in one. data: all their records, with ids of their own where two splits use the same ones.
    split: [P] the number of the split of each record, of `names`. renumbered: whether the ids are our own."""

    data: DetectionData
    names: tuple[str, ...]
    split: Ints
    renumbered: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What one model or file of results found.

    threshold: score from which a detection counts. sure: score from which this run is enough by itself.
    covered: the numbers of the splits it looked at. every, kept: per record all its detections, and those that count.
    losses: [P] the training loss of each picture, see `picture_losses`; None where it is not known.
    """

    name: str
    threshold: float
    sure: float
    covered: frozenset[int]
    every: list[Matched]
    kept: list[Matched]
    losses: Floats | None = None

    def errors(self, class_names: Sequence[str], background: float = 0.1) -> Tide:
        """The errors of its splits by kind; a record of another split has none."""
        most = max((len(m.scores) for m in self.kept), default=0)
        return tide(self.kept, class_names, background=background, max_detections=most)


def join_splits(splits: Mapping[str, DetectionData]) -> Joined:
    """All records of all splits. Raises: HeadwayError when none of them can be read."""
    usable: dict[str, Sequence[Record]] = {}
    for name, data in splits.items():
        try:
            usable[name] = [*data.records]
        except DataError as error:  # told when it was opened
            reason = error
    if not any(map(len, usable.values())):
        raise HeadwayError(str(reason) if not usable else "the data set has no pictures; expected at least one")
    records = [record for part in usable.values() for record in part]
    twice = len({record.image_id for record in records}) < len(records)
    if twice:
        records = [replace(record, image_id=number) for number, record in enumerate(records, 1)]
    first = splits[next(iter(usable))]
    numbers = np.repeat(np.arange(len(usable)), [len(part) for part in usable.values()])
    return Joined(replace(first, name=" + ".join(usable), records=records), (*usable,), numbers, twice)


def read_run(
    given: Any, name: str, joined: Joined, *, threshold: float | None, loss: bool, precision: Precision,
    progress: Progress | None, **settings: Any,
) -> Run:  # fmt: skip
    """What a model finds, or what a file of results says.

    threshold: None is the one with the best F1. loss: measure the training loss too, of a model that is no exported
    file. settings: batch_size, workers and device, of a model.
    """
    losses = None
    if is_results(given):
        rows = _rows_of_file(Path(given), joined)
        covered = _covered(rows, joined)
    else:
        model = opened(given, precision)
        cap = detection_cap(joined.data, card_of(model))
        with nullcontext(progress) if progress is not None else progress_bar(f"looking with {name}") as told:
            found = measure_any(model, joined.data, precision=precision, max_detections=cap, progress=told, **settings)
        rows, covered = found.rows, frozenset(range(len(joined.names)))
        if loss and isinstance(model, Detector):
            where, workers = settings["device"], settings["workers"]
            with nullcontext(progress) if progress is not None else progress_bar(f"loss of {name}") as told:
                losses = picture_losses(
                    model, joined.data, workers=workers, precision=precision, progress=told,
                    device=None if where is None else pick_device(where),
                )  # fmt: skip
    every = match(check_results(rows, joined.data), joined.data)
    seen = [m for m, split in zip(every, joined.split.tolist()) if split in covered]
    if threshold is None:
        threshold = best_thresholds(seen, len(joined.data.class_names))[0].threshold
        threshold = FALLBACK if threshold != threshold else threshold
    kept = [m.above(threshold) for m in every]
    return Run(name, threshold, _sure(kept), covered, every, kept, losses)


def is_results(given: Any) -> bool:
    """Whether a run is a file of detections."""
    return isinstance(given, (str, Path)) and Path(given).suffix.lower() == ".json"


def has_loss(given: Any) -> bool:
    """Whether the training loss of a run can be measured: not of an exported file."""
    in_file = isinstance(given, (str, Path)) and is_exported(Path(given))
    return not (is_results(given) or in_file or isinstance(given, Runtime))


def _rows_of_file(path: Path, joined: Joined) -> list[dict[str, Any]]:
    """Its rows. Raises: HeadwayError for rows with numbers in place of names where several splits have these."""
    if joined.renumbered and (rows := read_rows(path)) and not are_named(rows, "file_name"):
        raise HeadwayError(
            f"{path} names its pictures by numbers that the splits {', '.join(joined.names)} share: say which one it "
            "is of with split="
        )
    return read_results(path, joined.data)


def _covered(rows: Sequence[Mapping[str, Any]], joined: Joined) -> frozenset[int]:
    """The splits of which the file has a detection; the only one in any case."""
    if len(joined.names) == 1:
        return frozenset({0})
    seen = Counter(row["image_id"] for row in rows)
    return frozenset(
        split for record, split in zip(joined.data.records, joined.split.tolist()) if record.image_id in seen
    )


def _sure(kept: Sequence[Matched]) -> float:
    """The score that half of the right detections reach."""
    right = np.concatenate([m.scores[m.truth >= 0] for m in kept] or [np.zeros(0)])
    return float(np.median(right)) if len(right) else FALLBACK
