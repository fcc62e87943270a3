"""Modules of one's own that register parts: `--plugin my_head` or `--plugin path/to/my_head.py`."""

import sys
from collections.abc import Iterable
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType

from .errors import HeadwayError, one_line

_loaded: dict[str, None] = {}


def load_plugins(names: Iterable[str]) -> None:
    """Import each module, by its name (the current folder is searched too) or by its file; each once.

    Raises: HeadwayError for a module that does not exist or fails, with the reason.
    """
    for name in names:
        path = Path(name)
        is_file = name.endswith(".py")
        if is_file and not path.is_file():
            raise HeadwayError(f"there is no file {path} for --plugin")
        try:
            module = _import(path.stem if is_file else name, path.resolve().parent if is_file else Path.cwd())
            _loaded[str(path.resolve()) if is_file else name] = None
            if is_file and Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
                raise HeadwayError(
                    f"a module {path.stem!r} is loaded already, so --plugin {path} is not: rename the file"
                )
        except HeadwayError:
            raise
        except Exception as error:
            raise HeadwayError(f"plugin {name} fails: {type(error).__name__}: {one_line(error, 300)}") from error


def loaded_plugins() -> list[str]:
    """What other processes of the same work have to load, files by their whole path."""
    return list(_loaded)


def _import(name: str, folder: Path) -> ModuleType:
    """The module `name`, which may lie in `folder`."""
    sys.path.insert(0, str(folder))
    invalidate_caches()
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the plugin itself imports
        raise HeadwayError(
            f"there is no module {name!r} for --plugin; give its file (my_head.py), or install its package"
        ) from None
    finally:
        sys.path.remove(str(folder))
