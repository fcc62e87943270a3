"""The pictures with boxes that a job draws on request: JOB/pictures/SHARD/NUMBER-NAME.jpg.

A picture is written whole or not at all, before the part of its shard. A shard that is done again writes the same bytes
under the same name. The number of a picture in its shard keeps names apart, whatever folders the pictures come from.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ..files import write_atomically

QUALITY = 92  # of the JPEG files, as of `headway predict`
_LONGEST = 40  # characters of the picture's own name that are kept
_UNSAFE = re.compile(r"[^\w.-]+")


def name_of(shard: int, number: int, location: str) -> str:
    """The drawn picture's path in the job's folder: number 3 of shard 1, "s3://b/day 1/a.png", is
    pictures/00001/00003-a.jpg."""
    stem = _UNSAFE.sub("_", PurePath(location).stem)[:_LONGEST]
    return f"pictures/{shard:05d}/{number:05d}-{stem}.jpg"


def jpeg_of(picture: Any) -> bytes:
    """The file of a PIL picture."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def write_drawn(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write drawn pictures below a job's folder. Raises: OSError."""
    for name, content in files.items():
        write_atomically(folder / name, content)


def take_drawn(folder: Path) -> dict[str, bytes]:
    """The drawn pictures below a folder, by their names, which are then removed there."""
    files = {}
    for path in sorted(folder.glob("pictures/*/*.jpg")):
        files[path.relative_to(folder).as_posix()] = path.read_bytes()
        path.unlink()
    return files
