"""`headway eval`: COCO metrics of a checkpoint, those of its further tasks, and a report folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import HeadwayError, nearest
from . import common
from .common import Device, Format, Precision, UsageError, show, show_json, table

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..evaluate.coco import Metrics
    from ..evaluate.tasks import TaskMetrics

DEFAULT_OUT = Path("runs/eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Measure a checkpoint on a data set: COCO's AP by IoU, size and class, with a report (HTML, JSON, pictures).

    Of a model with tags also their mAP, of one with embeddings how often they find an object again in a mirrored,
    smaller view of its picture: rank-1 and mAP (tasks.json in the report).
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint, run folder or published tag (atss_r50_fpn.mmdet)."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    split: str = "val"
    """Which split of it, where it has several."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the report. Default: runs/eval, or runs/eval-2 and so on when that is taken."""
    batch_size: int = 8
    """Pictures per pass."""
    workers: int = 0
    """Processes that load pictures."""
    precision: Precision = "fp32"
    """Of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the metrics as JSON."""

    def run(self) -> int:
        if self.data is None:
            raise UsageError("say what to measure on: --data FOLDER")
        if self.batch_size < 1 or self.workers < 0:
            raise UsageError(
                f"--batch-size must be at least 1 and --workers at least 0, got {self.batch_size}, {self.workers}"
            )

        from ..data.formats.any_format import open_splits
        from ..evaluate.coco import evaluate
        from ..evaluate.report import write_report
        from ..evaluate.run import detect_dataset
        from ..evaluate.tasks import detects, evaluate_tasks

        data = pick_split(open_splits(self.data, format=self.format), self.split)
        model = common.load_checkpoint(self.checkpoint)
        device = common.pick_device(self.device)
        with common.progress_bar("evaluating") as progress:
            rows, seconds = detect_dataset(
                model, data, batch_size=self.batch_size, workers=self.workers, device=device, precision=self.precision,
                progress=progress,
            )  # fmt: skip
        metrics = evaluate(rows, data)
        tasks = evaluate_tasks(
            model, data, batch_size=self.batch_size, workers=self.workers, device=device, precision=self.precision
        )
        out = common.new_folder(DEFAULT_OUT) if self.out is None else common.claim_folder(self.out)
        write_report(out, data=data, results=rows, metrics=metrics, card=model.card, seconds=seconds)
        if tasks.summary():
            (out / "tasks.json").write_text(json.dumps(tasks.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        if self.json:
            show_json({**metrics.to_dict(), "tasks": tasks.to_dict(), "seconds": seconds, "report": out})
        else:
            if detects(model):
                show(_text(metrics, data, seconds))
            show_tasks(tasks)
            show(f"report: {out / 'report.html'}")
        return 0


def pick_split(splits: dict[str, DetectionData], name: str) -> DetectionData:
    """The split called `name`, or the only one. Raises: HeadwayError when there are several, but not that one."""
    if name not in splits and len(splits) > 1:
        raise HeadwayError(f"no split {name!r} here, only {', '.join(splits)}; {nearest(name, splits)}".rstrip("; "))
    return splits[name] if name in splits else next(iter(splits.values()))


def show_tasks(tasks: TaskMetrics) -> None:
    """Print what there is of tags and retrieval."""

    def shown(value: float) -> str:
        return "-" if value != value else f"{value:.4f}"

    if tasks.tags is not None:
        rows = [(n, c, shown(ap)) for n, c, ap in zip(tasks.tag_names, tasks.tags.counts, tasks.tags.ap)]
        rows.insert(0, ("all", tasks.tags.images, shown(tasks.tags.map)))
        show(table(("tag", "pictures", "AP"), rows, right=(1, 2)))
    if tasks.retrieval is not None:
        rank1, mean, queries, gallery = tasks.retrieval
        show(f"retrieval: rank-1 {shown(rank1)}, mAP {shown(mean)}; {queries} objects among {gallery}")


def _text(metrics: Metrics, data: DetectionData, seconds: float) -> str:
    def shown(*values: float) -> list[str]:
        return ["-" if value != value else f"{value:.4f}" for value in values]

    speed = f"; {len(data) / seconds:.1f} pictures/s" if seconds else ""
    rows = [(m.name, m.boxes, *shown(m.ap, m.ap50, m.ap75, m.ar_100)) for m in metrics.per_class]
    rows.insert(0, ("all", metrics.boxes, *shown(metrics.ap, metrics.ap50, metrics.ap75, metrics.ar_100)))
    small, medium, large = shown(metrics.ap_small, metrics.ap_medium, metrics.ap_large)
    return "\n".join(
        [
            f"{data.name}: {len(data)} pictures, {data.format} ({data.reason}){speed}",
            table(("class", "boxes", "AP", "AP50", "AP75", "AR100"), rows, right=(1, 2, 3, 4, 5)),
            f"AP by size: small {small}, medium {medium}, large {large}",
        ]
    )
