"""Videos that tests write: frames of one grey level each, or any pictures, at any times, by FFmpeg's own encoders."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

TICKS = 12_800


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def levels(count: int) -> list[int]:
    """Grey levels far enough from each other to be told apart after compression."""
    return [20 + 10 * number % 220 for number in range(count)]


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[float] | None = None,
    *,
    fps: int = 25,
    codec: str = "libx264",
    turn: tuple[int, bool, bool] | None = None,
    full: bool = False,
    space: Colorspace | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """times: seconds of each picture; None: evenly by `fps`. turn: (degrees counter-clockwise, mirror columns, mirror
    rows) that the file asks for. full: full range; space: the matrix, told in the file; None: BT.601, untold."""
    times = [number / fps for number in range(len(pictures))] if times is None else times
    with av.open(str(path), "w", container_options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        wanted = ColorRange.JPEG if full else ColorRange.MPEG
        if full:
            stream.codec_context.color_range = wanted
        if space is not None:
            stream.codec_context.colorspace = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}[space]
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        for picture, time in zip(pictures, times):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=space or Colorspace.ITU601, dst_color_range=wanted)
            frame.time_base, frame.pts = Fraction(1, TICKS), round(time * TICKS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def grey_clip(path: Path, count: int, times: Sequence[float] | None = None, **options) -> Path:
    return write_clip(path, [grey(level) for level in levels(count)], times, **options)
