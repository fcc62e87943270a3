"""Pictures in any form -> [3, H, W] uint8 RGB.

The same picture as a file, its bytes, a PIL picture, an array or a tensor gives the same pixels.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import image as files
from ..data.image import is_many as is_many
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
_CHANNELS = (1, 3, 4)


class Picture(NamedTuple):
    """pixels: [3, H, W] uint8 RGB, upright. source: the path that they were read from, or the pixels."""

    pixels: Tensor
    source: Any


def read_picture(image: ImageLike, where: str = "the picture", *, max_bytes: int = MAX_BYTES) -> Picture:
    """One picture in any form, see `ImageLike`. where: names the picture in messages. max_bytes: of a download.

    Raises: DataError for another form, pixels out of range, a file that cannot be read, or a failed download.
    """
    if isinstance(image, str) and _URL.match(image):
        pixels = files.read_image(image, data=_download(image, max_bytes, TIMEOUT))
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Picture(files.read_image(path), str(path))
    elif isinstance(image, (bytes, bytearray, memoryview)):
        pixels = files.read_image(where, data=bytes(image))
    elif isinstance(image, Image.Image):
        pixels = _from_pillow(image, where)
    elif isinstance(image, np.ndarray):
        pixels = _from_array(image, where)
    elif isinstance(image, Tensor):
        pixels = _from_tensor(image, where)
    else:
        raise DataError(
            f"{where} must be a path, URL, bytes, PIL picture, array [H, W, 3] or tensor [3, H, W], "
            f"got {type(image).__name__}"
        )
    return Picture(pixels, pixels)


def _from_pillow(picture: Image.Image, where: str) -> Tensor:
    if picture.mode in ("I", "F"):
        raise DataError(
            f"{where} has 32-bit pixels (mode {picture.mode}), whose range is not known: convert it to 8 bit"
        )
    pixels = files.decode_pillow(picture, where)  # type: ignore[arg-type]
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels).permute(2, 0, 1)
    return files.upright(tensor, files.orientation_of(picture))  # type: ignore[arg-type]


def _from_array(array: Any, where: str) -> Tensor:
    """[H, W], or [H, W, 1, 3 or 4]."""
    shape = array.shape
    if array.ndim == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        raise DataError(
            f"{where} must be an array [H, W, 3], got {shape} with the channels first; turn it by "
            "image.transpose(1, 2, 0), or make it a tensor"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in _CHANNELS):
        raise DataError(f"{where} must be an array [H, W, 3] (or [H, W], or with 1 or 4 channels), got {shape}")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{where} must be uint8 in 0..255 or float in 0..1, got {array.dtype}; scale it, e.g. 16 bit by "
            "(image >> 8).astype(np.uint8)"
        )
    channels_last = torch.from_numpy(np.array(array, dtype="f4" if array.dtype == np.float16 else None))
    return _to_bytes((channels_last[..., None] if array.ndim == 2 else channels_last).permute(2, 0, 1), where)


def _from_tensor(tensor: Tensor, where: str) -> Tensor:
    """[H, W], or [1, 3 or 4, H, W]."""
    shape = tuple(tensor.shape)
    if tensor.dim() == 3 and shape[0] not in _CHANNELS and shape[2] in _CHANNELS:
        raise DataError(
            f"{where} must be a tensor [3, H, W], got {shape} with the channels last; turn it by "
            "image.permute(2, 0, 1), or make it an array"
        )
    if tensor.dim() not in (2, 3) or (tensor.dim() == 3 and shape[0] not in _CHANNELS):
        raise DataError(f"{where} must be a tensor [3, H, W] (or [H, W], or with 1 or 4 channels), got {shape}")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DataError(f"{where} must be uint8 in 0..255 or float in 0..1, got {tensor.dtype}; use .to(torch.uint8)")
    pixels = tensor.detach().cpu()
    return _to_bytes(pixels[None] if tensor.dim() == 2 else pixels, where)


def _to_bytes(pixels: Tensor, where: str) -> Tensor:
    """[1, 3 or 4, H, W] uint8 or float -> [3, H, W] uint8."""
    if not pixels.numel():
        raise DataError(f"{where} is empty: {tuple(pixels.shape[1:])} pixels")
    if pixels.is_floating_point():
        low, high = pixels.min().item(), pixels.max().item()
        if not (low >= 0 and high <= 1):  # not NaN either
            raise DataError(
                f"{where} must be float in 0..1, got {low:g} to {high:g}; divide 8-bit values by 255, and undo a "
                "normalisation"
            )
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    return (pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels[:3]).contiguous()


def _download(url: str, max_bytes: int, timeout: float) -> bytes:
    """The bytes behind a URL, at most `max_bytes`, in at most `timeout` seconds."""
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if url.split(":", 1)[0].lower() not in ("http", "https", "file"):
        raise DataError(f"{url} cannot be opened: expected http, https or file; download the picture first")
    limit = f"the limit of {max_bytes / 2**20:g} MiB; download it and give the path"
    content, deadline = bytearray(), time.monotonic() + timeout
    try:
        with urlopen(Request(url, headers={"User-Agent": "headway"}), timeout=timeout) as response:
            while block := response.read(2**16):
                content += block
                if len(content) > max_bytes:
                    raise DataError(f"{url} is larger than {limit}")
                if time.monotonic() > deadline:
                    raise DataError(f"{url} took longer than {timeout:g} s; download it and give the path")
    except (URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(getattr(error, "reason", "") or error).split())[:200]
        raise DataError(f"{url} cannot be downloaded: {reason or type(error).__name__}; check the address") from None
    return bytes(content)


def pictures_of(source: Any) -> Iterator[tuple[ImageLike, str]]:
    """(picture, its name in messages) for each of several."""
    for number, image in enumerate(source):
        yield image, f"picture {number}"
