"""The XML of one picture: parsed without harm, in any encoding, and the boxes of its objects."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from .raw import Box, RawSplit, box_around
from .text import numbers, read_text

FIELDS = ("xmin", "ymin", "xmax", "ymax")
_TAGS = {
    *("annotation", "folder", "filename", "path", "size", "width", "height", "object", "name", "bndbox", *FIELDS),
    *("robndbox", "cx", "cy", "w", "h", "angle", "polygon", "pt", "attributes", "attribute", "value"),
    *("pose", "truncated", "difficult"),
}
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_BARE_DOCTYPE = re.compile(r"<!DOCTYPE\s+[\w.:-]+\s*>")
_COORDINATE = re.compile(r"([xy])[0-9]*", re.IGNORECASE)


class _NoDoctype(ET.TreeBuilder):
    """Refuses a document type before any entity is declared: no expansion bombs, no external files. No VOC file needs
    one."""

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        raise DataError(f"it declares a document type ({name!r}), with which XML can harm; remove the <!DOCTYPE ...>")


def read_xml(file: Path, raw: RawSplit | None = None) -> ET.Element:
    """The `annotation` element. raw: takes the notice of an encoding that had to be assumed.

    Raises: DataError: not XML, another root, or a document type that declares anything.
    """
    tree = parse_xml(file, raw)
    if tree.tag != "annotation":
        raise DataError(f"expected the root element 'annotation', got {tree.tag!r}")
    return tree


def parse_xml(file: Path, raw: RawSplit | None = None) -> ET.Element:
    """The root element of any XML file. Raises: DataError as `read_xml`."""
    with file.open("rb") as stream:
        stated = _DECLARED.match(stream.read(200).lstrip(b"\xef\xbb\xbf"))
    text = read_text(file, raw.report if raw else None, declared=stated.group(1).decode() if stated else None)
    parser = ET.XMLParser(target=_NoDoctype())
    try:
        return _with_plain_tags(ET.fromstring(_BARE_DOCTYPE.sub("", text.lstrip(), count=1), parser))
    except (ET.ParseError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"not valid XML ({error})") from None


def _with_plain_tags(tree: ET.Element) -> ET.Element:
    """The tags without their namespace, and VOC's own in lower case, in place."""
    for element in tree.iter():
        tag = element.tag.rpartition("}")[2]
        element.tag = tag.lower() if tag.lower() in _TAGS else tag
    return tree


def text_of(element: ET.Element, tag: str) -> str:
    """The stripped text of a descendant, "" where there is none."""
    return (element.findtext(tag) or "").strip()


def objects_of(tree: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    """Every `object` behind its mark for messages; one with several `bndbox` is one for each."""
    for position, entry in enumerate(tree.findall("object")):
        frames = entry.findall("bndbox")
        if len(frames) < 2:
            yield f"object {position + 1}", entry
        for number, frame in enumerate(frames if len(frames) > 1 else []):
            single = ET.Element("object")
            single.extend(element for element in entry if element is frame or element.tag != "bndbox")
            yield f"object {position + 1}, bndbox {number + 1}", single


def box_of(entry: ET.Element) -> tuple[Box | None, str]:
    """(xyxy of an `object`, None where it has no box; what it is the enclosing box of, or "")."""
    known = numbers([text_of(entry, f"bndbox/{name}") for name in FIELDS])
    if known:
        x1, y1, x2, y2 = known
        degrees = rotation_of(entry)
        if not degrees:
            return (x1, y1, x2, y2), ""
        return box_around((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, math.radians(degrees)), "rotated box"
    turned = numbers([text_of(entry, f"robndbox/{name}") for name in ("cx", "cy", "w", "h", "angle")])
    if turned:
        cx, cy, width, height, angle = turned
        return box_around(cx, cy, width, height, angle), "robndbox"
    for shape in ("polygon", "bndbox"):  # <polygon><x1>, <polygon><pt><x>, <bndbox><x1> ... <y4>
        if corners := _of_points(entry.find(shape)):
            return corners, "polygon"
    return None, ""


def rotation_of(entry: ET.Element) -> float:
    """CVAT's attribute of a rotated rectangle, whose bndbox it states before it is turned; in degrees."""
    for attribute in entry.iterfind("attributes/attribute"):
        if text_of(attribute, "name") == "rotation" and (known := numbers([text_of(attribute, "value")])):
            return known[0] if math.isfinite(known[0]) else 0.0
    return 0.0


def _of_points(shape: ET.Element | None) -> Box | None:
    """The box around all x and y of an element."""
    found: dict[str, list[float]] = {"x": [], "y": []}
    for element in [] if shape is None else shape.iter():
        if axis := _COORDINATE.fullmatch(element.tag):
            found[axis.group(1).lower()] += numbers([(element.text or "").strip()]) or []
    xs, ys = found["x"], found["y"]
    return (min(xs), min(ys), max(xs), max(ys)) if len(xs) == len(ys) > 1 else None
