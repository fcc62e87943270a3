"""Files to upright RGB pixels: [3, H, W] uint8, whatever the format, mode, depth or EXIF orientation.

Pillow judges the header (size, mode, orientation) before a pixel is decoded. torchvision then decodes JPEG, PNG and
WebP, Pillow the rest (CMYK, 16 bit, BMP, TIFF, GIF ...); Pillow also stands in where torchvision has no image
extension. torch is imported by `read_image` alone, so that checking a data set starts without it.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import DataError, NoPictureError, TooManyPixelsError, one_line
from .depth import UnknownRangeError, to_eight_bits
from .jpeg import END, is_whole, jpeg_damage

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb (2 * PIL.Image.MAX_IMAGE_PIXELS)

# Formats with pixels only: Pillow also opens EPS (runs Ghostscript), PSD, PDF previews and other containers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA", "HEIF")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
    ".jp2", ".avif", ".tga", ".heic", ".heif", ".hif",
)  # fmt: skip

# What torchvision decodes to the same 8-bit RGB as Pillow. A phone's MPO is a JPEG with further pictures behind it.
_DIRECT = {"JPEG": ("RGB", "L"), "MPO": ("RGB", "L"), "PNG": ("RGB", "RGBA", "L", "P"), "WEBP": ("RGB", "RGBA")}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FETCH_LFS = "is a Git LFS pointer in place of the file; fetch it: git lfs pull"
_ANIMATED = ("WEBP", "PNG", "AVIF")  # refused when they hold several frames; of GIF and TIFF the first is read
_ORIENTATION = 0x0112  # EXIF tag 274: 1 upright, 2..8 mirrored or turned (CIPA DC-008, 4.6.5.1.6)
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, TypeError)


def read_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    data: bytes | bytearray | None = None,
    white: int | None = None,
) -> Tensor:
    """[3, H, W] uint8 RGB of a picture file, upright (EXIF orientation applied).

    Grey is repeated, a palette resolved, CMYK converted, alpha dropped, deeper pixels scaled (see `depth`); of a GIF
    or TIFF the first frame is read. The tensor may be channels-last in memory.
    max_pixels: H * W above which the file is refused before decoding. To go beyond the default raise
    `PIL.Image.MAX_IMAGE_PIXELS` as well, since Pillow enforces its own limit.
    data: the file's content, where it is at hand already; `path` is then its name in messages.
    white: the value of 16-bit pixels that is white, where the file does not say; None: by the picture's own values.

    Raises: DataError naming the file: missing, empty, not an image, truncated, animated, too large, or of a range of
        values that is not known.
    """
    import torch

    data = _read_bytes(Path(path)) if data is None else bytearray(data)
    with _open(io.BytesIO(data), path, max_pixels) as picture:
        pixels = None
        if picture.mode in _DIRECT.get(picture.format or "", ()):
            pixels = _decode_torchvision(data)
        if pixels is None:
            pixels = torch.from_numpy(_decode_whole(picture, data, path, white)).permute(2, 0, 1)
        return upright(pixels, orientation_of(picture))


def _decode_whole(
    picture: ImageFile.ImageFile, data: bytes | bytearray, path: str | Path, white: int | None
) -> NDArray[np.uint8]:
    """`decode_pillow`; a JPEG that lacks nothing but its end mark is given one."""
    try:
        return decode_pillow(picture, path, white)
    except DataError:
        if picture.format != "JPEG" or not is_whole(data):
            raise
    with Image.open(io.BytesIO(bytes(data) + END), formats=("JPEG",)) as mended:
        return decode_pillow(mended, path)


def is_many(source: Any) -> bool:
    """Whether a source is several pictures: a batch, or any iterable that is no picture itself."""
    if hasattr(source, "ndim"):
        return source.ndim == 4
    single = isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(source, "read")
    return hasattr(source, "__iter__") and not single


def read_pixels(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    data: bytes | bytearray | None = None,
    white: int | None = None,
) -> NDArray[np.uint8]:
    """`read_image` as [H, W, 3], by Pillow alone and without torch."""
    data = _read_bytes(Path(path)) if data is None else data
    with _open(io.BytesIO(data), path, max_pixels) as picture:
        return array_upright(_decode_whole(picture, data, path, white), orientation_of(picture))


def verify_image(path: str | Path, *, data: bytes | None = None) -> None:
    """Decode a picture by Pillow and forget it. torch is imported only for a picture that Pillow refuses.

    data: as of `read_image`.
    Raises: DataError where `read_image` does, and for a JPEG that is damaged inside, which decoders pass over.
    """
    try:
        with _open(Path(path) if data is None else io.BytesIO(data), path, MAX_PIXELS) as picture:
            decode_pillow(picture, path)
            content = Path(path).read_bytes() if data is None else data
            damage = jpeg_damage(content) if picture.format in ("JPEG", "MPO") else ""
    except (DataError, OSError):
        read_image(path, data=data)
        return
    if damage:
        raise DataError(f"image {path} is damaged inside: its data {damage}; copy it again or remove it")


def image_header(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, data: bytes | None = None
) -> tuple[tuple[int, int], int]:
    """((height, width) of the upright picture, EXIF orientation that turns it upright), from the header alone.

    data: as of `read_image`; of a file that is cut off behind its header too.
    Raises: DataError as `read_image`, except for damage behind the header.
    """
    path = Path(path)
    if data is None and (not path.is_file() or path.stat().st_size == 0):
        _read_bytes(path)
    with _open(path if data is None else io.BytesIO(data), path, max_pixels) as picture:
        width, height = picture.size
        turn = orientation_of(picture)
        return ((width, height) if turn in (5, 6, 7, 8) else (height, width)), turn


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright picture; see `image_header`."""
    return image_header(path, max_pixels=max_pixels)[0]


def _read_bytes(path: Path) -> bytearray:
    """The whole file, or the DataError that says why not."""
    try:
        data = bytearray(path.read_bytes())
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
    """Those of FORMATS that this Pillow was built with, and HEIF where the package pillow-heif is installed."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(source: Path | io.BytesIO, path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    """Parse the header of `source`; nothing is decoded. `path` is for messages."""
    try:
        picture = Image.open(source, formats=_formats())
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"image {path} is refused as a decompression bomb: {error}; resize it first") from None
    except UnidentifiedImageError:
        if _is_heif(source):
            raise NoPictureError(
                f"image {path} is HEIC, as phones write it, which needs one more package: pip install pillow-heif; or "
                "save it as JPEG"
            ) from None
        if _start_of(source, len(LFS_POINTER)) == LFS_POINTER:
            raise NoPictureError(f"image {path} {FETCH_LFS}") from None
        raise NoPictureError(
            f"image {path} is not a picture, or its header is damaged; expected one of {', '.join(FORMATS)}; "
            "replace the file or remove it from the data set"
        ) from None
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from None
    width, height = picture.size
    problem = _header_problem(picture, max_pixels)
    if problem:
        picture.close()
        raise (TooManyPixelsError if width * height > max_pixels else DataError)(f"image {path} {problem}")
    return picture


def _start_of(source: Path | io.BytesIO, count: int) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:count]
    with source.open("rb") as stream:
        return stream.read(count)


def _is_heif(source: Path | io.BytesIO) -> bool:
    """Whether a file says that it is of the HEIF family (ISO/IEC 23008-12): a box `ftyp` with one of its brands."""
    start = _start_of(source, 12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _header_problem(picture: ImageFile.ImageFile, max_pixels: int) -> str:
    """Why a picture with this header is refused, or nothing."""
    width, height = picture.size
    if width * height > max_pixels:
        return f"has {width}x{height} pixels, more than the limit of {max_pixels:,}; resize it or raise max_pixels"
    if picture.format in _ANIMATED and getattr(picture, "is_animated", False):
        frames = getattr(picture, "n_frames", "several")
        return f"is an animation of {frames} frames; expected one picture: save the frame that the boxes belong to"
    return ""


def _damaged(path: str | Path, error: Exception) -> DataError:
    return DataError(
        f"image {path} is truncated or damaged ({one_line(error)}); copy it again or remove it from the data set"
    )


@cache
def _torchvision_decoder() -> Callable[[Tensor], Tensor] | None:
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:  # torchvision announces the removal of its decoders (0.29)
        return None
    return partial(decode_image, mode=ImageReadMode.RGB)


def _decode_torchvision(data: bytearray) -> Tensor | None:
    """[3, H, W] uint8 as stored; None where torchvision cannot, so that Pillow tries."""
    import torch

    decode = _torchvision_decoder()
    if decode is None:
        return None
    try:
        pixels = decode(torch.frombuffer(data, dtype=torch.uint8))
    except RuntimeError:  # a damaged file, or a torchvision built without its image extension
        return None
    return pixels if pixels.dtype == torch.uint8 else None  # a 16-bit PNG comes as uint16


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation of an opened picture, 1 (upright) where there is none.

    Not `getexif`: for a PNG it decodes the pixels, and it takes the value from XMP too, which torchvision does not.
    """
    if picture.format == "TIFF":  # Pillow states a TIFF's size, and gives its pixels, upright
        return 1
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif", b""))
        return int(exif.get(_ORIENTATION, 1))
    except _DECODE_ERRORS:  # damaged EXIF data does not make the picture unusable
        return 1


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation: [3, H, W] as stored -> as meant; an unknown value means upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    # After the transposition: 6 is turned right (mirror columns), 8 left (mirror rows), 7 both, 5 neither.
    flip = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return pixels.flip(flip) if flip else pixels


def array_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """`upright` of [H, W, 3]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def decode_pillow(picture: Image.Image, path: str | Path, white: int | None = None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB of the first frame, as stored (a TIFF upright). white: as of `read_image`."""
    try:
        eight_bits = to_eight_bits(picture, white)
        plain = picture if eight_bits is None else Image.fromarray(eight_bits)
        return np.array(plain.convert("RGB"))
    except UnknownRangeError as error:
        raise DataError(f"image {path} {error}") from None
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from None
