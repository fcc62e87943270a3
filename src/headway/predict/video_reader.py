"""A video file, a camera or a stream, read by PyAV (FFmpeg): upright RGB pixels and presentation times.

PyAV counts no frames and trusts no rate: a frame's time is the one that the file gives it, in the order in which frames
are shown (which is not that of the file where there are B-frames).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, HeadwayError
from .frames import Kind, Shot

_TIMEOUT = 10.0  # seconds without a byte after which a stream or camera is given up
_ERRORS = 10  # errors of a file one after another after which nothing more is read of it
_JUMP = 1.0  # seconds: times that fall back by more begin anew (a stream that restarted), others are repeated ones
_TOLERANCE = 0.5  # seconds by which a file may end before the length that it declares
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "{}")}


def import_av() -> Any:
    """PyAV. Raises: HeadwayError without it."""
    try:
        import av
        import av.video.reformatter  # which `import av` alone does not name
    except ImportError:
        raise HeadwayError("video needs PyAV: pip install 'headway[video]'") from None
    return av


class VideoReader:
    """fps: on average; count: as the file declares or its length says; size: (height, width) of the first frame,
    upright.

    live: decode for the least delay. problem: after the last frame, what was missing.
    Raises: DataError for what cannot be opened, is no video, or has no frame that can be read.
    """

    def __init__(self, source: str, kind: Kind, *, live: bool) -> None:
        av = import_av()
        self._address, self._source, self._live = source, without_password(source), live
        self._errors = (av.FFmpegError, OSError)
        self.problem, self._packets, self._bad, self._broken = "", 0, 0, ""
        self._container = self._open(av, kind)
        try:
            self._stream = self._container.streams.best("video")
            if self._stream is None or self._stream.codec_context is None:
                what = "holds no video" if self._stream is None else "is of a format that this FFmpeg cannot decode"
                raise DataError(f"{self._source} {what}; name a video, or convert it to H.264")
            # A thread per frame hands each frame on only when as many more have come.
            self._stream.thread_type = "SLICE" if live else "AUTO"
            self.fps = _rate(self._stream)
            self._declared = int(self._stream.frames)
            self.count = self._declared or _count_by_length(self._container, self._stream, self.fps)
            self._to_rgb = RgbConverter(av)
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                remedy = _remedy(kind)
                raise DataError(f"{self._source} has no frame that can be read{_because(self._broken)}; {remedy}")
            self.size: tuple[int, int] | None = self._to_rgb(first).shape[:2]
            self._frames = chain([first], self._frames)
        except BaseException:
            self.close()
            raise

    def _open(self, av: Any, kind: Kind) -> Any:
        address, options, forced = self._address, {}, None
        on_disk = kind == "file" and "://" not in address
        if kind == "camera":
            address, forced = camera(address, sys.platform)
        elif kind == "stream" and address.lower().startswith("rtsp"):
            options = {"rtsp_transport": "tcp"}  # UDP loses packets, and is shut out by most walls
        elif on_disk and not Path(address).is_file():
            raise DataError(f"there is no video {address}; check the path")
        elif on_disk:
            address = str(Path(address).absolute())  # FFmpeg would take the 10 of 10:30.mp4 for a protocol
        try:
            timeout = None if on_disk else _TIMEOUT
            # A title in another encoding than UTF-8 is no reason to read no frame.
            return av.open(address, format=forced, options=options, timeout=timeout, metadata_errors="replace")
        except self._errors as error:
            what = {"camera": "camera", "stream": "stream"}.get(kind, "video")
            raise DataError(
                f"{what} {self._source} cannot be opened{_because(reason(error))}; {_remedy(kind)}"
            ) from None

    def shots(self) -> Iterator[Shot]:
        step = 1 / self.fps if self.fps else 0.04
        clock, end = Clock(step), 0.0
        in_order = self._container.format.name == "avi"  # knows no presentation times; guessed ones jump at B-frames
        for number, frame in enumerate(self._frames):
            ticks = frame.dts if in_order else frame.pts
            seconds = None if ticks is None else float(ticks * self._stream.time_base)
            time = clock.at(seconds)
            yield Shot(number, time, self._source, partial(self._to_rgb, frame))
            self._bad += frame.is_corrupt
            end = max(seconds or 0.0, time) + step
        self.problem = self._find_problem(number + 1, end)

    def _decode(self) -> Iterator[Any]:
        """Frames in the order in which they are shown. What cannot be decoded is counted and passed over."""
        for packet in self._demux():
            try:
                yield from self._stream.decode(packet)
            except self._errors:
                self._bad += 1
        with suppress(*self._errors):  # the frames that the decoder still holds
            yield from self._stream.decode(None)

    def _demux(self) -> Iterator[Any]:
        """Packets of the video, beyond errors that do not end the file."""
        errors = 0
        while errors < _ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:  # the last one only empties the decoder
                        self._packets, errors = self._packets + 1, 0
                        yield packet
                return
            except self._errors as error:
                errors, self._broken = errors + 1, self._broken or reason(error)
                if type(error).__name__ == "ExitError":  # the time-out
                    self._broken = f"nothing came for {_TIMEOUT:g} seconds"
                    return

    def _find_problem(self, read: int, end: float) -> str:
        """read: frames that came; end: seconds at which the last one ended."""
        if self._live:  # who joins a stream in its middle cannot decode its first frames: that is no damage
            return f"{self._source} ended after {read} frames{_because(self._broken)}" if self._broken else ""
        # MP4 and MOV count what they hold; AVI counts empty frames too. What others declare is a length.
        counts = "mp4" in self._container.format.name
        missing = self._declared - self._packets if counts else 0
        length = 0.0 if counts else _declared_length(self._container, self._stream)
        why = self._broken
        if not why and missing > 0:
            why = f"it ends {missing} frames early"
        if not why and length - end > _TOLERANCE:
            why = f"it ends at {end:.1f} of {length:.1f} seconds"
        if not why and self._bad:
            why = f"{self._bad} frames are damaged"
        if not why:
            return ""
        which = f"{read} of {self._declared}" if counts else f"{read}"
        return f"{self._source} is damaged or was cut off: {which} frames were read{_because(why)}"

    def close(self) -> None:
        self._container.close()


class RgbConverter:
    """Decoded frames of any format -> [H, W, 3] uint8 RGB, upright.

    Colours: the matrix and the range that the frame declares. A frame without a matrix is taken as players do, BT.709
    from 720 rows on and BT.601 below; one without a range as limited, but where its format is a full one (`yuvj420p`).
    """

    def __init__(self, av: Any) -> None:
        self._reformatter = av.video.reformatter.VideoReformatter()
        spaces, ranges = av.video.reformatter.Colorspace, av.video.reformatter.ColorRange
        self._by_height, self._full = {False: spaces.ITU601, True: spaces.ITU709}, ranges.JPEG
        self._turn: tuple[int, tuple[int, int, int, int]] | None = None

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        space = self._by_height[frame.height >= 720] if frame.colorspace == _UNSPECIFIED else None
        rgb = self._reformatter.reformat(frame, format="rgb24", src_colorspace=space, dst_color_range=self._full)
        # A frame that is asked for its matrix stays until the garbage collector finds it (a cycle inside PyAV).
        if self._turn is None or self._turn[0] != frame.rotation:
            self._turn = frame.rotation, display_matrix(frame)
        return upright(rgb.to_ndarray(), self._turn[1])


_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the frame's display matrix (libavutil/display.h): a stored point (p, q) is shown at
    (a p + c q, b p + d q), up to a shift and a scale."""
    try:
        numbers = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)
    except KeyError:
        return 1, 0, 0, 1
    return int(numbers[0]), int(numbers[1]), int(numbers[3]), int(numbers[4])


def upright(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] as stored -> as shown, a copy. matrix: of a turn by quarters and mirroring; the nearest of another."""
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        columns, rows = a < 0, d < 0
    else:  # x and y change places
        pixels, columns, rows = pixels.swapaxes(0, 1), c < 0, b < 0
    return np.array(pixels[:: -1 if rows else 1, :: -1 if columns else 1], order="C")


class Clock:
    """Seconds from the first frame that always grow, from the times that a file gives its frames.

    step: seconds between frames where the file gives none.
    """

    def __init__(self, step: float) -> None:
        self._step, self._origin = step, 0.0
        self._last: float | None = None

    def at(self, seconds: float | None) -> float:
        """The next frame's time; seconds: as in the file, None where it has none.

        A time that does not grow is put a millisecond behind the last one. One that falls back by more than a second is
        that of a stream which began anew: it goes on from here.
        """
        last = self._last
        if last is None:
            self._origin, now = seconds or 0.0, 0.0
        elif seconds is None:
            now = last + self._step
        else:
            now = round(seconds - self._origin, 9)  # 0.48 - 0.08 is 0.4
            if now < last - _JUMP:
                now = last + self._step
                self._origin = seconds - now
            now = max(now, last + 0.001) if now <= last else now
        self._last = now
        return now


def camera(source: str, platform: str) -> tuple[str, str]:
    """(address, format) of the camera with this number or device. Raises: HeadwayError on Windows for a number."""
    form, address = _CAMERAS.get(platform, _CAMERAS["linux"])
    if platform == "win32" and source.isdigit():
        raise HeadwayError(
            f"Windows knows cameras by their names: name camera {source} as in 'video=Integrated Camera'"
        )
    return (address.format(source) if source.isdigit() else source), form


def reason(error: BaseException) -> str:
    """What FFmpeg says, without the number and the name of the file."""
    return str(getattr(error, "strerror", None) or error).strip()


def without_password(address: str) -> str:
    """An address as it may be shown and written. As in FFmpeg a password ends at the last @ before the path."""
    return re.sub(r"(?<=://)([^/?#@:]*):[^/?#]*@", r"\1:***@", address)


def _because(why: str) -> str:
    return f" ({why})" if why else ""


def _remedy(kind: Kind) -> str:
    return {
        "camera": "is it connected, free, and may you use it? `ls /dev/video*` lists cameras",
        "stream": "check the address, the password in it, and that the camera is on",
    }.get(kind, "is it a video, and whole?")


def _rate(stream: Any) -> float | None:
    """Frames per second; None where nothing says it (a container's clock is no rate)."""
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return next((rate for rate in rates if 0 < rate <= 1000), None)


def _declared_length(container: Any, stream: Any) -> float:
    """Seconds of video as a Matroska file declares them; 0 where nothing does, or it may be the sound's length."""
    tags = [value for name, value in stream.metadata.items() if name.upper().startswith("DURATION")]
    if tags:
        with suppress(ValueError):
            hours, minutes, seconds = map(float, tags[0].split(":"))
            return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams) == 1 and "matroska" in container.format.name
    return container.duration / 1e6 if alone and container.duration else 0.0


def _count_by_length(container: Any, stream: Any, fps: float | None) -> int | None:
    """Frames by length and rate, for files that declare no number."""
    seconds = stream.duration * stream.time_base if stream.duration else None
    if seconds is None and container.duration:
        seconds = container.duration / 1e6  # av.time_base
    return round(float(seconds) * fps) or None if seconds and fps else None
