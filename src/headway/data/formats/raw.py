"""A data set as its files state it, faults included: what the three formats are parsed into and written from.

`to_data` turns it into clean records or refuses; `check` lists its problems; `fix` mends it and writes it back.
"""

import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..dataset import DetectionData, Record
from ..image import image_header, image_size
from ..tar import InTar
from .folder import EscapeError, TwinError
from .problem_kinds import KINDS, Problem

ROUNDING = 0.5  # pixels by which a box may reach outside before it is reported; it is clipped all the same

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class RawBox:
    """One annotated box.

    box: xyxy pixels, None where the file holds no four numbers; label: index into the split's categories, -1 unknown.
    mark: annotation id, object number or line, for messages. area: None where not annotated.
    source: the format's own entry, so that a cleaned copy keeps what is not read here.
    identity: which object it is, among those of one video; None where the file does not say.
    """

    box: Box | None
    label: int
    mark: object
    crowd: bool = False
    area: float | None = None
    source: Any = None
    identity: int | None = None


@dataclass(slots=True)
class RawImage:
    """One image entry. name: as the file states it; path: None where it is missing; size: stated (height, width);
    content: of a picture in a tar shard, of which `path` is the name."""

    image_id: int
    name: str
    path: Path | None
    size: tuple[int, int] | None
    where: str
    boxes: list[RawBox] = field(default_factory=list)
    source: Any = None
    content: InTar | None = None


@dataclass(slots=True)
class RawSplit:
    """categories: (the data set's own id, name) by label. problems: those that parsing found. repeated: of names that
    several classes had, all their ids."""

    name: str
    root: Path
    format: str
    reason: str
    images: list[RawImage]
    categories: list[tuple[int, str]]
    problems: list[Problem] = field(default_factory=list)
    source: Any = None
    repeated: dict[str, list[int]] = field(default_factory=dict)

    def report(self, kind: str, where: str, detail: str) -> None:
        self.problems.append(Problem(kind, where, detail))

    @contextmanager
    def inside(self, where: str) -> Iterator[None]:
        """Makes a problem of a name that leaves the data folder, or that several files have, and leaves the block."""
        try:
            yield
        except EscapeError as error:
            self.report("path_escape", where, str(error))
        except TwinError as error:
            self.report("ambiguous_image", where, str(error))

    @property
    def boxes(self) -> Iterator[tuple[RawImage, RawBox]]:
        """Every box, behind its image."""
        return ((image, box) for image in self.images for box in image.boxes)


def size_of(path: Path | None) -> tuple[int, int] | None:
    """(height, width) of a picture by its header; None where it is missing or damaged, which `check` reports."""
    with suppress(DataError):
        return None if path is None else image_size(path)
    return None


def judge(box: Box | None, size: tuple[int, int]) -> tuple[Box | None, str | None]:
    """(the box clipped to (height, width), or None if it must be dropped; the kind of problem, or None)."""
    if box is None:
        return None, "box_malformed"
    if not all(map(math.isfinite, box)):
        return None, "box_not_finite"
    x1, y1, x2, y2 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    if x2 == x1 or y2 == y1:
        return None, "box_empty"
    height, width = size
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, "box_off_image"
    if box != (x1, y1, x2, y2):
        return clipped, "box_inverted"
    return clipped, "box_outside" if max(-x1, -y1, x2 - width, y2 - height) > ROUNDING else None


def box_around(cx: float, cy: float, width: float, height: float, angle: float) -> Box:
    """The upright box around one that is turned by `angle` (radians) about its centre."""
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_width, half_height = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


def drop_repeated(raw: RawSplit, where: str) -> None:
    """Of classes of one name keep the one that has boxes, or the last where none has: exports put the name of a whole
    project above its classes, which may have the name of one. Of several with boxes the first takes all, an error."""
    used = {box.label for _, box in raw.boxes}
    by_name: dict[str, list[int]] = {}
    for label, (_, name) in enumerate(raw.categories):
        by_name.setdefault(name, []).append(label)
    kept = {}
    for name, same in by_name.items():
        with_boxes = [label for label in same if label in used] or same[-1:]
        kept[with_boxes[0]] = set(with_boxes)
        ids = [raw.categories[label][0] for label in same]
        if len(same) > 1:
            raw.repeated[name] = ids
        if len(with_boxes) > 1:
            raw.report("duplicate_category", where, f"{name!r} has the ids {', '.join(map(str, ids))}")
        elif len(same) > 1:
            first = raw.categories[with_boxes[0]][0]
            raw.report("repeated_class", where, f"{name!r} has the ids {', '.join(map(str, ids))}; {first} is read")
    if len(kept) < len(raw.categories):
        order = sorted(kept)
        new = {label: order.index(first) for first, same in kept.items() for label in same}
        raw.categories = [raw.categories[label] for label in order]
        for _, box in raw.boxes:
            box.label = new.get(box.label, -1)


def describe(image: RawImage, box: RawBox) -> tuple[str, str]:
    """(where, detail) of a box, for a Problem."""
    values = "not four numbers" if box.box is None else "(" + ", ".join(f"{v:g}" for v in box.box) + ")"
    size = f" in {image.size[1]}x{image.size[0]}" if image.size else ""
    return f"{image.where}, {box.mark}", f"{values}{size}"


def turned(image: RawImage, turn: int) -> Problem:
    """A picture that EXIF turns, where nothing in its labels says on which of the two their boxes were drawn."""
    return Problem("turned_picture", image.where, f"{image.name} has EXIF orientation {turn}")


def to_data(raw: RawSplit) -> DetectionData:
    """Records of a split. Boxes that cannot be used are dropped, those that reach outside clipped; both are counted in
    `notes` and logged once.

    Raises: DataError for the first problem that a user has to decide on (see `problems.KINDS`).
    """
    kinds = list(KINDS)
    order = sorted(raw.problems, key=lambda problem: kinds.index(problem.kind))  # what explains the rest comes first
    if refused := [problem for problem in order if KINDS[problem.kind].refused]:
        more = f" (and {len(refused) - 1} more problems)" if len(refused) > 1 else ""
        copy = "" if refused[0].kind == "boxes_lost" else ", and with --fix it writes a clean copy"
        if refused[0].kind == "missing_image" and all(image.path is None for image in raw.images):
            more = ", nor does any other: export again with the pictures, or copy them into the folder"
        raise DataError(f"{refused[0]}{more}; `headway data check {raw.root}` lists all of them{copy}")
    found: dict[str, list[str]] = defaultdict(list)
    for problem in raw.problems:
        found[problem.kind].append(problem.where)
    named = any(box.identity is not None for _, box in raw.boxes)
    numbers: dict[tuple[object, object], int] | None = {} if named else None
    records = [to_record(image, found, numbers) for image in raw.images if image.path is not None]
    if not records:
        raise DataError(
            f"split {raw.name!r} of {raw.root} ({raw.format}) has no images; expected at least one: see "
            f"`headway data check {raw.root}`"
        )
    notes = [f"{len(where)} x {KINDS[kind].meaning}, first in {where[0]}" for kind, where in found.items()]
    for note in notes:
        logging.getLogger("headway").warning("%s, split %s: %s", raw.root, raw.name, note)
    names = tuple(name for _, name in raw.categories)
    ids = tuple(category_id for category_id, _ in raw.categories)
    return DetectionData(raw.name, raw.root, raw.format, records, names, ids, raw.reason, notes)


def to_record(
    image: RawImage, found: dict[str, list[str]], numbers: dict[tuple[object, object], int] | None = None
) -> Record:
    """Usable boxes of a picture. found: gets the place of each that is dropped or clipped, by kind.

    numbers: of the identities of the split so far, by video and identity; None where no box has one.
    Raises: DataError for a picture without a stated size that cannot be read.
    """
    assert image.path is not None
    video = image.source.get("video_id") if isinstance(image.source, dict) else None
    size = image.size or image_header(image.path, data=None if image.content is None else image.content())[0]
    boxes, labels, crowd, areas, ids = [], [], [], [], []
    for raw in image.boxes:
        box, kind = judge(raw.box, size)
        if kind:
            found[kind].append(describe(image, raw)[0])
        if box is None:
            continue
        boxes.append(box)
        labels.append(raw.label)
        crowd.append(raw.crowd)
        areas.append(raw.area or (box[2] - box[0]) * (box[3] - box[1]))
        if numbers is not None:
            key = (image.image_id, raw.mark) if raw.identity is None else (("video", video), raw.identity)
            ids.append(numbers.setdefault(key, len(numbers)))
    return Record(
        image.image_id,
        image.path,
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(crowd, np.bool_),
        np.array(areas, np.float32),
        ids=None if numbers is None else np.array(ids, np.int64),
    )


def from_data(data: DetectionData) -> RawSplit:
    """The inverse of `to_data`, for the writers. Raises: DataError for a picture that is in no file."""
    images = []
    for record in data.records:
        if record.source is not None:
            raise DataError(
                f"{record.path} is in no file, and only files are copied; save it and state its path instead"
            )
        columns = (record.boxes, record.labels, record.crowd, record.areas)
        ids = [None] * len(record.boxes) if record.ids is None else record.ids.tolist()
        boxes = [
            RawBox(tuple(box), label, i, crowd, area, identity=identity)
            for i, (box, label, crowd, area, identity) in enumerate(zip(*(c.tolist() for c in columns), ids))
        ]
        size = record.size or record.header()[0]
        image = RawImage(record.image_id, record.path.name, record.path, size, str(record.path), boxes)
        image.content = record.content
        images.append(image)
    categories = list(zip(data.category_ids, data.class_names))
    return RawSplit(data.name, data.root, data.format, data.reason, images, categories)


def copy_images(images: Sequence[RawImage], folder: Path, *, hardlink: bool = False) -> list[str]:
    """Copy every picture into `folder`, beside what is there; the names given to them, unique even without their suffix
    and whatever the case.

    hardlink: share the bytes with the original where the file system can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = unique_names(images, folder.iterdir())
    for image, name in zip(images, names):
        assert image.path is not None
        if image.content is None:
            _copy(image.path, folder / name, hardlink)
        else:
            (folder / name).write_bytes(image.content())
    return names


def unique_names(images: Sequence[RawImage], there: Iterable[Path] = ()) -> list[str]:
    """The names that pictures get in a folder that holds the files `there`: their own where they can."""
    taken = {path.stem.lower() for path in there}
    return [_unique(image, taken) for image in images]


def _unique(image: RawImage, taken: set[str]) -> str:
    assert image.path is not None
    stem = _text(image.path.stem)
    if stem.lower() in taken:  # a/1.jpg and b/1.jpg
        stem = f"{_text(image.path.parent.name)}_{stem}"
    plain, count = stem, 2
    while stem.lower() in taken:
        stem, count = f"{plain}_{count}", count + 1
    taken.add(stem.lower())
    return stem + image.path.suffix


def _text(name: str) -> str:
    """A file name that is not UTF-8, without what no annotation file holds."""
    return "".join("_" if "\ud800" <= character <= "\udfff" else character for character in name)


def _copy(source: Path, target: Path, hardlink: bool) -> None:
    if hardlink:
        try:
            os.link(source.resolve(), target)  # of a link the file
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)
