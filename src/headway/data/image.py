"""Files to upright RGB pixels: [3, H, W] uint8, whatever the format, mode, depth or EXIF orientation.

The header is read by Pillow (size, mode, orientation) and judged before a pixel is decoded. JPEG, PNG and WebP are then
decoded by torchvision, the rest (CMYK, 16 bit, BMP, TIFF, GIF ...) by Pillow; where torchvision has no image extension
Pillow does all of it. The orientation is applied here on both ways, so they agree.
"""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError

try:
    from torchvision.io import ImageReadMode, decode_image
except ImportError:  # torchvision announces the removal of its decoders (0.29); Pillow then does all of it
    decode_image = None

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb (2 * PIL.Image.MAX_IMAGE_PIXELS)

# Formats with pixels only: Pillow also opens EPS (runs Ghostscript), PSD, PDF previews and other containers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2", ".avif", ".tga",
)  # fmt: skip

# What torchvision decodes to the same 8-bit RGB as Pillow. A phone's MPO is a JPEG with further pictures behind it.
_DIRECT = {"JPEG": ("RGB", "L"), "MPO": ("RGB", "L"), "PNG": ("RGB", "RGBA", "L", "P"), "WEBP": ("RGB", "RGBA")}
_ANIMATED = ("WEBP", "PNG", "AVIF")  # refused when they hold several frames; of GIF and TIFF the first is read
_ORIENTATION = 0x0112  # EXIF tag 274: 1 upright, 2..8 mirrored or turned (CIPA DC-008, 4.6.5.1.6)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, TypeError)


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """[3, H, W] uint8 RGB of a picture file, upright (EXIF orientation applied).

    Grey is repeated, a palette resolved, CMYK converted, alpha dropped, 16-bit grey reduced to its high byte; of a GIF
    or TIFF the first frame is read. The tensor may be channels-last in memory.
    max_pixels: H * W above which the file is refused before decoding. To go beyond the default raise
    `PIL.Image.MAX_IMAGE_PIXELS` as well, since Pillow enforces its own limit.

    Raises: DataError naming the file: missing, empty, not an image, truncated, animated, 32-bit, or too large.
    """
    data = _read_bytes(Path(path))
    with _open(io.BytesIO(data), path, max_pixels) as picture:
        if picture.mode in _DIRECT.get(picture.format or "", ()):
            pixels = _decode_torchvision(data)
            if pixels is not None:
                return _upright(pixels, picture.getexif().get(_ORIENTATION, 1))
        return _decode_pillow(picture, path)


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright picture, from the header alone.

    Raises: DataError as `read_image`, except for damage behind the header.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        _read_bytes(path)
    with _open(path, path, max_pixels) as picture:
        width, height = picture.size
        # Pillow already states a TIFF's size upright.
        if picture.format != "TIFF" and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
            return width, height
        return height, width


def _read_bytes(path: Path) -> bytes:
    """The whole file, or the DataError that says why not."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist; check the path or the data set's image folder") from None
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or type(error).__name__
        raise DataError(f"image {path} cannot be read: {reason}; expected a readable picture file") from None
    if not data:
        raise DataError(f"image {path} is empty (0 bytes); copy it again or remove it from the data set")
    return data


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(source: Path | io.BytesIO, path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    """Parse the header of `source`; nothing is decoded. `path` is for messages."""
    try:
        picture = Image.open(source, formats=_formats())
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path} is refused as a decompression bomb: {error}; resize it first") from None
    except UnidentifiedImageError:
        raise DataError(
            f"image {path} is not a picture, or its header is damaged; expected one of {', '.join(FORMATS)}; "
            "replace the file or remove it from the data set"
        ) from None
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from None
    problem = _header_problem(picture, max_pixels)
    if problem:
        picture.close()
        raise DataError(f"image {path} {problem}")
    return picture


def _header_problem(picture: ImageFile.ImageFile, max_pixels: int) -> str:
    """Why a picture with this header is refused, or nothing."""
    width, height = picture.size
    if width * height > max_pixels:
        return f"has {width}x{height} pixels, more than the limit of {max_pixels:,}; resize it or raise max_pixels"
    if picture.format in _ANIMATED and getattr(picture, "is_animated", False):
        frames = getattr(picture, "n_frames", "several")
        return f"is an animation of {frames} frames; expected one picture: save the frame that the boxes belong to"
    if picture.mode in ("I", "F"):
        return "has 32-bit pixels, whose range is not defined; convert it to 8 or 16 bit"
    return ""


def _damaged(path: str | Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(f"image {path} is truncated or damaged ({reason}); copy it again or remove it from the data set")


def _decode_torchvision(data: bytes) -> Tensor | None:
    """[3, H, W] uint8 as stored (orientation not applied); None where torchvision cannot, so that Pillow tries."""
    if decode_image is None:
        return None
    try:
        pixels = decode_image(torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)), ImageReadMode.RGB)
    except RuntimeError:  # a damaged file, or a torchvision built without its image extension
        return None
    return pixels if pixels.dtype == torch.uint8 else None  # a 16-bit PNG comes as uint16


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation: [3, H, W] as stored -> as meant; an unknown value means upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    # After the transposition: 6 is turned right (mirror columns), 8 left (mirror rows), 7 both, 5 neither.
    flip = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return pixels.flip(flip) if flip else pixels


def _decode_pillow(picture: ImageFile.ImageFile, path: str | Path) -> Tensor:
    """[3, H, W] uint8 RGB, upright, of the first frame."""
    try:
        picture.load()  # a TIFF is turned upright here and loses its tag, so the tag is looked at afterwards
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in _SIXTEEN_BIT:
            grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            upright = Image.fromarray(grey)
        rgb = np.array(upright.convert("RGB"))
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from None
    return torch.from_numpy(rgb).permute(2, 0, 1)
