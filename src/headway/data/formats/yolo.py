"""YOLO text labels: `find` its files, `parse` a split, `write` one.

A label file has the picture's name and one row per box: `class cx cy width height`, relative to the picture, classes
from 0. A row of `class x1 y1 x2 y2 x3 y3 ...` is a polygon, of which the enclosing box is taken. A picture without a
label file, or with an empty one, is a picture without boxes. data.yaml states the class names and where the splits are.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from ...errors import DataError
from ..image import SUFFIXES, image_size
from .folder import EscapeError, Folder, FoundDataset, number, numbers, read_text, split_name
from .problem_kinds import Problem
from .raw import Box, RawBox, RawImage, RawSplit, copy_images

_CLASS_FILES = ("classes.txt", "obj.names", "labels.txt")


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
    """names: None where no file states them; then they are class_0, class_1, ... up to the highest in the labels.

    keypoints: rows carry key points behind the box (data.yaml's `kpt_shape`), so they are no polygons.
    """

    names: tuple[str, ...] | None
    source: str
    keypoints: bool = False


def find(path: Path) -> FoundDataset | None:
    """Splits as lists of folders or list files; shared: Classes."""
    if path.is_file():
        return _from_yaml(path, Folder(path.parent)) if path.suffix.lower() in (".yaml", ".yml") else None
    folder = Folder(path)
    for file in folder.files(path, (".yaml", ".yml")):
        if dataset := _from_yaml(file, folder):
            return dataset
    splits, reason = _by_folders(path, folder)
    if not splits:
        return None
    for name in _CLASS_FILES:
        for base in (path, path / "labels"):
            if (listed := folder.find(base, name)) is not None:
                names = tuple(line.strip() for line in read_text(listed).splitlines() if line.strip())
                return FoundDataset("yolo", path, f"{reason}, {name}", splits, Classes(names, name))
    return FoundDataset("yolo", path, f"{reason}; no data.yaml", splits, Classes(None, "the labels"))


def _by_folders(path: Path, folder: Folder) -> tuple[dict[str, list[Path]], str]:
    """Splits of a data set without data.yaml, and by what they were recognised."""
    if (path / "images").is_dir() and (path / "labels").is_dir():
        subs = {split_name(sub.name) or sub.name: [sub] for sub in folder.folders(path / "images")}
        return subs or {"all": [path / "images"]}, "images/ and labels/"
    subs = {
        split: [sub / "images"]
        for sub in folder.folders(path)
        if (split := split_name(sub.name)) and (sub / "images").is_dir() and (sub / "labels").is_dir()
    }
    if subs:
        return subs, "images/ and labels/ in a folder per split"
    if any(_is_label_file(file) for file in folder.files(path, (".txt",)) if file.name not in _CLASS_FILES):
        return {"all": [path]}, "label files beside the images"
    return {}, ""


def _is_label_file(file: Path) -> bool:
    """Of a picture in the same folder, and of rows of numbers."""
    if not any(file.with_suffix(suffix).is_file() for suffix in SUFFIXES):
        return False
    with file.open(encoding="utf-8", errors="replace") as stream:
        words = stream.readline().split()
    return not words or (len(words) >= 5 and all(number(word) is not None for word in words))


def _from_yaml(file: Path, folder: Folder) -> FoundDataset | None:
    """None if it is some other YAML file.

    Raises: DataError if it has class names, but something in it is wrong.
    """
    try:
        content = yaml.load(read_text(file), Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not ({"names", "nc"} & content.keys()):
        if file.name == "data.yaml":
            raise DataError(f"{file} has no 'names'; expected the class names as a list or by number, and train: PATH")
        return None
    names = _names(content, file)
    root = _root(content.get("path"), file, folder)
    splits = {}
    for key in ("train", "val", "valid", "test"):
        if content.get(key):
            stated = content[key] if isinstance(content[key], list) else [content[key]]
            splits[split_name(key) or key] = [_split_source(str(text), root, file, folder) for text in stated]
    if not splits:
        splits, _ = _by_folders(root, folder)
    if not splits:
        raise DataError(f"{file} names no split; expected train: PATH and val: PATH, relative to {root}")
    return FoundDataset("yolo", folder.root, file.name, splits, Classes(names, file.name, "kpt_shape" in content))


def _names(content: dict[str, Any], file: Path) -> tuple[str, ...] | None:
    """From a list, or from numbers 0..C-1 without gaps."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != sorted(str(i) for i in range(len(names))):
            raise DataError(
                f"{file}: 'names' must be numbered 0..{len(names) - 1} without gaps, got {sorted(names)[:9]}"
            )
        names = [names[str(i)] for i in range(len(names))]
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: 'names' must be a list of class names, or number: name, got {str(names)[:80]!r}")
    count = content.get("nc")
    if count is not None and count != str(len(names)):
        raise DataError(f"{file}: nc is {count}, but 'names' has {len(names)} classes; correct one of them")
    return tuple(names)


def _root(stated: object, file: Path, folder: Folder) -> Path:
    """`path` of data.yaml: relative to the file. One of another machine, which is not here, means the file's folder."""
    if not isinstance(stated, str) or not stated:
        return file.parent
    root = Path(os.path.normpath(file.parent / stated))
    inside = root.resolve().is_relative_to(folder.root.resolve())
    if root.is_dir() and not inside:
        raise EscapeError(f"{file}: path {stated!r} is outside {folder.root}; put data.yaml into the data folder")
    return root if root.is_dir() else file.parent


def _split_source(text: str, root: Path, file: Path, folder: Folder) -> Path:
    """The folder or list file of a split. Roboflow writes "../train/images" for what lies beside data.yaml."""
    text = text.replace("\\", "/")
    for candidate in (root / text, root / re.sub(r"^(\.\.?/)+", "", text)):
        path = Path(os.path.normpath(candidate))
        if PureWindowsPath(text).drive or not path.exists():
            continue
        if path.resolve().is_relative_to(folder.root.resolve()):
            return path
        raise EscapeError(f"{file}: {text!r} leads outside the data folder {folder.root}; copy the images into it")
    raise DataError(f"{file}: {text!r} does not exist below {root}; correct the split's path")


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """Boxes are in pixels, so every picture's header is read. Faults of single files go to `problems`."""
    classes: Classes = dataset.shared
    raw = RawSplit(split, dataset.root, "yolo", dataset.reason, [], [], source=classes)
    folder = Folder(dataset.root)
    used: set[Path] = set()
    for path in _pictures(dataset, split, folder, raw):
        image = RawImage(len(raw.images) + 1, path.name, path, None, path.name)
        raw.images.append(image)
        try:
            image.size = image_size(path)
        except DataError:
            continue  # `check` decodes every picture and says what is wrong with this one
        with raw.inside(path.name):
            if (label_file := _find_label(folder, path)) is not None:
                used.add(label_file)
                image.where = _relative(label_file, dataset.root)
                _rows(label_file, image, raw, classes)
    _orphans(used, folder, raw)
    raw.categories = [(label + 1, name) for label, name in enumerate(_all_names(dataset, raw))]
    _check_labels(raw)
    return raw


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _pictures(dataset: FoundDataset, split: str, folder: Folder, raw: RawSplit) -> list[Path]:
    found: list[Path] = []
    for source in dataset.splits[split]:
        if source.is_dir():
            found += _below(source, folder, raw)
            continue
        for line in filter(None, map(str.strip, read_text(source).splitlines())):
            where = f"{source.name}: {line}"
            with raw.inside(where):
                path = folder.find(source.parent if line.startswith(".") else dataset.root, line)
                if path is None:
                    raw.report("missing_image", where, "does not exist")
                    raw.images.append(RawImage(len(raw.images) + 1, line, None, None, where))
                else:
                    found.append(path)
    return found


def _below(source: Path, folder: Folder, raw: RawSplit) -> list[Path]:
    """Pictures in a folder and all below it. A link that leaves is a problem."""
    escaped: list[EscapeError] = []
    found: list[Path] = []
    where = _relative(source, raw.root)
    with raw.inside(where):
        found = folder.files(source, escaped=escaped)
        found += [path for base in folder.folders(source) for path in _below(base, folder, raw)]
    raw.problems += [Problem("path_escape", where, str(error)) for error in escaped]
    return found


def label_path(picture: Path, root: Path) -> Path:
    """images/.../NAME.jpg -> labels/.../NAME.txt (the last "images" below `root`, the data folder); without such a
    folder, beside the picture."""
    base = root if picture.is_relative_to(root) else Path()  # a list file may state absolute names
    parts = list(picture.with_suffix(".txt").parts[len(base.parts) :])
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return base.joinpath(*parts)


def _find_label(folder: Folder, picture: Path) -> Path | None:
    path = label_path(picture, folder.root)
    return folder.find(path.parent, path.name)


def _rows(file: Path, image: RawImage, raw: RawSplit, classes: Classes) -> None:
    assert image.size is not None
    try:
        lines = read_text(file).splitlines()
    except DataError as error:
        raw.report("unreadable_annotation", image.where, str(error))
        return
    for position, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        mark = f"line {position + 1}"
        label = number(words[0])
        columns = len(words) == 5 or (len(words) >= 7 and len(words) % 2 == 1) or (classes.keypoints and len(words) > 5)
        if not columns or label is None or label != label // 1 or label < 0 or label > 1e6:
            detail = f"{line[:60]!r}; expected 'class cx cy width height', or a polygon 'class x1 y1 x2 y2 x3 y3 ...'"
            raw.report("unreadable_annotation", f"{image.where}, {mark}", detail)
            continue
        polygon = len(words) > 5 and not classes.keypoints
        box = _to_pixels(words[1:] if polygon else words[1:5], image.size, polygon)
        image.boxes.append(RawBox(box, int(label), mark))


def _to_pixels(values: list[str], size: tuple[int, int], polygon: bool) -> Box | None:
    known = numbers(values)
    if known is None:
        return None
    height, width = size
    if polygon:
        xs, ys = known[0::2], known[1::2]
        return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
    cx, cy, w, h = known
    return (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height


def _orphans(used: set[Path], folder: Folder, raw: RawSplit) -> None:
    """Label files of folders that the split uses, for which there is no picture."""
    pictures = {label_path(image.path, raw.root) for image in raw.images if image.path is not None}
    for base in sorted({path.parent for path in used}):
        for file in folder.files(base, (".txt",)):
            known = file in pictures or file.name in _CLASS_FILES
            if not known and not any(folder.find(base, file.stem + suffix) for suffix in SUFFIXES):
                raw.report("orphan_label", _relative(file, raw.root), "no image of this name")


def _all_names(dataset: FoundDataset, raw: RawSplit) -> tuple[str, ...]:
    """The stated names, or derived ones from the labels of every split, so that the splits agree."""
    classes: Classes = dataset.shared
    if classes.names is not None:
        return classes.names
    highest = max((box.label for _, box in raw.boxes), default=-1)
    folder = Folder(dataset.root)
    for split in dataset.splits:
        if split == raw.name:
            continue
        for path in _pictures(dataset, split, folder, RawSplit(split, dataset.root, "yolo", "", [], [])):
            if file := _find_label(folder, path):
                first = (number(line.split()[0]) for line in read_text(file).splitlines() if line.split())
                highest = max([highest, *(int(label) for label in first if label is not None and label < 1e6)])
    return tuple(f"class_{label}" for label in range(highest + 1))


def _check_labels(raw: RawSplit) -> None:
    """Mark labels beyond the classes, and class names that occur twice."""
    names = [name for _, name in raw.categories]
    for name in sorted({name for name in names if names.count(name) > 1}):
        numbers = [i for i, other in enumerate(names) if other == name]
        raw.report("duplicate_category", raw.source.source, f"{name!r} is class {numbers}")
    for image, box in raw.boxes:
        if box.label >= len(names):
            detail = f"class {box.label}, but {raw.source.source} has 0..{len(names) - 1}"
            raw.report("unknown_category", f"{image.where}, {box.mark}", detail)
            box.label = -1


def write(raw: RawSplit, folder: Path, *, hardlink: bool = False) -> None:
    """images/SPLIT/NAME.jpg and labels/SPLIT/NAME.txt, and the split's line in data.yaml. Crowd regions are left out,
    YOLO has none."""
    names = copy_images(raw.images, folder / "images" / raw.name, hardlink=hardlink)
    labels = folder / "labels" / raw.name
    labels.mkdir(parents=True, exist_ok=True)
    for image, name in zip(raw.images, names):
        assert image.size is not None
        rows = [_row(box, image.size) for box in image.boxes if not box.crowd]
        (labels / f"{Path(name).stem}.txt").write_text("".join(rows), encoding="utf-8")
    present = sorted(sub.name for sub in (folder / "images").iterdir())
    content: dict[str, Any] = {"path": ".", **{split: f"images/{split}" for split in present}}
    content |= {"nc": len(raw.categories), "names": {i: name for i, (_, name) in enumerate(raw.categories)}}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _row(box: RawBox, size: tuple[int, int]) -> str:
    """Eight decimals: a thousandth of a pixel even in a picture 50,000 wide."""
    assert box.box is not None
    x1, y1, x2, y2 = box.box
    height, width = size
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{box.label} " + " ".join(f"{value:.8f}" for value in values) + "\n"
