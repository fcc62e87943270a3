"""data.yaml and Darknet's obj.data: what states the classes and splits of a YOLO data set."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError
from .folder import EscapeError, Folder, FoundDataset, split_name
from .problem_kinds import Problem
from .text import read_lines, read_text, whole

OWN_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_SPLITS = ("train", "val", "valid", "test")


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
    try:
        text = read_text(file, lambda *problem: notices.append(Problem(*problem)))
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if file.name.lower() not in OWN_NAMES:
            return None
        raise DataError(f"{file} is not valid YAML ({' '.join(str(error).split())})") from None
    known = isinstance(content, dict) and {"names", "nc"} & content.keys()
    if not known or (file.name.lower() not in OWN_NAMES and not {"path", *_SPLITS} & content.keys()):
        if file.name.lower() in OWN_NAMES:
            raise DataError(f"{file} has no 'names'; expected the class names as a list or by number, and train: PATH")
        return None  # a model, a run's settings, a workflow
    classes = Classes(_names(content, file), file.name, "kpt_shape" in content)
    if classes.names and sorted(classes.names) != list(range(len(classes.names))):
        notices.append(Problem("class_numbers", file.name, f"the numbers are {sorted(classes.names)[:9]}"))
    root = _root(content.get("path"), file, folder)
    splits: dict[str, Any] = {}
    for key in _SPLITS:
        if content.get(key):
            stated = content[key] if isinstance(content[key], list) else [content[key]]
            try:
                splits[split_name(key) or key] = [_source(str(text), root, file, folder, notices) for text in stated]
            except DataError as error:  # of a split that may not be used
                splits[split_name(key) or key] = error
    return FoundDataset("yolo", folder.root, file.name, splits, classes, notices)


def _names(content: dict[str, Any], file: Path) -> dict[int, str] | None:
    """By number; from a list, or as they are numbered, else class_0 ... of their count."""
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
    else:
        raise DataError(f"{file}: 'names' must be a list of class names, or number: name, got {str(names)[:80]!r}")
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
    """A list of names, one a line."""
    return Classes(dict(enumerate(read_lines(file))), file.name)
