"""Pictures to a batch of bytes, and a batch to what a model reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..types import Batch, Meta, Target


class BatchItem(NamedTuple):
    """One picture ready for `collate`. image: [3, H, W] uint8 RGB."""

    image: Tensor
    target: Target
    meta: Meta


def collate(items: Sequence[BatchItem], pad_value: tuple[float, float, float], pad_multiple: int = 32) -> Batch:
    """Pictures as uint8 in one tensor, padded at the right and bottom.

    pad_value: RGB 0..1 of the padding (`ModelCard.pad_value` becomes zero after normalisation), for `to_model_input`.
    pad_multiple: height and width are rounded up to a multiple of this.
    """
    sizes = torch.tensor([item.image.shape[1:] for item in items])
    height, width = (-(-int(side) // pad_multiple) * pad_multiple for side in sizes.amax(0))
    images = torch.zeros(len(items), 3, height, width, dtype=torch.uint8)
    for image, item in zip(images, items):
        image[:, : item.image.shape[1], : item.image.shape[2]] = item.image
    return Batch(images, sizes, [item.target for item in items], [item.meta for item in items], pad_value)


def to_model_input(batch: Batch, device: torch.device | str) -> Tensor:
    """What a model reads of a batch: [B, 3, H, W] float32 0..1 on `device`, the padding in the batch's `pad_value`.

    The pixels travel as bytes, from pinned memory without waiting, and become floats on the device; the result is the
    same to the bit on every device. Floats, from a loader of one's own, are taken as they are: 0..1, and padded.
    """
    pixels = batch.images.to(device, non_blocking=True)
    if pixels.is_floating_point():
        return pixels
    # By a tensor on the device: by a plain number CUDA multiplies with its reciprocal, which rounds differently.
    images = pixels.float() / torch.full((), 255.0, device=device)
    height, width = (torch.arange(side, device=device) for side in images.shape[-2:])
    sizes = batch.sizes.to(device, non_blocking=True)
    inside = (height[:, None] < sizes[:, 0, None, None]) & (width < sizes[:, 1, None, None])
    return torch.where(inside[:, None], images, images.new_tensor(batch.pad_value).view(1, 3, 1, 1))
