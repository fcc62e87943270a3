"""A detector over the frames of a video.

for frame, found in headway.predict.video(model, "clip.mp4", threshold=0.3):
    print(frame.number, frame.time, found)
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..detector import Detector, keeping_modes
from ..types import Detections
from .frames import Frame, FrameSource, chunks, open_frames
from .predictor import Predictor

log = logging.getLogger("headway")

Look = Callable[[list[Any]], list[Detections]]  # pictures -> what was found in each


def video(
    model: Detector | Any,
    source: str | Path,
    *,
    live: bool | None = None,
    fps: float | None = None,
    every: int = 1,
    threshold: float | None = None,
    batch_size: int = 1,
    max_detections: int | None = None,
    classes: Sequence[str | int] | None = None,
    nms_iou: float | Literal["card"] | None = "card",
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with what was found in it, as it comes; no more than `batch_size` frames are held.

    model: a detector, or an exported file that `headway.load` opened.
    source, live, fps, every: as of `open_frames`.
    threshold, max_detections, classes, nms_iou: as of `headway.predict`; an exported file decides about nms_iou itself.
    batch_size: frames per pass; of a live source always 1, the latest.

    Of a damaged file the frames that can be read come, and the log says what is missing.
    Raises: HeadwayError for a wrong option; DataError for a source that cannot be opened.
    """
    options: dict[str, Any] = {"threshold": threshold, "max_detections": max_detections, "classes": classes}
    with ExitStack() as stack:
        frames = stack.enter_context(open_frames(source, live=live, fps=fps, every=every))
        look = stack.enter_context(looking(model, batch_size=batch_size, nms_iou=nms_iou, **options))
        yield from look_at(frames, look, batch_size)
        tell_problem(frames)


@contextmanager
def looking(
    model: Detector | Any, *, batch_size: int, nms_iou: float | Literal["card"] | None, **options: Any
) -> Iterator[Look]:
    """What gives the detections of a list of pictures. A detector is in eval mode meanwhile. options: as of `video`."""
    if not isinstance(model, Detector):
        yield partial(model.predict, batch_size=batch_size, **options)
        return
    with keeping_modes(model):
        yield Predictor(model, batch_size=batch_size, nms_iou=nms_iou, **options)


def look_at(frames: FrameSource, look: Look, batch_size: int) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with its detections; of a live source one by one."""
    for chunk in chunks(frames, 1 if frames.live else batch_size):
        yield from zip(chunk, look([frame.pixels for frame in chunk]))


def tell_problem(frames: FrameSource) -> None:
    """After the last frame: say in the log why frames are missing, where some are."""
    if frames.problem:
        log.warning(frames.problem)
