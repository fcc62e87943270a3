"""COCO detection JSON: `find` its files, `parse` a split, `write` one.

Format: https://cocodataset.org/#format-data. A missing `area`, `iscrowd` or `info` is filled in, which the evaluation
tools refuse; ids may have gaps and any order. Of `segmentation` and `keypoints` nothing is read; `fix` keeps them.
"""

import json
import math
import mmap
import re
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import DataError
from .coco_boxes import box_of, settle_corners
from .folder import Folder, FoundDataset, split_name
from .raw import RawBox, RawImage, RawSplit, copy_images, describe, drop_repeated, size_of
from .text import decode, number, read_text, stated_size, whole

# COCO's own downloads that are no detection annotations and lie in the same folder
_OTHER = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_LISTS = [re.compile(rb'"%b"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories")]
_SCORED = re.compile(rb'"annotations"\s*:\s*\[\s*\{[^{}]*"score"\s*:')
PREDICTED = "scores"  # what a data set shares whose annotations carry scores
_ROBOFLOW = "_annotations.coco.json"


def find(path: Path) -> FoundDataset | None:
    """Splits as (json file, folders where its pictures may lie)."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        return FoundDataset("coco", root, f"a JSON file, {path.name}", {split_name(path.stem) or "all": path})
    folder = Folder(path)
    annotations = folder.folder_of(path, "annotations") or path / "annotations"
    for reason, files in (
        (f"{annotations.name}/*.json", folder.files(annotations, (".json",))),
        ("a JSON file in a folder per split", _in_split_folders(folder, path)),
        ("a JSON file beside the images", folder.files(path, (".json",))),
    ):
        kinds = {file: kind_of(file) for file in files}
        truth = [file for file in files if kinds[file] == "truth"]
        if found := truth or [file for file in files if kinds[file]]:
            return FoundDataset("coco", path, reason, _by_split(found), None if truth else PREDICTED)
    return None


def _in_split_folders(folder: Folder, path: Path) -> list[Path]:
    """Roboflow's file in each of them, else any JSON."""
    subs = [sub for sub in folder.folders(path) if split_name(sub.name)]
    own = [file for sub in subs if (file := folder.find(sub, _ROBOFLOW)) is not None]
    return own or [file for sub in subs for file in folder.files(sub, (".json",))]


def kind_of(file: Path) -> str:
    """ "truth" for COCO annotations, "found" where they carry scores, as predictions do; "" for another JSON file.

    By its lists. An empty file is taken for annotations, for `check` to name it.
    """
    if file.name.startswith(_OTHER):
        return ""
    if file.stat().st_size == 0:
        return "truth"
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data: mmap.mmap | bytes = mapped
        if b"\0" in mapped[:4]:
            with suppress(UnicodeError):
                data = decode(mapped[:])[0].encode()
        images, *others = (bool(pattern.search(data)) for pattern in _LISTS)
        whole_file = data[-64:].rstrip().endswith(b"}")
        if (
            not data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
            or not images
            or (whole_file and not any(others))
        ):
            return ""  # a file that is cut off may have lost its other lists
        return "found" if _SCORED.search(data) else "truth"


def _by_split(files: list[Path]) -> dict[str, Path]:
    """Raises: DataError where two files would be the same split."""
    splits: dict[str, Path] = {}
    for file in files:
        in_split_folder = file.name == _ROBOFLOW or (split_name(file.parent.name) and not split_name(file.stem))
        name = file.parent.name if in_split_folder else file.stem
        name = split_name(name) or (name if len(files) > 1 else "all")
        if name in splits:
            raise DataError(
                f"{splits[name]} and {file} are both the split {name!r}; expected one file for each split: pass the "
                "JSON file itself, or move the other one away"
            )
        splits[name] = file
    return splits


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
                f"annotation file {file} is not COCO detection JSON: expected {key!r} to be a list of objects, got "
                f"{type(value).__name__ if value is not None else 'nothing'}"
            )
    result: dict[str, Any] = content
    return result


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
        if whole(entry.get("id")) is None:
            raise DataError(f"{file.name}: category {entry} has no integer 'id'; give every category one")
    seen: set[int] = set()
    for entry in sorted(entries, key=lambda entry: whole(entry["id"]) or 0):
        category, name = whole(entry["id"]) or 0, str(entry.get("name", entry["id"])).strip()
        if category in seen:
            raw.report("duplicate_category", file.name, f"id {category} ({name!r}) is declared twice")
            continue
        seen.add(category)
        labels.add(entry["id"], len(raw.categories) + 1, name)  # from 1: 0 would look like no label
        raw.categories.append((category, name))
    return labels


def _images(entries: list[dict[str, Any]], raw: RawSplit, file: Path, split: str) -> _Ids:
    """Images by id, for the annotations to find."""
    folder = Folder(raw.root)
    base = _image_folder(folder, file, split, [name for entry in entries if (name := _name(entry))])
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
            path, differs = folder.locate([base, raw.root], name, split=split)
            if path is None:
                raw.report("missing_image", where, f"{base / name} does not exist")
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


def _image_folder(folder: Folder, file: Path, split: str, names: list[str]) -> Path:
    """The folder that holds most of the pictures, among those where people put them, else any."""
    root, stem = folder.root, file.stem
    tokens = dict.fromkeys([stem, stem.split("_")[-1], split, {"val": "valid"}.get(split, split)])
    near = [root / token for token in tokens]
    nested = [root / parent / token for parent in ("images", "data") for token in tokens]
    plain = [root / "images", root / "JPEGImages", root / "data", root, file.parent]
    beside = [file.parent, file.parent / "images", file.parent / "data"] if file.parent != root else []
    first = beside if split_name(file.parent.name) else []
    return folder.best_base(first + near + nested + plain + beside, names, split)


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
            detail = f"image_id {entry.get('image_id')!r} is not listed; ids of images are {listed} ..."
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
        box = RawBox(corners, (label or 0) - 1, mark, crowd, area, entry)
        if enclosing:
            raw.report("enclosing_box", describe(image, box)[0], "no bbox; the segmentation's")
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
    if file.name != _ROBOFLOW or 0 not in entries or len(raw.categories) < 2:
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
            annotations.append({**_extra(box), **entry, "bbox": bbox, "area": area, "iscrowd": int(box.crowd)})
    kept: dict[str, Any] = raw.source if raw.format == "coco" and isinstance(raw.source, dict) else {}
    declared = {
        (whole(entry["id"]), str(entry.get("name", entry["id"])).strip()): entry for entry in kept.get("categories", [])
    }
    content: dict[str, Any] = {"info": {"description": f"written by headway from {raw.format}"}, "licenses": []}
    content |= {key: value for key, value in kept.items() if key not in ("images", "annotations", "categories")}
    content |= {"images": images, "annotations": annotations}
    content["categories"] = [{**declared.get((i, name), {}), "id": i, "name": name} for i, name in raw.categories]
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{raw.name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _extra(entry: RawImage | RawBox) -> dict[str, Any]:
    return entry.source if isinstance(entry.source, dict) else {}
