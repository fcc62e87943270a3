"""A detector over the frames of a video.

for frame, found in headway.predict.video(model, "clip.mp4", threshold=0.3):
    print(frame.number, frame.time, found)
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from ..data.windows import OVERLAP
from ..detector import Detector, keeping_modes
from ..types import Detections
from .frames import Frame, FrameSource, chunks, open_frames
from .predictor import Predictor
from .tta import check_exported

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
    tiles: int | bool | None = None,
    overlap: float = OVERLAP,
    tta: str | Iterable[str | float] | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with what was found in it, as it comes; no more than `batch_size` frames are held.

    model: a detector, or an exported file that `headway.load` opened.
    source, live, fps, every: as of `open_frames`.
    threshold, max_detections, classes, nms_iou: as of `headway.predict`; an exported file decides about nms_iou itself.
    batch_size: frames per pass; of a live source always 1, the latest.
    tiles, overlap, tta: views of each frame beside the plain one, as of `Predictor`; an exported file takes no tta.

    Of a damaged file the frames that can be read come, and the log says what is missing.
    Raises: HeadwayError for a wrong option; DataError for a source that cannot be opened.
    """
    options: dict[str, Any] = {"threshold": threshold, "max_detections": max_detections, "classes": classes}
    options |= {"batch_size": batch_size, "tiles": tiles, "overlap": overlap}
    with ExitStack() as stack:
        frames = stack.enter_context(open_frames(source, live=live, fps=fps, every=every, white=white_of(model)))
        look = stack.enter_context(looking(model, nms_iou, tta, **options))
        yield from look_at(frames, look, batch_size)
        tell_problem(frames)


def white_of(model: Detector | Any) -> int | None:
    """Of 16-bit pictures, as of `open_frames`."""
    white: int | None = model.card.white if isinstance(model, Detector) else getattr(model, "white", None)
    return white


@contextmanager
def looking(model: Detector | Any, nms_iou: float | Literal["card"] | None, tta: Any, **options: Any) -> Iterator[Look]:
    """What gives the detections of a list of pictures. A detector keeps its mode.

    model, nms_iou, tta: as of `video`; options: those that `Predictor` and `Runtime.predict` both take.
    Raises: HeadwayError for a wrong option, and for tta of an exported file.
    """
    if isinstance(model, Detector):
        with keeping_modes(model):
            yield Predictor(model, nms_iou=nms_iou, tta=tta, **options)
        return
    check_exported(model.path, tta)
    yield lambda pictures: model.predict(pictures, **options)


def look_at(frames: FrameSource, look: Look, batch_size: int) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with its detections; of a live source one by one."""
    for chunk in chunks(frames, 1 if frames.live else batch_size):
        yield from zip(chunk, look([frame.pixels for frame in chunk]))


def tell_problem(frames: FrameSource) -> None:
    """After the last frame: say in the log why frames are missing, where some are."""
    if frames.problem:
        log.warning(frames.problem)
