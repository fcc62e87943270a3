"""A detector and a tracker over the frames of a video.

for frame, found in headway.track("runs/photos", "clip.mp4"):
    print(frame.time, found.extras["track"])
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from ..data.windows import OVERLAP
from ..detector import Detector
from ..predict.frames import Frame, FrameSource, open_frames
from ..predict.streaming import Look, look_at, looking, tell_problem, white_of
from ..types import Detections
from .tracker import Method, Tracker


def track(
    model: Detector | Any,
    source: str | Path,
    *,
    method: Method = "byte",
    min_score: float = 0.1,
    new_score: float | None = None,
    keep: float = 1.0,
    confirm: int = 2,
    live: bool | None = None,
    fps: float | None = None,
    every: int = 1,
    batch_size: int = 1,
    max_detections: int | None = None,
    classes: Sequence[str | int] | None = None,
    nms_iou: float | Literal["card"] | None = "card",
    tiles: int | bool | None = None,
    overlap: float = OVERLAP,
    tta: str | Iterable[str | float] | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with what was found in it, as it comes; `extras["track"]` [N] has the identities, -1 for none.

    model: a detector, an exported file that `headway.load` opened, or the name of either.
    source, live, fps, every: as of `headway.predict.open_frames`.
    method, min_score, new_score, keep, confirm: as of `headway.Tracker`; new_score None: see `usual_new_score`.
    batch_size: frames per pass; of a live source always 1, the latest.
    max_detections, classes, nms_iou: as of `headway.predict`; an exported file decides about nms_iou itself.
    tiles, overlap, tta: views of each frame beside the plain one, as of `Predictor`; an exported file takes no tta.

    Of a damaged file the frames that can be read come, and the log says what is missing.
    Raises: HeadwayError for a wrong option; DataError for a source that cannot be opened.
    """
    options: dict[str, Any] = {"threshold": min_score, "max_detections": max_detections, "classes": classes}
    options |= {"batch_size": batch_size, "tiles": tiles, "overlap": overlap}
    with ExitStack() as stack:
        if isinstance(model, (str, os.PathLike)):
            from ..checkpoint import load

            model = load(model)
        if new_score is None:
            new_score = usual_new_score(model.card, min_score)
        tracker = Tracker(method=method, min_score=min_score, new_score=new_score, keep=keep, confirm=confirm)
        frames = stack.enter_context(open_frames(source, live=live, fps=fps, every=every, white=white_of(model)))
        look = stack.enter_context(looking(model, nms_iou, tta, **options))
        yield from follow(frames, look, tracker, batch_size)
        tell_problem(frames)


def usual_new_score(card: Any, min_score: float) -> float:
    """The score from which on detections begin tracks where nobody says: the one with the best F1 in the model's
    validation, else 0.3, that of `headway predict`. Scores of different heads are not alike: one model's sure finds
    score 0.9, another's 0.4.

    card: a ModelCard, or the values of one, as of an exported file.
    """
    metrics = card["metrics"] if isinstance(card, dict) else card.metrics
    known = metrics.get("threshold")
    return max(known if isinstance(known, float) and 0 < known < 1 else 0.3, min_score)


def follow(frames: FrameSource, look: Look, tracker: Tracker, batch_size: int) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with its detections and their identities."""
    for frame, found in look_at(frames, look, batch_size):
        yield frame, tracker.update(found, frame.time)
