"""headway: object detection in which the head is the thing you choose."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "__version__", "convert", "create_model", "fuse", "list_models", "load", "save"]

_LAZY = {
    "create_model": "registry", "list_models": "registry", "load": "registry", "save": "registry",
    "Detections": "types", "Detector": "detector", "fuse": "layers.fuse",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it, so that `headway --help` answers at once."""
    from importlib import import_module

    if name == "convert":
        return import_module(".convert", __name__)
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'headway' has no attribute {name!r}")
