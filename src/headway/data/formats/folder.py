"""Finding files below a data folder without following a name that leads out of it, and what the formats' folder layouts
have in common.

Links inside the folder were made by its owner and are followed, wherever they lead; what a file *names* outside is not.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from ...errors import DataError
from ..image import SUFFIXES
from .problem_kinds import Problem

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
_UPLOAD = re.compile(r"^(?=[0-9]*[a-f])[0-9a-f]{8}-")  # Label Studio puts it before a file's name; a date has no letter
_SYSTEM = ("@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information")
MOST_FOLDERS = 5000  # that are looked through for pictures which are not where people put them


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
    reason: by what structure it was recognised; splits: what the format's `parse` needs, by split name, or a DataError
    that says why the split cannot be read.
    shared: what the splits have in common (class names, for instance). notices: what was read otherwise than it stands.
    """

    format: str
    root: Path
    reason: str
    splits: dict[str, Any]
    shared: Any = None
    notices: list[Problem] = field(default_factory=list)


class EscapeError(DataError):
    """A name that points outside the data folder."""


class TwinError(DataError):
    """A name that several files have."""


class Folder:
    """A data folder. Directories are listed once, so that asking for 100,000 files costs no 100,000 system calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._roots = (Path(os.path.abspath(root)), root.resolve())
        self._listings: dict[Path, dict[str, bool]] = {}
        self._spellings: dict[Path, tuple[dict[str, str | None], dict[str, str | None]]] = {}
        self._folders: dict[Path, Path | None] = {}
        self._by_name: dict[str, list[Path]] | None = None
        self._stems: dict[Path, dict[str, list[Path]]] = {}

    def find(self, base: Path, name: str, *, folders: bool = False) -> Path | None:
        """The file `name` (either slash, any case and Unicode form, percent signs or not) relative to `base`, or None
        where there is none. folders: a folder will do too.

        Raises: EscapeError if the name leads outside the root.
        """
        text = name.replace("\\", "/")
        path = base / text
        if PureWindowsPath(text).drive or "\0" in text:
            raise EscapeError(f"{name!r} is not a file name below {self.root}")
        if ".." in path.parts or Path(text).is_absolute():
            absolute = Path(os.path.abspath(path))
            root = next((root for root in self._roots if absolute.is_relative_to(root)), None)
            if root is None:
                raise EscapeError(f"{name!r} leads outside the data folder {self.root}; copy the file into it")
            path = self.root / absolute.relative_to(root)
        return self._spelled(path, folders)

    def locate(
        self, bases: Sequence[Path], name: str, *, folders: bool = False, split: str | None = None
    ) -> tuple[Path | None, str]:
        """A file that another machine may have named: relative to one of `bases`, else by the longest end of its name
        that exists there ("D:\\project\\images\\a.jpg" -> images/a.jpg, else a.jpg); and what differs, or "".

        split: of a picture; it may then lie anywhere but in a folder of another split, if only one there has this end.

        Raises: EscapeError if there is no such file and the name leads outside the root.
        """
        outside = []
        for base in bases:
            try:
                if (path := self.find(base, name, folders=folders)) is not None:
                    plain = os.path.normpath(name.replace("\\", "/"))
                    return path, "" if str(path).endswith(plain.lstrip("./")) else "in another spelling"
            except EscapeError as error:
                outside.append(error)
        parts = _end_parts(name)
        for start in range(len(parts)):
            for base in bases:
                if (path := self._spelled(base.joinpath(*parts[start:]), folders)) is not None:
                    return path, "by the end of its name"
        if split is not None and parts and (path := self._anywhere(bases, parts, split)) is not None:
            return path, "by the end of its name"
        if len(outside) == len(bases):
            raise outside[0]
        return None, ""

    def _anywhere(self, bases: Sequence[Path], parts: list[str], split: str) -> Path | None:
        """The one picture below the root that has most of the last parts of a name; or, of a name without suffix, the
        one of that stem in `bases`."""
        if not parts[-1].lower().endswith(SUFFIXES):
            named = [path for base in dict.fromkeys(bases) for path in self.pictures_named(base, parts[-1])]
            return named[0] if len(named) == 1 else None
        best = self._by_end(parts, split)
        return best[0] if len(best) == 1 else None

    def _by_end(self, parts: list[str], split: str) -> list[Path]:
        """The pictures below the root that have most of these last parts of a name."""
        if self._by_name is None:
            self._by_name = {}
            for path in self.files_below(self.root):
                self._by_name.setdefault(_plain(path.name), []).append(path)
        ends: dict[int, list[Path]] = {}
        for path in self._by_name.get(_plain(parts[-1]), []):
            if not self._of_another(path.parent, split):
                pairs = zip(reversed(path.relative_to(self.root).parts), reversed(parts))
                ends.setdefault(len(list(takewhile(_alike, pairs))), []).append(path)
        return ends[max(ends)] if ends else []

    def sole(self, path: Path, name: str, bases: Sequence[Path], split: str | None) -> Path:
        """`path`, which was found by its name.

        split: given for a name that several pictures have, which may lie anywhere but in a folder of another split.

        Raises: TwinError: several of the `bases` have this name, or there is a picture for each of several.
        """
        others = [other for base in bases[1:] if (other := self._in(base, name)) is not None]
        return self.only([path, *others, *(self._by_end(_end_parts(name), split) if split else [])], "file_name")

    def _in(self, base: Path, name: str) -> Path | None:
        """The file of the longest end of a name that exists in this folder."""
        parts = _end_parts(name)
        found = (self._spelled(base.joinpath(*parts[start:])) for start in range(len(parts)))
        return next((path for path in found if path is not None), None)

    def only(self, paths: Sequence[Path], key: str) -> Path:
        """The first of them. key: where annotations state it. Raises: TwinError: they are more than one file."""
        files = {path.resolve(): path.relative_to(self.root).as_posix() for path in paths}
        if len(files) > 1:
            first, second, *_ = files.values()
            raise TwinError(
                f"expected one picture of this name, got {first} and {second}; state the folder in {key}, or move the "
                f"pictures that are not meant out of {self.root}"
            )
        return paths[0]

    def holds(self, base: Path, name: str) -> int:
        """How many of the last parts of `name` exist as a file below `base`; 0: not even its last one."""
        parts = _end_parts(name)
        found = (len(parts) - start for start in range(len(parts)) if self._spelled(base.joinpath(*parts[start:])))
        return next(found, 0)

    def best_base(self, candidates: Sequence[Path], names: Sequence[str], split: str = "") -> Path:
        """The first of `best_bases`."""
        return self.best_bases(candidates, names, split)[0]

    def best_bases(self, candidates: Sequence[Path], names: Sequence[str], split: str = "") -> list[Path]:
        """The folder that holds most of these pictures, among candidates, else those among all but another split's."""
        names = names[:: max(1, len(names) // 50)]

        def score(base: Path) -> tuple[int, int]:
            held = [self.holds(base, name) for name in names]
            return sum(map(bool, held)), sum(held)

        best = max(candidates, key=score)
        if score(best)[0]:
            return [best]
        others = [base for base in islice(self.walk(self.root), MOST_FOLDERS) if not self._of_another(base, split)]
        scores = {base: score(base) for base in [best, *others]}
        top = max(scores.values())
        return [base for base, reached in scores.items() if reached == top] if top[0] else [best]

    def _of_another(self, base: Path, split: str) -> bool:
        """Whether a folder is named after another split than `split`."""
        named = {name for part in base.relative_to(self.root).parts if (name := split_name(part))}
        return split not in ("", "all") and bool(named - {split, "all", "trainval"})

    def walk(self, base: Path, depth: int = 100) -> Iterator[Path]:
        """`base` and all visible folders below it, each once, by name; links are followed. depth: levels below it."""
        seen: set[Path] = set()
        waiting = [(base, depth)]
        while waiting:
            folder, left = waiting.pop()
            if (real := folder.resolve()) in seen:  # a link to a folder above
                continue
            seen.add(real)
            yield folder
            waiting += [(below, left - 1) for below in reversed(self.folders(folder)) if left]

    def files(self, base: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
        """Files of these suffixes right in `base`, by name; hidden ones (".x") are passed over."""
        names = sorted(name for name, is_file in self._list(base).items() if is_file and not name.startswith("."))
        return [base / name for name in names if name.lower().endswith(suffixes)]

    def files_below(self, base: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
        """As `files`, and those of all folders below."""
        return [file for folder in self.walk(base) for file in self.files(folder, suffixes)]

    def pictures_named(self, base: Path, stem: str) -> list[Path]:
        """The pictures right in `base` whose names without suffix, or as a whole, are this one in any spelling."""
        if base not in self._stems:
            stems: dict[str, list[Path]] = {}
            for path in self.files(base):
                for name in (path.stem, path.name):
                    stems.setdefault(_plain(name), []).append(path)
            self._stems[base] = stems
        plain = _plain(stem)
        return self._stems[base].get(plain) or self._stems[base].get(_UPLOAD.sub("", plain), [])

    def folders(self, base: Path) -> list[Path]:
        """Visible folders right in `base`, by name, links included; those of systems are passed over, such as a disk
        station's thumbnails in @eaDir."""
        names = sorted(name for name, is_file in self._list(base).items() if not is_file and not name.startswith("."))
        return [base / name for name in names if name.lower() not in _SYSTEM and (base / name).is_dir()]

    def folder_of(self, base: Path, *names: str) -> Path | None:
        """The first of these folders that is there, in any case."""
        found = (self._spelled_folder(base / name) for name in names)
        return next((folder for folder in found if folder is not None and folder.is_dir()), None)

    def _spelled(self, path: Path, folders: bool = False) -> Path | None:
        """The file, as it stands or in another spelling of its name or its folders'."""
        is_file = self._list(path.parent).get(path.name)
        if is_file:
            return path
        found = path
        if is_file is None:
            parent = self._spelled_folder(path.parent)
            name = None if parent is None else self._spelling(parent, path.name)
            if parent is None or name is None:
                return path if folders and path == self.root else None
            found = parent / name
            is_file = self._list(parent)[name]
        return found if is_file or (folders and found.is_dir()) else None

    def _spelled_folder(self, path: Path) -> Path | None:
        if path not in self._folders:
            if path in (self.root, path.parent) or self._list(path):
                self._folders[path] = path
            else:
                parent = self._spelled_folder(path.parent)
                name = None if parent is None else self._spelling(parent, path.name)
                self._folders[path] = None if parent is None or name is None else parent / name
        return self._folders[path]

    def _spelling(self, folder: Path, name: str) -> str | None:
        """The one name in the folder that is this one, but for its spelling or the prefix of an upload."""
        if folder not in self._spellings:
            names: dict[str, str | None] = {}
            bare: dict[str, str | None] = {}
            for other in self._list(folder):
                plain = _plain(other)
                names[plain] = None if plain in names else other
                if (short := _UPLOAD.sub("", plain)) != plain:
                    bare[short] = None if short in bare else other
            self._spellings[folder] = (names, bare)
        if name in self._list(folder):
            return name
        names, bare = self._spellings[folder]
        plain = _plain(name)
        return names.get(plain) or names.get(_UPLOAD.sub("", plain)) or bare.get(plain)

    def _list(self, folder: Path) -> dict[str, bool]:
        """name -> is it a file (or leads to one); empty for a folder that does not exist."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {entry.name: _is_file(entry) for entry in entries}
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
                    raise DataError(f"folder {folder} cannot be listed: {error.strerror}") from None
                self._listings[folder] = {}
        return self._listings[folder]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _plain(name: str) -> str:
    """A file name without what systems, archives and web addresses spell differently."""
    return unicodedata.normalize("NFC", unquote(name)).casefold().strip()


def _alike(pair: tuple[str, str]) -> bool:
    return _plain(pair[0]) == _plain(pair[1])


def _end_parts(name: str) -> list[str]:
    """The parts of a stated name, without drive, address, query and dots."""
    text = name.replace("\\", "/")
    if "?d=" in text:  # Label Studio's /data/local-files/?d=FILE
        text = unquote(text.split("?d=", 1)[1])
    elif "://" in text:
        text = re.split(r"[?#]", text.split("://", 1)[1])[0]
    text = re.sub(r"^[A-Za-z]:", "", text)
    return [part for part in text.split("/") if part not in ("", ".", "..")]
