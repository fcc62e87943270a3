"""Pictures in memory to upright RGB pixels: a PIL picture, an array or a tensor to [3, H, W] uint8."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .image import decode_pillow, orientation_of, upright

_CHANNELS = (1, 3, 4)


def to_pixels(
    image: Any, where: str = "the picture", *, exif: bool = True, others: str = "path", white: int | None = None
) -> Tensor:
    """[3, H, W] uint8 RGB of a PIL picture, an array [H, W, 3] or a tensor [3, H, W], uint8 or float in 0..1.

    Grey ([H, W], or one channel) is repeated, alpha dropped, deeper pixels of PIL scaled.
    exif: turn a PIL picture upright by its EXIF orientation.
    white: of 16-bit pixels, as of `read_image`.
    where, others: for messages, the picture's name and the forms that the caller reads itself.

    Raises: DataError for another form or pixels out of range.
    """
    if isinstance(image, Image.Image):
        pixels = torch.from_numpy(decode_pillow(image, where, white)).permute(2, 0, 1)
        return upright(pixels, orientation_of(image)) if exif else pixels
    if not isinstance(image, (np.ndarray, Tensor)):
        raise DataError(
            f"{where} must be a {others}, PIL picture, array [H, W, 3] or tensor [3, H, W], got {type(image).__name__}"
        )
    return _to_bytes(_channels_first(image, where), where)


def _channels_first(image: Any, where: str) -> Tensor:
    """[H, W], an array [H, W, 1, 3 or 4] or a tensor [1, 3 or 4, H, W] -> tensor [1, 3 or 4, H, W], uint8 or float."""
    shape = tuple(image.shape)
    if isinstance(image, Tensor):
        form, axis, misplaced = "tensor [3, H, W]", 0, "last; turn it by image.permute(2, 0, 1), or make it an array"
        is_float, remedy = image.is_floating_point(), "use .to(torch.uint8)"
    else:
        form, axis, misplaced = "array [H, W, 3]", 2, "first; turn it by image.transpose(1, 2, 0), or make it a tensor"
        is_float, remedy = (
            image.dtype.kind == "f",
            "scale it, 16 bit by (image >> 8).astype(np.uint8), 12 bit by >> 4",
        )
    if len(shape) == 3 and shape[axis] not in _CHANNELS and shape[2 - axis] in _CHANNELS:
        raise DataError(f"{where} must be of the form {form}, got {shape} with the channels {misplaced}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[axis] not in _CHANNELS):
        raise DataError(f"{where} must be of the form {form} (or [H, W], or with 1 or 4 channels), got {shape}")
    if image.dtype not in (np.uint8, torch.uint8) and not is_float:
        raise DataError(f"{where} must be uint8 in 0..255 or float in 0..1, got {image.dtype}; {remedy}")
    if not isinstance(image, Tensor):
        image = torch.from_numpy(np.array(image, dtype=np.float32 if is_float else None))
    pixels = image.detach().cpu()
    return pixels[None] if len(shape) == 2 else pixels.movedim(axis, 0)


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
