"""Pictures with times -> a video that players and browsers open.

with headway.predict.VideoWriter("boxes.mp4", fps=25) as video:
    video.write(found.plot(), time=0.04)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import HeadwayError, check_number
from .frames import FPS

# Ticks per second, of which 24, 25, 30, 50, 60 and 30000/1001 frames are whole ones. MPEG-4 counts to 65535 at most.
_TICKS = {"libx264": 90_000, "mpeg4": 60_000}


class VideoWriter:
    """A new .mp4 file: H.264 where FFmpeg was built with its encoder, else MPEG-4.

    The first picture gives the size. An odd side gets one more row or column, since these formats have even sides only;
    a later picture of another size is scaled to the first. What is written is playable after `close`, and up to the
    last few seconds after a crash.
    fps: for the encoder's budget; the times are those that `write` is given.
    codec: after the first picture, the encoder in use.

    Raises: HeadwayError without PyAV, for another rate, or where `path` is taken.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None) -> None:
        from .video_reader import import_av

        self._av = import_av()
        self.path, self.codec = Path(path), ""
        if self.path.exists():
            raise HeadwayError(f"{self.path} exists; nothing is overwritten: name another file or remove it")
        if fps is not None:
            check_number("fps", fps, 0, 1_000_000)
        self._fps = fps or FPS
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def write(self, picture: Any, time: float) -> None:
        """Append a picture: PIL, an array [H, W, 3] uint8 RGB, or a tensor [3, H, W]. time: seconds from the first one.

        Raises: HeadwayError for a file that cannot be written.
        """
        picture = to_pil(picture)
        if self._stream is None:
            with self._telling():
                self._open(picture.size)
        if picture.size != self._size:
            picture = picture.resize(self._size, Image.Resampling.BILINEAR)
        width, height = self._size
        pixels = np.pad(np.asarray(picture), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rgb = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        formats = self._av.video.reformatter
        frame = self._reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=formats.Colorspace.ITU709, dst_color_range=formats.ColorRange.MPEG
        )
        frame.time_base = Fraction(1, _TICKS[self.codec])
        frame.pts = self._last = max(round(time * _TICKS[self.codec]), self._last + 1)
        with self._telling():
            self._container.mux(self._stream.encode(frame))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raises: HeadwayError for what FFmpeg and the system raise."""
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            raise HeadwayError(
                f"{self.path} ({self._size[0]}x{self._size[1]} pixels in {self.codec}) cannot be written: "
                f"{error.strerror or error}; free space, choose another folder, or leave the video out"
            ) from None

    def _open(self, size: tuple[int, int]) -> None:
        """size: (width, height)."""
        self._size = size
        self.codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        # Fragments while it grows, one table when it is closed.
        options = {"movflags": "hybrid_fragmented"}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self.path.absolute()), "w", format="mp4", container_options=options)
        rate = Fraction(self._fps).limit_denominator(1001)
        self._stream = self._container.add_stream(self.codec, rate=rate)
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, _TICKS[self.codec])
        context.gop_size = max(10, round(2 * self._fps))  # a fragment ends before each key frame
        # BT.709, limited range: what players assume, and said in the file.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = self._av.video.reformatter.ColorRange.MPEG
        if self.codec == "libx264":
            self._stream.options = {"preset": "veryfast", "crf": "23"}
        else:
            self._stream.bit_rate = max(1_000_000, round(0.2 * size[0] * size[1] * self._fps))
        self._reformatter = self._av.video.reformatter.VideoReformatter()

    def close(self) -> None:
        """Write what the encoder still holds, and the file's table. Without a picture there is no file."""
        container, self._container = self._container, None
        if container is None:
            return
        with self._telling(), container:
            if self._stream is not None:
                container.mux(self._stream.encode(None))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_pil(picture: Any) -> Image.Image:
    """PIL, an array [H, W, 3] uint8, or a tensor [3, H, W]."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().permute(1, 2, 0).numpy()
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise HeadwayError(
            f"a picture must be PIL, an array [H, W, 3] uint8 or a tensor, got {array.shape} {array.dtype}"
        )
    return Image.fromarray(np.ascontiguousarray(array))
