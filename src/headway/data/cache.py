"""Decoded pictures kept in memory between the epochs."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .augment.resize import fit_size
from .dataset import DetectionData

RAM_LIMIT = 4 * 2**30  # bytes of decoded pictures that cache="ram" may keep


class PictureCache:
    """Decoded pictures of a data set in one uint8 tensor, which forked and spawned workers share without copying.

    resize: (short, long) when the pictures may be kept scaled, because the transform begins with that fixed resize.
    Pictures that do not fit into `limit` bytes any more are decoded each time.

    Raises: DataError for the first picture that cannot be read.
    """

    def __init__(
        self,
        data: DetectionData,
        resize: tuple[int, int] | None = None,
        limit: int = RAM_LIMIT,
        white: int | None = None,
    ) -> None:
        original = [record.header()[0] for record in data.records]
        sizes = [fit_size(size, resize) if resize else size for size in original]
        ends = np.cumsum([3 * height * width for height, width in sizes], dtype=np.int64)
        self.kept = int(np.searchsorted(ends, limit, side="right"))
        self.original, self.sizes = original[: self.kept], sizes[: self.kept]
        self.ends = ends[: self.kept].tolist()
        self.pixels = torch.empty(self.ends[-1] if self.kept else 0, dtype=torch.uint8)
        for index in range(self.kept):
            picture = data.records[index].read(white)
            self._view(index).copy_(F.resize(picture, list(sizes[index]), antialias=True) if resize else picture)

    def _view(self, index: int) -> Tensor:
        """[3, H, W], channels-last in memory, as the uint8 resize wants it."""
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * height * width : end].view(height, width, 3).permute(2, 0, 1)

    def get(self, index: int) -> tuple[Tensor, tuple[int, int]] | None:
        """(picture, original (height, width)), or None if it is not kept. The picture must not be written to."""
        return (self._view(index), self.original[index]) if index < self.kept else None
