"""What recognising a data set gives: its format, by what structure, and where each split lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Layout:
    """format: "coco", "voc" or "yolo"; root: the data folder, which no file name may leave.

    reason: by what it was recognised; splits: what the format's `parse` needs, by split name.
    shared: what the splits have in common (class names, for instance).
    """

    format: str
    root: Path
    reason: str
    splits: dict[str, Any]
    shared: Any = field(default=None)
