"""`headway errors`: what goes wrong, by kind, and what repairing each kind would add to AP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..resolve import is_exported
from . import common
from .common import Device, Format, Precision, UsageError, check_fixed, show, show_json, table

if TYPE_CHECKING:
    from ..evaluate.errors_api import ErrorsFound
    from ..evaluate.kinds import Breakdown

DEFAULT_OUT = Path("runs/errors")
PARTS = {"class": "classes", "size": "sizes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Sort the errors of one run or several by kind (TIDE): `headway errors runs/a runs/b --data photos/`.

    Kinds: wrong class, wrong place, both, duplicate, background, missed. For each how many there are and what AP would
    gain without them. Writes a page with the worst crops of each kind, and errors.json.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...")] = ()
    """Checkpoints, run folders, published tags or exported files."""
    results: Annotated[tuple[Path, ...], arg(metavar="FILE ...")] = ()
    """Files of detections, as of `headway eval --results`, beside or in place of runs."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    split: str = "val"
    """Which split of it, where it has several."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    iou: float = 0.5
    """From this IoU on a detection finds a box of its class."""
    background: float = 0.1
    """Up to this IoU with any box a detection is of nothing."""
    by: Annotated[str, arg(metavar="class,size")] = ""
    """Print the same by class, by size, or both. The page has both."""
    pictures: int = 40
    """How many of the worst errors of each kind of each run the page shows."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the page. Default: runs/errors, or runs/errors-2 and so on when that is taken."""
    max_detections: int | None = None
    """The best so many of each picture count. Default: 100, or the model's where a picture has more boxes."""
    batch_size: int = 8
    """Pictures per pass."""
    workers: int = 0
    """Processes that load pictures."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        if self.data is None:
            raise UsageError("say what to measure on: --data FOLDER")
        if not self.runs and not self.results:
            raise UsageError("say whose errors: run folders or checkpoints, or --results predictions.json")
        by = [part for part in self.by.split(",") if part]
        if unknown := [part for part in by if part not in PARTS]:
            raise UsageError(f"--by takes class, size or class,size, got {unknown[0]!r}")
        for path in map(Path, self.runs):
            if is_exported(path):
                check_fixed(path, self.device, self.precision, workers=(self.workers, 0))
        from ..evaluate.errors_api import errors

        found = errors(
            self.runs, self.data, results=self.results, split=self.split, format=self.format, iou=self.iou,
            background=self.background, max_detections=self.max_detections, pictures=self.pictures,
            batch_size=self.batch_size, workers=self.workers, precision=self.precision, device=self.device,
            out=common.new_folder(DEFAULT_OUT) if self.out is None else self.out,
        )  # fmt: skip
        assert found.page is not None
        if self.json:
            show_json({**found.to_dict(), "page": found.page})
            return 0
        show(_overview(found, self.iou))
        for part in by:
            for name, run in found.runs.items():
                show(f"\n{name} by {part}\n{_parts(part, getattr(run, PARTS[part]))}")
        show(f"page: {found.page}")
        return 0


def _overview(found: ErrorsFound, iou: float) -> str:
    """Kind by run: what AP gains without it, and how many there are."""
    from ..evaluate.kinds import REPAIRS

    several = len(found.runs) > 1
    header = ["", *(cell for name in found.runs for cell in (f"{name} gain" if several else "gain", "errors"))]
    ap = "AP50" if iou == 0.5 else f"AP at IoU {iou:g}"
    lines = [[ap, *(cell for run in found.runs.values() for cell in (_shown(run.all.ap), ""))]]
    for repair in REPAIRS:
        cells = [(_shown(run.all.gains[repair], "+"), run.all.counts.get(repair, "")) for run in found.runs.values()]
        lines.append([repair, *(str(cell) for pair in cells for cell in pair)])
    return (
        f"{found.data.name}: {len(found.data)} pictures; gain: what AP adds when all errors of a kind are repaired\n"
        f"{table(header, lines, right=range(1, len(header)))}"
    )


def _parts(part: str, rows: tuple[Breakdown, ...]) -> str:
    """Gain and count of each kind."""
    from ..evaluate.kinds import KINDS

    header = [part, "boxes", "AP", *KINDS]
    lines = [
        [row.name, row.boxes, _shown(row.ap), *(f"{_shown(row.gains[k], '+')} ({row.counts[k]})" for k in KINDS)]
        for row in rows
    ]
    return table(header, lines, right=range(1, len(header)))


def _shown(value: float, sign: str = "") -> str:
    return "-" if value != value else f"{value:{sign}.4f}"
