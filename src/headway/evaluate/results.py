"""Detections in a file, `predictions.json` of `headway predict` or COCO results of any tool, against a data set."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.dataset import DetectionData
from ..errors import DataError, HeadwayError

log = logging.getLogger("headway")


def read_results(path: str | Path, data: DetectionData) -> list[dict[str, Any]]:
    """COCO result rows with the ids of `data`.

    path: a JSON list of rows, or the object that `headway predict --json` prints. Rows that name their picture
        (`file_name`) and class (`category_name`) are matched by those names, whatever their ids; others by their ids.
    Rows of pictures and classes that `data` does not have are left out, and counted in a notice.

    Raises: DataError for a file that holds no such rows; HeadwayError when none of its pictures is in `data`, and for
        a name that several pictures have.
    """
    rows = read_rows(Path(path))
    named = are_named(rows, "file_name")
    images = _images_of([row["file_name"] for row in rows], data) if named else [row.get("image_id") for row in rows]
    known = {record.image_id for record in data.records}
    by_text = {str(number): number for number in known}
    images = [image if image in known else by_text.get(str(image), image) for image in images]
    classes = dict(zip(data.class_names, data.category_ids))
    by_name = are_named(rows, "category_name")
    labels = [classes.get(row["category_name"]) if by_name else row.get("category_id") for row in rows]
    kept = [
        {**row, "image_id": image, "category_id": label}
        for row, image, label in zip(rows, images, labels)
        if image in known and not (by_name and label is None)
    ]
    if rows and not any(image in known for image in images):
        first = rows[0].get("file_name", rows[0].get("image_id"))
        raise HeadwayError(
            f"no picture of {path} is in {data.name!r} of {data.root} (the first is {first!r}): name the data set and "
            "--split that the detections were made on"
        )
    if len(kept) < len(rows):
        log.info("%d of %d detections are of other pictures or classes and left out", len(rows) - len(kept), len(rows))
    return kept


def read_rows(path: Path) -> list[dict[str, Any]]:
    expected = "expected a JSON list of COCO results, as predictions.json of `headway predict`"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {expected}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); {expected}") from None
    rows = content.get("predictions") if isinstance(content, Mapping) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no detections; {expected}")
    for i, row in enumerate(rows):
        if odd := [key for key in ("image_id", "category_id") if isinstance(row.get(key), (list, dict))]:
            raise DataError(f"{path}, row {i}: {odd[0]} is {str(row[odd[0]])[:80]}, not a number or text; {expected}")
    return rows


def are_named(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return bool(rows) and all(isinstance(row.get(key), str) for row in rows)


def _images_of(names: Sequence[str], data: DetectionData) -> list[Any]:
    """For each name of a file the id of the picture whose path shares the longest end with it, or None.

    Of several names that would be one picture, it is the one that shares most with it: of train/1.jpg and val/1.jpg the
    second, where `data` has only val/1.jpg. Raises: HeadwayError when that does not tell.
    """
    pictures: dict[str, list[tuple[list[str], Any]]] = {}
    for record in data.records:
        parts = _parts(str(record.path))
        pictures.setdefault(parts[0], []).append((parts, record.image_id))
    found: dict[str, Any] = {}
    claims: dict[Any, list[tuple[int, str]]] = {}
    for name in dict.fromkeys(names):
        wanted = _parts(name)
        shared = [(_common(wanted, parts), image) for parts, image in pictures.get(wanted[0], [])]
        longest = [image for count, image in shared if count == max(both[0] for both in shared)]
        if len(longest) > 1:
            raise HeadwayError(
                f"{len(longest)} pictures of {data.name!r} may be {name}: give file_name with the folders of each"
            )
        found[name] = longest[0] if longest else None
        if longest:
            claims.setdefault(longest[0], []).append((max(count for count, _ in shared), name))
    for its in claims.values():
        best = [name for count, name in its if count == max(its)[0]]
        if len({os.path.normpath(name) for name in best}) > 1:
            raise HeadwayError(
                f"{best[0]} and {best[1]} may both be one picture of {data.name!r}: leave one of them out, or give "
                "file_name as the data set has it"
            )
        found.update((name, None) for count, name in its if name not in best)
    return [found[name] for name in names]


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")[::-1]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many entries the two have in common from the start."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count
