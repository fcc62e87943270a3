"""YOLO text labels: `find` its files, `parse` a split, `write` one.

A label file has the picture's name and one row per box: `class cx cy width height`, relative to the picture, classes
from 0. A row of `class x1 y1 x2 y2 x3 y3 ...` is a polygon, of which the enclosing box is taken. A picture without a
label file, or with an empty one, is a picture without boxes. data.yaml states the class names and where the splits are.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...errors import DataError
from ..image import SUFFIXES, image_header
from .folder import Folder, FoundDataset
from .raw import RawBox, RawImage, RawSplit, copy_images, drop_repeated, turned
from .text import number, read_lines
from .yolo_layout import CLASS_FILES, find, find_label, label_path
from .yolo_rows import Row, add_boxes, read_rows
from .yolo_yaml import Classes

__all__ = ["find", "parse", "write"]


class _Picture(NamedTuple):
    path: Path
    stated: str  # its name in a list file, else ""


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """Boxes are in pixels, so every picture's header is read. Faults of single files go to `problems`."""
    classes: Classes = dataset.shared
    raw = RawSplit(split, dataset.root, "yolo", dataset.reason, [], [], source=classes)
    folder = Folder(dataset.root)
    owner: dict[Path, str] = {}
    rows: list[Row] = []
    without: list[Path] = []
    for path, stated in _pictures(dataset, split, folder, raw):
        image = RawImage(len(raw.images) + 1, path.name, path, None, path.name)
        raw.images.append(image)
        label_file = find_label(folder, path, stated)
        if label_file is None:
            without.append(path)
        else:
            image.source = label_file
            image.where = _relative(label_file, dataset.root)
            first = owner.setdefault(label_file, path.name)
            if first != path.name:
                raw.report("shared_label", image.where, f"of {first} and {path.name}")
        try:
            image.size, turn = image_header(path)
        except DataError:
            continue  # `check` decodes every picture and says what is wrong with this one
        if label_file is not None:
            found = read_rows(label_file, image, raw)
            rows += found
            if found and turn > 1:
                raw.problems.append(turned(image, turn))
    add_boxes(rows, raw, keypoints=classes.keypoints)
    _orphans(set(owner), folder, raw)
    if len(without) > len(raw.images) / 2:
        raw.report("no_labels", split, _unlabelled(without, raw, folder))
    names = _all_names(dataset, raw)
    _to_labels(raw, names)
    drop_repeated(raw, classes.source)
    return raw


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _pictures(dataset: FoundDataset, split: str, folder: Folder, raw: RawSplit) -> list[_Picture]:
    found: list[_Picture] = []
    for source in dataset.splits[split] if isinstance(dataset.splits[split], list) else []:
        if source.is_dir():
            found += [_Picture(path, "") for path in folder.files_below(source)]
        elif source.suffix.lower() in SUFFIXES:
            found.append(_Picture(source, ""))
        else:
            found += _of_list(source, folder, raw)
    return found


def _of_list(source: Path, folder: Folder, raw: RawSplit) -> list[_Picture]:
    """The pictures of a list file: relative to the data folder, or to the list with a dot, or as another machine names
    them."""
    lines = read_lines(source, raw.report)
    base = folder.best_base([folder.root, source.parent], lines, raw.name)
    found = []
    for line in lines:
        where = f"{source.name}: {line}"
        near = [source.parent, folder.root] if line.startswith(".") else [folder.root, source.parent]
        path, differs = None, ""
        with raw.inside(where):
            path, differs = folder.locate([*near, base], line, split=raw.name)
            if path is None:
                raw.report("missing_image", where, "does not exist")
                raw.images.append(RawImage(len(raw.images) + 1, line, None, None, where))
        if path is not None:
            found.append(_Picture(path, line))
            if differs:
                raw.report("other_name", where, f"{_relative(path, folder.root)}, {differs}")
    return found


def _orphans(used: set[Path], folder: Folder, raw: RawSplit) -> None:
    """Label files of folders that the split uses, for which there is no picture."""
    stems = {image.path.stem.casefold() for image in raw.images if image.path is not None}
    for base in sorted({path.parent for path in used}):
        for file in folder.files(base, (".txt",)):
            known = file in used or file.name.lower() in CLASS_FILES or file.stem.casefold() in stems
            if not known and not folder.pictures_named(base, file.stem):
                raw.report("orphan_label", _relative(file, raw.root), "no image of this name")


def _unlabelled(without: list[Path], raw: RawSplit, folder: Folder) -> str:
    """Where label files of such names do lie, or what is expected."""
    first = without[0]
    expected = _relative(label_path(first, raw.root), raw.root)
    stems = {path.stem.casefold() for path in without}
    for base in folder.walk(raw.root):
        if other := next((file for file in folder.files(base, (".txt",)) if file.stem.casefold() in stems), None):
            remedy = (
                f"{other.name} lies in {_relative(base, raw.root)}/, which should be {expected.rpartition('/')[0]}/"
            )
            break
    else:
        remedy = "a picture without objects has an empty one"
    return f"{len(without)} of {len(raw.images)} pictures, such as {first.name}, which should have {expected}; {remedy}"


def _all_names(dataset: FoundDataset, raw: RawSplit) -> dict[int, str]:
    """The stated names, or derived ones from the labels of every split, so that the splits agree."""
    classes: Classes = dataset.shared
    if classes.names is not None:
        return classes.names
    highest = max((box.label for _, box in raw.boxes), default=-1)
    folder = Folder(dataset.root)
    for split in dataset.splits:
        if split == raw.name:
            continue
        for path, stated in _pictures(dataset, split, folder, RawSplit(split, dataset.root, "yolo", "", [], [])):
            if file := find_label(folder, path, stated):
                first = (number(line.split()[0]) for line in read_lines(file))
                highest = max([highest, *(int(label) for label in first if label is not None and 0 <= label < 1e6)])
    return {label: f"class_{label}" for label in range(highest + 1)}


def _to_labels(raw: RawSplit, names: dict[int, str]) -> None:
    """Class numbers to labels; those without a name are marked."""
    raw.categories = [(class_number + 1, name) for class_number, name in names.items()]
    labels = {class_number: label for label, class_number in enumerate(names)}
    for image, box in raw.boxes:
        if box.label not in labels:
            listed = f"0..{len(names) - 1}" if list(names) == list(range(len(names))) else f"{list(names)[:9]}"
            detail = f"class {box.label}, but {raw.source.source} has {listed}"
            raw.report("unknown_category", f"{image.where}, {box.mark}", detail)
        box.label = labels.get(box.label, -1)


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
    content: dict[str, Any] = {split: f"images/{split}" for split in present}  # `path` would mean the working folder
    content["names"] = {i: name for i, (_, name) in enumerate(raw.categories)}  # CVAT takes `nc` for a split and fails
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _row(box: RawBox, size: tuple[int, int]) -> str:
    """Eight decimals: a thousandth of a pixel even in a picture 50,000 wide."""
    assert box.box is not None
    x1, y1, x2, y2 = box.box
    height, width = size
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{box.label} " + " ".join(f"{value:.8f}" for value in values) + "\n"
