"""Objects with identities over the frames of a video: the tracker, its files, and how well it did.

tracker = headway.Tracker(fps=25)
found = tracker.update(model.predict(frame), time)       # found.extras["track"]: an id for each detection, or -1
"""

from importlib import import_module
from typing import Any

from ..callable_package import make_callable

_LAZY = {
    "Tracker": "tracker", "Tracks": "tracks", "evaluate_tracks": "evaluate", "read_tracks": "formats",
    "write_mot": "formats", "write_coco_vid": "formats", "follow": "api",
}  # fmt: skip
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    """Import what a name needs when it is first used, so that `headway track --help` answers at once."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__, "api", "track")
