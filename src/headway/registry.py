"""The names of parts. A backbone, a neck or a head registers where it stands; this file imports none of them.

    @register_head("atss", wants={"strides": (8, 16, 32), "levels": 5})
    def atss(inputs: Levels, *, num_classes: int, tower_depth: int = 4) -> nn.Module:
        \"\"\"What it is.

        tower_depth: convolutions in front of the predictions.
        \"\"\"

A part is a plain function or class. A neck or head takes the `Levels` that come in; a backbone takes none. Every other
argument is keyword-only and annotated; a head takes `num_classes` too. Parts that are no heads return a module with an
attribute `levels`, what comes out.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from threading import RLock
from typing import Any, Literal, TypeVar, get_type_hints

from .errors import HeadwayError, nearest, one_line

Kind = Literal["backbone", "neck", "head"]
Build = TypeVar("Build", bound=Callable[..., Any])
KINDS: tuple[Kind, ...] = ("backbone", "neck", "head")
_PACKAGES = {"backbone": "backbones", "neck": "necks", "head": "heads"}
_PARTS: dict[tuple[str, str], Part] = {}
_GIVEN = {"backbone": (), "neck": ("inputs",), "head": ("inputs", "num_classes")}  # by `compose`, not by the user


@dataclass(frozen=True)
class Option:
    """One argument of a part. annotation: its type; meaning: from the docstring; group: the record it belongs to."""

    name: str
    annotation: Any
    default: Any
    meaning: str = ""
    group: str | None = None


@dataclass(frozen=True)
class Part:
    """A registered part.

    build: the function or class. matches: for a family of backbones, whether a name is one of them; `build` then takes
    the name first. wants: defaults for arguments of the parts in front of it, as `part.argument` or, for any part that
    has it, `argument`. shares: arguments that a bare name sets in every part of a path that has them. module: where it
    was registered.
    """

    kind: Kind
    name: str
    build: Callable[..., Any]
    module: str
    wants: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[str, ...] = ()
    matches: Callable[[str], bool] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def summary(self) -> str:
        """What it is, in a sentence."""
        text = self.text or inspect.getdoc(self.build) or ""
        return re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0].rstrip(".")

    @cached_property
    def options(self) -> dict[str, Option]:
        """The arguments a user may set. A parameter annotated with a NamedTuple stands for its fields."""
        hints, found = get_type_hints(_signature_owner(self.build)), {}
        for name, parameter in list(inspect.signature(self.build).parameters.items()):
            if name in _GIVEN[self.kind] or (self.matches and name == "name"):
                continue
            hint = hints[name]
            if _is_record(hint):
                inner, texts = get_type_hints(hint), _meanings(hint)
                for key, default in parameter.default._asdict().items():
                    found[key] = Option(key, inner[key], default, texts.get(key, ""), name)
            else:
                found[name] = Option(name, hint, parameter.default, _meanings(self.build).get(name, ""))
        if unknown := set(self.defaults) - set(found):
            raise TypeError(f"{self.build.__name__} has no arguments {sorted(unknown)}")
        return {key: replace(o, default=self.defaults.get(key, o.default)) for key, o in found.items()}

    def grouped(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Flat arguments as `build` takes them: those of a record are put back into it."""
        arguments: dict[str, Any] = {}
        for name, value in {**self.defaults, **values}.items():
            option = self.options[name]
            if option.group is None:
                arguments[name] = value
            else:
                record = arguments.get(option.group, inspect.signature(self.build).parameters[option.group].default)
                arguments[option.group] = record._replace(**{name: value})
        return arguments


def register_backbone(name: str, **about: Any) -> Callable[[Build], Build]:
    """Register a backbone: `build(**options)`, [B, 3, H, W] -> list of maps, with `.levels`. about: see `Part`."""
    return _register("backbone", name, about)


def register_neck(name: str, **about: Any) -> Callable[[Build], Build]:
    """Register a neck: `build(inputs, **options)`, list of maps -> list of maps, with `.levels`. about: see `Part`."""
    return _register("neck", name, about)


def register_head(name: str, **about: Any) -> Callable[[Build], Build]:
    """Register a head: `build(inputs, num_classes=..., **options)`; see `headway.detector.Head`. about: see `Part`.

    A head may carry `card`, fields of the model card that go with it (`{"nms_iou": 0.5}`).
    Raises: HeadwayError for a name that is taken, and TypeError for an argument without name or type.
    """
    return _register("head", name, about)


def register_variant(kind: Kind, name: str, of: str, text: str, **defaults: Any) -> None:
    """Register the part `of` a second time, with other defaults for some of its arguments. text: what it is."""
    _PARTS[kind, name] = replace(_PARTS[kind, of], name=name, text=text, defaults=defaults)


def _register(kind: Kind, name: str, about: dict[str, Any]) -> Callable[[Build], Build]:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise HeadwayError(f"a part's name must be letters, digits and underscores, got {name!r}")

    def add(build: Build) -> Build:
        part = Part(kind, name, build, build.__module__, **about)
        for key, parameter in inspect.signature(build).parameters.items():
            if key in ("inputs", "name") and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                continue
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.annotation is inspect.Parameter.empty:
                raise TypeError(f"{name}({key}) must be keyword-only and annotated")
        known = _PARTS.get((kind, name))
        if known is not None and (known.module, known.build.__qualname__) != (part.module, build.__qualname__):
            raise HeadwayError(
                f"a {kind} called {name!r} is registered already, by {known.module}; choose another name"
            )
        _PARTS[kind, name] = part
        return build

    return add


def find_part(kind: Kind, name: str) -> Part:
    """Raises: HeadwayError for an unknown name, with the nearest ones."""
    _import_all()
    if (part := _PARTS.get((kind, name))) is not None and part.matches is None:
        return part
    for part in _PARTS.values():
        if part.kind == kind and part.matches is not None and part.matches(name):
            return part
    other = next((k for k in KINDS if (k, name) in _PARTS), None)
    if other is not None:
        raise HeadwayError(f"{name!r} is a {other}, not a {kind}: a path is backbone/neck/.../head")
    known = [n for k, n in _PARTS if k == kind]
    if kind == "backbone":
        from timm import list_models

        known += list_models()
    raise HeadwayError(f"there is no {kind} {name!r}; {nearest(name, known) or '`headway models` lists all'}")


def list_parts(kind: Kind | None = None, pattern: str = "*") -> list[str]:
    """Names of the registered parts, sorted; of one kind, and of those that match a glob."""
    _import_all()
    found = {n for k, n in _PARTS if kind in (None, k) and not _PARTS[k, n].matches}
    return sorted(n for n in found if fnmatchcase(n, pattern))


_progress: list[str] = []  # "begun", then "done"
_importing = RLock()


def _import_all() -> None:
    """Import every module of the three packages once, and what other packages register by the entry point.

    Another thread waits for it. Raises: HeadwayError for an entry point that fails.
    """
    if "done" in _progress:
        return
    with _importing:
        if _progress:  # a part that asks for others while it is imported itself
            return
        _progress.append("begun")
        try:
            for package in _PACKAGES.values():
                module = import_module(f".{package}", __package__)
                for info in iter_modules(module.__path__):
                    import_module(f".{package}.{info.name}", __package__)
            for entry in entry_points(group="headway.parts"):
                _load(entry)
        except BaseException:
            _progress.clear()
            raise
        _progress.append("done")


def _load(entry: EntryPoint) -> None:
    try:
        entry.load()
    except Exception as error:
        raise HeadwayError(
            f"the installed package {entry.dist.name if entry.dist else entry.value} registers parts by "
            f"{entry.value}, which fails: {type(error).__name__}: {one_line(error, 300)}; mend or remove it"
        ) from error


def _signature_owner(build: Callable[..., Any]) -> Any:
    return build.__init__ if inspect.isclass(build) else build


def _is_record(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, tuple) and hasattr(hint, "_asdict")


def _meanings(documented: Any) -> dict[str, str]:
    """`name: meaning` or `a, b: meaning` paragraphs of a docstring, by name."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(documented) or "").splitlines():
        head = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if head and head[1] not in ("Differs", "Raises", "Source", "Sources"):
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        elif names and line.startswith("    "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def registered_here(part: Part) -> bool:
    """Whether the part comes with headway."""
    return part.module.split(".")[0] == __package__ and part.module in sys.modules
