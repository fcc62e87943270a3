"""Pixels of more than 8 bits -> uint8.

A microscope or an industrial camera of 10, 12 or 14 bits writes 16-bit files whose white is 1023, 4095 or 16383. Taken
for full 16 bits they would be nearly black. So white is what the file declares, else what the data set or the card says
(`white_of_files`), else the smallest of `WHITES` that no pixel of the picture exceeds.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

log = logging.getLogger("headway")

WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
LOOKED_AT = 64  # pictures of a data set whose values tell its white
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".pgm", ".ppm")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_WIDE = re.compile(r"(RGBA?|RGBX|LA);16([BLN])")  # Pillow's names of 16-bit channels, of which it keeps the high byte
_TAGS = ((340, 341), (280, 281))  # TIFF 6.0: SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue
_BITS_PER_SAMPLE = 258


class UnknownRangeError(ValueError):
    """Pixels whose black and white nothing tells. The sentence goes on after the picture's name."""


def to_eight_bits(picture: Image.Image, white: int | None = None) -> NDArray[np.uint8] | None:
    """[H, W] or [H, W, 3] uint8 of a picture with deeper pixels, not yet loaded; None for a picture of 8 bits.

    white: of 16-bit pixels where the file declares none; None: by the picture's own values.
    Raises: UnknownRangeError for signed and 32-bit pixels without a declared range, but floats in 0..1.
    """
    scaled = _is_scaled(picture)
    values = _values(picture)
    if values is None:
        return None
    declared = _declared(picture)
    if picture.mode in ("I", "F") and picture.format != "PPM":
        return _scaled(values, declared, picture.mode)
    if declared is not None and float(values.max()) <= declared[1] < WHITES[-1]:
        white = int(declared[1])
    elif scaled:
        white = WHITES[-1]
    elif white is None:
        white = _own_white(values)
        if white < WHITES[-1]:
            _tell(white)
    return np.minimum(values.astype(np.uint32) * 256 // (white + 1), 255).astype(np.uint8)


def white_of_files(paths: Sequence[str | Path]) -> int | None:
    """The white of the 16-bit pictures among `paths`, one of `WHITES`, by the values of at most `LOOKED_AT` of them,
    evenly taken; None without such pictures. One that cannot be read is passed over."""
    deep = [path for path in paths if Path(path).suffix.lower() in DEEP_SUFFIXES]
    step = max(1, -(-len(deep) // LOOKED_AT))
    whites = [white for path in deep[::step] if (white := _white_of_file(path)) is not None]
    if not whites:
        return None
    if max(whites) < WHITES[-1]:
        _tell(max(whites))
    return max(whites)


def _white_of_file(path: str | Path) -> int | None:
    try:
        with Image.open(path, formats=("PNG", "TIFF", "PPM")) as picture:
            if not (picture.mode in _SIXTEEN_BIT or picture.mode == "I" or _WIDE.match(_raw_mode(picture))):
                return None
            scaled, values = _is_scaled(picture), _values(picture)
            if scaled:
                return None  # the file itself says what is white
            return None if values is None or values.min() < 0 or values.max() > WHITES[-1] else _own_white(values)
    except Exception:  # whatever a damaged picture makes Pillow raise; reading it reports that
        return None


@cache
def _tell(white: int) -> None:
    log.warning(
        "16-bit pictures with values of %d bits: %d is read as white, not 65535", (white + 1).bit_length() - 1, white
    )


def _own_white(values: NDArray[Any]) -> int:
    most = int(values.max())
    return next(white for white in WHITES if most <= white)


def _values(picture: Image.Image) -> NDArray[Any] | None:
    """Every bit of a deeper picture, [H, W] or [H, W, 3]; None for one of 8 bits."""
    if picture.mode in (*_SIXTEEN_BIT, "I", "F"):
        return np.asarray(picture)
    wide = _WIDE.fullmatch(_raw_mode(picture))
    if wide is None:
        return None
    low = None
    if wide[1] != "LA":  # of which Pillow gives no low byte
        # The low bytes are what Pillow gives if it takes the bytes for swapped.
        swapped = "L" if wide[2] == "B" or (wide[2] == "N" and sys.byteorder == "big") else "B"
        low = _decoded_as(picture, f"{wide[1]};16{swapped}")
    high = np.asarray(picture)[..., :3].astype(np.uint16) << 8
    return high if low is None else high | low[..., :3]


def _raw_mode(picture: Image.Image) -> str:
    """How the file holds the pixels, in Pillow's words, while it is not loaded."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return first if isinstance(first, str) else ""


def _decoded_as(picture: Any, raw_mode: str) -> NDArray[np.uint8]:
    """The pixels of the same file, read as `raw_mode`."""
    position = picture.fp.tell()
    picture.fp.seek(0)
    content = picture.fp.read()
    picture.fp.seek(position)
    with Image.open(io.BytesIO(content), formats=(picture.format,)) as twin:
        arguments = [raw_mode if isinstance(t[3], str) else (raw_mode, *t[3][1:]) for t in twin.tile]
        twin.tile = [tile._replace(args=given) for tile, given in zip(twin.tile, arguments)]
        return np.asarray(twin)


def _declared(picture: Any) -> tuple[float, float] | None:
    """The values of black and white that a TIFF's tags declare."""
    tags = getattr(picture, "tag_v2", {})
    for low, high in _TAGS:
        found = [_number(tags.get(tag)) for tag in (low, high)]
        if found[1] is not None and found[1] > (found[0] or 0.0):
            return found[0] or 0.0, found[1]
    bits = _number(tags.get(_BITS_PER_SAMPLE))
    return (0.0, 2**bits - 1) if bits is not None and 8 < bits < 16 else None


def _number(value: Any) -> float | None:
    """The value of a tag, the first where each channel has its own."""
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _is_scaled(picture: Any) -> bool:
    """Whether Pillow has brought the values to 16 bits by the file's own white: JPEG 2000, and PGM with one."""
    tiles = getattr(picture, "tile", None) or ()
    return picture.format == "JPEG2000" or (picture.format == "PPM" and any(t[0] == "ppm" for t in tiles))


def _scaled(values: NDArray[Any], declared: tuple[float, float] | None, mode: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if declared is None and mode == "F" and low >= 0 and high <= 1:
        declared = (0.0, 1.0)
    if declared is None or not np.isfinite([low, high]).all():
        kind = "float" if mode == "F" else "signed or 32-bit"
        raise UnknownRangeError(
            f"has {kind} pixels from {low:g} to {high:g}, and nothing says which values are black and white; "
            "convert it to 8 or 16 bit, or write the TIFF tags SMinSampleValue and SMaxSampleValue"
        )
    black, white = declared
    return (((values.astype(np.float64) - black) / (white - black)).clip(0, 1) * 255).round().astype(np.uint8)
