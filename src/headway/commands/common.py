"""What the verbs share: printing results, finding checkpoints, refusing to overwrite."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import HeadwayError
from ..resolve import find_checkpoint as find_checkpoint
from ..resolve import load_model as load_model
from ..resolve import resolve_model as resolve_model

if TYPE_CHECKING:
    import torch

    from ..data.dataset import DetectionData
    from ..detector import Detector

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
Format = Literal["coco", "voc", "yolo"]


class UsageError(HeadwayError):
    """A command that cannot be meant; the command line exits with 2."""


def say(text: str) -> None:
    """One line of the log."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Part of the result."""
    print(text, flush=True)


def show_json(value: Any) -> None:
    """The result as JSON; a path becomes its text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str), flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Aligned columns. right: the numbers of those that are aligned to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def count_label(data: DetectionData, label: int) -> int:
    """Boxes of one class."""
    return sum(int((record.labels == label).sum()) for record in data.records)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; gives a function to call with (done, of how many)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def load_checkpoint(name: Path | str, device: str = "cpu") -> Detector:
    """A checkpoint, a run folder, or a published checkpoint by its tag, fetched if not cached; in eval mode."""
    return load_model(name, device)


def is_path(name: str) -> bool:
    """Whether a first argument means a file or folder. Raises: HeadwayError for one that is missing."""
    return resolve_model(name).kind == "file"


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one. Raises: HeadwayError for CUDA where there is none."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise HeadwayError("device cuda was asked for, but torch sees none; `headway doctor` says more, or use cpu")
    return torch.device(name)


def new_folder(path: Path) -> Path:
    """Create `path`, or path-2, path-3, ... where it exists and is not empty."""
    candidate, number = path, 1
    while candidate.exists() and (not candidate.is_dir() or any(candidate.iterdir())):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate


def claim_folder(path: Path) -> Path:
    """Create `path`. Raises: HeadwayError when something is there already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise HeadwayError(f"{path} exists and is not empty; nothing is overwritten: name another --out or remove it")
    path.mkdir(parents=True, exist_ok=True)
    return path
