"""From pictures in any form to detections in their own pixels."""

from importlib import import_module
from typing import Any

from ..callable_package import make_callable

_LAZY = {
    "predict": "predictor", "Predictor": "predictor", "find_images": "files",
    "is_image_name": "files", "ImageLike": "sources", "read_picture": "sources", "video": "streaming",
    "open_frames": "frames", "Frame": "frames", "FrameSource": "frames", "VideoWriter": "video_writer",
}  # fmt: skip
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    """Import torch only when something needs it: finding files does not."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__, "predictor", "predict")
