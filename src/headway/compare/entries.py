"""What is compared: a path or name with its arguments, and the runs of it that have finished."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import HeadwayError
from ..files import lock, write_atomically

RESULT = "result.json"  # of a finished run
_LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """One row. label: what it is called; model: a path, name or tag; arguments: of its parts."""

    label: str
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^A-Za-z0-9._=,+-]+", "-", self.label).strip("-")

    def folder(self, out: Path, seed: int) -> Path:
        return out / self.slug / f"seed-{seed}"


def parse_entry(text: str) -> Entry:
    """`resnet18/fpn/dyhead/atss:dyhead.blocks=2,fpn.channels=128`, or `label=` in front of it.

    Raises: HeadwayError for what has another form.
    """
    named = re.match(r"([^/:=]+)=(.+)", text)
    label, rest = (named[1], named[2]) if named else (text, text)
    model, _, settings = rest.partition(":")
    arguments = {}
    for pair in _split_outside_brackets(settings):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise HeadwayError(f"{text!r}: arguments are KEY=VALUE, got {pair!r}; write MODEL:dyhead.blocks=2,cells=3")
        arguments[key] = json_or_text(value)
    return Entry(label, model, arguments)


def entries_of(models: Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> list[Entry]:
    """models: texts as `parse_entry` reads them, pairs (model, arguments), or a mapping of labels to either.

    Raises: HeadwayError for fewer than one, or two of one label.
    """
    pairs = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    entries = []
    for label, model in pairs:
        entry = parse_entry(model) if isinstance(model, str) else Entry(model[0], model[0], dict(model[1]))
        entries.append(entry if label is None else Entry(label, entry.model, entry.arguments))
    if not entries:
        raise HeadwayError("there is nothing to compare: give at least one path, as in resnet18/fpn/atss")
    slugs = [entry.slug for entry in entries]
    twice = next((e.label for e in entries if slugs.count(e.slug) > 1), None)
    if twice is not None:
        raise HeadwayError(f"{twice!r} is named twice; tell them apart by a label, as in wide={twice}")
    return entries


def read_result(entry: Entry, out: Path, seed: int) -> dict[str, Any] | None:
    """The result of a finished run, or None. Raises: HeadwayError for a file that cannot be read."""
    path = entry.folder(out, seed) / RESULT
    if not path.is_file():
        return None
    try:
        result = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise HeadwayError(f"{path} is damaged ({error}); remove it, and that run is made again") from None
    now = {"model": entry.model, "arguments": json.loads(json.dumps(dict(entry.arguments), default=str))}
    known = {key: result.get(key) for key in now}
    if known != now:
        raise HeadwayError(
            f"{path} is of {known}, and {entry.label!r} is {now}: give it another label, or name another --out"
        )
    return result


def write_result(entry: Entry, out: Path, seed: int, result: Mapping[str, Any]) -> None:
    write_atomically(entry.folder(out, seed) / RESULT, (json.dumps(result, indent=1) + "\n").encode())


@contextmanager
def claimed(entry: Entry, out: Path, seed: int) -> Iterator[bool]:
    """Whether this process may work on the run. The claim ends with the process, however that ends."""
    folder = entry.folder(out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as stream:
        yield lock(stream.fileno())


def _split_outside_brackets(text: str) -> list[str]:
    """At commas that stand in no brackets: `a=1,b=[2,3]`."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]


def json_or_text(text: str) -> Any:
    """JSON where it can be (4, false, [8, 16]), else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
