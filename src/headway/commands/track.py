"""`headway track`: identities for what is found in a video; `headway track eval`: how well they follow the truth."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..errors import HeadwayError
from ..resolve import is_exported
from . import common
from .common import (
    Device,
    Precision,
    UsageError,
    check_fixed,
    resolve_model,
    say,
    show,
    show_json,
    table,
)
from .picture_views import PictureViews
from .predict import len_of

if TYPE_CHECKING:
    from ..detections import Detections
    from ..predict.frames import Frame, FrameSource
    from ..track.tracker import Tracker
    from ..track.tracks import Tracks

DEFAULT_OUT = Path("runs/track")


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Follow objects through a video: `headway track MODEL SOURCE`. `headway track eval` measures what it wrote.

    Writes tracks.txt (MOTChallenge: the boxes with an identity), tracks.json (COCO-VID: every detection once, track_id
    -1 without identity), and the video with boxes and identities, of a folder of pictures the pictures. After Ctrl-C,
    which is how a live source ends, and after SIGTERM the files hold the frames that were done.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A checkpoint, run folder, published tag or exported file."""
    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A video, a folder or pattern of pictures in order, a camera (0), or a stream (rtsp://...)."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the results. Default: runs/track, or runs/track-2 and so on when that is taken."""
    tracker: Literal["byte", "jde"] = "byte"
    """byte: by the overlap of boxes. jde: by embeddings too, of a model that was trained with --set embedding=64."""
    min_score: float = 0.1
    """Detections that score less are not looked at."""
    new_score: float | None = None
    """From this score on a detection begins a track, or finds a lost one again. Default: the score with the best F1 in
    the model's validation, else 0.3."""
    keep: float = 1.0
    """Seconds for which an object that is not found is looked for."""
    confirm: int = 2
    """Detections that an object needs for its identity."""
    every: int = 1
    """Look at every so many frames."""
    fps: float | None = None
    """Frames a second of a folder or pattern of pictures. Default: 25."""
    classes: tuple[str, ...] = ()
    """Names of the classes to follow. Default: all."""
    max_detections: int | None = None
    """Most detections per frame. Default: the model's own."""
    nms_iou: float | Literal["card", "none"] = "card"
    """Drop a box that overlaps a better one of its class by more than this. card: as the model says; none: keep all."""
    no_video: bool = False
    """Leave the video or the pictures out."""
    batch_size: int = 4
    """Frames per pass. Of a camera or stream 1, the latest."""
    precision: Precision = "fp32"
    """Number format of the network."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the result as JSON."""
    views: OmitArgPrefixes[PictureViews] = field(default_factory=PictureViews)

    def run(self) -> int:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"--min-score must be in 0..1, got {self.min_score:g}")
        path = resolve_model(self.model).path  # what is missing is told before anything slow is imported
        views = self.views.settings(path if is_exported(path) else None)
        from ..predict.frames import check_there, open_frames

        check_there(self.source)
        look, card = self._of_file(path, views) if is_exported(path) else self._of_model(views)
        tracker, white = self._tracker(card), getattr(card, "white", None)
        with open_frames(self.source, fps=self.fps, every=self.every, white=white) as frames, ExitStack() as stack:
            out = common.new_folder(DEFAULT_OUT) if self.out is None else common.claim_folder(self.out)
            written = _Written(out, frames, card, stack, not self.no_video, self.every)
            try:
                self._follow(frames, look, tracker, written)
            except KeyboardInterrupt as interrupt:
                if not frames.live or isinstance(interrupt, common.TerminatedError):
                    say(f"interrupted after {len_of(written.count, 'frame')}; {out} holds those")
                    raise
            finally:  # whatever ended it, a full disk too
                with common.finishing():
                    written.close()
        if frames.dropped:
            say(f"{frames.name}: {frames.dropped} frames came while others were looked at, and were left out")
        if frames.problem:
            say(frames.problem)
        result = written.summary(tracker.count)
        if self.json:
            show_json(result)
        else:
            each = ", ".join(f"{count} {name}" for name, count in result["classes"].items())
            show(
                f"{len_of(tracker.count, 'object')}{f' ({each})' if each else ''} in "
                f"{len_of(written.count, 'frame')}: {out}"
            )
        return 1 if frames.problem else 0

    def _tracker(self, card: Any) -> Tracker:
        from ..track.api import usual_new_score
        from ..track.tracker import Tracker

        new_score = usual_new_score(card, self.min_score) if self.new_score is None else self.new_score
        return Tracker(
            method=self.tracker, min_score=self.min_score, new_score=new_score, keep=self.keep, confirm=self.confirm
        )

    def _follow(self, frames: FrameSource, look: Any, tracker: Any, written: _Written) -> None:
        from ..track.api import follow

        with common.progress_bar("tracking") as progress:
            for frame, found in follow(frames, look, tracker, self.batch_size):
                written.add(frame, found)
                progress(written.count, max(frames.count or 0, written.count))

    def _of_model(self, views: dict[str, Any]) -> tuple[Any, Any]:
        """What gives the detections of a list of pictures, and the card."""
        from ..predict import Predictor
        from ..track.tracker import NO_EMBEDDINGS

        model = common.load_model(self.model)
        if self.tracker == "jde" and not any(task.name == "identity" for task in getattr(model.head, "tasks", ())):
            raise HeadwayError(NO_EMBEDDINGS)
        predictor = Predictor(
            model, common.pick_device(self.device), self.precision, self.batch_size, self.min_score,
            max_detections=self.max_detections, nms_iou=None if self.nms_iou == "none" else self.nms_iou,
            classes=self.classes or None, **views,
        )  # fmt: skip
        return predictor, model.card

    def _of_file(self, path: Path, views: dict[str, Any]) -> tuple[Any, Any]:
        from types import SimpleNamespace

        from ..runtime import Runtime

        check_fixed(path, self.device, self.precision, nms_iou=(self.nms_iou, "card"), tracker=(self.tracker, "byte"))
        runtime = Runtime(path, precision=self.precision)  # type: ignore[arg-type]
        options: dict[str, Any] = {"threshold": self.min_score, "batch_size": self.batch_size, **views}
        options |= {"max_detections": self.max_detections, "classes": self.classes or None}
        card = SimpleNamespace(**runtime.card)
        return lambda pictures: runtime.predict(pictures, **options), card


class _Written:
    """The files of a run. count: frames so far; every: so many frames of the source lie between two."""

    tracks: Tracks  # from `close` on

    def __init__(self, out: Path, frames: FrameSource, card: Any, stack: ExitStack, draws: bool, every: int) -> None:
        from ..predict.frames import kind_of

        self.out, self.source, self.names, self.count = out, frames.name, tuple(card.class_names), 0
        ids = card.category_ids or range(1, len(self.names) + 1)
        self.categories = [{"id": i, "name": name} for i, name in zip(ids, self.names)]
        self.frames: list[dict[str, Any]] = []
        self.rows = array("d")  # 8 numbers for each box, 64 bytes
        self.draws, self.video = draws, None
        if draws and kind_of(frames.name) != "pictures":
            from ..predict.video_writer import VideoWriter

            fps = None if frames.fps is None else frames.fps / every
            self.video = stack.enter_context(VideoWriter(out / "video.mp4", fps=fps))

    def add(self, frame: Frame, found: Detections) -> None:
        from ..track.tracks import rows_of

        height, width = frame.pixels.shape[1:]
        own = frame.source != self.source  # a picture of its own
        name = frame.source if own else f"{Path(self.source).stem}/{frame.number:06d}.jpg"
        self.frames.append({
            "frame_id": frame.number, "file_name": name, "width": width, "height": height, "time": round(frame.time, 6)
        })  # fmt: skip
        self.rows.extend(chain.from_iterable(rows_of(frame.number + 1, found)))
        self.count += 1
        if not self.draws:
            return
        from ..track.drawing import draw_tracks

        picture = draw_tracks(frame.pixels, found)
        if self.video is not None:
            self.video.write(picture, frame.time)
            return
        target = self.out / "frames" / f"{frame.number:06d}.jpg"
        target.parent.mkdir(exist_ok=True)
        picture.save(target, quality=92)

    def close(self) -> None:
        import numpy as np

        from ..track.formats import write_coco_vid, write_mot
        from ..track.tracks import Tracks

        self.tracks = tracks = Tracks.of_table(np.array(self.rows).reshape(-1, 8)).settled()
        name = Path(self.source).name or self.source
        write_mot(self.out / "tracks.txt", tracks)
        write_coco_vid(self.out / "tracks.json", {name: tracks}, {name: self.frames}, self.categories)

    def summary(self, objects: int) -> dict[str, Any]:
        """For --json, of what `close` wrote: objects by class, most first."""
        from collections import Counter

        tracks = self.tracks.known
        labels = dict(zip(tracks.ids.tolist(), tracks.labels.tolist()))
        classes = {self.names[label]: count for label, count in Counter(labels.values()).most_common()}
        boxes = {"detections": len(self.rows) // 8, "tracked": len(tracks)}
        return {"out": self.out, "frames": self.count, "objects": objects, "classes": classes, **boxes}


FIGURES = ("HOTA", "DetA", "AssA", "LocA", "IDF1", "IDP", "IDR", "MOTA", "MOTP", "IDSW", "Frag", "MT", "ML", "FP", "FN")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackEval:
    """HOTA, IDF1 and MOTA of tracks: `headway track eval --truth gt.txt --results runs/track/tracks.txt`.

    Both files are MOTChallenge's (.txt) or COCO-VID's (.json, measured class by class). Figures are those of TrackEval.
    """

    truth: Annotated[Path | None, arg(metavar="FILE")] = None
    """The annotated tracks."""
    results: Annotated[Path | None, arg(metavar="FILE")] = None
    """Those that were found, as tracks.txt or tracks.json of `headway track`."""
    json: bool = False
    """Print all figures as JSON, HOTA's at each overlap too."""

    def run(self) -> int:
        if self.truth is None or self.results is None:
            raise UsageError("name both files: headway track eval --truth gt.txt --results tracks.txt")
        from ..track.evaluate import evaluate_tracks

        scores = evaluate_tracks(self.truth, self.results)
        if self.json:
            show_json(scores._asdict())
            return 0
        rows = [("all", scores.summary)]
        rows += [*scores.videos.items()] if len(scores.videos) > 1 else []
        rows += [*scores.classes.items()] if len(scores.classes) > 1 else []
        cells = [[name, *(_shown(figures[key]) for key in FIGURES)] for name, figures in rows]
        show(table(["", *FIGURES], cells, right=range(1, len(FIGURES) + 1)))
        return 0


def _shown(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}"
