"""The help of `headway train`: the options that matter, and with --help-all every one, in groups."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from ..train.config import TrainConfig
from ..train.recipes import RECIPES

SHORT = (
    "data", "out", "recipe", "epochs", "batch_size", "input_size", "learning_rate", "pretrained", "random", "set",
    "resume", "precision", "device", "json",
)  # fmt: skip

# Each group begins with this option of TrainConfig and ends in front of the next.
GROUPS = {
    "out": "Run",
    "optimizer": "Optimizer",
    "teacher": "Distillation",
    "schedule": "Schedule",
    "preset": "Pictures",
    "precision": "Machine",
    "validate_every": "Validation and saving",
}


def text(command: type[Any], defaults: Any, *, every: bool, width: int) -> str:
    """command: the dataclass of the verb; defaults: an instance of it."""
    rows = dict(_rows(command, defaults))
    foot = f"`headway train --help-all` lists all {len(rows)} options, in groups, and the recipes."
    if not every:
        return "\n".join([*_head(command), "", *_lines(rows, SHORT, width), "", foot])
    own = [name for name in rows if name not in {field.name for field in fields(TrainConfig)}]
    groups: dict[str, list[str]] = {"What to train": own}
    for field in fields(TrainConfig):
        if field.name in GROUPS:
            group = groups.setdefault(GROUPS[field.name], [])
        group.append(field.name)
    parts = [["", f"{title}:", *_lines(rows, names, width)] for title, names in groups.items()]
    recipes = ["", "Recipes:", *textwrap.wrap(", ".join(RECIPES), width, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join([*_head(command), *(line for part in parts for line in part), *recipes])


def _head(command: type[Any]) -> list[str]:
    about = inspect.getdoc(command) or ""
    return ["usage: headway train [OPTIONS] MODEL", "", *about.splitlines(), "",
            textwrap.fill(f"MODEL  {_docs(command)['model']}", 100, subsequent_indent="       ")]  # fmt: skip


def _rows(command: type[Any], defaults: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, (option as it is typed, what it does)) for the verb's own options and those of its settings."""
    for kind, values in ((command, defaults), (TrainConfig, defaults.config)):
        docs, hints = _docs(kind), get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            if field.name not in ("model", "config"):
                value = getattr(values, field.name)
                shown = "" if value is None or value == () or isinstance(value, bool) else f" [{_value(value)}]"
                yield field.name, (_typed(field.name, hints[field.name]), docs[field.name] + shown)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _typed(name: str, hint: Any) -> str:
    """`--epochs INT`, `--optimizer {adamw,sgd}`, `--input-size INT INT`, `--nesterov`."""
    metavar = next((m.metavar for m in getattr(hint, "__metadata__", ()) if getattr(m, "metavar", None)), None)
    return f"--{name.replace('_', '-')} {metavar if metavar and len(metavar) < 40 else _kind(hint)}".rstrip()


def _kind(hint: Any) -> str:
    if hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    arguments = [a for a in get_args(hint) if a is not type(None)]
    if arguments and all(isinstance(a, str) for a in arguments):
        return f"{{{','.join(arguments)}}}"
    if get_origin(hint) is tuple:
        return " ".join(_kind(a) if a is not Ellipsis else "..." for a in arguments)
    if arguments:
        return _kind(arguments[0])
    return "" if hint is bool else {str: "NAME"}.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _lines(rows: Mapping[str, tuple[str, str]], names: Any, width: int) -> Iterator[str]:
    indent = 30
    for name in names:
        option, about = rows[name]
        wrapped = textwrap.wrap(about, max(30, width - indent))
        first = f"  {option}"
        if len(first) < indent - 1:
            yield f"{first:{indent}}{wrapped.pop(0)}"
        else:
            yield first
        yield from (" " * indent + line for line in wrapped)


def _docs(kind: type[Any]) -> dict[str, str]:
    """The text below each field of a dataclass, in one line."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found
