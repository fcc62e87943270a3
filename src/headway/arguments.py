"""The arguments of a model builder, checked against its annotations before it is called.

They come from callers, from the command line and from files, so a wrong one must fail at once and say what fits.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from .errors import HeadwayError, nearest

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


def check_arguments(name: str, hints: Mapping[str, Any], arguments: dict[str, Any]) -> None:
    """Check `arguments` of the builder `name` and turn their lists into tuples, in place.

    hints: the type of every argument it takes. A single string may stand for a tuple of one.
    Raises: HeadwayError for an argument that is unknown, of another type, or too large to build.
    """
    for key, value in arguments.items():
        if key not in hints:
            raise HeadwayError(f"{name} has no argument {key!r}; {nearest(key, hints)}".rstrip("; "))
        alone = isinstance(value, str) and hints[key] == tuple[str, ...]  # dcn="c5" for dcn=("c5",)
        arguments[key] = value = (value,) if alone else _as_tuples(value)
        if not _fits(value, hints[key]):
            expected = inspect.formatannotation(hints[key])
            raise HeadwayError(f"{name}({key}=...) must be {expected}, got {value!r}")
        limit = _MAX_LAYERS.get(key, _MAX_INTEGER)
        if not all(0 <= v <= limit for v in _integers(value)):
            raise HeadwayError(f"{name}({key}=...) must be from 0 to {limit}, got {value!r}")
    if arguments.get("num_classes", 1) < 1:
        raise HeadwayError(f"num_classes must be at least 1, got {arguments['num_classes']}")


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
    return isinstance(value, hint)
