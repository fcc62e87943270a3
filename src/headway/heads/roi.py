"""What looks at one pooled region: fully connected or convolutional box heads, and the Dynamic Head paper's.

Legend: N regions, C channels, K classes. A box head maps pooled [N, C, r, r] to class logits [N, K + 1], background
last, and box codes [N, 4] (class-agnostic) or [N, 4 K].
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..layers.dyrelu import DyReLU

RoINorm = Literal["none", "batch", "layer"]


class _Predictors(nn.Module):
    """The two linear outputs. Weights start N(0, 0.01) for classes and N(0, 0.001) for boxes (Fast R-CNN, 2.3)."""

    def __init__(self, features: int, num_classes: int, class_agnostic: bool) -> None:
        super().__init__()
        self.cls = nn.Linear(features, num_classes + 1)
        self.box = nn.Linear(features, 4 if class_agnostic else 4 * num_classes)
        for layer, std in ((self.cls, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def embed(self, pooled: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, r, r] -> logits [N, K + 1] and codes [N, 4 or 4 K]."""
        x = self.embed(pooled)
        return self.cls(x), self.box(x)


class BoxHead(_Predictors):
    """`convs` 3x3 convolutions, then `fcs` fully connected layers of width `hidden`, each with ReLU.

    convs=0, fcs=2 is the published head of Faster and Cascade R-CNN on a pyramid; convs=4, fcs=1 the heavier one of
    torchvision's second version, of Cascade R-CNN on Swin and, with norm="layer", of ViTDet. norm: after each
    convolution, which then has no bias.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        class_agnostic: bool = False,
        resolution: int = 7,
        convs: int = 0,
        fcs: int = 2,
        hidden: int = 1024,
        norm: RoINorm = "none",
    ) -> None:
        if fcs < 1:
            raise ValueError(f"a box head needs at least one fully connected layer, got fcs={fcs}")
        super().__init__(hidden, num_classes, class_agnostic)
        self.convs = nn.Sequential()
        for _ in range(convs):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none")
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers: dict[str, nn.Module] = {"conv": conv}
            if norm != "none":
                layers["norm"] = nn.BatchNorm2d(channels) if norm == "batch" else LayerNorm2d(channels, eps=1e-6)
            self.convs.append(nn.Sequential(OrderedDict(layers, act=nn.ReLU(inplace=True))))
        width = channels * resolution**2
        self.fcs = nn.ModuleList(nn.Linear(width if i == 0 else hidden, hidden) for i in range(fcs))
        for layer in self.fcs:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(self, pooled: Tensor) -> Tensor:
        x = self.convs(pooled).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return x


class TaskBoxHead(_Predictors):
    """The Dynamic Head paper's two-stage form (arXiv 2106.08322, 3.4 and figure 2c): task-aware attention on pooled
    features takes the place of the fully connected layers.

    The paper leaves the details open and the authors' code has another form, so this much is ours: `depth` times a
    1x1 convolution and the released task attention, whose coefficients come from the mean over each region; the
    predictors read the flattened result.
    """

    def __init__(
        self, channels: int, num_classes: int, *, class_agnostic: bool = False, resolution: int = 7, depth: int = 2
    ) -> None:
        super().__init__(channels * resolution**2, num_classes, class_agnostic)
        self.tasks = nn.Sequential()
        for _ in range(depth):
            conv = nn.Conv2d(channels, channels, 1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            self.tasks.append(nn.Sequential(OrderedDict(conv=conv, task=DyReLU(channels))))

    def embed(self, pooled: Tensor) -> Tensor:
        return self.tasks(pooled).flatten(1)
