"""Small copies of pictures, upright and in JPEG, made by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..data.dataset import Record
from ..data.image import array_upright, orientation_of, read_pixels
from ..errors import DataError

SHOWN = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".avif")  # what a browser opens itself
LARGE = 1600  # longest side of the larger copy of a picture that a browser does not open
_DEEP = (".png",)  # may be of 16 bits, whose white a browser does not know


class Thumbnail(NamedTuple):
    """size: (height, width) of the upright picture, (0, 0) for one that cannot be read; problem: why. large: whether
    there is a larger copy as well."""

    size: tuple[int, int]
    problem: str = ""
    large: bool = False


def write_thumbnails(
    records: Sequence[Record], folder: Path, *, side: int, white: int | None, progress: Callable[[int, int], None]
) -> list[Thumbnail]:
    """FOLDER/0.jpg for the first record, and so on; 0-large.jpg where a browser does not open the picture itself.

    side: the longest, in pixels. white: of 16-bit pictures, as of `read_image`.
    """
    folder.mkdir(parents=True)
    in_files = all(record.source is None for record in records)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done: list[Thumbnail] = []
    with ThreadPoolExecutor(threads if in_files else 1) as pool:  # a Dataset of one's own may not bear threads
        for thumbnail in pool.map(partial(_write, folder, side, white), range(len(records)), records):
            done.append(thumbnail)
            progress(len(done), len(records))
    return done


def _write(folder: Path, side: int, white: int | None, number: int, record: Record) -> Thumbnail:
    try:
        in_no_file = record.source is not None or record.content is not None
        large = in_no_file or not _is_shown(record.path, white)
        picture, size = _read(record, LARGE if large else side, white)
    except DataError as error:
        return Thumbnail((0, 0), str(error))
    if large:
        picture.save(folder / f"{number}-large.jpg", quality=85)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    picture.save(folder / f"{number}.jpg", quality=80)
    return Thumbnail(size, "", large)


def _is_shown(path: Path, white: int | None) -> bool:
    suffix = path.suffix.lower()
    return suffix in SHOWN and not (white is not None and suffix in _DEEP)


def _read(record: Record, side: int, white: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """(the picture upright, at most about `side` long, its (height, width)). Raises: DataError."""
    data = None if record.content is None else record.content()
    if record.source is None and record.path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            return _read_jpeg(record.path if data is None else BytesIO(data), side)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # another decoder reads it or says why
            pass
    if record.source is None:
        picture = Image.fromarray(read_pixels(record.path, data=data, white=white))
    else:
        picture = Image.fromarray(record.sample().image.permute(1, 2, 0).numpy())
    size = picture.height, picture.width
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    return picture, size


def _read_jpeg(file: Path | BytesIO, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The same of a JPEG, decoded at an eighth, a quarter or a half of its size where that is enough."""
    with Image.open(file, formats=("JPEG", "MPO")) as opened:
        turn, (width, height) = orientation_of(opened), opened.size
        opened.draft("RGB", (side, side))
        picture = opened.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    if turn != 1:
        import numpy as np

        picture = Image.fromarray(array_upright(np.asarray(picture), turn))
    return picture, ((width, height) if turn in (5, 6, 7, 8) else (height, width))
