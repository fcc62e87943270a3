"""`headway browse`: a page over a data set, and its label mistakes by what the runs say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..resolve import is_exported
from . import common
from .common import Device, Format, Precision, check_fixed, show, show_json, table

if TYPE_CHECKING:
    from ..browse.api import Browsed

DEFAULT_OUT = Path("runs/browse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Browse:
    """Look through a data set on one page: `headway browse photos/`, or with runs `headway browse photos/ runs/a`.

    The page has thumbnails with boxes, and filters by class, size, split, problem of `headway data check` and kind of
    error. With runs it points at label mistakes: boxes that the runs agree on and the labels lack, labels that no run
    finds, labels of another class. It opens from the disk, without a server.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """The data set: a folder, or a COCO annotation file."""
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...")] = ()
    """Checkpoints, run folders, published tags, exported files, or .json files of detections."""
    split: str | None = None
    """One split alone. Default: all."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    threshold: float | None = None
    """Score from which a detection counts. Default: of each run the one with its best F1."""
    agree: int = 2
    """So many runs must say the same against the labels; all, where there are fewer."""
    sure: float | None = None
    """Score from which one run is enough where --agree is 1 or there is one run. Default: the score that half of its
    right detections reach."""
    loss: bool = False
    """Measure the training loss of each picture as well, to sort by: a second pass, one picture at a time."""
    no_check: bool = False
    """Leave out the problems of `headway data check`, which decodes every picture."""
    side: int = 320
    """Longest side of the small pictures, in pixels."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the page. Default: runs/browse, or runs/browse-2 and so on when that is taken."""
    batch_size: int = 8
    """Pictures per pass of a model."""
    workers: int = 0
    """Processes that load pictures for a model."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the figures and every label mistake as JSON."""

    def run(self) -> int:
        for path in map(Path, self.runs):
            if is_exported(path):
                check_fixed(path, self.device, self.precision, workers=(self.workers, 0))
        from ..browse.api import browse

        found = browse(
            self.data, self.runs, split=self.split, format=self.format, threshold=self.threshold, agree=self.agree,
            sure=self.sure, loss=self.loss, check=not self.no_check, side=self.side, batch_size=self.batch_size,
            workers=self.workers, precision=self.precision, device=self.device,
            out=common.new_folder(DEFAULT_OUT) if self.out is None else self.out,
        )  # fmt: skip
        if self.json:
            show_json({**found.to_dict(), "page": found.page})
            return 0
        show(_overview(found))
        if found.runs:
            show(f"\n{_mistakes(found, self.agree)}")
        show(f"page: {found.page}")
        return 0


def _overview(found: Browsed) -> str:
    """Pictures, labels, and problems by split."""
    from ..data.formats.problem_kinds import KINDS

    joined = found.joined
    rows: list[list[object]] = []
    for number, name in enumerate(joined.names):
        records = [record for record, split in zip(joined.data.records, joined.split) if split == number]
        rows.append([name, len(records), sum(len(record.boxes) for record in records)])
        if found.problems is not None:
            its = [problems for i, problems in found.problems.items() if joined.split[i] == number]
            rows[-1].append(sum(any(KINDS[p.kind].severity != "info" for p in problems) for problems in its))
    header = ("split", "pictures", "labels", "with problems")[: len(rows[0])]
    return table(header, rows, right=range(1, len(header)))


def _mistakes(found: Browsed, agree: int) -> str:
    """The runs, and how many label mistakes of each kind there may be."""
    from ..browse.page import SAID

    runs = [f"{run.name} from score {run.threshold:.2f} on" for run in found.runs]
    alone = agree == 1 or len(runs) == 1
    by = "one run is enough" if alone else f"{min(agree, len(runs))} of {len(runs)} runs must agree"
    surer = f", from score {', '.join(f'{run.sure:.2f}' for run in found.runs)} on" if alone else ""
    rows = [(SAID[kind], count) for kind, count in found.counts().items()]
    head = f"{'; '.join(runs)}. For a box that the labels lack {by}{surer}."
    return f"{head}\n{table(('possible label mistakes', ''), rows, right=(1,))}"
