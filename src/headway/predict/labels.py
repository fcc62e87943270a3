"""A data set made of detections, for a person to correct: `headway predict --as-labels`. Nothing here imports torch.

The folder is one that `headway train` opens, and so do CVAT (as COCO 1.0, PASCAL VOC 1.1 or Ultralytics YOLO Detection
1.0) and Label Studio (label_studio.json, whose boxes are predictions, and label_studio.xml, the labelling interface).
What each demands beyond the format itself was read from CVAT's documentation and datumaro's importers (MIT) and from
Label Studio's documentation of predictions and task format:

- COCO: CVAT takes integer ids of images alone, and an annotation only with `segmentation`, which may be empty. A
  `score` becomes the attribute of this name where the task's labels declare it.
- YOLO: rows of six numbers are refused by CVAT and by headway's own reader, so the scores lie in scores/, beside
  labels/. CVAT takes every key of data.yaml that it does not know for a split, so there is no `nc`.
- VOC: the score is an `attribute` of the object, as CVAT writes its own. datumaro knows the classes by labelmap.txt.
- Label Studio: boxes are per cent of the picture's sides; pictures are named below the folder that its setting
  LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT names, which has to be the one that holds the data set.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import yaml

from ..data.formats.any_format import write_raw
from ..data.formats.raw import RawBox, RawImage, RawSplit, unique_names
from ..files import image_id_of
from ..findings import Findings

LabelFormat = Literal["coco", "voc", "yolo"]

SPLIT = "train"  # the one that every tool knows
_PICTURES = {"coco": f"images/{SPLIT}", "voc": "JPEGImages", "yolo": f"images/{SPLIT}"}


class Labels:
    """The detections of pictures that become a data set.

    names: class names by label, all of which the data set has, whether found or not; category_ids: COCO's id by label,
    or none for label + 1; model: what found them, for people.
    """

    def __init__(self, names: Sequence[str], category_ids: Sequence[int] = (), model: str = "") -> None:
        ids = category_ids or range(1, len(names) + 1)
        self.names, self.model = tuple(names), model or "headway"
        self._split = RawSplit(SPLIT, Path(), "detections", "", [], list(zip(ids, names)))

    def add(self, path: Path, found: Findings) -> None:
        """One picture with what was found in it, which may be nothing. Boxes without area are left out."""
        boxes = [
            RawBox(one.box, one.label, number, source=round(one.score, 6))
            for number, one in enumerate(found)
            if one.box[0] < one.box[2] and one.box[1] < one.box[3]
        ]
        self._split.images.append(RawImage(0, path.name, path, found.size, str(path), boxes))

    def write(self, folder: Path, format: LabelFormat, *, hardlink: bool = False) -> dict[Path, Path]:
        """Write the data set into an empty folder, pictures included; nothing where there is no picture.

        hardlink: share the pictures' bytes with the originals where the file system can, instead of copying.
        Gives the path of each picture's copy in it. Raises: DataError if `folder` is not empty.
        """
        images = self._split.images
        if not images:
            return {}
        _number(images)
        names = unique_names(images)
        scores = [[box.source for box in image.boxes] for image in images]
        for _, box in self._split.boxes:
            box.source = _entry(format, box.source)
        write_raw({SPLIT: self._split}, folder, format, hardlink)
        if format == "coco":
            _name_as_coco(folder)
        elif format == "yolo":
            _finish_yolo(folder, names, scores, self.names)
        else:
            lines = "".join(f"{name}:::\n" for name in self.names)  # label, colour, parts, actions
            (folder / "labelmap.txt").write_text(lines, encoding="utf-8")
        tasks = [
            _task(f"{folder.resolve().name}/{_PICTURES[format]}/{name}", image, of_boxes, self.names, self.model)
            for image, name, of_boxes in zip(images, names, scores)
        ]
        _write_json(folder / "label_studio.json", tasks)
        (folder / "label_studio.xml").write_text(_interface(self.names), encoding="utf-8")
        copies = folder / _PICTURES[format]
        return {image.path: copies / name for image, name in zip(images, names) if image.path is not None}


def _number(images: list[RawImage]) -> None:
    """COCO's ids: the files' own names where all are different numbers, as in COCO's files; else from 1."""
    ids = [image_id_of(image.name) for image in images]
    own = all(isinstance(image_id, int) for image_id in ids) and len(set(ids)) == len(ids)
    for number, (image, image_id) in enumerate(zip(images, ids), 1):
        image.image_id = image_id if own and isinstance(image_id, int) else number


def _entry(format: LabelFormat, score: float) -> Any:
    """What a box's own entry holds beside its place and class."""
    if format == "coco":
        return {"segmentation": [], "score": score}
    if format == "yolo":
        return None
    entry = ET.Element("object")
    attribute = ET.SubElement(ET.SubElement(entry, "attributes"), "attribute")
    ET.SubElement(attribute, "name").text = "score"
    ET.SubElement(attribute, "value").text = f"{score:g}"
    return entry


def _name_as_coco(folder: Path) -> None:
    """The places where COCO's own download and CVAT have files and pictures."""
    annotations = folder / "annotations"
    (annotations / f"{SPLIT}.json").rename(annotations / f"instances_{SPLIT}.json")
    (folder / "images").mkdir()
    (folder / SPLIT).rename(folder / "images" / SPLIT)


def _finish_yolo(folder: Path, names: list[str], scores: list[list[float]], classes: Sequence[str]) -> None:
    """The rows with their scores in scores/, the list of the pictures, and a data.yaml that CVAT reads."""
    beside = folder / "scores" / SPLIT
    beside.mkdir(parents=True)
    for name, of_boxes in zip(names, scores):
        file = f"{Path(name).stem}.txt"
        rows = (folder / "labels" / SPLIT / file).read_text(encoding="utf-8").splitlines()
        text = "".join(f"{row} {score:.6f}\n" for row, score in zip(rows, of_boxes, strict=True))
        (beside / file).write_text(text, encoding="utf-8")
    listed = "".join(f"./images/{SPLIT}/{name}\n" for name in names)
    (folder / f"{SPLIT}.txt").write_text(listed, encoding="utf-8")
    content = {SPLIT: f"{SPLIT}.txt", "names": dict(enumerate(classes))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _task(place: str, image: RawImage, scores: list[float], names: Sequence[str], model: str) -> dict[str, Any]:
    """A task of Label Studio. place: of the picture, below the folder that it serves. The score of the whole is the
    mean of its boxes', by which the tasks can be put in order."""
    assert image.size is not None
    height, width = image.size
    result = []
    for number, (box, score) in enumerate(zip(image.boxes, scores), 1):
        assert box.box is not None
        x1, y1, x2, y2 = box.box
        per_cent = [100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height]
        value = dict(zip(("x", "y", "width", "height"), (round(v, 6) for v in per_cent)))
        result.append(
            {
                "id": f"box{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, "rotation": 0, "rectanglelabels": [names[box.label]]},
                "score": score,
            }
        )
    mean = round(sum(scores) / len(scores), 6) if scores else 0.0
    prediction = {"model_version": model, "score": mean, "result": result}
    return {"data": {"image": f"/data/local-files/?d={quote(place)}"}, "predictions": [prediction]}


def _interface(names: Sequence[str]) -> str:
    """Label Studio's labelling interface: a picture, and rectangles of the classes."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    rectangles = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ET.SubElement(rectangles, "Label", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")
