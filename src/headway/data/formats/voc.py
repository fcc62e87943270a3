"""Pascal VOC XML: `find` its files, `parse` a split, `write` one.

Format: the VOC2012 development kit's documentation, section 5. Read: `filename`, `size`, and of each `object` `name`
and `bndbox`. `path` (the annotator's machine) is ignored. `difficult` objects are ordinary boxes here: they are
objects, and COCO's evaluation has no such mark. Coordinates are taken as they stand: the kit counts pixels from 1, most
tools of today from 0, files do not say which, and COCO conversions take them unchanged too.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from ...errors import DataError
from ..image import SUFFIXES
from .folder import EscapeError, Folder, FoundDataset, numbers, read_text, split_name, stated_size
from .raw import Box, RawBox, RawImage, RawSplit, copy_images

_CLASS_FILES = ("classes.txt", "labels.txt")
_FIELDS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(slots=True)
class _Classes:
    """The data set's class names: collected once, from all XML files."""

    files: list[Path]
    names: list[str] = field(default_factory=list)


def find(path: Path) -> FoundDataset | None:
    """Splits as lists of XML files; shared: all of them, from which the classes are collected."""
    if not path.is_dir():
        return None
    folder = Folder(path)
    for name in ("Annotations", "annotations"):
        files = folder.files(path / name, (".xml",))
        if _are_voc(files):
            sets = folder.files(path / "ImageSets" / "Main", (".txt",))
            splits = {split: _listed(file, path / name) for file in sets if (split := _set_name(file))}
            reason = f"{name}/*.xml{' and ImageSets/Main' if splits else ''}"
            return FoundDataset("voc", path, reason, splits or {"all": files}, _Classes(files))
    by_split = {}
    for sub in folder.folders(path):
        if split := split_name(sub.name):
            inner = next((sub / n for n in ("Annotations", "annotations") if (sub / n).is_dir()), sub)
            files = folder.files(inner, (".xml",))
            if _are_voc(files):
                by_split[split] = files
    if by_split:
        classes = _Classes([file for files in by_split.values() for file in files])
        return FoundDataset("voc", path, "XML files in a folder per split", by_split, classes)
    files = folder.files(path, (".xml",))
    if _are_voc(files):
        return FoundDataset("voc", path, "XML files beside the images", {"all": files}, _Classes(files))
    return None


def _are_voc(files: list[Path]) -> bool:
    """Whether they are annotations, not some other XML, by the first ones that can be read. Where none can (all empty
    or damaged) they are taken for annotations, for `check` to name them."""
    roots = set()
    for file in files[:20]:
        with suppress(DataError):
            roots.add(_parse_xml(file).tag)
    return bool(files) and (not roots or "annotation" in roots)


def _set_name(file: Path) -> str | None:
    """The split of ImageSets/Main/NAME.txt; the kit's lists of one class (aeroplane_train.txt) are none."""
    return split_name(file.stem) if file.stem.isalnum() else None


def _listed(file: Path, annotations: Path) -> list[Path]:
    lines = (line.split() for line in read_text(file).splitlines())
    return [annotations / f"{words[0]}.xml" for words in lines if words]


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """Faults of single files go to `problems`."""
    raw = RawSplit(split, dataset.root, "voc", dataset.reason, [], [])
    folder = Folder(dataset.root)
    names = _class_names(dataset, folder)
    raw.categories = [(label + 1, name) for label, name in enumerate(names)]
    labels = {name: label for label, name in enumerate(names)}
    for position, file in enumerate(dataset.splits[split]):
        try:
            found = folder.find(file.parent, file.name)
            if found is None:
                raise DataError("listed in ImageSets/Main, but does not exist")
            if found.stat().st_size == 0:
                raw.report("empty_file", str(file), "0 bytes, expected an annotation")
                continue
            tree = read_xml(found)
        except EscapeError as error:
            raw.report("path_escape", str(file), str(error))
        except DataError as error:
            raw.report("unreadable_annotation", str(file), str(error))
        else:
            raw.images.append(_image(tree, found, position + 1, raw, folder, labels))
    return raw


class _NoDoctype(ET.TreeBuilder):
    """Refuses a document type before any entity is declared, in whatever encoding: no expansion bombs, no external
    files. No VOC file needs one."""

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        raise DataError(f"it declares a document type ({name!r}), with which XML can harm; remove the <!DOCTYPE ...>")


def read_xml(file: Path) -> ET.Element:
    """The `annotation` element.

    Raises: DataError: not XML, another root, or a document type.
    """
    tree = _parse_xml(file)
    if tree.tag != "annotation":
        raise DataError(f"expected the root element 'annotation', got {tree.tag!r}")
    return tree


def _parse_xml(file: Path) -> ET.Element:
    parser = ET.XMLParser(target=_NoDoctype())
    try:
        return ET.fromstring(file.read_bytes(), parser)
    except (ET.ParseError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"not valid XML ({error})") from None


def _class_names(dataset: FoundDataset, folder: Folder) -> list[str]:
    """From classes.txt if there is one, else every name of every split in alphabetical order."""
    for name in _CLASS_FILES:
        if path := folder.find(dataset.root, name):
            return list(dict.fromkeys(line.strip() for line in read_text(path).splitlines() if line.strip()))
    classes: _Classes = dataset.shared
    if not classes.names:
        names: set[str] = set()
        for file in classes.files:
            with suppress(DataError):
                names.update(_text(entry, "name") for entry in read_xml(file).iter("object"))
        classes.names = sorted(names - {""})
    return classes.names


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _image(
    tree: ET.Element, file: Path, image_id: int, raw: RawSplit, folder: Folder, labels: dict[str, int]
) -> RawImage:
    stated = _text(tree, "filename")
    where = file.name
    path = None
    with raw.inside(where):
        path = _picture(folder, file, stated)
        if path is None:
            detail = f"{stated or file.stem} is not in {', '.join(str(base) for base in _picture_folders(file))}"
            raw.report("missing_image", where, detail)
    height, width = _text(tree, "size/height"), _text(tree, "size/width")
    size = stated_size(height, width)
    if size is None:
        raw.report("missing_size", where, f"{width or None} x {height or None}")
    image = RawImage(image_id, stated or file.stem, path, size, where, source=tree)
    for position, entry in enumerate(tree.findall("object")):
        name = _text(entry, "name")
        box = RawBox(_box(entry), labels.get(name, -1), f"object {position + 1}", source=entry)
        if box.label < 0:
            raw.report("unknown_category", f"{where}, {box.mark}", f"{name!r} is not a class")
        image.boxes.append(box)
    return image


def _picture_folders(file: Path) -> list[Path]:
    """Where the picture of an XML file may lie."""
    if file.parent.name.lower() != "annotations":
        return [file.parent]
    root = file.parent.parent
    return [root / name for name in ("JPEGImages", "images", "Images")] + [root, file.parent]


def _picture(folder: Folder, file: Path, stated: str) -> Path | None:
    """By the stated name, or else by the XML file's own, with any suffix: the stated one is often out of date."""
    own = [file.stem + ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
    for names in ([stated] if stated else [], own):
        for base, name in product(_picture_folders(file), names):
            if (path := folder.find(base, name)) is not None:
                return path
    return None


def _box(entry: ET.Element) -> Box | None:
    known = numbers([_text(entry, f"bndbox/{name}") for name in _FIELDS])
    return (known[0], known[1], known[2], known[3]) if known else None


def write(raw: RawSplit, folder: Path, *, hardlink: bool = False) -> None:
    """Annotations/NAME.xml, JPEGImages/NAME.jpg and ImageSets/Main/SPLIT.txt. Crowd regions are left out, VOC has
    none."""
    names = copy_images(raw.images, folder / "JPEGImages", hardlink=hardlink)
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for image, name in zip(raw.images, names):
        tree = _to_xml(raw, image, name)
        ET.indent(tree)
        file = folder / "Annotations" / f"{Path(name).stem}.xml"
        file.write_text(ET.tostring(tree, encoding="unicode") + "\n", encoding="utf-8")
    stems = "".join(f"{Path(name).stem}\n" for name in names)
    (folder / "ImageSets" / "Main" / f"{raw.name}.txt").write_text(stems, encoding="utf-8")
    classes = "".join(f"{name}\n" for _, name in raw.categories)
    (folder / "classes.txt").write_text(classes, encoding="utf-8")


def _to_xml(raw: RawSplit, image: RawImage, name: str) -> ET.Element:
    """The source's elements that are not ours are kept, but for the annotator's `path`."""
    assert image.size is not None
    tree = ET.Element("annotation")
    _add(tree, "folder", "JPEGImages")
    _add(tree, "filename", name)
    size = ET.SubElement(tree, "size")
    for tag, value in zip(("width", "height", "depth"), (*image.size[::-1], 3)):
        _add(size, tag, str(value))
    kept: Iterable[ET.Element] = image.source if isinstance(image.source, ET.Element) else []
    tree.extend(element for element in kept if element.tag not in ("folder", "filename", "path", "size", "object"))
    for box in image.boxes:
        if box.crowd:
            continue
        assert box.box is not None
        entry = ET.SubElement(tree, "object")
        _add(entry, "name", raw.categories[box.label][1])
        kept = box.source if isinstance(box.source, ET.Element) else []
        entry.extend(element for element in kept if element.tag not in ("name", "bndbox"))
        frame = ET.SubElement(entry, "bndbox")
        for tag, corner in zip(_FIELDS, box.box):
            _add(frame, tag, f"{round(corner, 4):.10g}")
    return tree


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text
