"""Frames of a video, a camera, a stream or a sequence of pictures, one by one, with their times.

with headway.predict.open_frames("clip.mp4") as frames:
    for number, time, pixels, source in frames: ...

Nothing here imports torch before frames are asked for as tensors, nor PyAV for a sequence of pictures.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..data.depth import white_of_files
from ..data.image import image_size, read_pixels
from ..errors import DataError, HeadwayError, check_number
from .files import VIDEO_SUFFIXES, find_images
from .live import Latest

if TYPE_CHECKING:
    from torch import Tensor

FPS = 25.0  # of a sequence of pictures for which no other is given
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp")  # addresses at which a camera sends
_WEB = ("http", "https")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Kind = Literal["camera", "stream", "file", "pictures"]


class Frame(NamedTuple):
    """One frame of a video.

    number: 0, 1, ... in its source; frames that were left out or dropped leave gaps.
    time: seconds by presentation time from the first frame; it grows from frame to frame.
    pixels: [3, H, W] uint8 RGB, upright.
    source: the video it is of, or the file of the picture.
    """

    number: int
    time: float
    pixels: Tensor
    source: str


class Shot(NamedTuple):
    """A frame that is not converted yet. read: gives [H, W, 3] uint8 RGB, upright; it raises DataError where a picture
    cannot be read."""

    number: int
    time: float
    source: str
    read: Callable[[], Pixels]


class Reader(Protocol):
    """Where frames come from. fps, count, size: as of `FrameSource`. problem: after the last frame, why some are
    missing, or nothing."""

    fps: float | None
    count: int | None
    size: tuple[int, int] | None
    problem: str

    def shots(self) -> Iterator[Shot]: ...

    def close(self) -> None: ...


class FrameSource:
    """An opened source: a context manager, and an iterable of `Frame` to go through once.

    name: the source in messages, without a password.
    fps: frames per second of the source, on average where they vary; None where it is not known.
    count: how many frames will come, as the source declares (a damaged file has fewer); None of a live source.
    size: (height, width) of the first frame.
    live: a thread reads on while a frame is worked at, and the next frame is the latest one.
    dropped: frames of a live source that a later one replaced before they were taken.
    problem: after the last frame, why frames are missing (a damaged file, a lost connection); empty where none are.
    """

    def __init__(self, name: str, reader: Reader, live: bool, *, every: int = 1, paced: bool = False) -> None:
        self.name, self.live, self._reader = name, live, reader
        self.fps, self.size = reader.fps, reader.size
        self.count = None if live or reader.count is None else -(-reader.count // every)
        self._unread: list[str] = []
        shots = (shot for shot in reader.shots() if shot.number % every == 0)
        shots = _paced(shots) if paced else shots
        self._latest = Latest(shots) if live else None
        self._shots: Iterator[Shot] = shots if self._latest is None else iter(self._latest)

    @property
    def dropped(self) -> int:
        return 0 if self._latest is None else self._latest.dropped

    @property
    def problem(self) -> str:
        if self._unread:
            return f"{self.name}: {len(self._unread)} of its frames could not be read; the first: {self._unread[0]}"
        return self._reader.problem

    def arrays(self) -> Iterator[tuple[Shot, Pixels]]:
        """Each frame with its pixels [H, W, 3], without torch. One that cannot be read is left out (see `problem`)."""
        for shot in self._shots:
            try:
                pixels = shot.read()
            except DataError as error:
                self._unread.append(str(error))
                continue
            yield shot, pixels

    def __iter__(self) -> Iterator[Frame]:
        """One that cannot be read is left out (see `problem`)."""
        import torch

        for shot, pixels in self.arrays():
            yield Frame(shot.number, shot.time, torch.from_numpy(pixels).permute(2, 0, 1), shot.source)

    def close(self) -> None:
        if self._latest is None or self._latest.stop():  # else the thread still waits for the source, and keeps it
            self._reader.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_frames(
    source: str | Path,
    *,
    live: bool | None = None,
    fps: float | None = None,
    every: int = 1,
    white: int | None = None,
) -> FrameSource:
    """Open a video file, a camera (`0`, `/dev/video0`), a stream (`rtsp://...`), or a folder or pattern of pictures.

    Pictures are taken in natural order (`9.png` before `10.png`).
    live: give the latest frame and drop those before it, as of cameras and streams by default. A file with live=True is
        played at its own speed, as a camera would send it.
    fps: frames per second of a sequence of pictures; None: 25.
    every: take frame 0, N, 2N, ... only.
    white: of 16-bit pictures the value that is white, of all of them; None: by the values of the whole sequence.

    Raises: DataError for a source that is missing, that is no video, or of which no frame can be read; HeadwayError
    without PyAV (`pip install 'headway[video]'`), and for `fps` of a source that has times of its own.
    """
    kind, name = kind_of(source), str(source)
    check_number("every", every, 1, whole=True)
    if fps is not None:
        check_number("fps", fps, 0.001, 1_000_000)
    if kind == "pictures":
        return FrameSource(name, _Pictures(name, fps or FPS, white), bool(live), every=every, paced=bool(live))
    from .video_reader import VideoReader, without_password

    if fps is not None:
        raise HeadwayError(
            f"fps={fps:g} is of a folder or pattern of pictures; {without_password(name)} has times of its own"
        )
    recorded = kind == "file"
    live = not recorded if live is None else live
    reader = VideoReader(name, kind, live=live)
    return FrameSource(without_password(name), reader, live, every=every, paced=live and recorded)


def kind_of(source: str | Path) -> Kind:
    """What a source is, by its name and by what is there."""
    text, path = str(source), Path(str(source))  # OpenCV's users name a camera by a number
    scheme = _SCHEME.match(text)
    if scheme:
        return "stream" if scheme[1].lower() in _LIVE else "file"
    if text.startswith(("/dev/video", "video=")) or (text.isascii() and text.isdigit() and not path.exists()):
        return "camera"
    pattern = not path.exists() and any(character in text for character in "*?[")
    return "pictures" if path.is_dir() or pattern else "file"


def check_there(source: str | Path) -> None:
    """Before anything slow is imported. Raises: DataError for a file that is missing, and for a folder or pattern
    without pictures."""
    kind = kind_of(source)
    if kind == "pictures":
        find_images([source], recursive=None)
    elif kind == "file" and not _SCHEME.match(str(source)) and not Path(source).is_file():
        raise DataError(f"there is no video {source}; check the path")


def is_video(source: str | Path) -> bool:
    """Whether a name is that of a video, a camera or a stream, and not of pictures."""
    kind, text = kind_of(source), str(source)
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() not in (*_LIVE, *_WEB):  # storage, as s3://
        return False
    name = text.partition("?")[0] if scheme else text
    return kind in ("camera", "stream") or (kind == "file" and Path(name).suffix.lower() in VIDEO_SUFFIXES)


def natural(path: Path) -> list[Any]:
    """A key of order in which the numbers in a name count as numbers."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", str(path))]


class _Pictures:
    """Pictures as frames. white: as of `open_frames`."""

    def __init__(self, source: str, fps: float, white: int | None) -> None:
        self._paths = sorted(find_images([source], recursive=None), key=natural)
        self.fps: float | None = fps
        self.count: int | None = len(self._paths)
        self.size: tuple[int, int] | None = _first_size(self._paths)
        self.problem, self._white = "", white

    def shots(self) -> Iterator[Shot]:
        assert self.fps is not None
        white = white_of_files(self._paths) if self._white is None else self._white
        for number, path in enumerate(self._paths):
            yield Shot(number, number / self.fps, str(path), partial(read_pixels, path, white=white))

    def close(self) -> None:
        """Nothing is open."""


def _first_size(paths: list[Path]) -> tuple[int, int]:
    """(height, width) of the first picture that can be read. Raises: DataError, that of the first, where none can."""
    errors = []
    for path in paths:
        try:
            return image_size(path)
        except DataError as error:
            errors.append(error)
    raise errors[0]


def _paced(shots: Iterator[Shot]) -> Iterator[Shot]:
    """Each at its time, as a camera would send it."""
    start = time.monotonic()
    for shot in shots:
        time.sleep(max(0.0, start + shot.time - time.monotonic()))
        yield shot


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
