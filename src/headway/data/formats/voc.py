"""Pascal VOC XML: `find` its files, `parse` a split, `write` one.

Format: the VOC2012 development kit's documentation, section 5. Read: `filename`, `size`, and of each `object` `name`
and `bndbox`, else the box around its `polygon` or `robndbox`. `folder` and `path` (the annotator's machine) only decide
between pictures of one name. `difficult`
objects are ordinary boxes here: they are objects, and COCO's evaluation has no such mark. Coordinates are taken as they
stand: the kit counts pixels from 1, most tools of today from 0, files do not say which, and COCO conversions take them
unchanged too.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...errors import DataError
from .folder import EscapeError, Folder, FoundDataset
from .raw import RawBox, RawImage, RawSplit, copy_images, size_of
from .text import class_name, read_lines, stated_size
from .voc_layout import Classes, Listed, Pictures, find
from .voc_xml import FIELDS, box_of, objects_of, read_xml, rotation_of, text_of

__all__ = ["find", "parse", "write"]

_CLASS_FILES = ("classes.txt", "labels.txt", "labelmap.txt")


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """Faults of single files go to `problems`."""
    raw = RawSplit(split, dataset.root, "voc", dataset.reason, [], [])
    pictures = Pictures(Folder(dataset.root), _files(dataset))
    names = _class_names(dataset, pictures.folder, raw)
    raw.categories = [(label + 1, name) for label, name in enumerate(names)]
    labels = {name: label for label, name in enumerate(names)}
    bare = 0
    for position, entry in enumerate(dataset.splits[split]):
        file = entry.file if isinstance(entry, Listed) else entry
        try:
            if isinstance(file, DataError):
                raise file
            if not file.is_file():
                bare += _without_xml(file, pictures, position + 1, raw)
                continue
            if file.stat().st_size == 0:
                raw.report("empty_file", str(file), "0 bytes, expected an annotation")
                continue
            tree = read_xml(file, raw)
        except EscapeError as error:
            raw.report("path_escape", split, str(error))
        except DataError as error:
            raw.report("unreadable_annotation", str(file), str(error))
        else:
            raw.images.append(_image(tree, file, position + 1, raw, pictures, labels))
    if bare > len(raw.images) / 2:
        raw.report("no_labels", split, f"{bare} of {len(raw.images)} listed pictures have no XML file")
    return raw


def _files(dataset: FoundDataset) -> list[Path]:
    classes: Classes = dataset.shared
    return classes.files


def _without_xml(file: Path, pictures: Pictures, image_id: int, raw: RawSplit) -> int:
    """A listed picture without XML file is one without boxes. Raises: DataError: the picture is not there either."""
    path, _ = pictures.of(file, "")
    if path is None:
        raise DataError("listed in ImageSets, but neither it nor its picture exists")
    raw.images.append(RawImage(image_id, path.name, path, size_of(path), path.name))
    return 1


def _class_names(dataset: FoundDataset, folder: Folder, raw: RawSplit) -> list[str]:
    """From classes.txt if there is one, else every name of every split in alphabetical order; CVAT's labelmap.txt gives
    the order of those that are there."""
    lines: list[str] = []
    for name in _CLASS_FILES:
        if path := folder.find(dataset.root, name):
            lines = [class_name(line) for line in read_lines(path, raw.report)]
            if name != "labelmap.txt":
                return list(dict.fromkeys(lines))
            lines = [line.split(":")[0] for line in lines if not line.startswith("#")]
    classes: Classes = dataset.shared
    if not classes.names:
        names: set[str] = set()
        for file in classes.files:
            with suppress(DataError):
                names.update(class_name(text_of(entry, "name")) for entry in read_xml(file).iter("object"))
        classes.names = sorted(
            names - {""}, key=lambda name: (lines.index(name) if name in lines else len(lines), name)
        )
    return classes.names


def _image(
    tree: ET.Element, file: Path, image_id: int, raw: RawSplit, pictures: Pictures, labels: dict[str, int]
) -> RawImage:
    stated = text_of(tree, "filename")
    hints = [stated, text_of(tree, "path"), f"{text_of(tree, 'folder')}/"]
    where = file.name
    path = None
    with raw.inside(where):
        path, differs = pictures.of(file, stated, hints)
        if path is None:
            raw.report("missing_image", where, f"there is no picture {stated or file.stem!r} for it in {raw.root}")
        elif differs:
            raw.report("other_filename", where, f"<filename> is {stated!r}, the picture is {path.name}")
    height, width = text_of(tree, "size/height"), text_of(tree, "size/width")
    size = stated_size(height, width)
    if size is None:
        raw.report("missing_size", where, f"{width or None} x {height or None}")
        size = size_of(path)
    image = RawImage(image_id, path.name if path else stated or file.stem, path, size, where, source=tree)
    for mark, entry in objects_of(tree):
        name = class_name(text_of(entry, "name"))
        corners, enclosing = box_of(entry)
        box = RawBox(corners, labels.get(name, -1), mark, source=entry)
        if enclosing:
            raw.report("enclosing_box", f"{where}, {box.mark}", f"of its {enclosing}")
        if box.label < 0:
            raw.report("unknown_category", f"{where}, {box.mark}", f"{name!r} is not a class")
        image.boxes.append(box)
    return image


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
        entry.extend(_kept(box.source) if isinstance(box.source, ET.Element) else [])
        for tag, usual in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):  # readers demand them
            if entry.find(tag) is None:
                _add(entry, tag, usual)
        frame = ET.SubElement(entry, "bndbox")
        for tag, corner in zip(FIELDS, box.box):
            _add(frame, tag, f"{round(corner, 4):.10g}")
    return tree


def _kept(source: ET.Element) -> list[ET.Element]:
    """The elements of an `object` that are not ours, but for a rotation that its enclosing box contains already."""
    turned = rotation_of(source) != 0
    ours = ("name", "bndbox", "robndbox", *["attributes"] * turned)
    return [element for element in source if element.tag not in ours]


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text
