"""COCO detection JSON: `find` its files, `parse` a split, `write` one.

Format: https://cocodataset.org/#format-data. A missing `area`, `iscrowd` or `info` is filled in, which the evaluation
tools refuse; ids may have gaps and any order. Of `segmentation` and `keypoints` nothing is read; `fix` keeps them.
`track_id` (or `instance_id`), with the `video_id` of the image, says which object a box shows.
"""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ...errors import DataError
from .coco_boxes import box_of, rotation_of, settle_corners
from .coco_layout import PREDICTED, ROBOFLOW, find, image_folders, kind_of
from .folder import Folder, FoundDataset
from .raw import RawBox, RawImage, RawSplit, copy_images, describe, drop_repeated, size_of
from .text import class_name, number, read_text, stated_size, whole

__all__ = ["PREDICTED", "find", "kind_of", "parse", "write"]

_EXAMPLES = {
    "images": '{"id": 1, "file_name": "a.jpg"}',
    "annotations": '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}',
    "categories": '{"id": 1, "name": "cat"}',
}


def parse(dataset: FoundDataset, split: str) -> RawSplit:
    """Raises: DataError if the file is no COCO JSON at all; faults of single entries go to `problems`."""
    file: Path = dataset.splits[split]
    raw = RawSplit(split, dataset.root, "coco", dataset.reason, [], [])
    raw.source = content = _load(file, raw)
    labels = _categories(content["categories"], raw, file)
    images = _images(content["images"], raw, file, split)
    _annotations(content["annotations"], raw, file, images, labels)
    settle_corners(raw, file.name)
    drop_repeated(raw, file.name)
    _drop_phantom(raw, file)
    return raw


def _load(file: Path, raw: RawSplit) -> dict[str, Any]:
    text = read_text(file, raw.report)
    if not text.strip():
        raise DataError(f"annotation file {file} is empty; expected COCO JSON: export or download it again")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {file} is not JSON ({error}); export or download it again") from None
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise DataError(
                f"annotation file {file} is not COCO detection JSON: expected {key!r} to be a list of objects, as "
                f"{_EXAMPLES[key]}, got {_shown(value)}; correct it, or export again as COCO"
            )
    result: dict[str, Any] = content
    return result


def _shown(value: object) -> str:
    """What is there in place of a list of objects."""
    if isinstance(value, list):
        wrong = next(entry for entry in value if not isinstance(entry, dict))
        return f"{type(wrong).__name__} {str(wrong)[:40]!r} in it"
    return "nothing" if value is None else type(value).__name__


class _Ids:
    """Objects by id as it is written, else as the number it stands for ("7" and 7.0 for 7), else by their names."""

    def __init__(self) -> None:
        self.exact: dict[Hashable, Any] = {}
        self._loose: dict[Hashable, Any] = {}

    def add(self, key: Hashable, value: Any, *names: str) -> None:
        self.exact[_typed(key)] = value
        for other in (whole(key), *names):
            if other is not None:
                self._loose[other] = None if self._loose.get(other, value) is not value else value

    def find(self, key: object) -> tuple[Any, bool]:
        """(what has this id, or None; whether the id is of another type)."""
        if not isinstance(key, (int, float, str)):
            return None, False
        if (found := self.exact.get(_typed(key))) is not None:
            return found, False
        number_id = whole(key)
        found = self._loose.get(number_id) if number_id is not None else self._loose.get(key)
        return found, found is not None


def _typed(key: object) -> Hashable:
    """Apart what Python takes for equal: 1, 1.0 and True."""
    return type(key), key


def _categories(entries: list[dict[str, Any]], raw: RawSplit, file: Path) -> _Ids:
    """Labels by category id, in the order of the ids."""
    labels = _Ids()
    for entry in entries:
        if whole(entry.get("id")) is None and not isinstance(entry.get("id"), str):
            raise DataError(f"{file.name}: category {entry} has no integer 'id', nor a text; give every category one")
    seen: set[int] = set()
    for category, entry in _numbered(entries):
        name = _class_name(entry, raw, file)
        if category in seen:
            raw.report("duplicate_category", file.name, f"id {category} ({name!r}) is declared twice")
            continue
        seen.add(category)
        labels.add(entry["id"], len(raw.categories) + 1, name)  # from 1: 0 would look like no label
        raw.categories.append((category, name))
    return labels


def _numbered(entries: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Categories behind their ids, in this order; ids that are no numbers follow the others by alphabet."""
    known = [number_id for entry in entries if (number_id := whole(entry["id"])) is not None]
    texts = sorted({entry["id"] for entry in entries if whole(entry["id"]) is None})
    ids = {text: number_id for number_id, text in enumerate(texts, max(known, default=0) + 1)}
    numbered = [(ids[entry["id"]] if (n := whole(entry["id"])) is None else n, entry) for entry in entries]
    return sorted(numbered, key=lambda pair: pair[0])


def _class_name(entry: dict[str, Any], raw: RawSplit, file: Path) -> str:
    """The name of a category, its id where it has none."""
    stated = entry.get("name", entry["id"])
    known = isinstance(stated, (str, int, float)) and not isinstance(stated, bool)
    name = class_name(str(stated)) if known else ""
    where = f"{file.name}, category {entry['id']}"
    if not name:
        raw.report("unnamed_class", where, f"expected a name, got {stated!r}; write one, as {{'id': 1, 'name': 'cat'}}")
    elif name != unicodedata.normalize("NFC", str(stated).strip()):
        raw.report("class_name", where, f"{stated!r} is read as {name!r}")
    return name or str(entry["id"])


def _images(entries: list[dict[str, Any]], raw: RawSplit, file: Path, split: str) -> _Ids:
    """Images by id, for the annotations to find."""
    folder = Folder(raw.root)
    names = Counter(name for entry in entries if (name := _name(entry)))
    if entries and not names:
        keys = ", ".join(map(repr, list(entries[0])[:8]))
        raise DataError(
            f"{file.name}: no image has a 'file_name', expected {_EXAMPLES['images']}; the first has {keys}: rename "
            "the key that holds the picture's name"
        )
    bases = image_folders(folder, file, split, list(names))
    by_id = _Ids()
    ends: dict[Path, tuple[RawImage, bool]] = {}
    taken = {number_id for entry in entries if (number_id := whole(entry.get("id"))) is not None}
    free = max(taken, default=0)
    for position, entry in enumerate(entries):
        image_id, name = entry.get("id"), _name(entry)
        where = f"{file.name}, image {image_id!r} ({name})"
        if not isinstance(image_id, (int, float, str)) or isinstance(image_id, bool) or name is None:
            detail = "expected an integer 'id' and a string 'file_name'"
            raw.report("unreadable_annotation", f"{file.name}, image entry {position}", detail)
            continue
        path, differs = None, ""
        with raw.inside(where):
            found, differs = folder.locate([*bases, raw.root], name, split=split)
            if found is None:
                raw.report("missing_image", where, f"{bases[0] / name} does not exist")
            else:
                path = folder.sole(found, name, bases, split if names[name] > 1 else None)
        size = stated_size(entry.get("height"), entry.get("width"))
        if size is None:
            raw.report("missing_size", where, f"{entry.get('width')} x {entry.get('height')}")
            size = size_of(path)
        number_id = whole(image_id)
        if number_id is None:
            number_id = free = free + 1
        image = RawImage(number_id, name, path, size, where, source=entry)
        raw.images.append(image)
        if (first := by_id.exact.get(_typed(image_id))) is not None:
            raw.report("duplicate_image_id", where, f"also the id of {first.name}")
        else:
            by_id.add(image_id, image, name, Path(name).name, Path(name).stem)
        if path is not None and differs:
            raw.report("other_name", where, f"{path.relative_to(raw.root)}, {differs}")
        _one_end(ends, image, differs == "by the end of its name", raw)
    return by_id


def _name(entry: dict[str, Any]) -> str | None:
    """The picture's name; LVIS states its address alone."""
    return next((name for key in ("file_name", "coco_url") if isinstance(name := entry.get(key), str)), None)


def _one_end(ends: dict[Path, tuple[RawImage, bool]], image: RawImage, by_end: bool, raw: RawSplit) -> None:
    """Names of different folders that end alike cannot both be one file: then the end decides nothing."""
    if image.path is None:
        return
    other, other_by_end = ends.setdefault(image.path, (image, by_end))
    if other is image or other.name == image.name or not (by_end or other_by_end):
        return
    for one in [image] * by_end + [other] * other_by_end:
        if one.path is not None:
            raw.report("missing_image", one.where, f"several names end in {one.path.name}, which exists once")
            one.path = None


def _annotations(entries: list[dict[str, Any]], raw: RawSplit, file: Path, images: _Ids, labels: _Ids) -> None:
    """Put every annotation's box into its image."""
    seen: set[Hashable] = set()
    for position, entry in enumerate(entries):
        mark = f"annotation {entry.get('id', f'number {position + 1}')}"
        annotation_id = entry.get("id") if isinstance(entry.get("id"), (int, str)) else None
        if annotation_id is not None and annotation_id in seen:
            raw.report("duplicate_annotation_id", f"{file.name}, {mark}", "used before")
        seen.add(annotation_id)
        image, loose = images.find(entry.get("image_id"))
        if image is None:
            listed = ", ".join(repr(image.source["id"]) for image in raw.images[:3])
            ids = f"ids of images are {listed} ..." if listed else "'images' lists none that can be read"
            detail = f"image_id {entry.get('image_id')!r} is not listed; {ids}"
            raw.report("unknown_image", f"{file.name}, {mark}", detail)
            continue
        label, other_type = labels.find(entry.get("category_id"))
        for key, differs in (("image_id", loose), ("category_id", other_type)):
            if differs:
                raw.report("id_type", f"{file.name}, {mark}", f"{key} {entry[key]!r}, a {_type_name(entry[key])}")
        area = number(entry.get("area"))
        area = area if area is not None and 0 < area < math.inf else None
        crowd = whole(entry.get("iscrowd")) == 1 or entry.get("iscrowd") is True
        corners, enclosing = box_of(entry, image.size)
        identity = whole(entry.get("track_id", entry.get("instance_id")))
        box = RawBox(corners, (label or 0) - 1, mark, crowd, area, entry, None if (identity or 0) < 0 else identity)
        if enclosing:
            raw.report("enclosing_box", describe(image, box)[0], f"of {enclosing}")
        if box.label < 0:
            declared = ", ".join(str(category_id) for category_id, _ in raw.categories[:20])
            detail = f"category_id {entry.get('category_id')!r}; declared: {declared}"
            raw.report("unknown_category", describe(image, box)[0], detail)
        image.boxes.append(box)


def _type_name(value: object) -> str:
    return {str: "string", float: "fraction"}.get(type(value), "number")


def _drop_phantom(raw: RawSplit, file: Path) -> None:
    """Leave out Roboflow's extra first category: its exports put a class 0 for the whole project above the others,
    which no box has, and which would become a class that is never found."""
    entries = {whole(entry["id"]): entry for entry in raw.source["categories"]}
    if file.name != ROBOFLOW or 0 not in entries or len(raw.categories) < 2:
        return
    name = str(entries[0].get("name"))
    above_all = all(entry.get("supercategory") == name for i, entry in entries.items() if i != 0)
    if not above_all or raw.categories[0] != (0, name) or any(box.label == 0 for _, box in raw.boxes):
        return
    raw.categories = raw.categories[1:]
    for _, box in raw.boxes:
        box.label = max(box.label - 1, -1)
    raw.reason += f"; the empty parent class {name!r} left out"


def write(raw: RawSplit, folder: Path, *, hardlink: bool = False) -> None:
    """annotations/SPLIT.json and the pictures in SPLIT/. Keys of the source entries that are not ours are kept."""
    names = copy_images(raw.images, folder / raw.name, hardlink=hardlink)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, name in zip(raw.images, names):
        assert image.size is not None
        height, width = image.size
        images.append({**_extra(image), "id": image.image_id, "file_name": name, "width": width, "height": height})
        for box in image.boxes:
            assert box.box is not None
            x1, y1, x2, y2 = box.box
            bbox = [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)]
            area, category = round(box.area or bbox[2] * bbox[3], 4), raw.categories[box.label][0]
            entry = {"id": len(annotations) + 1, "image_id": image.image_id, "category_id": category}
            if box.identity is not None and box.source is None:
                entry["track_id"] = box.identity
            annotations.append({**_extra(box), **entry, "bbox": bbox, "area": area, "iscrowd": int(box.crowd)})
    kept: dict[str, Any] = raw.source if raw.format == "coco" and isinstance(raw.source, dict) else {}
    declared = dict(reversed(_numbered(kept.get("categories", []))))  # of one id the first, as `_categories` reads them
    content: dict[str, Any] = {"info": {"description": f"written by headway from {raw.format}"}, "licenses": []}
    content |= {key: value for key, value in kept.items() if key not in ("images", "annotations", "categories")}
    content |= {"images": images, "annotations": annotations}
    content["categories"] = [{**declared.get(i, {}), "id": i, "name": name} for i, name in raw.categories]
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{raw.name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _extra(entry: RawImage | RawBox) -> dict[str, Any]:
    """The source's keys, but for a rotation that the enclosing box contains already."""
    source: dict[str, Any] = entry.source if isinstance(entry.source, dict) else {}
    if isinstance(entry, RawImage) or not rotation_of(source):
        return source
    kept = {key: value for key, value in source["attributes"].items() if key != "rotation"}
    return {**source, "attributes": kept}
