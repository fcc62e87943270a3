"""Large COCO files as columns: numpy arrays from which a `Record` is made when it is asked for.

`coco.parse` makes objects of every entry, so that each fault can be told and mended; 860,000 boxes then take gigabytes.
Here a file is read as a stream into arrays. That is for files without faults, or with a few boxes to leave out; on
anything else `coco.parse` reads the file and says what is wrong. Both give the same records.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...process import available_memory
from ..columns import Columns, Store, names_of
from ..dataset import DetectionData
from ..image import SUFFIXES
from .box_columns import BoxColumns, NotPlainError, expect, raw_boxes, whole_numbers
from .coco_layout import ROBOFLOW, image_folders
from .folder import Folder, FoundDataset
from .problem_kinds import KINDS
from .text import class_name

LARGE = 32 * 2**20  # bytes of a file from which on it is read so
_CHUNK = 8 * 2**20
_MANY = 2**10  # characters from which on entries are decoded together
_BATCH = 2**14  # entries that become arrays together
# What no box needs and most of a file is. A text in quotes that looks like it has escaped quotes, and is left alone.
_SEGMENTATION = re.compile(r'"segmentation"\s*:\s*(?:\[\s*\[[^\]]*\](?:\s*,\s*\[[^\]]*\])*\s*\]|\{[^{}]*\})')
_OBJECTS = 8  # bytes of memory that the objects of `coco.parse` take for a byte of the file
_SAMPLE = 16  # names by which the folder of the pictures is found: each may lie in another one, which is then listed
_SPACE = re.compile(r"\s*")
_FAULTS = (NotPlainError, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError)
Array = NDArray[Any]
_log = logging.getLogger("headway")


def open_columns(dataset: FoundDataset, splits: Sequence[str]) -> dict[str, DetectionData] | None:
    """Splits of COCO files of which one is large; None where none is, or `coco.parse` must look at one."""
    files = [dataset.splits[split] for split in splits]
    paths = [file for file in files if isinstance(file, Path) and file.name != ROBOFLOW]
    large = dataset.format == "coco" and any(path.stat().st_size >= LARGE for path in paths)
    if not large or len(paths) < len(files) or dataset.notices:
        return None
    collects = gc.isenabled()
    gc.disable()  # entries come and go by the million, and none of them is in a circle
    try:
        opened = {split: _read(dataset, split, path) for split, path in zip(splits, paths)}
    except _FAULTS as error:
        _by_entries(dataset.root, sum(path.stat().st_size for path in paths), _reason(error))
        return None
    finally:
        if collects:
            gc.enable()
    if len({(data.class_names, data.category_ids) for data in opened.values()}) > 1:
        return None
    for split, data in opened.items():
        for note in data.notes:
            _log.warning("%s, split %s: %s", data.root, split, note)
    return opened


def _reason(error: Exception) -> str:
    if isinstance(error, NotPlainError):
        return str(error)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return "it is no JSON in UTF-8"
    return "a number is too large" if isinstance(error, OverflowError) else "an entry lacks a key, or has another form"


def _by_entries(root: Path, size: int, reason: str) -> None:
    """Say that the careful reader comes, and why. Raises: DataError where it would not end for want of memory."""
    free = available_memory()
    if free and size * _OBJECTS > free:
        mb = 2**20
        raise DataError(
            f"{root}: {reason}. So the annotations ({size / mb:.0f} MiB) must be read one by one, which takes some "
            f"{size * _OBJECTS / mb:.0f} MiB of memory; {free / mb:.0f} MiB are free. Change the data set so that this "
            "is not so, or take a machine with more memory: `headway data check` there lists all such entries"
        )
    _log.warning("%s is read entry by entry, which takes much memory: %s", root, reason)


def _read(dataset: FoundDataset, split: str, file: Path) -> DetectionData:
    ids, sides, names = array("q"), array("q"), list[str]()
    categories: list[dict[str, Any]] = []
    waiting, boxes = [], None
    for key, entries in _batches(entries_of(file)):
        if key == "annotations":
            waiting.append(raw_boxes(entries))
        elif key == "images":
            expect(boxes is None)
            ids.extend(whole_numbers([entry["id"] for entry in entries]))
            sides.extend(whole_numbers([side for entry in entries for side in (entry["height"], entry["width"])]))
            names += [entry["file_name"] for entry in entries]
        elif key == "categories":
            categories += entries
        if ids and key == "annotations":
            if boxes is None:  # all images are known, where they come first
                store, folder, boxes, notes = _start(dataset.root, file, split, ids, sides, names)
                names = []
            while waiting:
                boxes.add(waiting.pop(0))
    if boxes is None:
        store, folder, boxes, notes = _start(dataset.root, file, split, ids, sides, names)
        for raw in waiting:
            boxes.add(raw)
    order = sorted((category["id"], category["name"]) for category in categories)
    known, class_names = tuple(i for i, _ in order), tuple(name for _, name in order)
    plain = all(type(i) is int for i in known) and all(class_name(name) == name for name in class_names)
    expect(plain, "a category has no whole number as its id, or a name that is no plain text")
    distinct = len({*known}) == len(known) == len({name.casefold() for name in class_names}) > 0
    expect(distinct, "there are no categories, or two of one id or name")
    columns = Columns(folder, Store(store | boxes.finish(len(ids), known)))
    notes += boxes.notes(columns, file.name)
    return DetectionData(split, dataset.root, "coco", columns, class_names, known, dataset.reason, notes)


def _start(
    root: Path, file: Path, split: str, ids: array[int], sides: array[int], names: list[str]
) -> tuple[dict[str, Array], Path, BoxColumns, list[str]]:
    """(the arrays of the pictures, their folder, their boxes to be filled, notes)."""
    expect(ids and all(type(name) is str for name in names), "there are no images, or one without a file_name")
    expect(len({*names}) == len(names), "a picture is listed twice")
    folder, found = _folder_of(root, file, split, names)
    where = f"{file.name}, image {ids[0]!r} ({names[0]})"
    notes = [] if found is names else [f"{len(names)} x {KINDS['other_name'].meaning}, first in {where}"]
    stated = np.frombuffer(sides, np.int64).reshape(-1, 2)
    expect((stated > 0).all() and stated.max() < 2**31, "a picture has a width or height that is not in 1..2147483647")
    numbers = np.array(ids, np.int64)
    arrays = {"ids": numbers, "sizes": stated.astype(np.int32), **names_of(found)}
    return arrays, folder, BoxColumns(numbers, arrays["sizes"]), notes


def _batches(entries: Iterator[tuple[str, list[dict[str, Any]]]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Entries of one list together, so that arrays are filled many at a time."""
    for key, group in groupby(entries, itemgetter(0)):
        batch: list[dict[str, Any]] = []
        for _, some in group:
            batch += some
            if len(batch) >= _BATCH:
                yield key, batch
                batch = []
        if batch:
            yield key, batch


def _folder_of(root: Path, file: Path, split: str, names: list[str]) -> tuple[Path, list[str]]:
    """(the folder in which every picture lies, and no other; their names there, which are `names` itself where they are
    the stated ones). All may lack the same number of leading folders, as where the file states another machine's."""
    odd = [name for name in names if name.startswith("/") or "//" in name or "./" in f"{name}/" or "\\" in name]
    expect(not odd, f"file names are no plain paths: {odd[:1]}")
    (base,) = image_folders(Folder(root), file, split, names[:: max(1, len(names) // _SAMPLE)])
    depth = names[0].count("/")
    cut = next((cut for cut in range(depth + 1) if os.path.isfile(base / names[0].split("/", cut)[-1])), 0)
    if cut:
        expect(all(name.count("/") >= cut for name in names), "file names have unlike folders")
        names = [name.split("/", cut)[-1] for name in names]
    known = {*names}
    expect(len(known) == len(names), "pictures of several folders have one name")
    folders = {name.rpartition("/")[0] for name in names}
    seen, others = set[str](), 0
    for folder in folders:
        for name in _pictures_in(base / folder):
            path = f"{folder}/{name}" if folder else name
            if path in known:
                seen.add(path)
            else:
                others += 1
    if len(seen) != len(names):
        gone = next(name for name in names if name not in seen)
        lost = f"{len(names) - len(seen)} of the {len(names)} pictures of {file.name} are not in {base}"
        raise NotPlainError(f"{lost}, the first is {gone!r}")
    expect(not others, f"{base} has {others} pictures that {file.name} does not list")
    return base, names


def _pictures_in(folder: Path) -> Iterator[str]:
    """Names of the visible picture files right in a folder."""
    with os.scandir(folder) if folder.is_dir() else nullcontext([]) as entries:
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
                yield entry.name


def entries_of(file: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(key, some objects) of the lists of a JSON file whose top is an object; what is no list is passed over.

    Raises: ValueError, NotPlainError for a file that is no such JSON.
    """
    with file.open(encoding="utf-8") as stream:
        reader = _Reader(stream)
        keys = set[str]()
        expect(reader.took("{"))
        goes_on = reader.sign() != "}"
        while goes_on:
            expect(reader.sign() == '"')
            key = reader.value()
            expect(reader.took(":") and key not in keys)
            keys.add(key)
            if reader.took("["):
                listed = reader.sign() != "]"
                while listed:
                    reader.sign()
                    entries = reader.several() or [reader.value()]
                    expect({*map(type, entries)} == {dict})
                    yield key, entries
                    listed = reader.took(",")
                expect(reader.took("]"))
            else:
                reader.value()
            goes_on = reader.took(",")
        expect(reader.took("}") and not reader.sign())


class _Reader:
    """JSON read in pieces."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._decoder = stream, json.JSONDecoder()
        self._text, self._at = "", 0  # the piece at hand, and where in it
        self._ended = False  # whether there are no further ones
        self._parted = -1  # the end of several values that could not be decoded at once

    def _more(self) -> None:
        chunk = self._stream.read(_CHUNK)
        self._ended, self._parted = not chunk, -1
        self._text, self._at = self._text[self._at :] + _SEGMENTATION.sub('"segmentation": 0', chunk), 0

    def sign(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def took(self, wanted: str) -> bool:
        """Whether the next character is this one, which is then passed."""
        found = self.sign() == wanted
        self._at += found
        return found

    def value(self) -> Any:
        """The value that begins here. Raises: ValueError."""
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return found
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._more()

    def several(self) -> list[Any]:
        """The values up to the last brace before a comma in the piece, decoded at once; none where it parts one of
        them, or where the list ends before it."""
        end = self._text.rfind("},") + 1
        if end - self._at < _MANY or end == self._parted:
            return []
        try:
            found = json.loads(f"[{self._text[self._at : end]}]")
        except json.JSONDecodeError:
            self._parted = end
            return []
        self._at = end
        return list(found)
