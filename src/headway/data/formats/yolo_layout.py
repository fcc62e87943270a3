"""Where the files of a YOLO data set lie, and the label file of each picture."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ...errors import DataError
from .folder import EscapeError, Folder, FoundDataset, split_name
from .text import decode, number, read_lines
from .yolo_yaml import OWN_NAMES, Classes, from_darknet, from_yaml, read_classes

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
        for file in sorted(folder.files(path, suffixes), key=lambda file: file.name.lower() not in OWN_NAMES):
            if dataset := read(file, folder):
                return _complete(dataset, folder, file)
    splits, reason = _by_folders(path, folder)
    if not splits:
        return None
    classes = _listed_classes(path, folder, splits)
    reason += f", {classes.source}" if classes.names else "; no data.yaml"
    return FoundDataset("yolo", path, reason, splits, classes)


def _complete(dataset: FoundDataset, folder: Folder, file: Path) -> FoundDataset:
    """With splits by folders where the file names none. Raises: DataError where there are none either."""
    if dataset.splits:
        return dataset
    splits, _ = _by_folders(file.parent, folder)
    if not splits:
        raise DataError(f"{file} names no split; expected train: PATH and val: PATH, relative to {file.parent}")
    return replace(dataset, splits=splits)


def _by_folders(path: Path, folder: Folder) -> tuple[dict[str, list[Path]], str]:
    """Splits of a data set without data.yaml, and by what they were recognised."""
    images, labels = folder.folder_of(path, "images"), folder.folder_of(path, "labels")
    if images and labels and folder.files_below(labels, (".txt",)):
        return _split_folders(folder, images), "images/ and labels/"
    subs: dict[str, list[Path]] = {}
    beside: dict[str, list[Path]] = {}
    for sub in folder.folders(path):
        split = split_name(sub.name)
        inner, labels = folder.folder_of(sub, "images"), folder.folder_of(sub, "labels")
        if split and inner and labels:
            subs.setdefault(split, []).append(inner)
        elif any(_has_labels(folder, base) for base in folder.walk(sub, 2)):
            beside.setdefault(split or "all", []).append(sub)
    if subs:
        return subs, "images/ and labels/ in a folder per split"
    if _has_labels(folder, path):
        return {"all": [path]}, "label files beside the images"
    if "all" in beside:  # folders that are no splits: the one folder of pictures, or several sources
        only = [sub for bases in beside.values() for sub in bases]
        return (_split_folders(folder, only[0]) if len(only) == 1 else {"all": only}), "label files beside the images"
    return beside, "label files beside the images in a folder per split"


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
    for name in CLASS_FILES:
        files = [file for base in dict.fromkeys(bases) if _within(base, path) and (file := folder.find(base, name))]
        if files:
            other = next((file for file in files if read_lines(file) != read_lines(files[0])), None)
            if other and files[0].parent not in (path, path / "labels"):
                raise DataError(f"{files[0]} and {other} list other classes, or in another order; write one for all")
            return read_classes(files[0])
    return Classes(None, "the labels")


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
