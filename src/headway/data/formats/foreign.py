"""Files of annotation tools that are not read here, recognised so that the message names the tool's own export."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from .folder import Folder
from .text import decode, read_text

_MOST_BYTES = 200_000_000  # of a JSON file that is parsed to tell whose it is
_SOME = 20  # files of each folder that are looked at

_ANY = "COCO, YOLO or Pascal VOC"

# (is it this tool's content?, what it is, what to do)
_Tool = tuple[Callable[[Any], bool], str, str]
_JSON: tuple[_Tool, ...] = (
    (
        lambda c: {"shapes", "imagePath"} <= _keys(c),
        "LabelMe's JSON of one picture",
        "convert the folder to COCO or VOC by labelme2coco.py or labelme2voc.py of LabelMe's examples",
    ),
    (
        lambda c: (
            {"image", "annotations"} <= _keys(_first(c)) and "coordinates" in _keys(_first(_first(c)["annotations"]))
        ),
        "CreateML JSON",
        f"export {_ANY} in the tool that wrote it (Roboflow, RectLabel)",
    ),
    (
        lambda c: isinstance(c, list) and bool({"data", "annotation_id", "annotator"} & _keys(_first(c))),
        "Label Studio's own JSON",
        "choose Export > COCO, 'YOLO with Images' or Pascal VOC XML there",
    ),
    (
        lambda c: "_via_img_metadata" in _keys(c) or {"filename", "regions"} <= _keys(_first(c)),
        "a project of VGG Image Annotator (VIA)",
        "choose Annotation > Export Annotations (COCO format) there",
    ),
    (
        lambda c: {"project", "config", "attribute", "file", "metadata"} <= _keys(c),
        "a project of VGG Image Annotator (VIA 3)",
        "choose its export to COCO there",
    ),
    (
        lambda c: {"items", "categories"} <= _keys(c),
        "Datumaro's own JSON",
        "convert it by `datum convert -f coco`, or export COCO 1.0 in CVAT",
    ),
    (
        lambda c: {"objects", "size"} <= _keys(c),
        "Supervisely's JSON of one picture",
        "run its app 'Export to COCO' there",
    ),
    (
        lambda c: {"item", "annotations"} <= _keys(c),
        "V7 Darwin's JSON of one picture",
        "choose COCO as format of the export there",
    ),
    (
        lambda c: {"image_id", "bbox", "score"} <= _keys(_first(c)),
        "a list of COCO results (predictions), no annotations",
        "pass the annotation file that they were made for",
    ),
)

_CSV: tuple[tuple[set[str], str, str], ...] = (
    (
        {"imageid", "labelname", "xmin"},
        "Open Images' CSV",
        "download the classes by FiftyOne's zoo and export a COCODetectionDataset",
    ),
    (
        {"filename", "region_shape_attributes"},
        "VGG Image Annotator's (VIA) CSV",
        "choose Annotation > Export Annotations (COCO format) there",
    ),
    (
        {"filename", "class", "xmin"},
        "a table of boxes, such as Roboflow's Tensorflow Object Detection CSV",
        f"choose {_ANY} as format of the export there",
    ),
    ({"xmin", "ymin", "xmax", "ymax"}, "a CSV table of boxes", f"export {_ANY} in the tool that wrote it"),
    ({"bbox"}, "a CSV table of boxes", f"export {_ANY} in the tool that wrote it"),
)


def foreign_folder(path: Path) -> str:
    """What a folder holds of another tool and what to do, or "". Folders below are looked into, two levels deep."""
    folder = Folder(path)
    for base in folder.walk(path, 2):
        for file in _candidates(folder, base):
            if found := foreign_file(file):
                return f"{file.relative_to(path).as_posix()} is {found}"
    return ""


def _candidates(folder: Folder, base: Path) -> Iterator[Path]:
    for suffixes in ((".json",), (".csv",), (".xml",), (".ndjson", ".jsonl"), (".tfrecord", ".record")):
        yield from folder.files(base, suffixes)[:_SOME]


def foreign_file(file: Path) -> str:
    """Which tool wrote a file that is not read here and what to do, or ""."""
    suffix = file.suffix.lower()
    try:
        if suffix == ".json" and file.stat().st_size < _MOST_BYTES:
            return _named(_JSON, json.loads(read_text(file)))
        if suffix == ".csv":
            return _of_table(file)
        if suffix == ".xml":
            return _of_xml(file)
    except (DataError, ValueError, RecursionError, OSError):
        return ""
    if suffix in (".ndjson", ".jsonl"):
        return "JSON by lines, such as Labelbox's export, which is not read; convert it to COCO by its SDK"
    if suffix in (".tfrecord", ".record"):
        return f"a TFRecord, which is not read; export {_ANY} in the tool that wrote it"
    return ""


def _named(tools: tuple[_Tool, ...], content: Any) -> str:
    for is_this, what, remedy in tools:
        if is_this(content):
            return f"{what}, which is not read; {remedy}"
    return ""


def _of_table(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(4000)
    line = decode(data[: len(data) // 2 * 2])[0].split("\n", 1)[0]
    columns = {cell.strip().lower().lstrip("#") for row in csv.reader([line.replace(";", ",")]) for cell in row}
    for needed, what, remedy in _CSV:
        if needed <= columns:
            return f"{what}, which is not read; {remedy}"
    return ""


def _of_xml(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(4000)
    if re.search(rb"<annotations>", head) and re.search(rb"<(meta|image|track)\b", head):
        return "CVAT's own XML, which is not read; choose COCO 1.0, YOLO 1.1 or PASCAL VOC 1.1 for the export there"
    return ""


def _keys(content: Any) -> set[str]:
    return set(content) if isinstance(content, dict) else set()


def _first(content: Any) -> Any:
    """The first entry of a list or mapping, or None."""
    if isinstance(content, list):
        return content[0] if content else None
    return next(iter(content.values()), None) if isinstance(content, dict) else None
