"""Reading annotation files as text, whatever a tool or a shell encoded them in, and numbers from what they hold."""

import codecs
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import DataError
from ..image import FETCH_LFS, LFS_POINTER

Report = Callable[[str, str, str], None]  # takes kind, where and detail of a Problem

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LONGEST_SIDE = 2**31
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_CONTROL = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029]+\s*")
_GB2312_PAIRS = re.compile(rb"([\xa1-\xf7][\xa1-\xfe])+")


def read_text(path: Path, report: Report | None = None, *, declared: str | None = None) -> str:
    """The text of an annotation file: by its byte order mark, else as declared, else UTF-8.

    Text that is not UTF-8 is taken for GBK where all bytes beyond ASCII come in pairs, else for Windows-1252; `report`
    gets that as a problem "encoding".

    Raises: DataError: missing, or no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from None
    if data.startswith(LFS_POINTER):
        raise DataError(f"annotation file {path} {FETCH_LFS}")
    try:
        text, assumed = decode(data, declared)
    except UnicodeError as error:
        raise DataError(f"annotation file {path} is no text ({error}); save it as UTF-8") from None
    if assumed and report:
        report("encoding", path.name, f"read as {assumed}; save it as UTF-8 if names look wrong")
    return text


def decode(data: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """(text, the encoding where it had to be assumed, else None).

    Raises: UnicodeError for bytes that are no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding), None
    if b"\0" in data[:2] and data[:2] != b"\0\0":  # UTF-16 without a mark, of text that begins with an ASCII character
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le"), None
    wide = (declared or "").lower().startswith(("utf-16", "utf-32", "utf16", "utf32"))  # it would have zero bytes
    for encoding in ([declared] if declared and not wide else []) + ["utf-8"]:
        try:
            return data.decode(encoding), None
        except (LookupError, UnicodeError):
            continue
    if b"\0" in data:
        raise UnicodeError("it holds zero bytes")
    pairs = all(_GB2312_PAIRS.fullmatch(run) for run in _BEYOND_ASCII.findall(data))
    for encoding in (["gbk"] if pairs else []) + ["cp1252"]:
        try:
            return data.decode(encoding), encoding
        except UnicodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def read_lines(path: Path, report: Report | None = None) -> list[str]:
    """The lines of a list (class names, pictures) that hold anything, stripped."""
    return [line.strip() for line in read_text(path, report).splitlines() if line.strip()]


def class_name(text: str) -> str:
    """A class name in composed letters, with one space in place of line breaks and control characters."""
    return unicodedata.normalize("NFC", _CONTROL.sub(" ", text).strip())


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) where both are numbers of pixels."""
    known = numbers([height, width])
    return (int(known[0]), int(known[1])) if known and all(1 <= side < _LONGEST_SIDE for side in known) else None


def numbers(values: Sequence[object]) -> list[float] | None:
    """All of them as floats, None where one is no number."""
    known = [value for value in map(number, values) if value is not None]
    return known if len(known) == len(values) else None


def number(value: object) -> float | None:
    """A float of what an annotation holds, None where it is no number (a boolean is none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def whole(value: object) -> int | None:
    """An id as an integer: 7, 7.0, "7" and "7.0" are 7; None for what is no whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value, re.ASCII) and len(value) < 4000:
        return int(value)  # exact above 2^53, where a float is not
    known = number(value)
    return int(known) if known is not None and math.isfinite(known) and known == int(known) else None
