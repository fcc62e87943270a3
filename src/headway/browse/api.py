"""`headway.browse.browse`: a page over a data set, and the label mistakes that the runs point at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import HeadwayError, check_number
from ..evaluate.api import open_data_splits
from ..evaluate.errors_api import names_of_runs, several
from ..evaluate.run import Precision, Progress
from ..files import claim_folder, pick_split
from ..progress import progress_bar
from .columns import names_of, page_data
from .judge import Judged, judge
from .page import render
from .problems import Finding, check_by_picture
from .runs import Joined, Run, has_loss, join_splits, read_run
from .suspects import KINDS, Suspect
from .thumbnails import Thumbnail, write_thumbnails

if TYPE_CHECKING:
    import torch

PAGE, FOUND, PICTURES = "index.html", "suspects.json", "pictures"


@dataclass(frozen=True, eq=False)
class Browsed:
    """What `browse` gives.

    joined: all pictures of all splits. names: each one's path in the data set. runs: what each found. judged: each
    picture. problems: of `headway data check`, by the number of the picture; None where nothing was checked.
    page: index.html, if written.
    """

    joined: Joined
    names: list[str]
    runs: list[Run]
    judged: list[Judged]
    problems: Mapping[int, Sequence[Finding]] | None = None
    page: Path | None = None

    def counts(self) -> dict[str, int]:
        """How many label mistakes there are of each kind."""
        found = Counter(suspect.kind for judged in self.judged for suspect in judged.suspects)
        return {kind: found[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """Figures and every label mistake, surest first, as JSON holds them; box is xyxy in pixels."""
        splits = self.joined.names
        mistakes = [
            {"file": name, "split": splits[split], **self._mistake(suspect)}
            for name, split, judged in zip(self.names, self.joined.split.tolist(), self.judged)
            for suspect in judged.suspects
        ]
        return {
            "data": str(self.joined.data.root), "images": len(self.names), "splits": list(splits),
            "runs": {
                run.name: {"threshold": run.threshold, "sure": run.sure, "splits": [splits[s] for s in run.covered]}
                for run in self.runs
            },
            "counts": self.counts(), "suspects": sorted(mistakes, key=lambda row: -row["score"]),
        }  # fmt: skip

    def _mistake(self, suspect: Suspect) -> dict[str, Any]:
        names = self.joined.data.class_names
        return {
            "kind": suspect.kind, "class": names[suspect.label],
            "other": names[suspect.other] if suspect.other >= 0 else None,
            "box": [round(v, 2) for v in suspect.box], "score": round(suspect.score, 4),
            "runs": [self.runs[r].name for r in suspect.runs],
        }  # fmt: skip


def browse(
    data: Any,
    runs: Any = (),
    *,
    split: str | None = None,
    format: str | None = None,
    threshold: float | None = None,
    agree: int = 2,
    sure: float | None = None,
    loss: bool = False,
    check: bool = True,
    side: int = 320,
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "fp32",
    device: str | torch.device | None = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Browsed:
    """A page over a data set, and its label mistakes by what the runs say.

    data: as of `headway.evaluate`. split: one of several; None: all.
    runs: one or several: models as of `headway.evaluate`, or files of detections (.json). A file counts for the splits
        of which it has a detection.
    threshold: score from which a detection counts; None: of each run the one with its best F1.
    agree: so many runs must say the same; all, where a picture has fewer. sure: score from which one run is enough
        where that is 1; None: the score that half of the run's right detections reach.
    loss: measure each model's training loss of each picture too, to sort by; a second pass, one picture at a time.
    check: show the problems of `headway data check`, for data in a folder or file. side: of the small pictures, pixels.
    batch_size, workers, precision, device: of models. progress: called with (done, of how many), instead of bars.
    out: a new folder for index.html, its pictures, and suspects.json; None: nothing is written and nothing checked.

    Raises: HeadwayError, DataError.
    """
    numbers = {"agree": (agree, 1), "side": (side, 32), "batch_size": (batch_size, 1), "workers": (workers, 0)}
    for what, (value, low) in numbers.items():
        check_number(what, value, low, whole=True)
    for what, score in {"threshold": threshold, "sure": sure}.items():
        check_number(what, 0 if score is None else score, 0, 1)
    splits = open_data_splits(data, format)
    chosen = None if split is None else pick_split(splits, split)
    joined = join_splits(splits if chosen is None else {chosen.name: chosen})
    given = several(runs)
    names = names_of_runs(given) if given else []
    if loss and not any(map(has_loss, given)):
        raise HeadwayError(
            f"loss is of a model that trains, got {', '.join(names) or 'no run'}: name a checkpoint or run folder "
            "among the runs, or leave loss out"
        )
    folder = None if out is None else claim_folder(Path(out))
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision, "device": device}
    settings |= {"threshold": threshold, "loss": loss, "progress": progress}
    found = [read_run(one, name, joined, **settings) for one, name in zip(given, names)]
    judged = judge(joined, found, agree, sure)
    files = names_of(joined.data.records, joined.data.root)
    if folder is None:
        return Browsed(joined, files, found, judged)
    problems = _problems(data, joined, format, progress) if check else None
    white = joined.data.white()
    with nullcontext(progress) if progress is not None else progress_bar("pictures") as told:
        thumbnails = write_thumbnails(joined.data.records, folder / PICTURES, side=side, white=white, progress=told)
    browsed = Browsed(joined, files, found, judged, problems, folder / PAGE)
    _write(browsed, folder, thumbnails, agree, sure)
    return browsed


def _problems(
    data: Any, joined: Joined, format: str | None, progress: Progress | None
) -> dict[int, list[Finding]] | None:
    """By the number of the picture; None for data that is in no folder or file."""
    if not isinstance(data, (str, Path)):
        return None
    with nullcontext(progress) if progress is not None else progress_bar("checking") as told:
        found = check_by_picture(data, format, told)
    splits = [joined.names[split] for split in joined.split.tolist()]
    keys = [(split, record.path) for split, record in zip(splits, joined.data.records)]
    return {i: found.by_picture[key] for i, key in enumerate(keys) if key in found.by_picture}


def _write(browsed: Browsed, folder: Path, thumbnails: Sequence[Thumbnail], agree: int, sure: float | None) -> None:
    """suspects.json and index.html. A picture that cannot be read is a problem, whether the data was checked or not."""
    text = json.dumps(browsed.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FOUND).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    problems = {i: list(found) for i, found in (browsed.problems or {}).items()}
    for i, thumbnail in enumerate(thumbnails):
        if thumbnail.problem and not any(f.kind in ("broken_image", "empty_image") for f in problems.get(i, ())):
            problems.setdefault(i, []).append(Finding("broken_image", thumbnail.problem))
    joined = browsed.joined
    content = page_data(joined, browsed.runs, browsed.judged, thumbnails, problems, folder)
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    root = joined.data.root.resolve()
    content |= {"title": root.name, "root": str(root), "agree": agree, "given": sure}
    facts = [f"{len(joined.data):,} pictures", f"{joined.data.num_boxes:,} labels", f"headway {__version__}, {made}"]
    (folder / PAGE).write_text(render(content, facts), encoding="utf-8", errors="backslashreplace")
