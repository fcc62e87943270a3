"""Opening a data set of any of the three formats, or tar shards, recognised by its structure.

Every format module has the same three functions: `find(path) -> FoundDataset | None`,
`parse(dataset, split) -> RawSplit` and `write(raw, folder)`.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ...errors import DataError, nearest
from ...files import is_new
from ..dataset import DetectionData, Record
from ..image import SUFFIXES
from . import coco, tar_layout, voc, yolo
from .coco_columns import open_columns
from .folder import FoundDataset, in_order
from .foreign import foreign_file, foreign_folder
from .losses import mark_losses
from .problem_kinds import KINDS
from .raw import RawSplit, from_data, to_data
from .tar_shards import open_shards, parse_shards
from .whole_set import judge_set

FORMATS: dict[str, ModuleType] = {"coco": coco, "voc": voc, "yolo": yolo}

_PARTS = ("images", "labels", "annotations", "jpegimages", "imagesets")  # folders in a data set, not the whole of it
EXPECTED = """expected one of
  COCO: annotations/train.json and train/*.jpg (or instances_train2017.json and train2017/, one JSON file and images/,
        train/_annotations.coco.json), or the path of a JSON file
  VOC:  Annotations/*.xml and JPEGImages/*.jpg, with or without ImageSets/Main/*.txt, or XML files beside the images
  YOLO: data.yaml, or Darknet's obj.data, or images/ and labels/, or label files beside the images
  tar:  shards of KEY.jpg and KEY.json or KEY.txt: a folder of .tar files, or shards/{000..009}.tar"""


def find_dataset(path: str | Path, format: str | None = None) -> FoundDataset:
    """Which format lies at `path`, and its splits.

    Raises: DataError: nothing there, no format, or more than one.
    """
    path = Path(os.path.normpath(path))
    if format is not None and format not in FORMATS:
        raise DataError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    if format is None and not path.is_dir() and (shards := tar_layout.find(path)) is not None:
        return shards
    if not path.exists():
        raise DataError(f"data set {path} does not exist; {EXPECTED}")
    if format is None and path.is_file() and not coco.kind_of(path) and (tool := foreign_file(path)):
        raise DataError(f"{path} is {tool}")
    modules = FORMATS if format is None else {format: FORMATS[format]}
    matches, failed = _matches(path, modules)
    if len(matches) > 1:
        matches = [_prefer(path, matches)]
    if len(matches) == 1:
        given, ignored = " (format given)" * (format is not None), f"; ignored: {failed}" if failed is not None else ""
        return replace(matches[0], reason=f"{matches[0].reason}{given}{ignored}")
    if failed is not None:
        raise failed
    if format is None and path.is_dir() and (shards := tar_layout.find(path)) is not None:
        return shards
    tool = foreign_folder(path) if path.is_dir() else ""
    raise DataError(f"{path} is no {format or 'known'} data set: {tool or f'{_contents(path)}; {EXPECTED}'}")


def _matches(path: Path, modules: Mapping[str, ModuleType]) -> tuple[list[FoundDataset], DataError | None]:
    """What each format finds, and why the first one that should find something cannot."""
    matches, failed = [], None
    for module in modules.values():
        try:
            if (dataset := module.find(path)) is not None:
                matches.append(dataset)
        except DataError as error:
            failed = failed or error
    return matches, failed


def _prefer(path: Path, matches: list[FoundDataset]) -> FoundDataset:
    """The one that annotates all pictures which any of them does. Raises: DataError where none or several do."""
    truth = [dataset for dataset in matches if dataset.shared != coco.PREDICTED]
    if len(truth) == 1:
        return replace(truth[0], reason=f"{truth[0].reason}; ignored: predictions in COCO's form")
    covered = [_annotated(dataset) for dataset in matches]
    everything = set().union(*covered)
    best = [dataset for dataset, pictures in zip(matches, covered) if pictures == everything]
    if len(best) == 1:
        others = ", ".join(f"{other.format} ({other.reason})" for other in matches if other is not best[0])
        return replace(best[0], reason=f"{best[0].reason}; ignored, with fewer pictures: {others}")
    found = " and ".join(
        f"{dataset.format} ({dataset.reason}; {len(pictures)} pictures)" for dataset, pictures in zip(matches, covered)
    )
    raise DataError(f"{path} can be read as {found}; choose one with format= or --format")


def _annotated(dataset: FoundDataset) -> set[Path]:
    """The pictures that a data set has annotations of; all of a split of label files where most have one."""
    found: set[Path] = set()
    for split in dataset.splits:
        with suppress(DataError):
            images = parse(dataset, split).images
            labelled = [image for image in images if image.source is not None]
            chosen = images if 2 * len(labelled) > len(images) else labelled
            found |= {image.path.resolve() for image in chosen if image.path is not None}
    return found


def _contents(path: Path) -> str:
    """What is there instead, and a folder further in that would do; or further out, of one that is a part of it."""
    if path.is_file():
        return "it is a file"
    names = sorted(entry.name for entry in path.iterdir())
    only_pictures = bool(names) and all(Path(name).suffix.lower() in SUFFIXES for name in names)
    absolute = Path(os.path.abspath(path))
    parts = [parent for parent in list(absolute.parents)[:2] if absolute.relative_to(parent).parts[0].lower() in _PARTS]
    for other in [*(path / name for name in names if (path / name).is_dir()), *parts]:
        for module in FORMATS.values():
            with suppress(DataError):
                if module.find(other):
                    return f"did you mean {other}?"
    if only_pictures:
        return f"it holds {len(names)} pictures and no annotations"
    return f"it holds {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else "the folder is empty"


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """A split as it stands, faults included; a size that is not stated is the picture's.

    Raises: DataError: the split cannot be read at all.
    """
    if isinstance(source := dataset.splits[split], DataError):
        raise source
    if dataset.format == "tar":
        raw = parse_shards(dataset, split, dataset.shared)
    else:
        raw = FORMATS[dataset.format].parse(dataset, split)
    raw.problems += dataset.notices
    mark_losses(raw)
    return raw


def open_dataset(path: str | Path, *, split: str | None = None, format: str | None = None) -> DetectionData:
    """One split of the data set in a folder (or, for COCO, of a JSON file).

    split: "train", "val", "test" or as the data set names it; may be left out where there is only one.
    format: "coco", "voc" or "yolo", instead of recognising it.

    Raises: DataError naming the file, what was expected and what to do.
    """
    dataset = find_dataset(path, format)
    names = in_order(dataset.splits)
    if split is None and len(names) > 1:
        raise DataError(f"{path} has the splits {', '.join(names)}; choose one with split=")
    split = split or names[0]
    if split not in dataset.splits:
        raise DataError(f"{path} has no split {split!r}, only {', '.join(names)}; {nearest(split, names)}".rstrip("; "))
    if dataset.format == "tar":
        return open_shards(dataset)[split]
    columns = open_columns(dataset, [split])
    return to_data(parse(dataset, split)) if columns is None else columns[split]


def open_splits(path: str | Path, *, format: str | None = None) -> dict[str, DetectionData]:
    """Every split, with one class map: train, val, test, then others; "all" where the data set is not split.

    "trainval" is left out where train or val is there (VOC's stands for the other one). Of several splits one that
    cannot be read is told in the log, and raises when its records are asked for: a fault in a split that is not used
    stops nothing.

    Raises: DataError, as `open_dataset`; no split can be read, or none has a box.
    """
    dataset = find_dataset(path, format)
    if dataset.format == "tar":
        return open_shards(dataset)
    names = split_names(dataset)
    if (columns := open_columns(dataset, names)) is not None:
        return columns
    raws: dict[str, RawSplit] = {}
    opened: dict[str, DetectionData] = {}
    errors: dict[str, DataError] = {}
    for name in names:
        try:
            raw = parse(dataset, name)
            join_classes({**raws, name: raw})
            raws[name] = raw
        except DataError as error:
            errors[name] = error
    for name, raw in raws.items():
        try:
            opened[name] = to_data(raw)
        except DataError as error:
            errors[name] = error
    if not opened:
        raise next(errors[name] for name in names)
    for problem in [] if errors else judge_set(Path(path), raws):
        if KINDS[problem.kind].refused:
            raise DataError(f"{problem}; see `headway data check {path}`")
        logging.getLogger("headway").warning("%s: %s", path, problem)
    for name, reason in errors.items():
        logging.getLogger("headway").warning("split %r cannot be used: %s", name, reason)
        some = next(iter(opened.values()))
        opened[name] = replace(some, name=name, records=_Unreadable(reason), notes=[str(reason)])
    return {name: opened[name] for name in names}


class _Unreadable(list[Record]):
    """In place of the records of a split that cannot be read: whoever asks for one gets the reason."""

    def __init__(self, error: DataError) -> None:
        super().__init__()
        self.error = error

    def _refuse(self, *_: object) -> NoReturn:
        raise self.error

    __len__ = __iter__ = __getitem__ = __contains__ = __bool__ = _refuse


def split_names(dataset: FoundDataset) -> list[str]:
    """The splits to read, in order."""
    names = in_order(dataset.splits)
    return [name for name in names if name != "trainval"] if {"train", "val"} & set(names) else names


def join_classes(splits: Mapping[str, RawSplit]) -> None:
    """Give the splits the union of their classes, in place, by id.

    Raises: DataError where one id has two names, or one name two ids.
    """
    _settle_repeated(splits)
    ids: dict[int, str] = {}
    for name, raw in splits.items():
        for category_id, category in raw.categories:
            other = next((i for i, text in ids.items() if text == category and i != category_id), None)
            if ids.setdefault(category_id, category) != category or other is not None:
                text = f"{ids[category_id]!r}" if other is None else f"{category!r} with the id {other}"
                raise DataError(
                    f"split {name!r} of {raw.root} has the class {category!r} with the id {category_id}, another split "
                    f"has {text}; the splits must share their classes"
                )
    joined = sorted(ids.items())
    labels = {category: label for label, category in enumerate(joined)}
    for raw in splits.values():
        if raw.categories != joined:
            new = [labels[category] for category in raw.categories]
            for _, box in raw.boxes:
                box.label = new[box.label] if box.label >= 0 else -1
            raw.categories = joined


def _settle_repeated(splits: Mapping[str, RawSplit]) -> None:
    """Of a name that several classes of a split have take the one that boxes of another split use, in place: a split
    without such a box cannot know which one is meant."""
    raws = splits.values()
    labels = {id(raw): {box.label for _, box in raw.boxes} for raw in raws if any(other.repeated for other in raws)}
    for name in dict.fromkeys(name for raw in raws for name in raw.repeated):
        kept = [(raw, k, raw.categories[k][0]) for raw in raws for k, (_, n) in enumerate(raw.categories) if n == name]
        used = {category for raw, label, category in kept if label in labels[id(raw)]}
        for raw, label, _ in kept:
            if len(used) == 1 and used <= set(raw.repeated.get(name, [])):
                raw.categories[label] = (min(used), name)


def write_dataset(
    data: DetectionData | Mapping[str, DetectionData], folder: str | Path, format: str, *, hardlink: bool = False
) -> None:
    """Write one split or several as a data set of `format`, pictures included, into a new folder.

    COCO: annotations/SPLIT.json and SPLIT/*.jpg. VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/SPLIT.txt. YOLO:
    data.yaml, images/SPLIT/ and labels/SPLIT/. VOC and YOLO have no crowd regions, so these are left out.
    YOLO's readers want a split "train", so it is what "all" is called there.

    hardlink: share the pictures' bytes with the original where the file system can, instead of copying.

    Raises: DataError if `folder` is not empty.
    """
    if format not in FORMATS:
        raise DataError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    splits = {data.name: data} if isinstance(data, DetectionData) else dict(data)
    raw = {name: replace(from_data(part), name=name) for name, part in splits.items()}
    write_raw(raw, Path(folder), format, hardlink)


def write_raw(splits: Mapping[str, RawSplit], folder: Path, format: str, hardlink: bool = False) -> None:
    """As `write_dataset`, for splits that may carry what `Record` does not hold."""
    if not is_new(folder):
        raise DataError(f"{folder} exists and is not empty; name a new folder, nothing is overwritten")
    if format == "yolo" and list(splits) == ["all"]:
        splits = {"train": replace(splits["all"], name="train")}
    folder.mkdir(parents=True, exist_ok=True)
    for raw in splits.values():
        FORMATS[format].write(raw, folder, hardlink=hardlink)
