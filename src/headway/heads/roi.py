"""What looks at one pooled region: fully connected or convolutional box heads, and the Dynamic Head paper's.

Legend: N regions, C channels, K classes. A box head maps pooled [N, C, r, r] to class logits [N, K + 1], background
last, and box codes [N, 4] (class-agnostic) or [N, 4 K].
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Literal, NamedTuple

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..layers.dyrelu import DyReLU

Averaging = Literal["logits", "probabilities"]
RoINorm = Literal["none", "batch", "layer"]
_SIDE = 7  # cells of a pooled region


class RegionOptions(NamedTuple):
    """What looks at a region.

    roi_samples: regions of an image that a stage is trained on; None takes all.
    resample: every stage samples anew and sees the ground truth again (mmdetection); False: later stages take the
        first one's regions as they were refined (detectron2).
    averaging: of the stages' classifications, "logits" before or "probabilities" after the softmax (detectron2).
    pool_gradient: factor on the gradient from the box heads to the pyramid (detectron2: 1 / stages).
    min_size: final boxes must be wider and higher than this.
    sampling_ratio, aligned, level_eps_after_log: see `pyramid_roi_align`; torchvision has 2, False, True.
    task_attention: the Dynamic Head paper's figure: task attention takes the place of the fully connected layers.
    box_convs, box_fcs, box_norm, hidden: of the box head.
    """

    roi_samples: int | None = 512
    resample: bool = True
    averaging: Averaging = "logits"
    pool_gradient: float = 1.0
    min_size: float = 0.0
    sampling_ratio: int = 0
    aligned: bool = True
    level_eps_after_log: bool = False
    task_attention: bool = False
    box_convs: int = 0
    box_fcs: int = 2
    box_norm: RoINorm = "none"
    hidden: int = 1024


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
    """`box_convs` 3x3 convolutions, then `box_fcs` fully connected layers of width `hidden`, each with ReLU.

    0 and 2 are the published head of Faster and Cascade R-CNN on a pyramid; 4 and 1 the heavier one of torchvision's
    second version, of Cascade R-CNN on Swin and, with box_norm "layer", of ViTDet. box_norm: after each convolution,
    which then has no bias.
    """

    def __init__(self, channels: int, num_classes: int, class_agnostic: bool, options: RegionOptions) -> None:
        if options.box_fcs < 1:
            raise ValueError(f"a box head needs at least one fully connected layer, got box_fcs={options.box_fcs}")
        norm, hidden = options.box_norm, options.hidden
        super().__init__(hidden, num_classes, class_agnostic)
        self.convs = nn.Sequential()
        for _ in range(options.box_convs):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none")
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers: dict[str, nn.Module] = {"conv": conv}
            if norm != "none":
                layers["norm"] = nn.BatchNorm2d(channels) if norm == "batch" else LayerNorm2d(channels, eps=1e-6)
            self.convs.append(nn.Sequential(OrderedDict(layers, act=nn.ReLU(inplace=True))))
        widths = [channels * _SIDE**2, *[hidden] * options.box_fcs]
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
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

    The paper leaves the details open and the authors' code has another form, so this much is ours: two times a 1x1
    convolution and the released task attention, whose coefficients come from the mean over each region; the
    predictors read the flattened result.
    """

    def __init__(self, channels: int, num_classes: int, class_agnostic: bool, options: RegionOptions) -> None:
        super().__init__(channels * _SIDE**2, num_classes, class_agnostic)
        self.tasks = nn.Sequential()
        for _ in range(2):
            conv = nn.Conv2d(channels, channels, 1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            self.tasks.append(nn.Sequential(OrderedDict(conv=conv, task=DyReLU(channels))))

    def embed(self, pooled: Tensor) -> Tensor:
        return self.tasks(pooled).flatten(1)
