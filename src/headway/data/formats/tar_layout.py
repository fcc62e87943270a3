"""Tar shards in WebDataset's layout: which files are the shards, their splits, and where the classes are named.

A shard holds, of each picture, KEY.jpg (or another picture's ending) and its boxes in KEY.json or KEY.txt; the key ends
at the first dot behind the last slash. Format: https://github.com/webdataset/webdataset, README.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..tar import COMPRESSED
from .folder import Folder, FoundDataset, split_name
from .text import class_name, number, read_lines, read_text, whole

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # shards of a pattern
_CLASS_FILES = ("categories.json", "classes.txt")


@dataclass(slots=True)
class Classes:
    """Labels of classes. file: that states them; without one they are the names that annotations have, `open`, and get
    their order when all are known."""

    file: Path | None = None
    ids: dict[int, int] = field(default_factory=dict)  # label by COCO's category id
    names: dict[str, int] = field(default_factory=dict)  # label by name
    category_ids: list[int] = field(default_factory=list)

    @property
    def source(self) -> str:
        return "no categories.json or classes.txt beside the shards" if self.file is None else self.file.name

    def of_entry(self, entry: dict[str, Any]) -> tuple[int, str]:
        """(label of an annotation, -1 where it has none that is known; what it states)."""
        for key in ("category_name", "category", "label"):
            if isinstance(name := entry.get(key), str) and class_name(name):
                name = class_name(name)
                if self.file is None:
                    self.names.setdefault(name, len(self.names))
                return self.names.get(name, -1), f"{key} {name!r}"
        stated = entry.get("category_id")
        known = whole(stated)
        return (-1 if known is None else self.ids.get(known, -1)), f"category_id {stated!r}"

    def of_number(self, stated: object) -> tuple[int, str]:
        """The same of a YOLO row's class number, which counts the stated classes from 0."""
        known = number(stated)
        label = int(known) if known is not None and known == int(known) else -1
        return (label if self.file is not None and 0 <= label < len(self.names) else -1), f"class {stated}"

    def in_order(self) -> tuple[list[tuple[int, str]], list[int]]:
        """((category id, name) by label, the label of each label so far). Names that no file states are sorted."""
        if self.file is not None:
            return list(zip(self.category_ids, self.names)), list(range(len(self.names)))
        order = sorted(self.names)
        return list(enumerate(order, 1)), [order.index(name) for name in self.names]


def find(path: Path) -> FoundDataset | None:
    """Splits as lists of shards; shared: `Classes`. Raises: DataError for shards that are missing or compressed."""
    shards = shards_at(path)
    if shards is None:
        return None
    root = path if path.is_dir() else Path(os.path.commonpath([shard.parent for shard in shards]))
    splits = _splits(root, shards)
    reason = f"{len(shards)} tar shard{'s' * (len(shards) > 1)}, first {shards[0].name}"
    return FoundDataset("tar", root, reason, splits, read_classes([root, *dict.fromkeys(s.parent for s in shards)]))


def shards_at(path: Path) -> list[Path] | None:
    """The tar files that a file, a folder or a pattern means, in order; None where it means none.

    Raises: DataError for shards that are missing or compressed.
    """
    text = str(path)
    if path.is_dir():
        folder = Folder(path)
        places = [path, *(sub for sub in folder.folders(path) if split_name(sub.name))]
        shards = [file for place in places for file in folder.files(place, (".tar",))]
        packed = [file for place in places for file in folder.files(place, COMPRESSED)]
        if packed and not shards:
            raise _packed(packed[0])
        return shards or None
    if text.lower().endswith(COMPRESSED):
        raise _packed(path)
    if not text.lower().endswith(".tar"):
        return None
    found = [path] if path.exists() else [Path(name) for name in _expanded(text)]
    missing = [shard for shard in found if not shard.is_file()]
    if missing or not found:
        many = f" ({len(missing)} of {len(found)} shards are missing)" if len(found) > 1 else ""
        raise DataError(f"tar shard {missing[0] if missing else path} does not exist{many}; check the name or pattern")
    return found


def _packed(path: Path) -> DataError:
    return DataError(
        f"tar shard {path} is compressed, so no picture can be read by itself, and pictures hardly shrink: decompress "
        "it first, as by gunzip"
    )


def _expanded(text: str) -> list[str]:
    """The names that braces mean, "{000..009}" or "{train,val}", and of each the files that match it."""
    parts = _BRACES.split(text)
    choices = [[part] if i % 2 == 0 else list(_choices(part)) for i, part in enumerate(parts)]
    if (count := prod(map(len, choices))) > _MOST:
        raise DataError(f"{text} means {count:,} shards; expected at most {_MOST:,}")
    names: Iterable[str] = ("".join(chosen) for chosen in product(*choices))
    if any(character in text for character in "*?["):
        return sorted({match for name in names for match in glob.glob(name)})
    return list(names)


def _choices(body: str) -> Iterator[str]:
    """Of the text between braces. Raises: DataError for too many."""
    if (found := _RANGE.fullmatch(body)) is None:
        yield from body.split(",")
        return
    first, last = int(found[1]), int(found[2])
    if abs(last - first) >= _MOST:
        raise DataError(f"{{{body}}} means {abs(last - first) + 1:,} shards; expected at most {_MOST:,}")
    for value in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{value:0{len(found[1])}d}"


def _splits(root: Path, shards: list[Path]) -> dict[str, list[Path]]:
    """By the names of the shards, else of their folders. Raises: DataError where only some name a split."""
    splits: dict[str, list[Path]] = {}
    for shard in shards:
        above = shard.parent.name if shard.parent != root else ""
        splits.setdefault(split_name(shard.stem) or split_name(above) or "", []).append(shard)
    if "" in splits and len(splits) > 1:
        other = next(name for name in splits if name)
        raise DataError(
            f"{splits[other][0].name} is of the split {other!r}, and {splits[''][0].name} names none; name the split "
            "in each shard's name, or in none"
        )
    return {"all": splits[""]} if "" in splits else splits


def read_classes(folders: Iterable[Path]) -> Classes:
    """From categories.json (COCO's list) or classes.txt (a name a line) in the first folder that has one.

    Raises: DataError for one that cannot be read.
    """
    file = next((base / name for base in folders for name in _CLASS_FILES if (base / name).is_file()), None)
    if file is None:
        return Classes()
    rows = _categories(file) if file.suffix == ".json" else list(enumerate(map(class_name, read_lines(file)), 1))
    names = {name: label for label, (_, name) in enumerate(rows)}
    if not rows or len(names) < len(rows) or len({i for i, _ in rows}) < len(rows):
        raise DataError(f"{file} must name each class once, with an id of its own; correct it")
    ids = {i: label for label, (i, _) in enumerate(rows)} if file.suffix == ".json" else {}
    return Classes(file, ids, names, [i for i, _ in rows])


def _categories(file: Path) -> list[tuple[int, str]]:
    try:
        content = json.loads(read_text(file))
        entries = content["categories"] if isinstance(content, dict) else content
        rows = sorted((entry["id"], class_name(entry["name"])) for entry in entries)
        if all(type(i) is int for i, _ in rows):
            return rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise DataError(f'{file} must be a list of classes, as [{{"id": 1, "name": "cat"}}]; correct it')
