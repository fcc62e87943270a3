"""Where the files of a YOLO data set lie, and the label file of each picture."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ...errors import DataError
from ..image import SUFFIXES
from .folder import MOST_FOLDERS, EscapeError, Folder, FoundDataset, split_name
from .problem_kinds import Problem
from .text import decode, number, read_lines
from .yolo_yaml import OWN_NAMES, Classes, from_darknet, from_yaml, read_classes, yaml_classes

CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
_NO_LABELS = (*CLASS_FILES, "labelmap.txt", "predefined_classes.txt", "notes.txt", "readme.txt")


def find(path: Path) -> FoundDataset | None:
    """Splits as lists of folders or list files; shared: Classes."""
    if path.is_file():
        folder, suffix = Folder(path.parent), path.suffix.lower()
        found = from_yaml(path, folder) if suffix in (".yaml", ".yml") else None
        found = from_darknet(path, folder) if suffix == ".data" else found
        return found and _complete(found, folder, path)
    folder = Folder(path)
    for suffixes, read in (((".yaml", ".yml"), from_yaml), ((".data",), from_darknet)):
        files = sorted(folder.files(path, suffixes), key=lambda file: file.name.lower() not in OWN_NAMES)
        for position, file in enumerate(files):
            if dataset := read(file, folder):
                return _with_others(_complete(dataset, folder, file), files[position + 1 :], read, folder)
    splits, reason = _by_folders(path, folder)
    if not splits:
        return None
    classes = _listed_classes(path, folder, splits)
    reason += f", {classes.source}" if classes.names else "; no data.yaml"
    return _with_left_out(FoundDataset("yolo", path, reason, splits, classes), folder)


def _with_others(
    dataset: FoundDataset, files: list[Path], read: Callable[[Path, Folder], FoundDataset | None], folder: Folder
) -> FoundDataset:
    """Tells of the other files that state a data set in the same folder, such as folds."""
    others = []
    for file in files:
        with suppress(DataError):
            if read(file, folder):
                others.append(file.name)
    if others:
        return replace(
            dataset, reason=f"{dataset.reason}; ignored: {', '.join(others)} (give the path of one to read it)"
        )
    return dataset


def _with_left_out(dataset: FoundDataset, folder: Folder) -> FoundDataset:
    """Tells of pictures with a label file below folders that no split has; nothing where splits are lists of pictures,
    which may leave out what they like."""
    sources = [source for parts in dataset.splits.values() if isinstance(parts, list) for source in parts]
    lists = any(source.is_file() and source.suffix.lower() not in SUFFIXES for source in sources)
    if lists or any(problem.kind == "no_split" for problem in dataset.notices):
        return dataset
    used = {source.resolve() for source in sources}
    left_out: list[Path] = []
    with suppress(DataError):  # of a folder that cannot be listed
        for base in islice(folder.walk(folder.root), MOST_FOLDERS):
            if used.isdisjoint((real := base.resolve(), *real.parents)):
                pictures = (path for path in folder.files(base) if path.resolve() not in used)
                left_out += [path for path in pictures if find_label(folder, path)]
    if not left_out:
        return dataset
    first = left_out[0].relative_to(folder.root).as_posix()
    return replace(dataset, notices=[*dataset.notices, Problem("no_split", first, f"{len(left_out)} such pictures")])


def _complete(dataset: FoundDataset, folder: Folder, file: Path) -> FoundDataset:
    """With splits by folders where the file names none. Raises: DataError where there are none either."""
    if dataset.splits:
        return _with_left_out(dataset, folder)
    splits, _ = _by_folders(file.parent, folder)
    if not splits:
        raise DataError(f"{file} names no split; expected train: PATH and val: PATH, relative to {file.parent}")
    return _with_left_out(replace(dataset, splits=splits), folder)


def _by_folders(path: Path, folder: Folder) -> tuple[dict[str, list[Path]], str]:
    """Splits of a data set without data.yaml, and by what they were recognised."""
    images, labels = folder.folder_of(path, "images"), folder.folder_of(path, "labels")
    if images and labels and folder.files_below(labels, (".txt",)):
        return _split_folders(folder, images), "images/ and labels/"
    apart: dict[str, list[Path]] = {}
    beside: dict[str, list[Path]] = {}
    for sub in folder.folders(path):
        split = split_name(sub.name) or sub.name
        inner, labels = folder.folder_of(sub, "images"), folder.folder_of(sub, "labels")
        if inner and labels:
            apart.setdefault(split, []).append(inner)
        if not (inner and labels and split_name(split)) and any(_has_labels(folder, b) for b in folder.walk(sub, 2)):
            beside.setdefault(split, []).append(sub)
    if any(split_name(split) for split in apart):
        return apart, "images/ and labels/ in a folder per split"
    if _has_labels(folder, path):
        return {"all": [path]}, "label files beside the images"
    trained = "train" in beside and not beside.keys().isdisjoint(("val", "test"))
    if trained or all(split_name(split) not in (None, "all") for split in beside):
        return beside, "label files beside the images in a folder per split"
    only = [sub for bases in beside.values() for sub in bases]  # the one folder of pictures, or several sources
    return (_split_folders(folder, only[0]) if len(only) == 1 else {"all": only}), "label files beside the images"


def _split_folders(folder: Folder, images: Path) -> dict[str, list[Path]]:
    """The folders of splits in a folder of pictures; the whole folder where there are none."""
    subs = folder.folders(images)
    if not any(split_name(sub.name) for sub in subs):
        return {"all": [images]}
    splits: dict[str, list[Path]] = {}
    for sub in subs:
        splits.setdefault(split_name(sub.name) or sub.name, []).append(sub)
    if loose := folder.files(images):
        splits["all"] = [*splits.get("all", []), *loose]
    return splits


def _has_labels(folder: Folder, base: Path) -> bool:
    """Whether a folder holds a label file of a picture in it: rows of numbers."""
    stems = {path.stem.casefold() for path in folder.files(base)}
    if not stems:
        return False
    files = (file for file in folder.files(base, (".txt",)) if file.name.lower() not in _NO_LABELS)
    return any(file.stem.casefold() in stems and _is_label_file(file) for file in files)


def _is_label_file(file: Path) -> bool:
    with file.open("rb") as stream:
        data = stream.read(4000)
    try:
        words = decode(data[: len(data) // 2 * 2])[0].split("\n", 1)[0].split()
    except UnicodeError:
        return False
    return not words or (len(words) >= 5 and all(number(word) is not None for word in words))


def _listed_classes(path: Path, folder: Folder, splits: dict[str, list[Path]]) -> Classes:
    """From the lists of names beside the data, the pictures or the labels. Raises: DataError where they contradict."""
    sources = [source for parts in splits.values() for source in parts if source.is_dir()]
    labels = [label_path(source / "a.jpg", path).parent for source in sources]
    bases = [path, path / "labels", path / "images", *sources, *labels, *(base.parent for base in [*sources, *labels])]
    bases = [base for base in dict.fromkeys(bases) if _within(base, path)]
    for name in CLASS_FILES:
        if files := [file for base in bases if (file := folder.find(base, name))]:
            other = next((file for file in files if read_lines(file) != read_lines(files[0])), None)
            if other and files[0].parent not in (path, path / "labels"):
                raise DataError(f"{files[0]} and {other} list other classes, or in another order; write one for all")
            return read_classes(files[0])
    found = [
        (file, yaml_classes(file, folder)) for base in bases for name in OWN_NAMES if (file := folder.find(base, name))
    ]
    for file, classes in found:
        if classes.names != found[0][1].names:
            raise DataError(f"{found[0][0]} and {file} list other classes, or in another order; write one for all")
    return found[0][1] if found else Classes(None, "the labels")


def _within(base: Path, path: Path) -> bool:
    return base == path or path in base.parents


def label_path(picture: Path, root: Path) -> Path:
    """images/.../NAME.jpg -> labels/.../NAME.txt (the last "images" below `root`, the data folder); without such a
    folder, beside the picture."""
    base = root if picture.is_relative_to(root) else Path()
    parts = list(picture.parts[len(base.parts) :])
    parts[-1] = Path(parts[-1]).stem + ".txt"
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].casefold() == "images":
            parts[i] = "labels"
            break
    return base.joinpath(*parts)


def find_label(folder: Folder, picture: Path, stated: str = "") -> Path | None:
    """The label file of a picture: where `label_path` says, beside the picture, or beside the name in a list."""
    places = [label_path(picture, folder.root), picture.with_name(picture.stem + ".txt")]
    for place in dict.fromkeys(places):
        if (found := folder.find(place.parent, place.name)) is not None:
            return found
    with suppress(EscapeError):
        return folder.locate([folder.root], stated.rpartition(".")[0] + ".txt")[0] if stated else None
    return None
