"""headway: object detection in which the head is the thing you choose."""

from typing import Any

__version__ = "0.1.0"
_LAZY = {
    "create_model": "factory", "list_models": "factory", "compose": "factory",
    "load": "checkpoint", "save": "checkpoint", "fuse": "layers.fuse",
    "list_parts": "registry", "register_backbone": "registry", "register_neck": "registry",
    "register_head": "registry", "Detector": "detector", "Detections": "detections", "Levels": "types",
    "Frame": "types", "ModelCard": "types", "Target": "types", "Candidates": "types", "Losses": "types",
    "Sample": "data.sample", "HeadwayError": "errors", "Tracker": "track.tracker",
}  # fmt: skip
_PACKAGES = ("train", "evaluate", "compare", "predict", "convert", "export", "runtime", "track")  # verbs and packages
__all__ = ["__version__", *_LAZY, *_PACKAGES]


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it, so that `headway --help` answers at once."""
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise AttributeError(f"module 'headway' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
