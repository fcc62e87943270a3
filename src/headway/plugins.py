"""Modules of one's own that register parts: `--plugin my_head` or `--plugin path/to/my_head.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from .errors import HeadwayError


def load_plugins(names: Iterable[str]) -> None:
    """Import each module, by its name (the current folder is searched too) or by its file; each once.

    Raises: HeadwayError for a module that does not exist or fails, with the reason.
    """
    for name in names:
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_name(name)
        except HeadwayError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise HeadwayError(f"plugin {name} fails: {type(error).__name__}: {reason}") from error


def _import_name(name: str) -> None:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the plugin itself imports
        raise HeadwayError(
            f"there is no module {name!r} for --plugin; give its file (my_head.py), or install its package"
        ) from None
    finally:
        sys.path.remove(here)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise HeadwayError(f"there is no file {path} for --plugin")
    if path.stem in sys.modules:
        return
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
