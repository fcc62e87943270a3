"""Pictures in any form -> [3, H, W] uint8 RGB.

The same picture as a file, its bytes, a PIL picture, an array or a tensor gives the same pixels.
"""

import os
import re
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ..data.image import read_image
from ..data.pixels import to_pixels
from ..errors import DataError

ImageLike: TypeAlias = Any
"""One picture:

- the path of a file (str or Path), or its bytes;
- an http, https or file URL (str);
- a PIL picture of any mode, turned upright by its EXIF orientation;
- an array [H, W, 3] uint8 in RGB, or [H, W], [H, W, 1], [H, W, 4] (grey is repeated, alpha dropped). OpenCV reads BGR:
  give `image[..., ::-1]`;
- a tensor [3, H, W] uint8 in RGB, or with 1 or 4 channels, or [H, W];
- an array or tensor of floats in 0..1.

A tensor [B, 3, H, W] or an array [B, H, W, 3] is B pictures.
"""

MAX_BYTES = 64 * 2**20  # of a download
TIMEOUT = 20.0  # seconds, of a download

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Picture(NamedTuple):
    """pixels: [3, H, W] uint8 RGB, upright. source: the path that they were read from, or the pixels."""

    pixels: Tensor
    source: Any


def read_picture(image: ImageLike, where: str = "the picture", *, max_bytes: int = MAX_BYTES) -> Picture:
    """One picture in any form, see `ImageLike`. where: names the picture in messages. max_bytes: of a download.

    Raises: DataError for another form, pixels out of range, a file that cannot be read, or a failed download.
    """
    if isinstance(image, str) and _URL.match(image):
        pixels = read_image(image, data=_download(image, max_bytes))
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Picture(read_image(path), str(path))
    elif isinstance(image, (bytes, bytearray, memoryview)):
        pixels = read_image(where, data=bytes(image))
    else:
        pixels = to_pixels(image, where, others="path, URL, bytes")
    return Picture(pixels, pixels)


def _download(url: str, max_bytes: int) -> bytes:
    """The bytes behind a URL, at most `max_bytes`, in at most `TIMEOUT` seconds."""
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if url.split(":", 1)[0].lower() not in ("http", "https", "file"):
        raise DataError(f"{url} cannot be opened: expected http, https or file; download the picture first")
    limit = f"the limit of {max_bytes / 2**20:g} MiB; download it and give the path"
    content, deadline = bytearray(), time.monotonic() + TIMEOUT
    try:
        with urlopen(Request(url, headers={"User-Agent": "headway"}), timeout=TIMEOUT) as response:
            while block := response.read1(2**16):
                content += block
                if len(content) > max_bytes:
                    raise DataError(f"{url} is larger than {limit}")
                if time.monotonic() > deadline:
                    raise DataError(f"{url} took longer than {TIMEOUT:g} s; download it and give the path")
    except (URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(getattr(error, "reason", "") or error).split())[:200]
        raise DataError(f"{url} cannot be downloaded: {reason or type(error).__name__}; check the address") from None
    return bytes(content)
