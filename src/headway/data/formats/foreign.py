"""Files of annotation tools that are not read here, recognised so that the message names the tool's own export."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..image import FETCH_LFS, LFS_POINTER
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
            bool({"image", "imagefilename"} & _keys(_first(c)))
            and bool({"annotations", "annotation"} & _keys(_first(c)))
        ),
        "CreateML JSON",
        f"export {_ANY} in the tool that wrote it (Roboflow, RectLabel, labelImg)",
    ),
    (
        lambda c: bool({"Labeled Data", "data_row"} & _keys(_first(c))),
        "Labelbox's JSON",
        "convert it to COCO by its SDK (labelbox.data.serialization)",
    ),
    (
        lambda c: (
            {"samples"} == _keys(c)
            or {"classes", "labels"} == _keys(c)
            or {"info", "samples"} <= _keys(c)
            or {"media_type", "sample_fields"} <= _keys(c)
        ),
        "FiftyOne's own JSON",
        "export it there with dataset_type=fiftyone.types.COCODetectionDataset",
    ),
    (
        lambda c: {"asset", "regions"} <= _keys(c) or {"assets", "tags", "sourceConnection"} <= _keys(c),
        "VoTT's JSON",
        "choose Pascal VOC as the provider of its export settings",
    ),
    (
        lambda c: {"metadata", "instances"} <= _keys(c),
        "SuperAnnotate's JSON of one picture",
        "convert it by `sa.export_annotation(..., dataset_format='COCO', ...)` of its SDK",
    ),
    (
        lambda c: {"metainfo", "data_list"} <= _keys(c),
        "MMDetection 3's own JSON",
        "pass the COCO file that it was made from",
    ),
    (
        lambda c: {"name", "labels"} <= _keys(_first(c)) and isinstance(_first(c)["labels"], (list, type(None))),
        "BDD100K's (Scalabel's) JSON",
        "convert it by `python -m scalabel.label.to_coco`",
    ),
    (
        lambda c: {"project_name", "images", "label_classes"} <= _keys(c),
        "Hasty's own JSON",
        "choose COCO as the format of the export there",
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


# (a pattern that one of the first lines has throughout, what it is, what to do)
_NUMBER = r"-?[\d.]+(?:e-?\d+)?"
_TEXT: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(rf"[A-Za-z]\w*(?: {_NUMBER}){{14,15}}"),
        "KITTI's label file",
        "convert it by FiftyOne: KITTIDetectionDataset in, COCODetectionDataset out",
    ),
    (
        re.compile(rf"(?:{_NUMBER}[ ,]){{8}}[A-Za-z][\w-]*[ ,][012]"),
        "DOTA's label file",
        "convert it by DOTA_devkit's DOTA2COCO.py",
    ),
    (
        re.compile(r"\d+,\d+,\d+,\d+,[01],\d+,-?\d+,\d+,?"),
        "VisDrone's label file",
        "convert it to YOLO or COCO by a script of its toolkit",
    ),
    (
        re.compile(rf"\d+,-?\d+(?:,{_NUMBER}){{4,}}"),
        "MOTChallenge's text",
        f"export {_ANY} in the tool that wrote it",
    ),
    (
        re.compile(r"\S+\.\w{3,4}(?: \d+,\d+,\d+,\d+,\d+)+"),
        "the list of Keras YOLO (Roboflow's 'YOLO Keras TXT')",
        f"choose {_ANY} as format of the export there",
    ),
    (
        re.compile(r"\d+--\S+/\S+\.jpg"),
        "WIDER FACE's list",
        "convert it by FiftyOne's zoo and export a COCODetectionDataset",
    ),
)
_ARCHIVE = "an archive; unpack it and name the folder"
_RECORDS = f"a TFRecord, which is not read; export {_ANY} in the tool that wrote it"
_MANIFEST = "a manifest of SageMaker Ground Truth, which is not read; convert it to COCO by AWS's example notebook"
_BY_SUFFIX = {
    **dict.fromkeys((".ndjson", ".jsonl"), ""),  # see `_of_lines`
    **dict.fromkeys(
        (".tfrecord", ".record"), f"a TFRecord, which is not read; export {_ANY} in the tool that wrote it"
    ),
    ".parquet": "a Parquet table, which is not read; write its pictures and boxes as COCO with the `datasets` package",
    ".manifest": _MANIFEST,
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz", ".bz2"), _ARCHIVE),
}


def foreign_folder(path: Path) -> str:
    """What a folder holds of another tool and what to do, or "". Folders below are looked into, two levels deep."""
    folder = Folder(path)
    for base in folder.walk(path, 2):
        for file in _candidates(folder, base):
            if found := foreign_file(file):
                return f"{file.relative_to(path).as_posix()} is {found}"
    return ""


def _candidates(folder: Folder, base: Path) -> Iterator[Path]:
    for suffixes in ((".json",), (".csv",), (".xml",), (".txt",), *((suffix,) for suffix in _BY_SUFFIX)):
        yield from folder.files(base, suffixes)[:_SOME]


def foreign_file(file: Path) -> str:
    """Which tool wrote a file that is not read here and what to do, or ""."""
    suffix = file.suffix.lower()
    try:
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                return FETCH_LFS.removeprefix("is ")
        if suffix == ".json" and file.stat().st_size < _MOST_BYTES:
            return _named(_JSON, json.loads(read_text(file)))
        if suffix == ".csv":
            return _of_table(file)
        if suffix == ".xml":
            return _of_xml(file)
        if suffix == ".txt":
            return _of_text(file)
    except (DataError, ValueError, RecursionError, OSError):
        return ""
    return _of_lines(file) if suffix in (".ndjson", ".jsonl") else _BY_SUFFIX.get(suffix, "")


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
    if re.search(rb"<dataset>", head) and re.search(rb"<image file=", head):
        return f"dlib's (imglab's) XML, which is not read; export {_ANY} in the tool that wrote it"
    if re.search(rb"<annotations>", head) and re.search(rb"<(meta|image|track)\b", head):
        return "CVAT's own XML, which is not read; choose COCO 1.0, YOLO 1.1 or PASCAL VOC 1.1 for the export there"
    return ""


def _of_lines(file: Path) -> str:
    """JSON by lines, of the tool whose keys the first one has."""
    with file.open("rb") as stream:
        line = stream.readline(1_000_000)
    keys = set(re.findall(rb'"([\w-]+)"\s*:', line))
    if b"file_name" in keys:
        return (
            "a table of Hugging Face's `datasets` (ImageFolder), which is not read; write its boxes as COCO: its "
            "objects.bbox is x, y, width, height"
        )
    if b"source-ref" in keys:
        return _MANIFEST
    return "JSON by lines, such as Labelbox's export, which is not read; convert it to COCO by its SDK"


def _of_text(file: Path) -> str:
    with file.open("rb") as stream:
        head = decode(stream.read(4000))[0]
    lines = [line.strip() for line in head.split("\n")[:3] if line.strip()]
    for pattern, what, remedy in _TEXT:
        if lines and pattern.fullmatch(lines[0]):
            return f"{what}, which is not read; {remedy}"
    return ""


def _keys(content: Any) -> set[str]:
    return set(content) if isinstance(content, dict) else set()


def _first(content: Any) -> Any:
    """The first entry of a list or mapping, or None."""
    if isinstance(content, list):
        return content[0] if content else None
    return next(iter(content.values()), None) if isinstance(content, dict) else None
