"""Where the files of a Pascal VOC data set lie: its XML files, its lists, and the picture of each XML file."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from ...errors import DataError
from ..image import SUFFIXES
from .folder import EscapeError, Folder, FoundDataset, split_name
from .problem_kinds import Problem
from .text import read_lines
from .voc_xml import parse_xml

_FOLDERS = ("Annotations", "Annotation", "xml", "xmls", "labels", "label", "Annotations_XML", "voc")
PICTURE_FOLDERS = ("JPEGImages", "images", "image", "img", "imgs")
_MARKED = re.compile(r"\s+(-1|0|1)$")  # the kit's lists of one class state whether a picture has it


@dataclass(slots=True)
class Classes:
    """The data set's class names: collected once, from all XML files."""

    files: list[Path]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of ImageSets: the XML file it means, or why it means none."""

    file: Path | DataError


def find(path: Path) -> FoundDataset | None:
    """Splits as lists of XML files or `Listed` names; shared: all XML files, from which the classes are collected."""
    if not path.is_dir():
        return None
    folder = Folder(path)
    named = [folder.folder_of(path, name) for name in _FOLDERS]
    for base in dict.fromkeys([*filter(None, named), *_unnamed(folder, path)]):
        files = folder.files_below(base, (".xml",))
        if _are_voc(files):
            main = folder.folder_of(path, "ImageSets/Main", "ImageSets/Detection", "ImageSets")
            splits, notices = _lists(main, base, folder) if main else ({}, [])
            reason = f"{base.name}/*.xml{f' and {main.relative_to(path).as_posix()}' if main and splits else ''}"
            reason += _without_other(splits)
            parts = splits or _by_subfolders(base, files)
            return FoundDataset("voc", path, reason, parts, Classes(files), notices)
    by_split: dict[str, list[Path]] = {}
    for sub in folder.folders(path):
        if split := split_name(sub.name):
            files = folder.files_below(sub, (".xml",))
            if _are_voc(files):
                by_split.setdefault(split, []).extend(files)
    if by_split:
        classes = Classes([file for files in by_split.values() for file in files])
        return FoundDataset("voc", path, "XML files in a folder per split", by_split, classes)
    files = folder.files(path, (".xml",))
    if _are_voc(files):
        return FoundDataset("voc", path, "XML files beside the images", {"all": files}, Classes(files))
    files = [file for sub in folder.folders(path) for file in _beside_pictures(folder, sub)]
    if _are_voc(files):
        return FoundDataset(
            "voc", path, "XML files beside the images of several folders", {"all": files}, Classes(files)
        )
    return None


def _beside_pictures(folder: Folder, base: Path) -> list[Path]:
    """The XML files of a folder whose pictures lie beside most of them, as labelImg saves; else none."""
    files = folder.files(base, (".xml",))
    beside = sum(bool(folder.pictures_named(base, file.stem)) for file in files)
    return files if 2 * beside > len(files) else []


def _unnamed(folder: Folder, path: Path) -> list[Path]:
    """The one folder with XML files, where none has a name that people give it and none is of a split."""
    found = [sub for sub in folder.folders(path) if not split_name(sub.name) and folder.files(sub, (".xml",))]
    return found if len(found) == 1 else []


def _by_subfolders(base: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Annotations/train/a.xml is of the split "train", if all are of one."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        first = file.relative_to(base).parts[0] if file.parent != base else ""
        splits.setdefault(split_name(first) or "", []).append(file)
    return {"all": files} if "" in splits or not splits else splits


def _are_voc(files: list[Path]) -> bool:
    """Whether they are annotations, not some other XML, by the first ones that can be read. Where none can (all empty
    or damaged) they are taken for annotations, for `check` to name them."""
    roots = set()
    for file in files[:20]:
        with suppress(DataError):
            roots.add(parse_xml(file).tag)
    return bool(files) and (not roots or "annotation" in roots)


def _lists(main: Path, annotations: Path, folder: Folder) -> tuple[dict[str, list[Listed]], list[Problem]]:
    """(the splits that ImageSets/Main/NAME.txt means, problems that name the other lists): train.txt before
    train2012.txt, and dev.txt for val. The kit's lists of one class (aeroplane_train.txt) are none."""
    splits: dict[str, list[Listed]] = {}
    notices = []
    files = folder.files(main, (".txt",))
    for file in sorted(files, key=lambda file: (split_name(file.stem) != file.stem.casefold(), file.name)):
        name = {"dev": "val"}.get(file.stem.casefold(), split_name(file.stem)) if file.stem.isalnum() else None
        if name is not None and name not in splits:
            splits[name] = _listed(file, annotations, folder)
        elif not _is_of_one_class(file):
            detail = "expected train.txt, val.txt, test.txt or trainval.txt, each once; rename it, or join it to one"
            notices.append(Problem("no_split", f"{main.name}/{file.name}", detail))
    return splits, notices if splits else []


def _is_of_one_class(file: Path) -> bool:
    """Whether the first picture has a mark, or there is none."""
    with file.open("rb") as stream:
        first = stream.readline().decode("latin-1").rstrip()
    return not first or _MARKED.search(first) is not None


def _without_other(splits: dict[str, list[Listed]]) -> str:
    """Of "trainval" with one of its parts make the other part, in place; what the data set's reason says of that."""
    for part, other in (("train", "val"), ("val", "train")):
        if "trainval" in splits and other in splits and part not in splits:
            taken = {entry.file for entry in splits[other]}
            if rest := [entry for entry in splits["trainval"] if entry.file not in taken]:
                splits[part] = rest
                return f"; {part} is trainval without {other}"
    return ""


def _listed(file: Path, annotations: Path, folder: Folder) -> list[Listed]:
    """The pictures of a list: names with or without suffix, folders, quotes and a mark of -1, 0 or 1."""
    found = []
    for line in read_lines(file):
        names = dict.fromkeys(_plain_name(text) for text in (line, _MARKED.sub("", line), line.split()[0]))
        try:
            files = [folder.locate([annotations], f"{name}.xml")[0] for name in names]
        except EscapeError as error:
            found.append(Listed(error))
            continue
        first = list(names)[min(1, len(names) - 1)]  # without a mark
        found.append(Listed(next((one for one in files if one is not None), annotations / f"{first}.xml")))
    return found


def _plain_name(text: str) -> str:
    name = text.strip().strip("\"'").replace("\\", "/")
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in (*SUFFIXES, ".xml") else name


class Pictures:
    """The pictures of a data set's XML files."""

    def __init__(self, folder: Folder, files: list[Path]) -> None:
        self.folder = folder
        self._stems = Counter(file.stem.casefold() for file in files)
        self._sample = [file.stem for file in files[:: max(1, len(files) // 50)]]
        self._bases: dict[Path, tuple[list[Path], bool]] = {}
        self._counts: dict[Path, int] = {}

    def of(self, file: Path, stated: str, hints: Sequence[str] = ()) -> tuple[Path | None, bool]:
        """(the picture of an XML file, whether another one is stated).

        hints: its folder, or its path on another machine, which decide between pictures of one name in several folders.

        The picture of the file's own name, whatever is stated: after pictures were renamed, and in files made from one
        template, another's is stated. Without one the stated picture, unless that has an XML file of its own.

        Raises: EscapeError: only a picture outside the data folder is stated. TwinError: several have the file's name.
        """
        bases, elsewhere = self._bases_of(file)
        own = [path for base in bases for path in self.folder.pictures_named(base, file.stem)]
        if elsewhere and len({path.parent for path in own}) > 1:
            own = self._in_one_folder(own, hints)
        last = re.split(r"[/\\]", stated)[-1].casefold()
        if own:
            path = next((path for path in own if path.name.casefold() == last), own[0])
            same = last in ("", path.name.casefold(), path.stem.casefold()) or Path(last).stem == path.stem.casefold()
            return path, not same and path.name.casefold() != unquote(last)
        if not stated:
            return None, False
        found, _ = self.folder.locate(bases, stated)
        taken = found is not None and self._stems[found.stem.casefold()] > 0
        return (None if taken else found), False

    def _in_one_folder(self, paths: list[Path], hints: Sequence[str]) -> list[Path]:
        """Those in the folder whose path most of the last parts of a hint are; else in the one that holds most."""
        folders = list(dict.fromkeys(path.parent for path in paths))
        scores = [max((_shared_end(folder, hint) for hint in hints), default=0) for folder in folders]
        if not any(scores):
            scores = [self._count(folder) for folder in folders]
        best = [folder for folder, score in zip(folders, scores) if score == max(scores)]
        found = [path for path in paths if path.parent in best]
        if len(best) > 1:
            self.folder.only(found, "<folder>")
        return found

    def _bases_of(self, file: Path) -> tuple[list[Path], bool]:
        """(where the picture of an XML file may lie, whether anywhere): beside it, in a folder of pictures
        (Annotations/day1/a.xml and JPEGImages/day1/a.jpg), in the data folder; where none of these holds any, in all
        that do."""
        if file.parent not in self._bases:
            root, find = self.folder.root, self.folder.folder_of
            above = [file.parent, *file.parent.parents]
            within = above[: above.index(root) + 1]
            named = [(base, found) for base in within for name in PICTURE_FOLDERS if (found := find(base, name))]
            bases = [file.parent]
            for base, found in named:
                inner = file.parent.relative_to(base)
                nested = (found / Path(*inner.parts[start:]) for start in range(len(inner.parts) + 1))
                bases += [place for place in nested if place.is_dir()]
            bases += [root]
            elsewhere = not any(self._count(base) for base in dict.fromkeys(bases))
            if elsewhere:
                bases += [base for base in self.folder.walk(root) if self._count(base)]
            self._bases[file.parent] = list(dict.fromkeys(bases)), elsewhere
        return self._bases[file.parent]

    def _count(self, base: Path) -> int:
        if base not in self._counts:
            self._counts[base] = sum(bool(self.folder.pictures_named(base, stem)) for stem in self._sample)
        return self._counts[base]


def _shared_end(folder: Path, hint: str) -> int:
    """How many of the last folders of a stated path ("/home/x/seq2/0.jpg", "seq2/") are those of this one."""
    stated = [part.casefold() for part in re.split(r"[/\\]", hint)[:-1]]
    pairs = zip(reversed(folder.parts), reversed(stated))
    return len(list(takewhile(lambda pair: pair[0].casefold() == pair[1], pairs)))
