"""Dynamic ReLU: the task-aware attention of the released Dynamic Head, on maps and on pooled regions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DyReLU(nn.Module):
    """Dynamic ReLU, form B with two pieces (arXiv 2003.10027): max(a1 x + b1, a2 x + b2) per channel.

    The coefficients are functions of the map's mean over the plane: with theta = relu6(z + 3) / 6 in [0, 1],
    a1 = 2 theta in [0, 2], a2 = 2 theta - 1 in [-1, 1], b1, b2 = theta - 1/2 in [-1/2, 1/2]. At z = 0 it is ReLU.
    small_init: N(0, 0.01) and zero biases, so that it starts as almost ReLU; False: torch's default.
    """

    def __init__(self, channels: int, *, small_init: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, 4 * channels, 1)
        if small_init:
            for layer in (self.reduce, self.expand):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        pooled = x.mean((2, 3), keepdim=True)
        theta = F.hardsigmoid(self.expand(F.relu(self.reduce(pooled)))) - 0.5
        a1, b1, a2, b2 = theta.chunk(4, dim=1)
        second = torch.addcmul(b2, x, 2 * a2)
        if x.requires_grad:  # the same by a ReLU, whose gradient takes a third of the time of a maximum's
            return second + F.relu(torch.addcmul(b1 - b2, x, 2 * (a1 - a2) + 1))
        return torch.maximum(torch.addcmul(b1, x, 2 * a1 + 1), second)
