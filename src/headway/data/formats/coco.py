"""COCO detection JSON: `find` its files, `parse` a split, `write` one.

Format: https://cocodataset.org/#format-data. A missing `area`, `iscrowd` or `info` is filled in, which the evaluation
tools refuse; ids may have gaps and any order. Of `segmentation` and `keypoints` nothing is read; `fix` keeps them.
"""

import json
import math
import re
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import DataError
from .folder import EscapeError, Folder, FoundDataset, number, numbers, read_text, split_name, stated_size
from .raw import Box, RawBox, RawImage, RawSplit, copy_images, describe

# COCO's own downloads that are no detection annotations and lie in the same folder
_OTHER = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:')


def find(path: Path) -> FoundDataset | None:
    """Splits as (json file, folders where its pictures may lie)."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        return FoundDataset("coco", root, f"a JSON file, {path.name}", {split_name(path.stem) or "all": path})
    folder = Folder(path)
    for reason, files in (
        ("annotations/*.json", folder.files(path / "annotations", (".json",))),
        ("_annotations.coco.json in a folder per split", _in_split_folders(folder, path)),
        ("a JSON file beside the images", folder.files(path, (".json",))),
    ):
        found = [file for file in files if _is_coco(file)]
        if found:
            return FoundDataset("coco", path, reason, _by_split(found))
    return None


def _in_split_folders(folder: Folder, path: Path) -> list[Path]:
    subs = (sub for sub in folder.folders(path) if split_name(sub.name))
    return [file for sub in subs if (file := folder.find(sub, "_annotations.coco.json")) is not None]


def _is_coco(file: Path) -> bool:
    """By the first bytes: a JSON object with one of COCO's keys. An empty file is taken, for `check` to name it."""
    if file.name.startswith(_OTHER):
        return False
    with file.open("rb") as stream:
        head = stream.read(4096)
    if not head:
        return True
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_KEYS.search(head))


def _by_split(files: list[Path]) -> dict[str, Path]:
    """Raises: DataError where two files would be the same split."""
    splits: dict[str, Path] = {}
    for file in files:
        name = file.parent.name if file.name == "_annotations.coco.json" else file.stem
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
    content = _load(file)
    raw = RawSplit(split, dataset.root, "coco", dataset.reason, [], [], source=content)
    labels = _categories(content["categories"], raw, file)
    images = _images(content["images"], raw, file, split)
    _annotations(content["annotations"], raw, file, images, labels)
    _drop_phantom(raw, file)
    return raw


def _load(file: Path) -> dict[str, Any]:
    text = read_text(file)
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
    return content


def _categories(entries: list[dict[str, Any]], raw: RawSplit, file: Path) -> dict[Hashable, int]:
    """Category id -> label, in the order of the ids. Classes of one name get the first one's label."""
    labels: dict[Hashable, int] = {}
    by_name: dict[str, int] = {}
    for entry in entries:
        if not isinstance(entry.get("id"), int) or isinstance(entry["id"], bool):
            raise DataError(f"{file.name}: category {entry} has no integer 'id'; give every category one")
    for entry in sorted(entries, key=lambda entry: entry["id"]):
        category, name = entry["id"], str(entry.get("name", entry["id"]))
        if category in labels:
            raw.report("duplicate_category", file.name, f"id {category} ({name!r}) is declared twice")
        elif name in by_name:
            first = raw.categories[by_name[name]][0]
            raw.report("duplicate_category", file.name, f"{name!r} has the ids {first}, {category}")
            labels[category] = by_name[name]
        else:
            labels[category] = by_name[name] = len(raw.categories)
            raw.categories.append((category, name))
    return labels


def _images(entries: list[dict[str, Any]], raw: RawSplit, file: Path, split: str) -> dict[Hashable, RawImage]:
    """Image id (as written) -> image, for the annotations to find."""
    folder = Folder(raw.root)
    base = _image_folder(folder, file, split, entries)
    by_id: dict[Hashable, RawImage] = {}
    for position, entry in enumerate(entries):
        image_id, name = entry.get("id"), entry.get("file_name")
        where = f"{file.name}, image {image_id!r} ({name})"
        if not isinstance(image_id, (int, str)) or isinstance(image_id, bool) or not isinstance(name, str):
            detail = "expected an integer 'id' and a string 'file_name'"
            raw.report("unreadable_annotation", f"{file.name}, image entry {position}", detail)
            continue
        path = None
        with raw.inside(where):
            path = folder.find(base, name)
            if path is None:
                raw.report("missing_image", where, f"{base / name} does not exist")
        size = stated_size(entry.get("height"), entry.get("width"))
        if size is None:
            raw.report("missing_size", where, f"{entry.get('width')} x {entry.get('height')}")
        number_id = image_id if isinstance(image_id, int) else position + 1
        image = RawImage(number_id, name, path, size, where, source=entry)
        raw.images.append(image)
        if image_id in by_id:
            raw.report("duplicate_image_id", where, f"also the id of {by_id[image_id].name}")
        else:
            by_id[image_id] = image
    return by_id


def _image_folder(folder: Folder, file: Path, split: str, entries: list[dict[str, Any]]) -> Path:
    """The folder that holds most of the first pictures, among those where people put them."""
    root, stem = folder.root, file.stem
    names = [name for entry in entries[:50] if isinstance(name := entry.get("file_name"), str)]
    tokens = dict.fromkeys([stem, stem.split("_")[-1], split, {"val": "valid"}.get(split, split)])
    near = [root / token for token in tokens]
    nested = [root / parent / token for parent in ("images", "Images", "data") for token in tokens]
    plain = [root / "images", root / "Images", root / "JPEGImages", root / "data", root, file.parent]
    beside = [file.parent] if file.name == "_annotations.coco.json" else []

    def present(base: Path) -> int:
        count = 0
        for name in names:
            with suppress(EscapeError):
                count += folder.find(base, name) is not None
        return count

    return max(beside + near + nested + plain, key=present)


def _annotations(
    entries: list[dict[str, Any]],
    raw: RawSplit,
    file: Path,
    images: dict[Hashable, RawImage],
    labels: dict[Hashable, int],
) -> None:
    """Put every annotation's box into its image."""
    seen: set[Hashable] = set()
    for position, entry in enumerate(entries):
        mark = f"annotation {entry.get('id', f'number {position + 1}')}"
        stated = [entry.get(key) for key in ("image_id", "id", "category_id")]
        image_id, annotation_id, category = (value if isinstance(value, (int, str)) else None for value in stated)
        if annotation_id is not None and annotation_id in seen:
            raw.report("duplicate_annotation_id", f"{file.name}, {mark}", "used before")
        seen.add(annotation_id)
        image = images.get(image_id)
        if image is None:
            raw.report("unknown_image", f"{file.name}, {mark}", f"image_id {image_id!r} is not listed")
            continue
        area = number(entry.get("area"))
        area = area if area is not None and 0 < area < math.inf else None
        crowd = entry.get("iscrowd") in (1, True, "1")
        box = RawBox(_box(entry.get("bbox")), labels.get(category, -1), mark, crowd, area, entry)
        if box.label < 0:
            detail = f"category_id {category!r}; declared: {', '.join(str(i) for i, _ in raw.categories[:20])}"
            raw.report("unknown_category", describe(image, box)[0], detail)
        image.boxes.append(box)


def _box(values: object) -> Box | None:
    """[x, y, width, height] -> xyxy."""
    known = numbers(values) if isinstance(values, list) and len(values) == 4 else None
    if known is None:
        return None
    x, y, width, height = known
    return x, y, x + width, y + height


def _drop_phantom(raw: RawSplit, file: Path) -> None:
    """Leave out Roboflow's extra first category: its exports put a class 0 for the whole project above the others,
    which no box has, and which would become a class that is never found."""
    entries = {entry["id"]: entry for entry in raw.source["categories"]}
    if file.name != "_annotations.coco.json" or 0 not in entries or len(entries) < 2:
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
    declared = {(entry["id"], str(entry.get("name", entry["id"]))): entry for entry in kept.get("categories", [])}
    content: dict[str, Any] = {"info": {"description": f"written by headway from {raw.format}"}, "licenses": []}
    content |= {key: value for key, value in kept.items() if key not in ("images", "annotations", "categories")}
    content |= {"images": images, "annotations": annotations}
    content["categories"] = [declared.get((i, name), {"id": i, "name": name}) for i, name in raw.categories]
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{raw.name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _extra(entry: RawImage | RawBox) -> dict[str, Any]:
    return entry.source if isinstance(entry.source, dict) else {}
