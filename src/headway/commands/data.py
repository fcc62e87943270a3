"""`headway data ...`: check and clean a data set, look at it, split it, rewrite it in another format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import HeadwayError
from . import common
from .common import Format, UsageError, say, show, show_json, table

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..data.problems import Problem

DataPath = Annotated[Positional[Path], arg(metavar="FOLDER")]
OutPath = Annotated[Path | None, arg(metavar="FOLDER")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Validate a data set before training: pictures, boxes, categories, ids and paths, with a fix for every kind.

    Exits with 1 when there is an error. Nothing is changed: --fix writes a cleaned copy elsewhere.
    """

    path: DataPath
    """The data set: a folder, or a COCO annotation file."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    fix: bool = False
    """Write a cleaned copy to --out."""
    out: OutPath = None
    """New folder for the cleaned copy. Default: beside the data set, with -fixed behind its name."""
    limit: int = 5
    """Most places that are listed for each kind of problem; 0: all."""
    json: bool = False
    """Print the problems as JSON."""

    def run(self) -> int:
        if self.out is not None and not self.fix:
            raise UsageError("--out is where the cleaned copy goes: add --fix")

        from ..data.check import check, fix

        problems = check(self.path, format=self.format).problems
        faults = [problem for problem in problems if problem.severity != "info"]
        copy = None
        if self.fix and faults:
            copy = self.out or self.path.resolve().with_name(f"{self.path.resolve().stem}-fixed")
            fix(self.path, copy, format=self.format)
        if self.json:
            rows = [{**p._asdict(), "severity": p.severity, "fix": p.fix} for p in problems]
            show_json({"path": self.path, "problems": rows, "fixed": copy})
        else:
            show(_problem_text(problems, self.limit) if problems else f"{self.path}: nothing wrong")
            if copy is not None:
                show(f"\ncleaned copy: {copy}")
            elif faults:
                say("--fix writes a cleaned copy")
        return 1 if copy is None and any(p.severity == "error" for p in problems) else 0


def _problem_text(problems: list[Problem], limit: int) -> str:
    """A table with a fix for each kind, and below it where the faults are."""
    from ..data.problems import KINDS

    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    order = [kind for kind in KINDS if kind in kinds]
    rows = [(KINDS[k].severity, len(kinds[k]), KINDS[k].meaning, KINDS[k].fix) for k in order]
    lines = [table(("severity", "count", "problem", "what --fix does"), rows, right=(1,))]
    for kind in order:
        if KINDS[kind].severity == "info":
            continue
        lines += ["", f"{KINDS[kind].meaning}:"]
        listed = kinds[kind][: limit or None]
        lines += [f"  {problem.where}: {problem.detail}" for problem in listed]
        if len(listed) < len(kinds[kind]):
            lines.append(f"  and {len(kinds[kind]) - len(listed)} more (--limit 0 lists all)")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Count a data set: pictures, boxes by class and size; and draw them with sample pictures."""

    path: DataPath
    """The data set: a folder, or a COCO annotation file."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    out: OutPath = None
    """New folder for one picture for each split. Default: runs/stats, or runs/stats-2 and so on when that is taken."""
    json: bool = False
    """Print the counts as JSON."""

    def run(self) -> int:
        from ..data.open import open_splits
        from ..data.stats import draw_stats, stats

        splits = open_splits(self.path, format=self.format)
        out = common.new_folder(Path("runs/stats")) if self.out is None else common.claim_folder(self.out)
        for name, data in splits.items():
            draw_stats(data, out / f"{name}.png")
        if self.json:
            show_json({"path": self.path, "out": out, "splits": {name: stats(data) for name, data in splits.items()}})
            return 0
        first = next(iter(splits.values()))
        show(f"{self.path}: {first.format} ({first.reason})\n\n{class_table(splits)}")
        for name, data in splits.items():
            show("\n".join(f"{name}: {note}" for note in data.notes))
        show(f"pictures: {out}")
        return 0


def class_table(splits: dict[str, DetectionData]) -> str:
    """Pictures of each split, and its boxes by class."""
    names = next(iter(splits.values())).class_names
    rows: list[tuple[object, ...]] = [("pictures", *(len(data) for data in splits.values()))]
    rows.append(("boxes", *(data.num_boxes for data in splits.values())))
    for label, name in enumerate(names):
        rows.append((f"  {name}", *(common.count_label(data, label) for data in splits.values())))
    return table(("", *splits), rows, right=range(1, len(splits) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Split a data set into train, val and test, so that every class is shared out alike; the same seed gives the same
    split. Writes a copy; the original is left alone."""

    path: DataPath
    """The data set: a folder, or a COCO annotation file."""
    out: OutPath = None
    """New folder for the copy. Default: beside the data set, with -split behind its name."""
    fractions: Annotated[tuple[float, ...], arg(metavar="TRAIN VAL [TEST]")] = (0.8, 0.2)
    """Shares of the pictures; their sum is 1."""
    seed: int = 0
    """Of the choice."""
    split: str = ""
    """Which split to divide further, where there are several already."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    hardlink: bool = False
    """Share the pictures' bytes with the original where the file system can."""
    json: bool = False
    """Print the counts as JSON."""

    def run(self) -> int:
        if len(self.fractions) not in (2, 3) or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(f"--fractions takes two or three positive shares with the sum 1, got {self.fractions}")

        from ..data.open import open_dataset, write_dataset
        from ..data.split import stratified_split

        data = open_dataset(self.path, split=self.split or None, format=self.format)
        parts = stratified_split(data, dict(zip(("train", "val", "test"), self.fractions)), self.seed)
        out = self.out or self.path.resolve().with_name(f"{self.path.resolve().stem}-split")
        write_dataset(parts, out, data.format, hardlink=self.hardlink)
        return _show_written(out, parts, as_json=self.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertData:
    """Rewrite a data set as COCO, Pascal VOC or YOLO. Writes a copy; the original is left alone."""

    path: DataPath
    """The data set: a folder, or a COCO annotation file."""
    to: Literal["coco", "voc", "yolo", ""] = ""
    """The format to write."""
    out: OutPath = None
    """New folder for the copy. Default: beside the data set, with the format behind its name."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    hardlink: bool = False
    """Share the pictures' bytes with the original where the file system can."""
    json: bool = False
    """Print the counts as JSON."""

    def run(self) -> int:
        if not self.to:
            raise UsageError("say which format to write: --to coco, voc or yolo")

        from ..data.open import open_splits, write_dataset

        splits = open_splits(self.path, format=self.format)
        out = self.out or self.path.resolve().with_name(f"{self.path.resolve().stem}-{self.to}")
        write_dataset(splits, out, self.to, hardlink=self.hardlink)
        return _show_written(out, splits, as_json=self.json)


def _show_written(out: Path, splits: dict[str, DetectionData], *, as_json: bool) -> int:
    """Open what was written, so that what is said is what is there."""
    from ..data.open import open_splits

    written = open_splits(out)
    if {n: len(d) for n, d in written.items()} != {n: len(d) for n, d in splits.items()}:
        raise HeadwayError(f"{out} does not read back as it was written; please report this with the data set's format")
    if as_json:
        counts = {name: {"images": len(data), "boxes": data.num_boxes} for name, data in written.items()}
        show_json({"out": out, "format": next(iter(written.values())).format, "splits": counts})
    else:
        show(f"{class_table(written)}\n\nwritten: {out}")
    return 0
