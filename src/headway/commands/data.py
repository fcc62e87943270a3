"""`headway data ...`: check and clean a data set, look at it, split it, rewrite it in another format."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ..data.windows import OVERLAP, check_tiles
from ..errors import HeadwayError
from ..train.recipes import RECIPES, recipe
from . import common
from .common import Format, UsageError, say, show, show_json, table

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..data.formats.check import CheckReport
    from ..data.formats.fix import FixReport

OutPath = Annotated[Path | None, arg(metavar="FOLDER")]
_TILE = 512  # the input size of most recipes


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDataset:
    """What every verb here takes."""

    path: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """The data set: a folder, a COCO annotation file, or tar shards as shards/{000..009}.tar."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    json: bool = False
    """Print the result as JSON."""

    def splits(self) -> dict[str, DetectionData]:
        from ..data.formats.any_format import open_splits

        return open_splits(self.path, format=self.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(OfDataset):
    """Validate a data set before training: pictures, boxes, categories, ids and paths, with a fix for every kind.

    Exits with 1 when there is an error. Nothing is changed: --fix writes a cleaned copy elsewhere.
    """

    fix: bool = False
    """Write a cleaned copy to --out."""
    out: OutPath = None
    """New folder for the cleaned copy. Default: beside the data set, with -fixed behind its name."""
    limit: int = 5
    """Most places that are listed for each kind of problem; 0: all."""
    workers: int | None = None
    """Decode the pictures with so many processes, and go on where a check of this folder was stopped."""
    state: Annotated[Path | None, arg(metavar="FILE")] = None
    """With --workers: where the check keeps what it knows until its end. Default: a file below runs/check."""

    def run(self) -> int:
        if self.out is not None and not self.fix:
            raise UsageError("--out is where the cleaned copy goes: add --fix")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, got {self.workers}")
        if self.state is not None and self.workers is None:
            raise UsageError("--state is where a check with several processes goes on: add --workers N")

        from ..data.formats.check import check
        from ..data.formats.fix import fix

        state = None if self.workers is None else self.state or _state_of(self.path)
        if state is not None and state.exists():
            say(f"going on with what {state} knows; remove it to begin anew")
        try:
            with common.progress_bar("checking") as progress:
                report = check(self.path, format=self.format, progress=progress, workers=self.workers, state=state)
        except KeyboardInterrupt:
            if state is not None:
                say(f"interrupted; the same command goes on with what {state} knows")
            raise
        copy, mended = None, None
        if self.fix and any(problem.severity != "info" for problem in report.problems):
            root = report.root.resolve()
            copy = self.out or root.with_name(f"{root.name}-fixed")
            with common.progress_bar("fixing") as progress:
                mended = fix(self.path, copy, format=self.format, progress=progress)
        if self.json:
            show_json({**report.to_dict(), "fixed": copy})
        else:
            _print_report(report, self.limit)
            if mended is not None:
                show(f"cleaned copy: {copy}\n{_left_out(mended)}")
            elif self.fix:
                say("there is nothing to mend: no copy was written")
            elif not report.ok and not {"boxes_lost", "no_labels"} & report.by_kind().keys():
                say("--fix writes a cleaned copy")
        return 0 if report.ok or copy is not None else 1


def _state_of(path: Path) -> Path:
    """The file of a check that was stopped, one for each folder."""
    whole = path.resolve()
    return Path("runs/check") / f"{whole.name}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}.jsonl"


def _left_out(mended: FixReport) -> str:
    """What is in a cleaned copy, and what is not."""
    rows = [(name, *mended.images[name], *mended.boxes[name]) for name in mended.images]  # each: kept, left out
    return table(("", "pictures", "left out", "boxes", "left out"), rows, right=range(1, 5))


def _print_report(report: CheckReport, limit: int) -> None:
    """The table with a fix for each kind of problem, and below it where the faults are."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=160)
    console.print(report.table())
    for kind, problems in report.by_kind().items():
        if problems[0].severity == "info" or len(problems) == 1:
            continue
        show(f"{kind}:")
        for problem in problems[: limit or None]:
            show(f"  {problem.where}: {problem.detail}")
        if limit and len(problems) > limit:
            show(f"  and {len(problems) - limit} more (--limit 0 lists all)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(OfDataset):
    """Count a data set: pictures, boxes by class and size; and draw them with sample pictures."""

    out: OutPath = None
    """New folder for one picture for each split. Default: runs/stats, or runs/stats-2 and so on when that is taken."""

    def run(self) -> int:
        from ..data.formats.pictures import check_pictures
        from ..data.stats import draw_stats, stats

        splits = self.splits()
        check_pictures(splits)
        out = _new_folder(self.out, "runs/stats")
        for name, data in splits.items():
            draw_stats(data, out / f"{name}.png")
        found = {name: stats(data) for name, data in splits.items()}
        if self.json:
            show_json({"path": self.path, "out": out, "splits": found})
            return 0
        first = next(iter(splits.values()))
        show(f"{self.path}: {first.format} ({first.reason})\n\n{class_table(splits)}")
        for name, counts in found.items():
            sizes = ", ".join(f"{count} {size}" for size, count in counts["sizes"].items())
            spread = counts["box_size"]
            ends = f"; sides {spread['min']:.0f} to {spread['max']:.0f} pixels" if spread else ""
            show(f"{name}: {sizes}{ends}; pictures {', '.join(counts['image_sizes'])}")
        show(f"drawn: {', '.join(str(out / f'{name}.png') for name in splits)}")
        return 0


def _new_folder(out: Path | None, default: str) -> Path:
    return common.new_folder(Path(default)) if out is None else common.claim_folder(out)


def class_table(splits: dict[str, DetectionData]) -> str:
    """Pictures of each split, and its boxes by class; crowd regions apart, as in `stats`."""
    names = next(iter(splits.values())).class_names
    rows: list[tuple[object, ...]] = [("pictures", *(len(data) for data in splits.values()))]
    crowd = [data.num_crowd for data in splits.values()]
    rows.append(("boxes", *(data.num_boxes - count for data, count in zip(splits.values(), crowd))))
    for label, name in enumerate(names):
        rows.append((f"  {name}", *(common.count_label(data, label) for data in splits.values())))
    if any(crowd):
        rows.append(("crowd regions", *crowd))
    return table(("", *splits), rows, right=range(1, len(splits) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment(OfDataset):
    """Draw training pictures with their boxes: the very ones that a training with these settings sees in an epoch."""

    recipe: Annotated[str, arg(metavar=f"{{{','.join(RECIPES)}}}")] = "small"
    """The training recipe whose augmentation is shown."""
    preset: Literal["none", "mmdet", "multiscale", "small", "mosaic", "ssd", "yolo", "detr"] | None = None
    """Augmentation in place of the recipe's."""
    mosaic9: float | None = None
    """Share of preset yolo's mosaics of nine in place of the recipe's."""
    mixup: float | None = None
    """Probability of preset yolo's MixUp in place of the recipe's."""
    scale: tuple[float, float] | None = None
    """Range of the zoom in place of the recipe's."""
    rotate: float | None = None
    """Largest turn of preset yolo, in degrees, in place of the recipe's."""
    shear: float | None = None
    """Largest shear of preset yolo, in degrees, in place of the recipe's."""
    perspective: float | None = None
    """Largest tilt of preset yolo in place of the recipe's."""
    cutmix: float | None = None
    """Probability of CutMix in place of the recipe's."""
    gridmask: float | None = None
    """Highest probability of GridMask in place of the recipe's."""
    epoch: int = 0
    """Which epoch, from 1; GridMask and the joining of pictures depend on it. Default: the middle of the recipe's."""
    input_size: tuple[int, int] = (512, 512)
    """(short, long) side that no picture exceeds."""
    count: int = 12
    """How many pictures."""
    seed: int = 0
    """Of the order and the augmentation, as in training."""
    out: OutPath = None
    """New folder for augment.png. Default: runs/augment, or runs/augment-2 and so on when that is taken."""

    def run(self) -> int:
        if self.count < 1 or self.epoch < 0:
            raise UsageError(f"--count and --epoch count from 1, got {self.count} and {self.epoch}")
        options = ("preset", "mosaic9", "mixup", "scale", "rotate", "shear", "perspective", "cutmix", "gridmask")
        changes = {key: getattr(self, key) for key in options if getattr(self, key) is not None}
        config = recipe(self.recipe).changed(input_size=self.input_size, seed=self.seed, **changes)
        epoch = self.epoch or (config.epochs + 1) // 2

        from ..data.formats.pictures import check_pictures
        from ..data.preview import draw_training
        from ..train.start import training_loader
        from ..types import ModelCard

        splits = self.splits()
        data = splits["train"] if "train" in splits else next(iter(splits.values()))
        if not len(data):
            raise HeadwayError(f"the split {data.name!r} of {self.path} is empty: there is no picture to draw")
        check_pictures({data.name: data})
        yolo = config.preset == "yolo"
        card = ModelCard(input_size=self.input_size, pad=(114, 114, 114) if yolo else None)
        loader = training_loader(data, card, config.changed(batch_size=min(4, self.count), cache="none"))
        out = _new_folder(self.out, "runs/augment")
        path = draw_training(loader, out / "augment.png", epoch=epoch - 1, count=self.count)
        names = ("preset", "mosaic9", "mixup", "gridmask") if yolo else ("preset", "cutmix", "gridmask")
        settings = {**{key: getattr(config, key) for key in names}, "epoch": epoch}
        if self.json:
            show_json({"path": self.path, "out": out, "epochs": config.epochs, **settings})
        else:
            listed = ", ".join(f"{key} {value}" for key, value in settings.items())
            show(f"drawn: {path} ({min(self.count, len(data))} pictures; {listed} of {config.epochs})")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten(OfDataset):
    """What the verbs take that write the data set anew."""

    hardlink: bool = False
    """Share the pictures' bytes with the original where the file system can."""

    def write(self, splits: dict[str, DetectionData], out: Path | None, format: str, ending: str) -> int:
        """Into `out`, by default beside the data set; opened again, so that what is said is what is there."""
        from ..data.formats.any_format import open_splits, write_dataset
        from ..data.formats.pictures import check_pictures

        check_pictures(splits)
        out = out or self.path.resolve().with_name(f"{self.path.resolve().stem}-{ending}")
        write_dataset(splits, out, format, hardlink=self.hardlink)
        written = open_splits(out)
        if sorted(map(len, written.values())) != sorted(map(len, splits.values())):
            raise HeadwayError(f"{out} does not read back as it was written; please report this with its format")
        if self.json:
            counts = {name: {"images": len(data), "boxes": data.num_boxes} for name, data in written.items()}
            show_json({"out": out, "format": next(iter(written.values())).format, "splits": counts})
        else:
            show(f"{class_table(written)}\n\nwritten: {out}")
            crowd = sum(data.num_crowd for data in splits.values())
            if crowd and format != "coco":
                say(f"{crowd} crowd regions are left out, which {format} cannot mark: they are background there")
            if format == "yolo" and "val" not in written:
                say("other YOLO tools want a split called val too: headway data split makes one")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Rewritten):
    """Split a data set into train, val and test, so that every class is shared out alike; the same seed gives the same
    split. Writes a copy; the original is left alone."""

    out: OutPath = None
    """New folder for the copy. Default: beside the data set, with -split behind its name."""
    fractions: Annotated[tuple[float, ...], arg(metavar="TRAIN VAL [TEST]")] = (0.8, 0.2)
    """Shares of the pictures; their sum is 1."""
    seed: int = 0
    """Of the choice."""
    split: str = ""
    """Which split to divide further, where there are several already."""

    def run(self) -> int:
        if len(self.fractions) not in (2, 3) or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(f"--fractions takes two or three positive shares with the sum 1, got {self.fractions}")

        from ..data.formats.any_format import open_dataset
        from ..data.split import stratified_split

        data = open_dataset(self.path, split=self.split or None, format=self.format)
        parts = stratified_split(data, dict(zip(("train", "val", "test"), self.fractions)), self.seed)
        for name, other in (self.splits() if self.split else {}).items():
            if name not in (*parts, self.split):
                parts[name] = other
            elif name != self.split:
                say(f"the split {name!r} there was, of {len(other)} pictures, gives way to the new one of this name")
        return self.write(parts, self.out, data.format, "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertData(Rewritten):
    """Rewrite a data set as COCO, Pascal VOC or YOLO, with --tiles cut into tiles. Writes a copy; the original is left
    alone."""

    to: Literal["coco", "voc", "yolo", ""] = ""
    """The format to write."""
    out: OutPath = None
    """New folder for the copy. Default: beside the data set, with the format behind its name."""
    tiles: Annotated[int | Literal["model"] | None, arg(metavar="[SIZE]")] = None
    """Cut pictures larger than this side into tiles, to train for `headway predict --tiles`. Without a number: 512. A
    box of which a tile shows less than 0.3 is a crowd region there, which neither counts nor is background."""
    overlap: float = OVERLAP
    """Of neighbouring tiles, in tiles: at least as much as the objects are large."""

    def run(self) -> int:
        if not self.to:
            raise UsageError("say which format to write: --to coco, voc or yolo")
        if self.tiles is None:
            if self.overlap != OVERLAP:
                raise UsageError("--overlap is of tiles: say --tiles too, or leave it out")
            return self.write(self.splits(), self.out, self.to, self.to)
        tile = _TILE if self.tiles == "model" else self.tiles
        try:
            check_tiles(tile, self.overlap)
        except HeadwayError as error:
            raise UsageError(f"--{error}") from None

        from ..data.tiled import tile_splits

        splits = self.splits()
        beside = (self.out or self.path).resolve().parent
        beside.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".tiles-", dir=beside) as folder:
            tiled = tile_splits(splits, Path(folder), tile, self.overlap)
            return self.write(tiled, self.out, self.to, f"{self.to}-tiles")
