"""The XML of one picture: parsed without harm, in any encoding, and the boxes of its objects."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from ...errors import DataError
from .raw import Box, RawSplit, box_around
from .text import numbers, read_text

FIELDS = ("xmin", "ymin", "xmax", "ymax")
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
        return ET.fromstring(_BARE_DOCTYPE.sub("", text.lstrip(), count=1), parser)
    except (ET.ParseError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"not valid XML ({error})") from None


def text_of(element: ET.Element, tag: str) -> str:
    """The stripped text of a descendant, "" where there is none."""
    return (element.findtext(tag) or "").strip()


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
