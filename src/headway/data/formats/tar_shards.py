"""Tar shards opened as columns, and parsed for `check`: see `tar_layout`. Pictures stay where they lie in a shard.

Boxes of a picture KEY.jpg are read from one of

    KEY.json    {"annotations": [{"bbox": [x, y, width, height], "category_id": 1}, ...], "width": 640, "height": 480},
                or that list alone. "category" or "category_name" may state a class by its name; "iscrowd", "area" and
                "segmentation" are those of COCO. Width and height may be left out.
    KEY.txt     YOLO's rows: class cx cy width height, in shares of the picture

A key without either is refused, and so is one with others alone, such as KEY.cls: the class of a whole picture.
"""

from __future__ import annotations

import json
import logging
import math
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..columns import Columns, Store, by_picture, names_of
from ..dataset import DetectionData
from ..image import SUFFIXES, image_header
from ..tar import InTar, Member, members_of
from .coco_boxes import box_of
from .folder import FoundDataset, in_order
from .problem_kinds import KINDS
from .raw import RawBox, RawImage, RawSplit, to_record
from .tar_layout import Classes
from .text import number, numbers, stated_size, whole

_BOXES = ("json", "txt")
_MOST_TEXT = 16 * 2**20  # bytes of an annotation
_MOST_PICTURE = 2**30
_HEAD = 2**18  # bytes in which a picture's size usually stands
_SHARE = 0.1  # of the boxes that may be unusable
_EXPECTED = '[{"bbox": [x, y, width, height], "category_id": 1}, ...], or an object with them as "annotations"'


def open_shards(
    dataset: FoundDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, DetectionData]:
    """Every split. progress: called with (shards read, of how many).

    Raises: DataError for the first shard, picture or annotation that cannot be used.
    """
    classes: Classes = dataset.shared
    splits = {split: _Gathered(dataset.root) for split in in_order(dataset.splits)}
    total, done = sum(map(len, dataset.splits.values())), 0
    for split, gathered in splits.items():
        for shard in dataset.splits[split]:
            gathered.add(parse_shard(shard, split, dataset, classes, gathered.count + 1))
            done += 1
            progress(done, total)
    categories, order = classes.in_order()
    if not any(gathered.boxes for gathered in splits.values()):
        raise DataError(f"no box in any shard of {dataset.root}; expected some in KEY.json or KEY.txt beside KEY.jpg")
    names, ids = tuple(name for _, name in categories), tuple(i for i, _ in categories)
    opened = {}
    for split, gathered in splits.items():
        columns, notes = gathered.columns(order, split), gathered.notes()
        for note in notes:
            logging.getLogger("headway").warning("%s, split %s: %s", dataset.root, split, note)
        opened[split] = DetectionData(split, dataset.root, "tar", columns, names, ids, dataset.reason, notes)
    return opened


def parse_shards(dataset: FoundDataset, split: str, classes: Classes) -> RawSplit:
    """All shards of a split, faults included, for `check`; labels are those that `classes` has so far."""
    raw = RawSplit(split, dataset.root, "tar", dataset.reason, [], [])
    for shard in dataset.splits[split]:
        try:
            part = parse_shard(shard, split, dataset, classes, len(raw.images) + 1)
        except DataError as error:
            raw.report("unreadable_annotation", shard.name, str(error))
            continue
        raw.images += part.images
        raw.problems += part.problems
    raw.categories = list(zip(classes.category_ids or range(1, len(classes.names) + 1), classes.names))
    return raw


def parse_shard(shard: Path, split: str, dataset: FoundDataset, classes: Classes, first: int) -> RawSplit:
    """The pictures of one shard. first: the first one's id. Raises: DataError for a shard that cannot be read."""
    raw = RawSplit(split, dataset.root, "tar", dataset.reason, [], [])
    for key, parts in _samples(shard).items():
        where = f"{shard.name}, {key}"
        pictures = [kind for kind in parts if f".{kind}" in SUFFIXES]
        forms = [kind for kind in parts if kind in _BOXES]
        if fault := _fault(pictures, forms, list(parts)):
            raw.report("missing_image" if not pictures else "unreadable_annotation", where, fault)
            continue
        picture, text = parts[pictures[0]], parts[forms[0]]
        if picture.size > _MOST_PICTURE or text.size > _MOST_TEXT:
            raw.report("unreadable_annotation", where, f"{picture.size:,} and {text.size:,} bytes are too many")
            continue
        content = InTar(str(shard), picture.offset, picture.size)
        image = RawImage(first + len(raw.images), picture.name, shard / picture.name, None, where, content=content)
        read = _read_json if forms[0] == "json" else _read_rows
        if read(InTar(str(shard), text.offset, text.size)(), image, classes, raw):
            raw.images.append(image)
    return raw


def _samples(shard: Path) -> dict[str, dict[str, Member]]:
    """The members of each key by their endings in lower case. Raises: DataError for a member that comes twice."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members_of(shard):
        folder, slash, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        if not stem:  # hidden, as macOS's ._a.jpg
            continue
        parts = samples.setdefault(f"{folder}{slash}{stem}", {})
        if parts.setdefault(kind.lower(), member) is not member:
            raise DataError(f"tar shard {shard} holds {member.name!a} twice; write it again, with each file once")
    return samples


def _fault(pictures: list[str], forms: list[str], kinds: list[str]) -> str:
    """What is wrong with the members of a key and what to do, or ""."""
    shown = ", ".join(f".{kind}" for kind in kinds[:6])
    if len(pictures) != 1:
        what = "no picture" if not pictures else f"{len(pictures)} pictures"
        return f"{what} among {shown}; expected one, as KEY.jpg, where a key ends at its first dot"
    if len(forms) == 1:
        return ""
    if forms:
        return "boxes both in .json and .txt; leave one out"
    cls = " (.cls is one class of a whole picture, without boxes)" if "cls" in kinds else ""
    return f"no boxes among {shown}{cls}; expected KEY.json or KEY.txt, empty for a picture without objects"


def _size(image: RawImage) -> tuple[int, int] | None:
    """(height, width) by the picture's header; None for a picture that cannot be read."""
    assert image.content is not None
    for count in dict.fromkeys((min(_HEAD, image.content.size), image.content.size)):
        with suppress(DataError):
            return image_header(str(image.path), data=image.content.head(count))[0]
    return None


def _read_json(content: bytes, image: RawImage, classes: Classes, raw: RawSplit) -> bool:
    """Put the boxes into `image`; whether the text could be read, else that is reported."""
    try:
        value = json.loads(content) if content.strip() else []
    except (ValueError, RecursionError) as error:
        raw.report("unreadable_annotation", f"{image.where}.json", f"no JSON ({error}); expected {_EXPECTED}")
        return False
    about: dict[str, Any] = value if isinstance(value, dict) else {}
    entries = about.get("annotations") if about else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        got = f"an object with {', '.join(map(repr, [*about][:6]))}" if about else type(value).__name__
        raw.report("unreadable_annotation", f"{image.where}.json", f"expected {_EXPECTED}, got {got}")
        return False
    if isinstance(about.get("image"), dict):
        about = about["image"]
    image.size = stated_size(about.get("height"), about.get("width")) or _size(image)
    for position, entry in enumerate(entries):
        label, stated = classes.of_entry(entry)
        corners, _ = box_of(entry, image.size)
        area = number(entry.get("area"))
        area = area if area is not None and 0 < area < math.inf else None
        crowd = whole(entry.get("iscrowd")) == 1 or entry.get("iscrowd") is True
        _add(RawBox(corners, label, f"annotation {position + 1}", crowd, area), stated, image, classes, raw)
    return True


def _read_rows(content: bytes, image: RawImage, classes: Classes, raw: RawSplit) -> bool:
    """As `_read_json`, of YOLO's rows."""
    image.size = _size(image)
    height, width = image.size or (1, 1)
    for position, line in enumerate(content.decode("utf-8", "replace").splitlines()):
        words = line.split()
        values = numbers(words[1:]) if len(words) == 5 else None
        mark = f"line {position + 1}"
        if words and values is None:
            detail = f"{line[:60]!r}: expected 'class cx cy width height'"
            raw.report("unreadable_annotation", f"{image.where}.txt, {mark}", detail)
        elif values:
            cx, cy, w, h = values
            corners = (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height
            label, stated = classes.of_number(words[0])
            _add(RawBox(corners, label, mark), stated, image, classes, raw)
    return True


def _add(box: RawBox, stated: str, image: RawImage, classes: Classes, raw: RawSplit) -> None:
    if box.label < 0:
        names = ", ".join([*classes.names][:9]) if classes.file else "its list [{'id': 1, 'name': 'cat'}, ...]"
        raw.report("unknown_category", f"{image.where}, {box.mark}", f"{stated}; {classes.source}: {names}")
    image.boxes.append(box)


class _Gathered:
    """The records of one split as they come, in arrays. root: from which names of shards lead."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        self.shards: dict[str, int] = {}
        self.pictures, self.names = array("q"), list[str]()  # height, width, shard, offset, length of each picture
        self.owners, self.labels, self.crowd = array("i"), array("i"), array("b")
        self.boxes, self.areas = array("f"), array("f")
        self.found: dict[str, tuple[int, str]] = {}  # of boxes that are unusable or clipped: how many, where first
        self.stated = 0

    def add(self, raw: RawSplit) -> None:
        """Raises: DataError for the first problem that a user has to decide on."""
        if refused := [problem for problem in raw.problems if KINDS[problem.kind].refused]:
            more = f" (and {len(refused) - 1} more problems in its shard)" if len(refused) > 1 else ""
            raise DataError(f"{refused[0]}{more}; `headway data check {self.root}` lists all of them")
        found: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for image in raw.images:
            assert image.content is not None
            record = to_record(image, found)
            assert record.size is not None
            shard = self.shards.setdefault(image.content.shard, len(self.shards))
            self.pictures.extend((*record.size, shard, image.content.offset, image.content.size))
            self.names.append(record.path.relative_to(self.root).as_posix())
            self.owners.extend([self.count] * len(record.boxes))
            self.labels.extend(record.labels.tolist())
            self.crowd.extend(record.crowd.tolist())
            self.boxes.extend(record.boxes.ravel().tolist())
            self.areas.extend(record.areas.tolist())
            self.count += 1
            self.stated += len(image.boxes)
        for kind, places in found.items():
            if places:
                count, first = self.found.get(kind, (0, places[0]))
                self.found[kind] = (count + len(places), first)

    def columns(self, order: Sequence[int], split: str) -> Columns:
        """order: the label of each label so far. Raises: DataError for no pictures, or many boxes lost."""
        if not self.count:
            raise DataError(f"the shards of the split {split!r} of {self.root} hold no picture; expected KEY.jpg")
        lost = self.stated - len(self.labels)
        if lost > 1 and lost > _SHARE * self.stated:
            kind, (_, where) = max(self.found.items(), key=lambda item: item[1][0])
            raise DataError(
                f"{lost} of {self.stated} boxes of the split {split!r} of {self.root} cannot be used, most of them: "
                f"{KINDS[kind].meaning}, first in {where}; expected x, y, width, height in pixels, or shares in .txt"
            )
        table = np.array(self.pictures, np.int64).reshape(-1, 5)
        labels = np.array(order, np.int32)[np.array(self.labels, np.int32)]
        boxes = {"boxes": np.array(self.boxes, np.float32).reshape(-1, 4), "labels": labels}
        boxes |= {"crowd": np.array(self.crowd, np.bool_), "areas": np.array(self.areas, np.float32)}
        arrays = {"ids": np.arange(1, self.count + 1), "sizes": table[:, :2].astype(np.int32)}
        arrays |= {"shards": table[:, 2].astype(np.int32), "offsets": table[:, 3].copy(), "lengths": table[:, 4].copy()}
        alone = {name: [column] for name, column in boxes.items()}
        arrays |= names_of(self.names) | by_picture(np.array(self.owners, np.int32), self.count, alone)
        return Columns(self.root, Store(arrays), [*self.shards])

    def notes(self) -> list[str]:
        return [f"{count} x {KINDS[kind].meaning}, first in {first}" for kind, (count, first) in self.found.items()]
