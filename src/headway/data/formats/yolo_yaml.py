"""data.yaml and Darknet's obj.data: what states the classes and splits of a YOLO data set."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError, one_line
from ..image import SUFFIXES
from .folder import EscapeError, Folder, FoundDataset, split_name
from .problem_kinds import Problem
from .text import read_lines, read_text, whole

OWN_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_SPLITS = ("train", "val", "valid", "validation", "test")
_NO_SPLITS = {*_SPLITS, "path", "names", "nc", "kpt_shape", "flip_idx", "download", "roboflow"}


class _Loader(yaml.BaseLoader):
    """Builds nothing but strings, lists and dicts: safe, and a class "no" stays one.

    An alias of a list or mapping is refused: a few hundred bytes of aliases of aliases can stand for 10^9 values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("it repeats a list or mapping by an alias, *name; write the values out instead")
        return node


@dataclass(frozen=True, slots=True)
class Classes:
    """names: by the number in the label files, which may begin anywhere and have gaps; None where no file states them:
    then they are class_0, class_1, ... up to the highest in the labels.

    keypoints: rows carry key points behind the box (data.yaml's `kpt_shape`), so they are no polygons.
    """

    names: dict[int, str] | None
    source: str
    keypoints: bool = False


def from_yaml(file: Path, folder: Folder) -> FoundDataset | None:
    """None if it is some other YAML file. Splits as lists of folders or list files, or the error of a split.

    Raises: DataError if it has class names, but something in it is wrong.
    """
    notices: list[Problem] = []
    content = _content(file, notices)
    known = isinstance(content, dict) and {"names", "nc"} & content.keys()
    if not known or (file.name.lower() not in OWN_NAMES and not {"path", *_SPLITS} & content.keys()):
        if file.name.lower() in OWN_NAMES:
            raise DataError(f"{file} has no 'names'; expected the class names as a list or by number, and train: PATH")
        return None  # a model, a run's settings, a workflow
    classes = Classes(_names(content, file, folder), file.name, "kpt_shape" in content)
    if classes.names and sorted(classes.names) != list(range(len(classes.names))):
        notices.append(Problem("class_numbers", file.name, f"the numbers are {sorted(classes.names)[:9]}"))
    root = _root(content.get("path"), file, folder)
    splits = _splits(content, root, file, folder, notices)
    notices += _unread(content, root, file, folder, splits)
    return FoundDataset("yolo", folder.root, file.name, splits, classes, notices)


def _content(file: Path, notices: list[Problem]) -> Any:
    """None for a file of another name that is not valid. Raises: DataError for one that should be."""
    try:
        text = read_text(file, lambda *problem: notices.append(Problem(*problem)))
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if file.name.lower() not in OWN_NAMES:
            return None
        raise DataError(f"{file} is not valid YAML ({one_line(error, None)})") from None


def _splits(
    content: dict[str, Any], root: Path, file: Path, folder: Folder, notices: list[Problem]
) -> dict[str, list[Path] | DataError]:
    """The sources of each split, or what is wrong with one that may not be used."""
    splits: dict[str, list[Path] | DataError] = {}
    keys: dict[str, str] = {}
    for key in _SPLITS:
        if not content.get(key):
            continue
        split = split_name(key) or key
        try:
            sources = [_source(text, root, file, folder, notices) for text in _stated(content[key])]
        except DataError as error:
            splits[split] = error
            continue
        if splits.get(split, sources) != sources:
            splits[split] = DataError(f"{file} has both {keys[split]}: and {key}:, which differ; keep one of them")
        else:
            splits[split] = sources
            keys[split] = key
    return splits


def _stated(value: object) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else [str(value)]


def _unread(
    content: dict[str, Any], root: Path, file: Path, folder: Folder, splits: dict[str, Any]
) -> Iterator[Problem]:
    """The keys that are none of a data set's and still name a folder or list of pictures that no split has."""
    used = [source for sources in splits.values() if isinstance(sources, list) for source in sources]
    for key in sorted(map(str, content.keys() - _NO_SPLITS)):
        for text in _stated(content[key]):
            path = None
            if len(text) < 300:
                with suppress(EscapeError):
                    path = folder.find(root, text.strip(), folders=True)
            if path is None or any(source == path or path in source.parents for source in used):
                continue
            if folder.files_below(path) if path.is_dir() else path.suffix == ".txt" and _lists_pictures(path):
                detail = f"{key}: {text} is not read; expected one of {', '.join(_SPLITS)}"
                yield Problem("no_split", file.name, detail)


def _lists_pictures(file: Path) -> bool:
    return any(line.lower().endswith(SUFFIXES) for line in read_lines(file)[:9])


def yaml_classes(file: Path, folder: Folder) -> Classes:
    """The classes of a data.yaml, whatever splits it names. Raises: DataError if there is something wrong in it."""
    content = _content(file, [])
    names = _names(content, file, folder) if isinstance(content, dict) else None
    return Classes(names, file.name, isinstance(content, dict) and "kpt_shape" in content)


def _names(content: dict[str, Any], file: Path, folder: Folder) -> dict[int, str] | None:
    """By number; from a list or the file of one, or as they are numbered, else class_0 ... of their count."""
    names, count = content.get("names"), whole(content.get("nc"))
    if names in (None, "", [], {}):
        if count is None or not 0 < count < 100_000:
            if names is None and count is None:
                return None
            raise DataError(
                f"{file}: 'nc' must be the number of classes, got {content.get('nc')!r}, and 'names' a list"
            )
        return {number: f"class_{number}" for number in range(count)}
    if isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
        numbered = {whole(key): name.strip() for key, name in names.items()}
        if None in numbered or len(numbered) < len(names) or min(key or 0 for key in numbered) < 0:
            raise DataError(f"{file}: 'names' must be numbered from 0, got {sorted(names)[:9]}")
        result = {key: name for key, name in sorted(numbered.items()) if key is not None}
    elif isinstance(names, list) and all(isinstance(name, str) for name in names):
        result = {number: name.strip() for number, name in enumerate(names)}
    elif isinstance(names, str) and (listed := folder.find(file.parent, names)) and read_lines(listed):
        result = read_classes(listed).names or {}
    else:
        raise DataError(
            f"{file}: 'names' must be a list of class names, or number: name, or the file of such a list, "
            f"got {str(names)[:80]!r}"
        )
    if count not in (None, len(result), max(result) + 1):
        raise DataError(f"{file}: nc is {count}, but 'names' has {len(result)} classes; correct one of them")
    return result


def _root(stated: object, file: Path, folder: Folder) -> Path:
    """`path` of data.yaml: relative to the file. One of another machine, which is not here, means the file's folder."""
    if not isinstance(stated, str) or not stated:
        return file.parent
    root = Path(os.path.normpath(file.parent / stated))
    if not root.is_dir():
        return file.parent
    if not Path(os.path.abspath(root)).is_relative_to(os.path.abspath(folder.root)):
        raise EscapeError(f"{file}: path {stated!r} is outside {folder.root}; put data.yaml into the data folder")
    return root


def _source(text: str, root: Path, file: Path, folder: Folder, notices: list[Problem]) -> Path:
    """The folder or list file of a split. Roboflow writes "../train/images" for what lies beside data.yaml, others the
    name on the machine where the file was made."""
    text = text.strip()
    try:
        path, differs = folder.locate([root, file.parent], text, folders=True)
    except EscapeError:
        path, differs = None, ""
    if (path is None or differs.startswith("by")) and (root / text.replace("\\", "/")).exists():
        raise EscapeError(f"{file}: {text!r} leads outside the data folder {folder.root}; copy the images into it")
    if path is None and "*" in text:
        raise DataError(f"{file}: {text!r} is a pattern, which is not supported; name the folder of the pictures")
    if path is None:
        raise DataError(f"{file}: {text!r} does not exist below {root}; correct the split's path")
    if differs and not text.startswith("../"):
        notices.append(Problem("other_name", file.name, f"{text} is {path.relative_to(folder.root)}, {differs}"))
    return path


def from_darknet(file: Path, folder: Folder) -> FoundDataset | None:
    """obj.data: lines of `key = value`, of which train, valid and test are lists of pictures, names the classes."""
    lines = (line.partition("=") for line in read_lines(file) if not line.startswith("#"))
    stated = {key.strip().lower(): value.strip().strip("\"'") for key, equals, value in lines if equals}
    if not {"names", "train", "valid"} & stated.keys():
        return None
    splits: dict[str, Any] = {}
    for key in _SPLITS:
        if stated.get(key):
            splits[split_name(key) or key] = _listed(stated[key], file, folder, f"obj_{key}_data")
    names = None
    with suppress(EscapeError):
        names, _ = folder.locate([file.parent, folder.root], stated.get("names", "obj.names"))
    if names is None:
        names = next(iter(folder.files(file.parent, (".names",))), None)
    classes = Classes(None, "the labels") if names is None else read_classes(names)
    return FoundDataset("yolo", folder.root, file.name, splits, classes)


def _listed(text: str, file: Path, folder: Folder, usual: str) -> list[Path] | DataError:
    """The list file that obj.data states; without it CVAT's usual folder."""
    with suppress(EscapeError):
        path, _ = folder.locate([file.parent, folder.root], text, folders=True)
        if path is not None:
            return [path]
    if base := folder.folder_of(file.parent, usual):
        return [base]
    return DataError(f"{file} names the list {text!r}, which is not in {folder.root}; correct it")


def read_classes(file: Path) -> Classes:
    """A list of names, one a line, of which the class number is the position.

    Raises: DataError for an empty line between names: whether it counts differs from tool to tool.
    """
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if "" in lines:
        raise DataError(
            f"{file}: line {lines.index('') + 1} is empty, and the names behind it may be numbered with it or without; "
            "write a name there, or delete the line"
        )
    return Classes(dict(enumerate(lines)), file.name)
