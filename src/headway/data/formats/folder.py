"""Finding files below a data folder without ever leaving it, and what the formats' folder layouts have in common."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ...errors import DataError
from ..image import SUFFIXES

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "minival": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
    "default": "all",
}


def split_name(text: str) -> str | None:
    """The split that a file or folder name means ("instances_train2017" -> "train", "valid" -> "val"), or None."""
    for token in re.split(r"[^a-z0-9]+", text.lower()):
        name = _SPLITS.get(token.rstrip("0123456789"))
        if name:
            return name
    return None


def in_order(splits: Iterable[str]) -> list[str]:
    """train, val, test, then the rest by name."""
    first = {"train": 0, "val": 1, "test": 2}
    return sorted(splits, key=lambda name: (first.get(name, 9), name))


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """A recognised data set: its format, and where each split lies.

    format: "coco", "voc" or "yolo"; root: the data folder, which no file name may leave.
    reason: by what structure it was recognised; splits: what the format's `parse` needs, by split name.
    shared: what the splits have in common (class names, for instance).
    """

    format: str
    root: Path
    reason: str
    splits: dict[str, Any]
    shared: Any = None


class EscapeError(DataError):
    """A name or link that points outside the data folder."""


class Folder:
    """A data folder. Directories are listed once, so that asking for 100,000 files costs no 100,000 system calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = root.resolve()
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, base: Path, name: str) -> Path | None:
        """The file `name` (either slash) relative to `base`, or None where there is none.

        Raises: EscapeError if it is outside the root: by "..", as an absolute path, or through a link.
        """
        text = name.replace("\\", "/")
        if PureWindowsPath(text).drive or "\0" in text:
            raise EscapeError(f"{name!r} is not a file name below {self.root}")
        path = base / text
        if ".." in path.parts or Path(text).is_absolute():
            path = Path(os.path.normpath(path))
        kind = self._list(path.parent).get(path.name)
        if kind == "link":
            self._inside(path, path.resolve())
            return path if path.is_file() else None
        return path if kind == "file" else None

    def files(
        self, base: Path, suffixes: tuple[str, ...] = SUFFIXES, escaped: list[EscapeError] | None = None
    ) -> list[Path]:
        """Files of these suffixes right in `base`, by name; hidden ones (".x") are passed over.

        escaped: collects the links that leave the root, instead of the first one being raised.

        Raises: EscapeError as `find`.
        """
        found = []
        for name in sorted(self._list(base)):
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            try:
                path = self.find(base, name)
            except EscapeError as error:
                if escaped is None:
                    raise
                escaped.append(error)
            else:
                found += [path] if path is not None else []
        return found

    def folders(self, base: Path) -> list[Path]:
        """Visible folders right in `base`, by name, links included: looking into one that leaves the root raises."""
        names = sorted(name for name, kind in self._list(base).items() if kind != "file" and not name.startswith("."))
        return [base / name for name in names if (base / name).is_dir()]

    def _list(self, folder: Path) -> dict[str, str]:
        """name -> "file", "link" or "other"; empty for a folder that does not exist."""
        if folder not in self._listings:
            self._inside(folder, folder.resolve())
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {entry.name: _kind(entry) for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder] = {}
            except OSError as error:
                raise DataError(f"folder {folder} cannot be listed: {error.strerror}") from None
        return self._listings[folder]

    def _inside(self, path: Path, real: Path) -> None:
        if not real.is_relative_to(self._real):
            raise EscapeError(f"{path} leads to {real}, outside the data folder {self.root}; copy the file into it")


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file() else "other"


def read_text(path: Path) -> str:
    """The text of an annotation file (UTF-8, with or without a byte order mark).

    Raises: DataError: missing, empty, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"annotation file {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) where both are positive numbers."""
    known = numbers([height, width])
    return (int(known[0]), int(known[1])) if known and all(0 < side < math.inf for side in known) else None


def numbers(values: Sequence[object]) -> list[float] | None:
    """All of them as floats, None where one is no number."""
    known = [value for value in map(number, values) if value is not None]
    return known if len(known) == len(values) else None


def number(value: object) -> float | None:
    """A float of what an annotation holds, None where it is no number (a boolean is none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
