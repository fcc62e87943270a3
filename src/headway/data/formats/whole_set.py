"""What only all splits together show: pictures that none of them lists, and that none has a box, and alike names."""

from collections.abc import Mapping
from pathlib import Path

from .folder import Folder
from .problem_kinds import KINDS, Problem
from .raw import RawSplit


def judge_set(path: Path, splits: Mapping[str, RawSplit]) -> list[Problem]:
    """Problems of the data set at `path`, where every split of it could be parsed."""
    images = [image for raw in splits.values() for image in raw.images]
    readable = bool(images) and all(image.size for image in images)  # YOLO's boxes have no place in a broken picture
    boxless = readable and not any(image.boxes for image in images)
    problems = []
    if boxless and not _has_cause(splits):
        detail = "expected boxes in one picture at least; annotate some, or export again with the annotations"
        problems.append(Problem("boxless_set", ", ".join(splits), detail))
    if path.is_dir() and not _has_cause(splits):
        problems += _unlisted(path, splits)
    return problems + _similar(splits)


def _similar(splits: Mapping[str, RawSplit]) -> list[Problem]:
    """Class names that are one but for upper and lower case."""
    spellings: dict[str, dict[str, None]] = {}
    for raw in splits.values():
        for _, name in raw.categories:
            spellings.setdefault(name.casefold(), {})[name] = None
    return [Problem("similar_classes", "classes", ", ".join(map(repr, s))) for s in spellings.values() if len(s) > 1]


def _has_cause(splits: Mapping[str, RawSplit]) -> bool:
    """Whether entries were left out for a fault, which is told."""
    return any(KINDS[problem.kind].refused for raw in splits.values() for problem in raw.problems)


def _unlisted(root: Path, splits: Mapping[str, RawSplit]) -> list[Problem]:
    """A problem for every folder with pictures of a split and others that no split lists."""
    listed = {image.path for raw in splits.values() for image in raw.images if image.path is not None}
    known = {path.resolve() for path in listed}
    folder = Folder(root)
    problems = []
    for base in sorted({path.parent for path in listed}):
        all_files = folder.files(base)
        files = [file for file in all_files if file not in listed and file.resolve() not in known]
        if files:
            place = base.relative_to(root).as_posix() if base.is_relative_to(root) else str(base)
            detail = (
                f"{len(files)} of {len(all_files)} pictures, first {files[0].name}, have no annotation; "
                "annotate them, or list them without boxes"
            )
            problems.append(Problem("no_split", place, detail))
    return problems
