"""Boxes of large COCO files as arrays, block by block: clipped to their pictures, without those that cannot be used."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..columns import Columns, Growing, by_picture
from .problem_kinds import KINDS
from .raw import ROUNDING

Array = NDArray[Any]
_IDS = ("id", "image_id", "category_id")
_SHARE = 0.1  # of the boxes that may be left out or reach outside here
_ODD = ("", "box_empty", "box_off_image", "box_outside")


class NotPlainError(Exception):
    """The file has something that `coco.parse` has to look at; what."""


def expect(plain: Any, reason: str = "it is not plain COCO JSON") -> None:
    """Raises: NotPlainError."""
    if not plain:
        raise NotPlainError(reason)


class RawBoxes(NamedTuple):
    """Annotations as they are stated, a row each. xywh: [K, 4] float64; areas: 0 where there is none."""

    ids: Array
    images: Array
    categories: Array
    crowd: Array
    xywh: Array
    areas: Array


def whole_numbers(values: Sequence[Any]) -> array[int]:
    """Raises: NotPlainError for what is no integer, such as a boolean; OverflowError."""
    expect({*map(type, values)} <= {int}, "an id or a picture's side is no whole number")
    return array("q", values)


def raw_boxes(entries: Sequence[dict[str, Any]]) -> RawBoxes:
    """Raises: NotPlainError, KeyError, TypeError or ValueError for an entry of another form."""
    areas = [entry.get("area") for entry in entries]
    crowd = [entry.get("iscrowd", 0) for entry in entries]
    boxes = [entry["bbox"] for entry in entries]
    plain = not any("attributes" in entry or "track_id" in entry or "instance_id" in entry for entry in entries)
    expect(plain, "annotations have attributes or identities")
    expect(
        {*map(type, crowd)} <= {int} and {*map(type, areas)} <= {int, float, type(None)},
        "an iscrowd or area is no number",
    )
    four = {*map(len, boxes)} == {4} and {*map(type, chain.from_iterable(boxes))} <= {int, float}
    expect(four, "a bbox is not four numbers")
    ids, images, categories = (
        np.frombuffer(whole_numbers([entry[key] for entry in entries]), np.int64) for key in _IDS
    )
    values = array("d")
    for box in boxes:
        values.extend(box)
    xywh = np.frombuffer(values).reshape(-1, 4)
    return RawBoxes(
        ids, images, categories, np.array(crowd, np.int64) == 1, xywh, np.array([area or 0.0 for area in areas], float)
    )


class Numbers:
    """The number of an id among known ones."""

    def __init__(self, known: Array, kind: str) -> None:
        expect(len(known), f"there is no {kind}")
        self._order, self._kind = np.argsort(known, kind="stable"), kind
        self._known = known[self._order]
        twice = self._known[1:][self._known[1:] == self._known[:-1]]
        expect(not len(twice), f"several have the {kind} {twice[:1].tolist()}")

    def of(self, wanted: Array) -> Array:
        """Raises: NotPlainError for an id that is not known."""
        places = np.searchsorted(self._known, wanted).clip(max=len(self._known) - 1)
        odd = wanted[self._known[places] != wanted]
        expect(not len(odd), f"annotations state the {self._kind} {odd[:1].tolist()}, which is not listed")
        found: Array = self._order[places]
        return found


class BoxColumns:
    """Boxes of the images `ids` [N] with `sizes` [N, 2] (height, width)."""

    def __init__(self, ids: Array, sizes: Array) -> None:
        self._images, self._sizes = Numbers(ids, "image id"), sizes
        self._kept: dict[str, Growing] = {}
        self._odd: list[Array] = []  # rows of kind, image, row, annotation, category, whether crowd
        self._counted: dict[int, int] = defaultdict(int)  # boxes of a category, without crowd regions
        self._count, self._top, self._no_corners = 0, 0.0, False

    def add(self, raw: RawBoxes) -> None:
        """Raises: NotPlainError."""
        xywh, image = raw.xywh, self._images.of(raw.images)
        expect(np.isfinite(xywh).all() and np.isfinite(raw.areas).all(), "a box or area is NaN or infinite")
        expect((xywh != 0).any(1).all(), "an annotation has no box")
        limit = self._sizes[image][:, ::-1].astype(np.float64)
        low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
        expect((high >= low).all(), "a box has a width or height below 0")
        boxes = np.concatenate([np.clip(low, 0, None), np.minimum(high, limit)], 1)
        empty = (high == low).any(1)
        off = ~empty & (boxes[:, 2:] <= boxes[:, :2]).any(1)
        outside = ~empty & ~off & (np.maximum(-low, high - limit).max(1) > ROUNDING)
        keep = ~(empty | off)
        areas = np.where(raw.areas > 0, raw.areas, (boxes[:, 2:] - boxes[:, :2]).prod(1))
        values = {"image": image.astype(np.int32), "boxes": boxes.astype(np.float32), "labels": raw.categories}
        for name, column in (values | {"crowd": raw.crowd, "areas": areas.astype(np.float32)}).items():
            self._put(name, column[keep])
        kinds = np.select([empty, off, outside], [1, 2, 3])
        odd, row = np.flatnonzero(kinds), self._count + np.arange(len(kinds))
        self._odd.append(np.stack([kinds, image, row, raw.ids, raw.categories, raw.crowd], 1)[odd])
        self._put("ids", raw.ids)
        for category, number in zip(*np.unique(raw.categories[~raw.crowd], return_counts=True)):
            self._counted[int(category)] += int(number)
        self._count += len(xywh)
        self._top = max(self._top, float(xywh.max()))
        self._no_corners |= bool((xywh[:, 2:] < xywh[:, :2]).any())

    def _put(self, name: str, values: Array) -> None:
        self._kept.setdefault(name, Growing(values)).extend(values)

    def finish(self, count: int, category_ids: Sequence[int]) -> dict[str, Array]:
        """The arrays of `Columns` for `count` images. Raises: NotPlainError."""
        expect(self._count, "there are no annotations")
        pixels = self._top > 2 and self._no_corners
        expect(pixels, "the boxes may not be pixels as x, y, width, height")
        ids = self._kept.pop("ids").rows
        expect((ids[1:] > ids[:-1]).all() or len(np.unique(ids)) == len(ids), "two annotations have one id")
        del ids
        odd = np.concatenate(self._odd)
        expect(
            len(odd) <= _SHARE * self._count,
            f"{len(odd)} of {self._count} boxes are empty or reach out of their pictures",
        )
        dropped = odd[(odd[:, 0] < 3) & (odd[:, 5] == 0), 4]
        for category, lost in zip(*np.unique(dropped, return_counts=True)):
            expect(lost <= _SHARE * self._counted[int(category)], f"many boxes of category {category} are empty or off")
        rows = {name: column.rows for name, column in self._kept.items()}
        self._kept.clear()
        labels = Numbers(np.array(category_ids, np.int64), "category id").of(rows.pop("labels")).astype(np.int32)
        image, alone = rows.pop("image"), {"labels": [labels]}
        alone |= {name: [rows.pop(name)] for name in [*rows]}
        del labels
        return by_picture(image, count, alone)

    def notes(self, columns: Columns, name: str) -> list[str]:
        """On boxes that were left out or clipped, as `raw.to_data` has them. name: of the file."""
        odd = np.concatenate(self._odd)
        found: dict[int, list[Any]] = {}
        for kind, image, _, annotation, *_ in odd[np.lexsort((odd[:, 2], odd[:, 1]))].tolist():
            found.setdefault(kind, [0, image, annotation])[0] += 1
        notes = []
        for kind, (count, image, annotation) in found.items():
            where = f"{name}, image {columns.store['ids'][image]} ({columns.name(image)}), annotation {annotation}"
            notes.append(f"{count} x {KINDS[_ODD[kind]].meaning}, first in {where}")
        return notes
