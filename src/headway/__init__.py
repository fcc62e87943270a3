"""headway: object detection in which the head is the thing you choose."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
_LAZY = {
    "create_model": "factory", "list_models": "factory", "compose": "factory",
    "load": "checkpoint", "save": "checkpoint",
    "fuse": "layers.fuse", "list_parts": "registry", "register_backbone": "registry", "register_neck": "registry",
    "register_head": "registry", "Detector": "detector", "Detections": "types", "Levels": "types", "Frame": "types",
}  # fmt: skip
__all__ = ["__version__", "convert", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it, so that `headway --help` answers at once."""
    from importlib import import_module

    if name == "convert":
        return import_module(".convert", __name__)
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'headway' has no attribute {name!r}")
