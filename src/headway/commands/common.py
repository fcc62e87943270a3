"""What the verbs share: printing results, finding checkpoints, refusing to overwrite."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import HeadwayError
from ..files import claim_folder as claim_folder
from ..files import find_checkpoint as find_checkpoint
from ..files import new_folder as new_folder
from ..precision import Precision as Precision
from ..precision import pick_device as pick_device
from ..progress import progress_bar as progress_bar
from ..resolve import is_path as is_path
from ..resolve import load_model as load_model
from ..resolve import resolve_model as resolve_model

if TYPE_CHECKING:
    from ..data.dataset import DetectionData

Device = Literal["auto", "cpu", "cuda", "mps"]
Format = Literal["coco", "voc", "yolo"]


class UsageError(HeadwayError):
    """A command that cannot be meant; the command line exits with 2."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as service managers, schedulers and containers send it."""


@contextmanager
def finishing() -> Iterator[None]:
    """Let neither Ctrl-C nor SIGTERM cut the writing of what was done."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """One line of the log."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Part of the result."""
    print(text, flush=True)


def show_json(value: Any) -> None:
    """The result as JSON; a path becomes its text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str), flush=True)


def write_json(path: Path, value: Any) -> None:
    """A file of results. A file name that is not UTF-8 is written as JSON's escapes, which read back as the same."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Aligned columns. right: the numbers of those that are aligned to the right."""
    cells = [[*header], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * width for width in widths])
    form = "  ".join(f"{{:{'>' if i in right else '<'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in cells)


def count_label(data: DetectionData, label: int) -> int:
    """Boxes of one class, without crowd regions."""
    return sum(int(((record.labels == label) & ~record.crowd).sum()) for record in data.records)


def check_fixed(path: Path, device: str, precision: str, **options: tuple[object, object]) -> None:
    """What an exported file has decided. options: (given, default) of each. Raises: UsageError for another choice.

    OpenVINO's files compute in bfloat16 as well.
    """
    in_file = precision if path.suffix != ".xml" or precision == "fp16" else "fp32"
    options |= {"device": (device if device != "auto" else "cpu", "cpu"), "precision": (in_file, "fp32")}
    for name, (given, default) in options.items():
        if given != default:
            raise UsageError(
                f"{path} is an exported file: it runs on the CPU as it was written, without --{name.replace('_', '-')} "
                f"{given}; export the model again, or name the checkpoint"
            )
