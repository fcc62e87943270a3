"""What several one-stage heads share: the tower, the order of the outputs, the best pairs, the matched ground truth.

Legend: B images, A priors of all levels, C classes, K candidates, M ground-truth boxes, P positives.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers.levels import group_norm
from ..layers.separable import SeparableConv, init_fan_in
from ..types import Target

# What a head of five levels asks of the parts around it: maps of strides 8 to 128, of one width.
DENSE: dict[str, Any] = {"strides": (8, 16, 32), "levels": 5, "extra": "on_output", "pan.channels": 256}


class Tower(nn.Sequential):
    """`depth` times 3x3 convolution, GroupNorm if `norm`, ReLU. bias: None means only without norm.

    Towers are called with a map and the number of its level, which makes no difference to this one.
    """

    def __init__(self, channels: int, depth: int, *, norm: bool, bias: bool | None = None) -> None:
        super().__init__()
        for _ in range(depth):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm if bias is None else bias)
            layers: dict[str, nn.Module] = {"conv": conv}
            if norm:
                layers["norm"] = group_norm(channels)
            self.append(nn.Sequential(OrderedDict(layers, act=nn.ReLU(inplace=True))))

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        return super().forward(x)


class SeparableTower(nn.Module):
    """`depth` times separable 3x3 convolution, batch norm, activation; then the 3x3 half of one more separable
    convolution, whose 1x1 half is the prediction behind the tower (EfficientDet, arXiv 1911.09070, section 4).

    The convolutions are shared by `levels` maps, the norms are not. bias: of the convolutions in front of norms.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        levels: int,
        *,
        act: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module],
        bias: bool,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SeparableConv(channels, channels, bias=bias) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(norm(channels) for _ in range(levels)) for _ in range(depth))
        self.act = act()
        self.last = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        init_fan_in(self)

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        for conv, norms in zip(self.convs, self.norms):
            x = self.act(norms[level](conv(x)))
        return self.last(x)


def flatten(x: Tensor, width: int) -> Tensor:
    """[B, n * width, H, W] -> [B, H * W * n, width], rows in (y, x, anchor) order."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)


def best_pairs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (prior, class) pairs of logits [B, A, C]: their logits, priors and classes, each [B, K].

    The priors of the best pairs are among the `count` priors whose best class is best, and looking for those first
    spares sorting all A * C pairs.
    """
    first = min(count, logits.shape[1])
    prior = logits.amax(2).topk(first, dim=1).indices
    pairs = logits.gather(1, prior[..., None].expand(-1, -1, logits.shape[2])).flatten(1)
    best, index = pairs.topk(min(count, pairs.shape[1]), dim=1)
    return best, prior.gather(1, index // logits.shape[2]), index % logits.shape[2]


def best_per_level(logits: Tensor, level_sizes: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """`best_pairs` of every level, one after the other; priors count over all levels."""
    found, start = [], 0
    for size in level_sizes:
        best, prior, label = best_pairs(logits[:, start : start + size], count)
        found.append((best, prior + start, label))
        start += size
    best, prior, label = (torch.cat(parts, 1) for parts in zip(*found))
    return best, prior, label


class Matches(NamedTuple):
    """What the priors of a batch must predict. labels [B, A]: a class, NEGATIVE or IGNORE; positive [B, A] bool;
    truth [P, 4]: the box of every positive, in the order of `positive`; counts [B] float: positives per image."""

    labels: Tensor
    positive: Tensor
    truth: Tensor
    counts: Tensor


def match(targets: Sequence[Target], assign: Callable[[int, Tensor], Tensor]) -> Matches:
    """Assign the boxes of every image; crowd regions take no part. assign: (image, boxes [M, 4]) -> matched [A]."""
    labels, owners, owned = [], [], []
    for image, target in enumerate(targets):
        target = target.without_crowd()
        matched = assign(image, target.boxes)
        positive = matched >= 0
        label = matched.clone()
        label[positive] = target.labels[matched[positive]]
        labels.append(label)
        owners.append(positive)
        owned.append(target.boxes[matched[positive]])
    positives = torch.stack(owners)
    return Matches(torch.stack(labels), positives, torch.cat(owned), positives.sum(1).float())
