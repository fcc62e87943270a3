"""Arguments of a path of parts: where each belongs, checked against its annotation before a part is built.

They come from callers, from the command line and from files, so a wrong one must fail at once and say what fits.
"""

import collections.abc
import inspect
import math
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from .errors import HeadwayError, nearest
from .layers.implicit import ImplicitModel, Operator, Refinement
from .registry import Option, Part, registered_here

_MAX_INTEGER = 65536  # of any argument: a mistyped or hostile 10**9 must not build for hours
_MAX_LAYERS = dict.fromkeys(  # of those that repeat layers
    "blocks tower_depth rpn_depth box_convs box_fcs encoder_layers decoder_layers levels cells".split(), 64
)
_NOT_ZERO = frozenset(  # of which none leaves no network, or nothing to train
    "channels widths planes hidden head_width queries points feedforward pre_nms proposals rpn_samples roi_samples "
    "dcn_groups output_stride input_size".split()
)


# What every detector takes beside the arguments of its parts. A head with an `align` of its own takes the first three.
COMMON: dict[str, Option] = {
    option.name: option
    for option in (
        Option("align", Operator | None, None, "implicit values in front of every prediction: add, mul or concat."),
        Option("refine", Refinement | None, None, "implicit values on every prediction: add or mul."),
        Option("implicit", ImplicitModel, "vector", "what an implicit value is: vector, network or factors."),
        Option("input_size", tuple[int, int], (800, 1333), "short and long side that a picture is scaled to fit in."),
    )
}
IMPLICIT = ("align", "refine", "implicit")
Path = Sequence[tuple[str, Part]]  # (name, part) from the backbone to the head


class Place(NamedTuple):
    """Where an argument belongs: the part's number in the path, or -1 for `COMMON`."""

    part: int
    name: str


def places(parts: Path, key: str) -> list[Place]:
    """Where the argument `key` of a path belongs: `dyhead.blocks`, `backbone.norm`, `head.kernel`, or a bare name that
    one part has, or that the parts share.

    Raises: HeadwayError for a name that no part has, with the nearest ones, or that several have.
    """
    owner, _, name = key.rpartition(".")
    found = [
        Place(i, name)
        for i, (label, part) in enumerate(parts)
        if name in part.options and owner in ("", part.kind, part.name, label)
    ]
    if not owner and name in COMMON and not (name in IMPLICIT and found):
        return [Place(-1, name)]
    shared = all(name in parts[p.part][1].shares for p in found)
    if found and (owner or len(found) == 1 or shared):
        return found
    if found:
        several = " or ".join(f"{label_of(p.part, parts[p.part][1])}.{name}" for p in found)
        raise HeadwayError(f"{name!r} belongs to several parts of {joined(parts)}: say {several}")
    known = [*COMMON, *(n for _, part in parts for n in part.options)]
    known += [f"{label_of(i, part)}.{n}" for i, (_, part) in enumerate(parts) for n in part.options]
    hint = nearest(key if owner else name, dict.fromkeys(known)) or f"`headway models {joined(parts)}` lists all"
    raise HeadwayError(f"{joined(parts)} has no argument {key!r}; {hint}")


def label_of(number: int, part: Part) -> str:
    """What an argument's name begins with: backbones have too many names."""
    return part.kind if number == 0 else part.name


def joined(parts: Path) -> str:
    return "/".join(name for name, _ in parts)


def settle(parts: Path, *layers: Mapping[str, Any]) -> dict[Place, Any]:
    """The arguments of all layers, checked, by place. A later layer wins."""
    settled: dict[Place, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            for place in places(parts, key):
                part = parts[place.part][1] if place.part >= 0 else None
                option = COMMON[place.name] if part is None else part.options[place.name]
                where = "detector" if part is None else parts[place.part][0]
                settled[place] = checked(
                    where, place.name, option.annotation, value, bounded=part is None or registered_here(part)
                )
    return settled


def wanted(parts: Path, number: int) -> dict[str, Any]:
    """What the other parts would have part `number` do: the nearest behind it that says so decides, then those in
    front, which have a say in the head alone."""
    own, found = parts[number][1], {}
    for i, (_, part) in [*enumerate(parts[:number]), *reversed([*enumerate(parts)][number + 1 :])]:
        for key, value in part.wants.items():
            owner, _, name = key.rpartition(".")
            if name in own.options and (owner in (own.kind, own.name) or (not owner and i > number)):
                found[name] = value
    return found


def checked(where: str, key: str, hint: Any, value: Any, *, bounded: bool = True) -> Any:
    """`value` for the argument `key` of the part `where`, its lists as tuples where those are meant.

    A single string may stand for a tuple of one. bounded: refuse integers below 0 and too large to build.
    Raises: HeadwayError for a value of another type than `hint`, or out of bounds.
    """
    alone = isinstance(value, str) and hint == tuple[str, ...]  # dcn="c5" for dcn=("c5",)
    value = (value,) if alone else _as_tuples(value)
    if not _fits(value, hint):
        raise HeadwayError(f"{where}({key}=...) must be {inspect.formatannotation(hint)}, got {value!r}")
    least, limit = int(key in _NOT_ZERO), _MAX_LAYERS.get(key, _MAX_INTEGER)
    if bounded and not all(least <= v <= limit for v in _integers(value)):
        raise HeadwayError(f"{where}({key}=...) must be from {least} to {limit}, got {value!r}")
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
    if hint is pathlib.Path:
        return isinstance(value, (str, pathlib.Path))
    kind = origin or hint
    return isinstance(value, kind) if inspect.isclass(kind) else True
