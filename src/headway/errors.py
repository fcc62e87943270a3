"""Errors that are the user's to mend: the command line prints them as one line, without a traceback."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


class HeadwayError(ValueError):
    """A wrong input, with what was expected, what came, where, and what to do."""


class LevelsError(HeadwayError):
    """Maps that a part cannot read, and what to put in front of it. The sentence goes on after the part's name."""


class CheckpointError(HeadwayError):
    """A checkpoint that is not ours, is damaged, or does not fit."""


class DataError(HeadwayError):
    """A data set or picture that cannot be read."""


class NoPictureError(DataError):
    """A file or bytes that are no picture of a known format."""


class TooManyPixelsError(DataError):
    """A picture that is refused for its size before it is decoded."""


def check_number(what: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """Raises: HeadwayError unless `value` is a number (a whole one) from low to high. what: its name in the message."""
    kind = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= float(value) <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
        raise HeadwayError(f"{what} must be a {'whole ' if whole else ''}number {bounds}, got {value!r}")


def one_line(error: BaseException, most: int | None = 200) -> str:
    """What an error says, without line breaks and at most `most` characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """'did you mean a, b or c?' for a mistyped name; empty when nothing is near."""
    matches = get_close_matches(name, list(known), count, cutoff=0.3)
    if not matches:
        return ""
    listed = matches[0] if len(matches) == 1 else f"{', '.join(matches[:-1])} or {matches[-1]}"
    return f"did you mean {listed}?"
