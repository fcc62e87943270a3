"""GridMask: squares of a regular grid are taken out of the picture (arXiv 2001.04086), with the values that PAFNet-Lite
was trained with (PaddleDetection 2.6.0, ppdet/data/transform/gridmask_utils.py).

A quarter of the picture is hidden, in pieces all over it, so that no object has to be found by one of its parts alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .labelled import GREY

KEPT = 0.5  # of the grid's period, along each axis: a quarter of the area is taken out


class GridMask:
    """Masks a share of the pictures that rises from 0 to `share` over `epochs`. fill: RGB 0..255 of the squares."""

    def __init__(self, share: float, epochs: int, fill: Sequence[float] = GREY) -> None:
        self.share, self.epochs, self.fill = share, epochs, fill

    def __call__(self, image: Tensor, epoch: int) -> Tensor:
        masked = float(torch.rand(())) < rising(self.share, epoch, self.epochs)
        return grid_mask(image, self.fill) if masked else image


def grid_mask(image: Tensor, fill: Sequence[float] = GREY) -> Tensor:
    """[3, H, W] uint8 -> the same with squares set to `fill` (RGB 0..255). Boxes stay as they are.

    The period d is drawn from 2 to min(H, W) - 1 pixels and the grid's offset from 0 to d - 1 along each axis; of every
    period l = round(d / 2) pixels are kept along x and along y, and the square of side d - l between is taken out.
    Draws from torch's global generator.

    Differs: the released code fills with black before normalisation; the fill here is that of padding, zero after it.
    """
    height, width = image.shape[-2:]
    period = int(torch.randint(2, max(3, min(height, width)), ()))
    kept = int(KEPT * period + 0.5)
    hidden = [(torch.arange(n) + int(torch.randint(period, ()))) % period >= kept for n in (height, width)]
    colour = torch.tensor(fill).round().to(torch.uint8).view(3, 1, 1)
    return torch.where(hidden[0][:, None] & hidden[1], colour, image.as_subclass(Tensor))


def rising(probability: float, epoch: int, epochs: int) -> float:
    """The probability of a mask in `epoch` (from 0) of `epochs`: it rises linearly from 0 over the whole training, and
    this is its mean over the epoch. So it depends on nothing that a worker or a resumed run does not know.

    Differs: the released code raises it with every step.
    """
    return probability * min(1.0, (epoch + 0.5) / epochs)
