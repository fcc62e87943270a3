"""Pictures in any form -> [3, H, W] uint8 RGB.

The same picture as a file, its bytes, a PIL picture, an array or a tensor gives the same pixels.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ..data.download import MAX_BYTES, content_of, download, is_url
from ..data.image import read_image
from ..data.pixels import to_pixels

ImageLike: TypeAlias = Any
"""One picture:

- the path of a file (str or Path), its bytes, or a file opened to read bytes;
- an http, https or file URL (str);
- a PIL picture of any mode, turned upright by its EXIF orientation;
- an array [H, W, 3] uint8 in RGB, or [H, W], [H, W, 1], [H, W, 4] (grey is repeated, alpha dropped). OpenCV reads BGR:
  give `image[..., ::-1]`;
- a tensor [3, H, W] uint8 in RGB, or with 1 or 4 channels, or [H, W];
- an array or tensor of floats in 0..1.

A tensor [B, 3, H, W] or an array [B, H, W, 3] is B pictures.
"""


class Picture(NamedTuple):
    """pixels: [3, H, W] uint8 RGB, upright. source: the path that they were read from, or the pixels."""

    pixels: Tensor
    source: Any


def read_picture(
    image: ImageLike, where: str = "the picture", *, max_bytes: int = MAX_BYTES, white: int | None = None
) -> Picture:
    """One picture in any form, see `ImageLike`. where: names the picture in messages. max_bytes: of a download.

    white: of 16-bit pixels, as of `read_image`.

    Raises: DataError for another form, pixels out of range, a file that cannot be read, or a failed download.
    """
    if isinstance(image, str) and is_url(image):
        pixels = read_image(image, data=download(image, max_bytes), white=white)
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Picture(read_image(path, white=white), str(path))
    elif isinstance(image, (bytes, bytearray, memoryview)):
        pixels = read_image(where, data=bytes(image), white=white)
    elif hasattr(image, "read"):
        pixels = read_image(where, data=content_of(image, where), white=white)
    else:
        pixels = to_pixels(image, where, others="path, URL, bytes", white=white)
    return Picture(pixels, pixels)
