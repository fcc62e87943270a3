"""What `headway data check` says, by picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ..data.formats.any_format import find_dataset
from ..data.formats.check import Progress, check, read_faulty
from ..data.formats.problem_kinds import KINDS


class Finding(NamedTuple):
    """One problem of a picture. kind: of `problem_kinds.KINDS`."""

    kind: str
    detail: str


class Checked(NamedTuple):
    """by_picture: (split, path of the picture) -> its problems. other: how many are of no picture that is there."""

    by_picture: dict[tuple[str, Path], list[Finding]]
    other: int


def check_by_picture(path: str | Path, format: str | None = None, progress: Progress | None = None) -> Checked:
    """The problems of a data set in a folder or a COCO file, those of a picture or its boxes under that picture."""
    report = check(path, format=format, progress=progress)
    raws, _ = read_faulty(find_dataset(path, format))
    pictures: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for split, raw in raws.items():
        for image in raw.images:
            if image.path is not None:
                pictures[f"{split}: {image.where}"].append((split, image.path))
    found: dict[tuple[str, Path], list[Finding]] = defaultdict(list)
    other = 0
    for problem in report.problems:
        where = problem.where
        while where not in pictures and ", " in where:  # behind it the box, as in "images/a.jpg, line 3"
            where = where.rpartition(", ")[0]
        box = problem.where[len(where) :].lstrip(", ")
        finding = Finding(problem.kind, f"{box}: {problem.detail}" if box else problem.detail)
        for picture in pictures.get(where, ()):
            found[picture].append(finding)
        other += where not in pictures
    return Checked(dict(found), other)


def meanings() -> dict[str, tuple[str, str]]:
    """kind -> (severity, meaning)."""
    return {name: (kind.severity, kind.meaning) for name, kind in KINDS.items()}
