"""`headway predict MODEL VIDEO`: a video with boxes, and a JSON line for each frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, count, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from ..errors import DataError
from ..options import best_thresholds
from ..progress import rate_bar
from ..resolve import is_exported
from . import common
from .common import UsageError, check_fixed, resolve_model, say, show, show_json

if TYPE_CHECKING:
    from ..predict.frames import FrameSource, Pixels, Shot
    from ..predict.video_writer import VideoWriter
    from .predict import Predict


class Look(NamedTuple):
    """What looks at frames. find: pictures [H, W, 3] -> what was found in each; card: a ModelCard, or what an exported
    file has of it; cap: detections of a frame that are kept at most."""

    find: Callable[[list[Pixels]], list[Any]]
    card: Any
    cap: int


def run_video(command: Predict, model: str | Path, sources: tuple[str, ...]) -> int:
    """Look at each source in turn. A source that is damaged or cannot be opened is reported, and the exit code is 1."""
    from ..predict.frames import check_there, is_video, kind_of
    from ..predict.video_reader import without_password

    for source in sources:
        if not (is_video(source) or (command.fps is not None and kind_of(source) == "pictures")):
            raise UsageError(
                f"{without_password(source)} is no video: look at pictures in a call of their own, or, with --fps, at "
                "a folder of them as the frames of a video"
            )
        check_there(source)
    if (command.workers, command.ray, command.shard) != (None, None, None):
        raise UsageError("a job looks at pictures: leave out --workers, --ray and --shard for a video")
    if command.every < 1:
        raise UsageError(f"--every must be at least 1, got {command.every}")
    if command.seconds is not None and not command.seconds > 0:
        raise UsageError(f"--seconds must be more than 0, got {command.seconds:g}")
    found = resolve_model(model)
    look = _of_file(command, found.path) if is_exported(found.path) else _of_model(command, model)
    with ExitStack() as stack:
        results = _Results(command, look, stack)
        for source in sources:
            try:
                results.look_at(source)
            except DataError as error:
                if len(sources) == 1:
                    raise
                results.fail(without_password(source), str(error))
        return results.tell(sources)


def _of_model(command: Predict, name: str | Path) -> Look:
    import torch

    from ..predict import Predictor

    model = common.load_model(name)
    predictor = Predictor(
        model, common.pick_device(command.device), command.precision, command.batch_size, command.lowest,
        max_detections=command.max_detections, nms_iou=None if command.nms_iou == "none" else command.nms_iou,
        classes=command.classes or None, **command.views.settings(),
    )  # fmt: skip

    def find(pictures: list[Pixels]) -> list[Any]:
        return predictor([torch.from_numpy(pixels).permute(2, 0, 1) for pixels in pictures])

    return Look(find, model.card, predictor.max_detections)


def _of_file(command: Predict, path: Path) -> Look:
    """Of an exported file, without torch."""
    from ..runtime import Runtime

    check_fixed(path, command.device, command.precision, nms_iou=(command.nms_iou, "card"))
    views = command.views.settings(path)
    runtime = Runtime(path, precision=command.precision)  # type: ignore[arg-type]
    options: dict[str, Any] = {"batch_size": command.batch_size, "threshold": command.lowest, **views}
    options |= {"classes": command.classes or None, "max_detections": command.max_detections}

    def find(pictures: list[Pixels]) -> list[Any]:
        return list(runtime(pictures, **options))

    return Look(find, SimpleNamespace(**runtime.card), runtime.most(command.max_detections, tiles=views["tiles"]))


class _Results:
    """What is written and said. The folder is made when the first source has been opened.

    frames, total, dropped: looked at, detections in them, and frames that a live source sent meanwhile.
    """

    def __init__(self, command: Predict, look: Look, stack: ExitStack) -> None:
        self._command, self._look, self._stack = command, look, stack
        self._limits = best_thresholds(look.card) if command.threshold == "best" else command.threshold
        self._out: Path | None = None
        self._lines: TextIO
        self._videos: list[Path] = []
        self._failed: dict[str, str] = {}
        self.frames = self.total = self.dropped = self._capped = 0
        self._best = 0.0

    def look_at(self, source: str) -> None:
        """One source to its end, to --seconds, or to Ctrl-C, which is how a live one ends."""
        from ..predict import open_frames

        before = self.frames
        white = getattr(self._look.card, "white", None)
        with open_frames(source, fps=self._command.fps, every=self._command.every, white=white) as frames:
            out = self._claim()
            try:
                self._frames_of(frames, out)
            except KeyboardInterrupt as interrupt:
                if not frames.live or isinstance(interrupt, common.TerminatedError):
                    say(f"interrupted after {self.frames - before} frames of {frames.name}; {out} holds those")
                    raise
            if frames.dropped:
                self.dropped += frames.dropped
                say(f"{frames.name}: {frames.dropped} frames came while others were looked at, and were left out")
            if frames.problem:
                self.fail(frames.name, frames.problem)

    def fail(self, source: str, problem: str) -> None:
        self._failed[source] = problem
        say(problem)

    def _claim(self) -> Path:
        from .predict import DEFAULT_OUT

        if self._out is None:
            given = self._command.out
            self._out = common.new_folder(DEFAULT_OUT) if given is None else common.claim_folder(given)
            file = (self._out / "predictions.jsonl").open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
            self._lines = self._stack.enter_context(file)
        return self._out

    def _frames_of(self, frames: FrameSource, out: Path) -> None:
        from ..predict.frames import chunks

        limit, done = self._command.seconds, 0
        arrays: Iterator[tuple[Shot, Pixels]] = frames.arrays()
        if limit is not None:
            arrays = takewhile(lambda item: item[0].time < limit, arrays)
        title = Path(frames.name).name
        with self._video(frames, out) as video, rate_bar(title, "frames") as progress:
            for chunk in chunks(arrays, 1 if frames.live else self._command.batch_size):
                for (shot, pixels), found in zip(chunk, self._look.find([pixels for _, pixels in chunk])):
                    self._add(frames.name, shot, found, pixels, video)
                done += len(chunk)
                progress(done, _expected(frames, limit, self._command.every))

    @contextmanager
    def _video(self, frames: FrameSource, out: Path) -> Iterator[VideoWriter | None]:
        from ..predict import VideoWriter

        if self._command.no_pictures:
            yield None
            return
        fps = None if frames.fps is None else frames.fps / self._command.every
        stem = name_of(frames.name)
        names = chain([f"{stem}.mp4"], (f"{stem}-{number}.mp4" for number in count(2)))
        with VideoWriter(next(out / name for name in names if not (out / name).exists()), fps=fps) as video:
            yield video
        if video.path.exists():
            self._videos.append(video.path)

    def _add(self, source: str, shot: Shot, found: Any, pixels: Pixels, video: VideoWriter | None) -> None:
        card = self._look.card
        self._best = max(self._best, *found.scores.tolist(), 0.0)
        found = found.filter(threshold=self._limits)
        self.frames, self.total = self.frames + 1, self.total + len(found)
        self._capped += len(found) == self._look.cap
        rows = found.to_coco(0, card.category_ids or None)
        keys = ("category_id", "bbox", "score")
        line = {
            "source": shot.source, "frame": shot.number, "time": round(shot.time, 6),
            "detections": [{key: row[key] for key in keys} | {"category_name": d.name} for row, d in zip(rows, found)],
        }  # fmt: skip
        if found.tags is not None:
            line["tags"] = found.tag_scores()
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        if video is not None:
            video.write(found.plot(pixels), shot.time)

    def tell(self, sources: tuple[str, ...]) -> int:
        """The result, and the exit code."""
        from .predict import advise, len_of

        threshold = min(self._limits) if isinstance(self._limits, tuple) else self._limits
        known = self._look.card.metrics.get("threshold")
        advise(self.total, self._best, threshold, known, self._capped, self._look.cap, noun="frame")
        if self._command.json:
            show_json({
                "out": self._out, "frames": self.frames, "detections": self.total, "dropped": self.dropped,
                "videos": self._videos, "failed": self._failed,
            })  # fmt: skip
        else:
            of = f" of {len_of(len(sources), 'video')}" if len(sources) > 1 else ""
            where = "" if self._out is None else f": {self._out}"
            show(f"{len_of(self.total, 'detection')} in {len_of(self.frames, 'frame')}{of}{where}")
        return 1 if self._failed else 0


def _expected(frames: FrameSource, seconds: float | None, every: int) -> int | None:
    """How many frames will be looked at, where that is known."""
    if seconds is None or frames.fps is None:
        return frames.count
    if frames.live:
        return None
    most = -(-int(seconds * frames.fps) // every)
    return most if frames.count is None else min(most, frames.count)


def name_of(source: str) -> str:
    """The name of a source's video, without its ending: clip of clip.mp4, camera-0 of 0, stream of an address."""
    from ..predict.frames import kind_of

    kind = kind_of(source)
    if kind == "camera" and source.isdigit():
        return f"camera-{source}"
    if kind == "stream":
        return "stream"
    path = Path(source.partition("?")[0] if "://" in source else source)
    if kind == "pictures":
        path = path if path.is_dir() else path.parent
        return path.resolve().name or "frames"
    return path.stem.replace("=", "-") or "video"
