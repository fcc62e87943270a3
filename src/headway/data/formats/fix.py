"""Write a cleaned copy of a data set in its own format; the original is only read."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import DataError
from ..image import image_header
from .any_format import find_dataset, join_classes, write_raw
from .check import counts, read_faulty
from .look import digest_of, inspect_image
from .raw import Box, RawImage, RawSplit, judge

_SAME_SHAPE = 0.01  # by how much two width to height ratios may differ for a picture to count as scaled


@dataclass(slots=True)
class FixReport:
    """What is in the copy: by split, images and boxes (kept, left out)."""

    out: Path
    format: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: dict[str, tuple[int, int]] = field(default_factory=dict)


def fix(
    path: str | Path, out: str | Path, *, format: str | None = None, progress: Callable[[int, int], None] | None = None
) -> FixReport:
    """Clean the data set at `path` into the new folder `out`, as `problems.KINDS` says for each kind.

    Raises: DataError: no data set, splits of different classes, nothing left, or `out` is not a new or empty folder, or
        lies inside the data set.
    """
    out = Path(out)
    dataset = find_dataset(path, format)
    if dataset.format == "tar":
        raise DataError(
            f"{path} is tar shards, which are not mended: headway data convert --to coco writes files, which are"
        )
    if out.resolve().is_relative_to(dataset.root.resolve()):
        raise DataError(f"{out} lies inside the data set {dataset.root}; name one outside, the original stays as is")
    raws, problems = read_faulty(dataset)
    for problem in problems:
        if problem.kind == "split_mismatch":
            raise DataError(f"{problem}; this is yours to decide")
        logging.getLogger("headway").warning("split %s is left out of the copy: %s", problem.where, problem.detail)
    for split, raw in raws.items():
        for problem in raw.problems:
            if problem.kind == "two_readings":
                raise DataError(f"split {split!r}: {problem}; this is yours to decide")
    report = FixReport(out, dataset.format)
    total, done = sum(len(raw.images) for raw in raws.values()), 0
    for raw in raws.values():
        _merge_classes(raw)
    join_classes(raws)
    for split, raw in raws.items():
        before = counts(raw)
        kept = []
        digests: set[str] = set()
        for image in _mend_entries(raw.images):
            if _mend_image(image, digests):
                kept.append(image)
            done += 1
            if progress:
                progress(done, total)
        raw.images = kept
        after = counts(raw)
        if lost := _all_lost(raw, before["boxes"], after["boxes"]):
            raise DataError(
                f"no box of split {split!r} is left after cleaning: {lost}; correct its cause, no copy is written"
            )
        for part, shown in (("images", report.images), ("boxes", report.boxes)):
            shown[split] = after[part], before[part] - after[part]
    raws = {split: raw for split, raw in raws.items() if raw.images}
    if not raws:
        raise DataError(f"nothing of {path} is left after cleaning; see `headway data check {path}`")
    write_raw(raws, out, dataset.format)
    return report


def _all_lost(raw: RawSplit, before: int, after: int) -> str:
    """Why a split that should have boxes has none left, or ""."""
    if after or not raw.images:
        return ""
    kinds = ("boxes_lost", "no_labels", "unreadable_annotation")
    causes = [str(problem) for problem in raw.problems if problem.kind in kinds]
    return causes[0] if causes else "all of them are unusable" if before else ""


def _merge_classes(raw: RawSplit) -> None:
    """One class for every name, the first."""
    new: dict[int, int] = {}
    first: dict[str, int] = {}
    categories: list[tuple[int, str]] = []
    for label, (category_id, name) in enumerate(raw.categories):
        if name not in first:
            first[name] = len(categories)
            categories.append((category_id, name))
        new[label] = first[name]
    raw.categories = categories
    for _, box in raw.boxes:
        box.label = new.get(box.label, -1)


def _mend_entries(images: list[RawImage]) -> list[RawImage]:
    """One entry for each file and each id. Of an id that two files share none is kept: nobody knows
    whose its boxes are."""
    files: dict[int, set[Path]] = {}
    for image in images:
        if image.path is not None:
            files.setdefault(image.image_id, set()).add(image.path)
    kept: dict[Path, RawImage] = {}
    for image in images:
        if image.path is None or len(files[image.image_id]) > 1:
            continue
        if image.path in kept:
            kept[image.path].boxes += image.boxes
        else:
            kept[image.path] = image
    return list(kept.values())


def _mend_image(image: RawImage, digests: set[str]) -> bool:
    """Make size and boxes right in place; False if the image must be left out."""
    assert image.path is not None
    size, problems = inspect_image(image)
    digest = digest_of(image.path)
    if size is None or digest in digests:
        return False
    digests.add(str(digest))
    if problems and not _mend_size(image, size):
        return False
    image.size = size
    seen = set()
    boxes = []
    for box in image.boxes:
        clipped, _ = judge(box.box, size)
        if clipped is None or box.label < 0 or (box.label, clipped) in seen:
            continue
        seen.add((box.label, clipped))
        if clipped != box.box:
            box.area = None if box.area is None else min(box.area, _area(clipped))
            box.box = clipped
        boxes.append(box)
    image.boxes = boxes
    return True


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mend_size(image: RawImage, size: tuple[int, int]) -> bool:
    """Move the boxes from the stated (height, width) to the upright picture's; False where nothing explains the two."""
    assert image.size is not None
    assert image.path is not None
    height, width = image.size
    _, turn = image_header(image.path)
    if image.size == size[::-1] and turn in (5, 6, 7, 8):
        _move(image, lambda box: _upright(box, turn, height, width), 1.0)
        return True
    scale_x, scale_y = size[1] / width, size[0] / height
    if abs(scale_x / scale_y - 1) > _SAME_SHAPE:
        return False
    _move(
        image, lambda box: (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y), scale_x * scale_y
    )
    return True


def _move(image: RawImage, move: Callable[[Box], Box], area_scale: float) -> None:
    """Polygons and key points of COCO do not move along, so they are left out."""
    for box in image.boxes:
        if box.box is not None:
            box.box = move(box.box)
        if box.area is not None:
            box.area *= area_scale
        if isinstance(box.source, dict):
            lost = ("segmentation", "keypoints", "num_keypoints")
            box.source = {key: value for key, value in box.source.items() if key not in lost}


def _upright(box: Box, turn: int, height: int, width: int) -> Box:
    """A box of the stored picture (height, width) in the upright one, for EXIF orientations 5 to 8 (CIPA DC-008)."""
    x1, y1, x2, y2 = box
    if turn in (6, 7):  # the rows, from the bottom up, become the columns
        y1, y2 = height - y2, height - y1
    if turn in (7, 8):  # the columns, from the right on, become the rows
        x1, x2 = width - x2, width - x1
    return y1, x1, y2, x2
