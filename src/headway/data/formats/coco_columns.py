"""Large COCO files as columns: numpy arrays from which a `Record` is made when it is asked for.

`coco.parse` makes objects of every entry, so that each fault can be told and mended; 860,000 boxes then take gigabytes.
Here a file is read as a stream into arrays. That is for files without faults, or with a few boxes to leave out; on
anything else `coco.parse` reads the file and says what is wrong. Both give the same records.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..dataset import DetectionData, Record
from .coco_layout import ROBOFLOW, image_folders
from .folder import Folder, FoundDataset
from .problem_kinds import KINDS
from .raw import ROUNDING
from .text import class_name

LARGE = 32 * 2**20  # bytes of a file from which on it is read so
_CHUNK = 8 * 2**20
_SHARE = 0.1  # of the boxes that may be left out or reach outside here
# What no box needs and most of a file is. A text in quotes that looks like it has escaped quotes, and is left alone.
_SEGMENTATION = re.compile(r'"segmentation"\s*:\s*(?:\[\s*\[[^\]]*\](?:\s*,\s*\[[^\]]*\])*\s*\]|\{[^{}]*\})')
_SPACE = re.compile(r"[\s,]*")
Array = NDArray[Any]


class NotPlainError(Exception):
    """The file has something that `coco.parse` has to look at."""


class Columns(Sequence[Record]):
    """Records in arrays, made one by one. Boxes of image i are rows starts[i] to starts[i + 1]; names: UTF-8, image i's
    from name_starts[i] on."""

    def __init__(self, folder: Path, ids: Array, sizes: Array, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        self.folder, self.ids, self.sizes, self.names = folder, ids, sizes, b"".join(encoded)
        self.name_starts = np.cumsum([0, *map(len, encoded)])
        self.starts = np.zeros(len(ids) + 1, np.int64)

    def set_boxes(self, image: Array, boxes: Array, labels: Array, crowd: Array, areas: Array) -> None:
        """image: number of the image of each box; the boxes of an image keep their order."""
        order = np.argsort(image, kind="stable")
        self.starts[1:] = np.cumsum(np.bincount(image, minlength=len(self.ids)))
        self.boxes, self.labels = boxes[order].astype(np.float32), labels[order].astype(np.int32)
        self.crowd, self.areas = crowd[order], areas[order].astype(np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]  # raises IndexError, counts from the end
        name = self.names[self.name_starts[i] : self.name_starts[i + 1]].decode()
        rows, (height, width) = slice(self.starts[i], self.starts[i + 1]), self.sizes[i].tolist()
        labels = self.labels[rows].astype(np.int64)
        path, size = self.folder / name, (height, width)
        return Record(int(self.ids[i]), path, size, self.boxes[rows], labels, self.crowd[rows], self.areas[rows])


def open_columns(dataset: FoundDataset, splits: Sequence[str]) -> dict[str, DetectionData] | None:
    """Splits of COCO files of which one is large; None where none is, or `coco.parse` must look at one."""
    files = [dataset.splits[split] for split in splits]
    paths = [file for file in files if isinstance(file, Path) and file.name != ROBOFLOW]
    large = dataset.format == "coco" and any(path.stat().st_size >= LARGE for path in paths)
    if not large or len(paths) < len(files) or dataset.notices:
        return None
    try:
        opened = {split: _read(dataset, split, path) for split, path in zip(splits, paths)}
    except (NotPlainError, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError):
        return None
    if len({(data.class_names, data.category_ids) for data in opened.values()}) > 1:
        return None
    for split, data in opened.items():
        for note in data.notes:
            logging.getLogger("headway").warning("%s, split %s: %s", data.root, split, note)
    return opened


def _read(dataset: FoundDataset, split: str, file: Path) -> DetectionData:
    image_ids, sizes, names = array("q"), array("q"), []
    boxes, areas = array("d"), array("d")
    links = array("q")  # annotation, image, category, crowd
    categories: list[dict[str, Any]] = []
    for key, entry in entries_of(file):
        if key == "annotations":
            x, y, width, height = entry["bbox"]
            area, crowd = entry.get("area"), entry.get("iscrowd", 0)
            _expect(not entry.keys() & {"attributes", "track_id", "instance_id"})
            _expect(type(crowd) is int and (area is None or type(area) in (int, float)))
            boxes.extend((x, y, width, height))
            areas.append(0.0 if area is None else area)
            links.extend((entry["id"], entry["image_id"], entry["category_id"], crowd))
        elif key == "images":
            image_ids.append(entry["id"])
            sizes.extend((entry["height"], entry["width"]))
            names.append(entry["file_name"])
        elif key == "categories":
            categories.append(entry)
    folder = _folder_of(dataset.root, file, split, names)
    columns = Columns(folder, np.array(image_ids), np.array(sizes).reshape(-1, 2), names)
    order = sorted((category["id"], category["name"]) for category in categories)
    ids, class_names = [i for i, _ in order], [name for _, name in order]
    _expect(all(type(i) is int for i in ids) and all(class_name(name) == name for name in class_names))
    _expect(len({*ids}) == len(ids) == len({name.casefold() for name in class_names}) > 0)
    table = np.array(links).reshape(-1, 4)
    notes = _put_boxes(columns, table, np.array(boxes).reshape(-1, 4), np.array(areas), np.array(ids), file.name)
    return DetectionData(split, dataset.root, "coco", columns, tuple(class_names), tuple(ids), dataset.reason, notes)


def _expect(plain: Any) -> None:
    if not plain:
        raise NotPlainError


def _folder_of(root: Path, file: Path, split: str, names: Sequence[str]) -> Path:
    """The folder in which every picture lies under its own name."""
    folder = Folder(root)
    _expect(names and len({*names}) == len(names) and not any("/" in name or "\\" in name for name in names))
    (base,) = image_folders(folder, file, split, list(names))
    there = {path.name for path in folder.files(base)}
    _expect({*names} == there)  # other pictures in it are a warning, which needs all splits
    return base


def _put_boxes(columns: Columns, table: Array, xywh: Array, areas: Array, category_ids: Array, name: str) -> list[str]:
    """Boxes of the images, without those that cannot be used; the notes on these, as `raw.to_data` has them."""
    _expect(len(table) and len(np.unique(table[:, 0])) == len(table) and len(np.unique(columns.ids)) == len(columns))
    _expect(np.isfinite(xywh).all() and np.isfinite(areas).all() and (columns.sizes > 0).all())
    _expect((xywh != 0).any(1).all() and xywh.max() > 2)  # none without a box, none in shares of a picture
    image, label = _numbers(columns.ids, table[:, 1]), _numbers(category_ids, table[:, 2])
    limit = columns.sizes[image][:, ::-1].astype(np.float64)
    _expect((xywh[:, 2:] < xywh[:, :2]).any())  # else they may be corners
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    _expect((high >= low).all())
    boxes = np.concatenate([np.clip(low, 0, None), np.minimum(high, limit)], 1)
    empty = (high == low).any(1)
    off = ~empty & (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = ~empty & ~off & (np.maximum(-low, high - limit).max(1) > ROUNDING)
    keep, crowd = ~(empty | off), table[:, 3] == 1
    _expect((~keep).sum() + outside.sum() <= _SHARE * len(keep))
    lost = np.bincount(label[~keep & ~crowd], minlength=len(category_ids))
    _expect((lost <= _SHARE * np.bincount(label[~crowd], minlength=len(category_ids)))[lost > 0].all())
    areas = np.where(areas > 0, areas, (boxes[:, 2:] - boxes[:, :2]).prod(1))
    columns.set_boxes(image[keep], boxes[keep], label[keep], crowd[keep], areas[keep])
    kinds = np.select([empty, off, outside], [1, 2, 3])
    found: dict[str, list[int]] = {}
    for row in sorted(np.flatnonzero(kinds).tolist(), key=lambda row: (image[row], row)):
        found.setdefault(("", "box_empty", "box_off_image", "box_outside")[kinds[row]], []).append(row)
    notes = []
    for kind, rows in found.items():
        i, annotation = image[rows[0]], table[rows[0], 0]
        where = f"{name}, image {columns.ids[i]} ({columns[int(i)].path.name}), annotation {annotation}"
        notes.append(f"{len(rows)} x {KINDS[kind].meaning}, first in {where}")
    return notes


def _numbers(known: Array, wanted: Array) -> Array:
    """The number of each wanted id among the known ones. Raises: NotPlainError for one that is not known."""
    order = np.argsort(known)
    places = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    found: Array = order[places]
    _expect((known[found] == wanted).all())
    return found


def entries_of(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, object) of each object in the lists of a JSON file whose top is an object; what is no list is passed over.

    Raises: ValueError, NotPlainError for a file that is no such JSON.
    """
    decoder = json.JSONDecoder()
    with file.open(encoding="utf-8") as stream:
        text, at, ended = "", 0, False

        def more() -> None:
            nonlocal text, at, ended
            chunk = stream.read(_CHUNK)
            ended = not chunk
            text, at = text[at:] + _SEGMENTATION.sub('"segmentation": 0', chunk), 0

        def value() -> Any:
            """The value that begins at `at`."""
            nonlocal at
            while True:
                try:
                    found, end = decoder.raw_decode(text, at)
                    if end < len(text) or ended:
                        at = end
                        return found
                except json.JSONDecodeError:
                    if ended:
                        raise
                more()

        def sign(separators: re.Pattern[str] = _SPACE) -> str:
            """The next character that is no space or comma."""
            nonlocal at
            while True:
                at = separators.match(text, at).end()  # type: ignore[union-attr]
                if at < len(text) or ended:
                    return text[at : at + 1]
                more()

        _expect(sign() == "{")
        at += 1
        while sign() == '"':
            key = value()
            _expect(sign() == ":")
            at += 1
            if sign() != "[":
                value()
                continue
            at += 1
            while sign() != "]":
                entry = value()
                _expect(isinstance(entry, dict))
                yield key, entry
            at += 1
        _expect(sign() == "}")
        at += 1
        _expect(not sign())
