"""Damage inside a JPEG, which decoders pass over: they fill in grey or go on with shifted blocks, and say nothing.

Two things tell. Markers: 0xFF inside coded pixels stands only before 0x00, a restart marker in its turn, or the end
(ITU T.81, B.1.1.2 and B.2.1). Length: a scan of a sequential JPEG ends where its last block ends. After a wrong bit the
blocks have other lengths, so that the decoder needs more bytes than there are, or leaves some over.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

END = b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_SCAN, _TABLES = 0xDA, (0xC4, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0))  # what may stand between scans
_FILL = bytes(range(1, 252, 5))  # any bytes without 0xFF, which decode to something
_TAIL = 16  # bytes at the end of a scan that a whole picture needs


def jpeg_damage(data: bytes | bytearray) -> str:
    """What is wrong inside a JPEG that can be decoded, or nothing. The sentence goes on after "its data"."""
    try:
        frame, scans, wrong = _scans(bytes(data))
    except (struct.error, IndexError):  # no end mark, or a header that decoders understand better
        return ""
    if wrong:
        return wrong
    if frame not in _SEQUENTIAL or len(scans) != 1:
        return ""
    (start, stop) = scans[0]
    whole = bytes(data[:stop])
    if not np.array_equal(_decoded(whole + END), _decoded(whole + _FILL + END)):
        return "ends before the last row"
    tail = whole[max(start, stop - _TAIL) :]
    changed = whole[: len(whole) - len(tail)] + _FILL[: len(tail)]
    if len(set(tail)) > 1 and np.array_equal(_decoded(whole + END), _decoded(changed + END)):
        return "goes on after the last row"
    return ""


def is_whole(data: bytes | bytearray) -> bool:
    """Whether a JPEG without its end mark has all its rows."""
    whole = bytes(data)
    if whole.endswith(b"\xff"):
        whole = whole[:-1]
    try:
        frame, scans, _ = _scans(whole + END)
        return (
            frame in _SEQUENTIAL and len(scans) == 1
            and np.array_equal(_decoded(whole + END), _decoded(whole + _FILL + END))
        )  # fmt: skip
    except (struct.error, IndexError, OSError, ValueError, SyntaxError):
        return False


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
        return np.asarray(picture)


def _scans(data: bytes) -> tuple[int, list[tuple[int, int]], str]:
    """(frame marker, where the coded pixels of each scan start and stop, what is wrong or nothing)."""
    position, frame, interval, scans = 2, 0, 0, []
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        mark = data[position + 1]
        if data[position] != 0xFF:
            return frame, scans, "has bytes between its scans" if scans else ""
        if mark == END[1]:
            return frame, scans, ""
        if scans and mark not in (*_TABLES, _SCAN):
            return frame, scans, f"has the mark FF{mark:02X} among its pixels"
        (length,) = struct.unpack_from(">H", data, position + 2)
        if mark in (*_SEQUENTIAL, *_PROGRESSIVE):
            frame = mark
        if mark == 0xDD:
            (interval,) = struct.unpack_from(">H", data, position + 4)
        position += 2 + length
        if mark == _SCAN:
            stop, wrong = _scan_end(data, position, interval)
            scans.append((position, stop))
            if wrong:
                return frame, scans, wrong
            position = stop


def _scan_end(data: bytes, start: int, interval: int) -> tuple[int, str]:
    """Where the coded pixels from `start` on end, and what is wrong with the restart markers among them."""
    content = np.frombuffer(data, np.uint8, offset=start)
    marks = np.flatnonzero((content[:-1] == 0xFF) & (content[1:] != 0) & (content[1:] != 0xFF))
    kinds = content[marks + 1]
    restarts = (kinds >= 0xD0) & (kinds <= 0xD7)
    last = int(np.argmin(restarts)) if len(restarts) and not restarts.all() else len(marks)
    stop = start + int(marks[last]) if last < len(marks) else len(data)
    while stop > start and data[stop - 1] == 0xFF:  # fill bytes before the mark
        stop -= 1
    turn = kinds[:last].astype(int) - 0xD0
    if last and (not interval or (turn != np.arange(last) % 8).any()):
        return stop, "has restart marks out of their turn"
    return stop, ""
