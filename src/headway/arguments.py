"""Arguments of parts, checked against their annotations before a part is built.

They come from callers, from the command line and from files, so a wrong one must fail at once and say what fits.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from .errors import HeadwayError

_MAX_INTEGER = 65536  # of any argument: a mistyped or hostile 10**9 must not build for hours
_MAX_LAYERS = dict.fromkeys(
    (
        "blocks",
        "tower_depth",
        "rpn_depth",
        "box_convs",
        "box_fcs",
        "encoder_layers",
        "decoder_layers",
        "levels",
        "cells",
    ),
    64,
)  # of those that repeat layers


def checked(where: str, key: str, hint: Any, value: Any, *, bounded: bool = True) -> Any:
    """`value` for the argument `key` of the part `where`, its lists as tuples where those are meant.

    A single string may stand for a tuple of one. bounded: refuse integers below 0 and too large to build.
    Raises: HeadwayError for a value of another type than `hint`, or out of bounds.
    """
    alone = isinstance(value, str) and hint == tuple[str, ...]  # dcn="c5" for dcn=("c5",)
    value = (value,) if alone else _as_tuples(value)
    if not _fits(value, hint):
        raise HeadwayError(f"{where}({key}=...) must be {inspect.formatannotation(hint)}, got {value!r}")
    limit = _MAX_LAYERS.get(key, _MAX_INTEGER)
    if bounded and not all(0 <= v <= limit for v in _integers(value)):
        raise HeadwayError(f"{where}({key}=...) must be from 0 to {limit}, got {value!r}")
    return list(value) if get_origin(hint) is list else value


def _as_tuples(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, back to tuples, also inside each other."""
    return tuple(_as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _integers(value: Any) -> list[int]:
    if isinstance(value, tuple):
        return [n for v in value for n in _integers(v)]
    return [value] if isinstance(value, int) else []


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (number, string, flag, tuple of them) fits an annotation."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, collections.abc.Sequence):
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if origin is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return all(_fits(v, kinds[0]) for v in value)
        return len(value) == len(kinds) and all(_fits(v, k) for v, k in zip(value, kinds))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, (str, Path))
    kind = origin or hint
    return isinstance(value, kind) if inspect.isclass(kind) else True
