"""Validate a data set before training: everything that would stop a run or spoil it, in one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .any_format import find_dataset, join_classes, parse, split_names
from .folder import FoundDataset
from .look import look_at_all
from .problem_kinds import KINDS, Problem
from .raw import RawImage, RawSplit, describe, judge
from .whole_set import judge_set

if TYPE_CHECKING:
    from rich.console import RenderableType

Progress = Callable[[int, int], None]
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


@dataclass(slots=True)
class CheckReport:
    """splits: by name, counts of what was read ("images", "boxes" ...)."""

    root: Path
    format: str
    reason: str
    class_names: tuple[str, ...]
    splits: dict[str, dict[str, int]]
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing that would stop training; there may be warnings."""
        return not any(problem.severity == "error" for problem in self.problems)

    def by_kind(self) -> dict[str, list[Problem]]:
        """Errors first, then warnings, then information."""
        found = defaultdict(list)
        for problem in self.problems:
            found[problem.kind].append(problem)
        severities = list(_COLOURS)
        order = sorted(KINDS, key=lambda kind: severities.index(KINDS[kind].severity))
        return {kind: found[kind] for kind in order if kind in found}

    def to_dict(self) -> dict[str, Any]:
        """For --json: every problem in full."""
        kinds = {
            kind: {
                "severity": KINDS[kind].severity,
                "meaning": KINDS[kind].meaning,
                "count": len(problems),
                "fix": KINDS[kind].fix,
                "problems": [{"where": where, "detail": detail} for _, where, detail in problems],
            }
            for kind, problems in self.by_kind().items()
        }
        return {
            "root": str(self.root),
            "format": self.format,
            "reason": self.reason,
            "ok": self.ok,
            "class_names": list(self.class_names),
            "splits": self.splits,
            "kinds": kinds,
        }

    def table(self) -> RenderableType:
        """The splits, and one row per kind of problem with its count, its first case and what --fix does."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Column, Table

        columns = list(dict.fromkeys(key for counts in self.splits.values() for key in counts))
        numbers = [Column(column.replace("_", " "), justify="right") for column in columns]
        splits = Table("split", *numbers, box=box.SIMPLE_HEAD)
        for name, counts in self.splits.items():
            splits.add_row(escape(name), *(str(counts[column]) for column in columns))
        kinds = Table(box=box.SIMPLE_HEAD)
        for column in ("", "problem", "count", "first case", "--fix"):
            kinds.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
        for kind, problems in self.by_kind().items():
            severity = f"[{_COLOURS[KINDS[kind].severity]}]{KINDS[kind].severity}[/]"
            first = escape(f"{problems[0].where}: {problems[0].detail}")
            kinds.add_row(severity, KINDS[kind].meaning, str(len(problems)), first, KINDS[kind].fix)
        head = f"{self.root}: {self.format}, recognised by {self.reason}; {len(self.class_names)} classes"
        return Group(escape(head), splits, kinds if self.problems else "No problems found.")


def check(
    path: str | Path, *, format: str | None = None, progress: Progress | None = None, workers: int | None = None,
    state: Path | None = None,
) -> CheckReport:  # fmt: skip
    """Everything that is wrong with the data set in a folder, or in a COCO file.

    progress: called with (pictures done, of how many).
    workers: processes that decode the pictures, started anew (a script needs `if __name__ == "__main__"`); None: this
        one. The report is the same. state: a file in which the check goes on after a kill, removed at its end.

    Raises: DataError only if there is no data set to check.
    """
    dataset = find_dataset(path, format)
    raws, problems = read_faulty(dataset)
    total, done = sum(len(raw.images) for raw in raws.values()), 0
    names: tuple[str, ...] = ()
    digests: dict[str, dict[str, RawImage]] = {}
    looks = look_at_all([image for raw in raws.values() for image in raw.images], workers, state)
    for split, raw in raws.items():
        names = names or tuple(name for _, name in raw.categories)
        found = [*raw.problems, *_entries(raw)]
        digests[split] = {}
        for image in raw.images:
            look = next(looks)
            found += look.problems
            if look.digest is not None:
                first = digests[split].setdefault(look.digest, image)
                if first.path != image.path:
                    found.append(Problem("duplicate_image", image.where, f"{image.name} equals {first.name}"))
            found += _boxes(image, image.size or look.size)
            done += 1
            if progress:
                progress(done, total)
        found = list(dict.fromkeys(found + _traits(raw)))  # the parser may have said it already
        problems += [problem._replace(where=f"{split}: {problem.where}") for problem in found]
    next(looks, None)  # its end, which removes the state
    problems += _leakage(raws, digests)
    if len(raws) == len(split_names(dataset)):
        problems += judge_set(Path(path), raws)
    splits = {split: counts(raw) for split, raw in raws.items()}
    return CheckReport(Path(path), dataset.format, dataset.reason, names, splits, problems)


def read_faulty(dataset: FoundDataset) -> tuple[dict[str, RawSplit], list[Problem]]:
    """The splits that can be parsed, and what is wrong with the others or between them."""
    raws, problems = {}, []
    for split in split_names(dataset):
        try:
            raws[split] = parse(dataset, split)
        except DataError as error:
            empty = isinstance(source := dataset.splits[split], Path) and source.stat().st_size == 0
            problems.append(Problem("empty_file" if empty else "unreadable_annotation", split, str(error)))
    try:
        join_classes(raws)
    except DataError as error:
        problems.append(Problem("split_mismatch", ", ".join(raws), str(error)))
    return raws, problems


def _entries(raw: RawSplit) -> list[Problem]:
    """Files that are listed more than once under different ids."""
    first: dict[Path, RawImage] = {}
    problems = []
    for image in raw.images:
        if image.path is None:
            continue
        other = first.setdefault(image.path, image)
        if other is not image and other.image_id != image.image_id:
            problems.append(Problem("duplicate_entry", image.where, f"{image.name} is listed before: {other.where}"))
    return problems


def _boxes(image: RawImage, size: tuple[int, int] | None) -> list[Problem]:
    """size: (height, width), None for a picture that is not there or cannot be read, which is reported."""
    problems = []
    seen = set()
    for box in image.boxes:
        kind = judge(box.box, size)[1] if size else None
        if kind:
            problems.append(Problem(kind, *describe(image, box)))
        key = (box.label, box.box)
        if key in seen and box.box is not None:
            problems.append(Problem("duplicate_box", *describe(image, box)))
        seen.add(key)
    return problems


def _traits(raw: RawSplit) -> list[Problem]:
    """What holds for a split as a whole: without images it is refused, the rest is good to know."""
    if not raw.images:
        return [Problem("no_images", "images", "the list is empty; expected at least one")]
    without = [image for image in raw.images if image.size and not image.boxes]
    problems = []
    for image in without:
        kind = "no_label_file" if raw.format not in ("coco", "tar") and image.source is None else "no_boxes"
        problems.append(Problem(kind, image.where, f"{image.name} has none"))
    problems += [Problem("crowd", *describe(image, box)) for image, box in raw.boxes if box.crowd]
    used = {box.label for _, box in raw.boxes}
    unused = [name for label, (_, name) in enumerate(raw.categories) if label not in used]
    return problems + [Problem("unused_class", "classes", repr(name)) for name in unused]


def _leakage(raws: dict[str, RawSplit], digests: dict[str, dict[str, RawImage]]) -> list[Problem]:
    """Pictures of one split that an earlier one has, by their bytes, or else by their name."""
    problems = []
    splits = list(raws)
    for i, earlier in enumerate(splits):
        names = {image.path.name: image for image in raws[earlier].images if image.path is not None}
        for later in splits[i + 1 :]:
            same = {image.path: digests[earlier][d] for d, image in digests[later].items() if d in digests[earlier]}
            for image in raws[later].images:
                if image.path is None:
                    continue
                where = f"{later}: {image.where}"
                if other := same.get(image.path):
                    problems.append(Problem("leakage", where, f"same bytes as {other.name} in {earlier}"))
                elif image.path.name in names:
                    problems.append(Problem("leakage", where, f"{image.path.name} is also a name in {earlier}"))
    return problems


def counts(raw: RawSplit) -> dict[str, int]:
    return {
        "images": len(raw.images),
        "boxes": len(list(raw.boxes)),
        "without_boxes": sum(not image.boxes for image in raw.images),
        "crowd": sum(box.crowd for _, box in raw.boxes),
    }
