"""`headway eval`: COCO metrics of a checkpoint, those of its further tasks, and a report folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..resolve import is_exported
from . import common
from .common import Device, Format, Precision, UsageError, check_fixed, say, show, show_json, table
from .picture_views import PictureViews

if TYPE_CHECKING:
    from ..evaluate.api import Metrics

DEFAULT_OUT = Path("runs/eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Measure a checkpoint on a data set: COCO's AP by IoU, size and class, with a report (HTML, JSON, pictures).

    Of a model with tags also their mAP, of one with embeddings how often they find an object again in a mirrored,
    smaller view of its picture: rank-1 and mAP (tasks.json in the report).
    """

    checkpoint: Annotated[Positional[Path | None], arg(metavar="CHECKPOINT")] = None
    """A checkpoint, run folder, published tag (atss_r50_fpn.mmdet) or exported file (photos.onnx)."""
    results: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure these detections in place of a checkpoint: predictions.json of `headway predict`, whose pictures are
    matched by file name, or COCO results of another tool."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    split: str = "val"
    """Which split of it, where it has several."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the report. Default: runs/eval, or runs/eval-2 and so on when that is taken."""
    max_detections: int | None = None
    """The best so many of each picture count. Default: COCO's 100, or the model's where a picture has more boxes."""
    batch_size: int = 8
    """Pictures per pass, of each process."""
    workers: int = 0
    """Processes that load pictures."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the metrics as JSON."""
    views: OmitArgPrefixes[PictureViews] = field(default_factory=PictureViews)

    def run(self) -> int:
        if self.data is None:
            raise UsageError("say what to measure on: --data FOLDER")
        if self.batch_size < 1 or self.workers < 0:
            raise UsageError(
                f"--batch-size must be at least 1 and --workers at least 0, got {self.batch_size}, {self.workers}"
            )

        if (self.checkpoint is None) == (self.results is None):
            raise UsageError("say what to measure: a checkpoint, or --results predictions.json, not both")
        if is_exported(self.checkpoint):
            check_fixed(self.checkpoint, self.device, self.precision, workers=(self.workers, 0))
        views = self.views.settings(self.checkpoint if is_exported(self.checkpoint) else None)
        if self.results is not None and self.views.asked:
            raise UsageError("--results are measured as they are: leave out --tiles and --tta")

        from ..evaluate.api import evaluate, evaluate_results
        from ..evaluate.processes import started_processes

        first = os.environ.get("RANK", "0") == "0" or started_processes() < 2
        several = started_processes() > 1 and not is_exported(self.checkpoint) and self.results is None
        if not first and not several:
            return 0  # one process does what cannot be shared

        def report() -> Path | None:
            if not first:
                return None
            return common.new_folder(DEFAULT_OUT) if self.out is None else self.out

        if self.results is not None:
            metrics = evaluate_results(
                self.results, self.data, split=self.split, format=self.format, max_detections=self.max_detections,
                report=report(),
            )  # fmt: skip
        else:
            metrics = evaluate(
                str(self.checkpoint), self.data, split=self.split, format=self.format, batch_size=self.batch_size,
                workers=self.workers, precision=self.precision, device=self.device, report=report(),
                max_detections=self.max_detections, distributed=several, **views,
            )  # fmt: skip
        if not first:
            return 0
        assert metrics.report is not None
        if metrics.crowded:
            cap = metrics.coco.max_detections
            say(f"pictures with more boxes than the {cap} detections of each that count: {metrics.crowded}; their "
                "boxes cannot all be found: --max-detections counts more")  # fmt: skip
        if self.json:
            show_json({**metrics.to_dict(), "report": metrics.report.parent})
            return 0
        if metrics.detects:
            show(_text(metrics))
            if metrics.plain is not None:
                show(f"\n{_side_by_side(metrics, str(self.views))}")
        for task in metrics.tasks.values():
            show(_table([*task.rows[0]], [[*row.values()] for row in task.rows]))
        show(f"report: {metrics.report}")
        return 0


def _side_by_side(seen: Metrics, name: str) -> str:
    """The plain figures, those of several views, and the price."""
    assert seen.plain is not None
    count = max(len(seen.data), 1)
    rows = [
        (title, m.coco.ap, m.coco.ap50, m.coco.ap75, m.coco.ap_small, m.coco.ap_medium, m.coco.ap_large, m.coco.ar_100)
        for title, m in (("plain", seen.plain), (name, seen))
    ]
    text = _table(("views", "AP", "AP50", "AP75", "small", "medium", "large", "AR"), rows)
    price = "" if seen.price is None else f": {seen.price:.1f} times the time"
    took = f"{seen.plain.seconds / count:.2f} s a picture plain, {seen.seconds / count:.2f} s with {name}"
    return f"{text}\n{took}{price}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers to the right of a name, with four digits."""
    shown = [[_shown(cell) for cell in row] for row in rows]
    return table(header, shown, right=range(1, len(header)))


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:.4f}"


def _text(found: Metrics) -> str:
    metrics, data, best = found.coco, found.data, found.coco.best
    speed = f"; {len(data) / found.seconds:.1f} pictures/s" if found.seconds else ""
    rows = [("all", metrics), *((row.name, row) for row in metrics.per_class)]
    cells = [(name, m.boxes, m.ap, m.ap50, m.ap75, m.ar_100) for name, m in rows]
    sizes = ", ".join(f"{size} {_shown(getattr(metrics, f'ap_{size}'))}" for size in ("small", "medium", "large"))
    text = (
        f"{data.name}: {len(data)} pictures, {data.format} ({data.reason}){speed}\n"
        f"{_table(('class', 'boxes', 'AP', 'AP50', 'AP75', 'AR100'), cells)}\nAP by size: {sizes}"
    )
    if best.threshold == best.threshold:
        text += (
            f"\nbest F1 {best.f1:.2f} with --threshold {best.threshold:.2f}: precision {best.precision:.2f}, recall "
            f"{best.recall:.2f}"
        )
    return text
