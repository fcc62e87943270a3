"""One dense head for RetinaNet, FCOS, ATSS and EfficientDet: what differs is passed in as functions and numbers.

Legend: B images, A priors of all levels, C classes, K candidates, M ground-truth boxes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import IGNORE
from ..boxes import Coder, clip, encode_ltrb
from ..losses import BoxLoss, reduce_mean, sigmoid_focal, world_size
from ..targets import centerness
from ..types import Candidates, Frame, Losses, Priors, Target, valid_sizes
from .parts import Tower, best_per_level, flatten, match

Normaliser = Literal["image", "batch", "mean", "batch_plus_one"]


class DenseRaw(NamedTuple):
    """cls [B, A, C] logits; box [B, A, 4] codes of the coder (for FCOS distances in pixels); quality [B, A] centerness
    logits or None; priors; sizes [B, 2] valid (height, width)."""

    cls: Tensor
    box: Tensor
    quality: Tensor | None
    priors: Priors
    sizes: Tensor


class DenseHead(nn.Module):
    """Two towers shared by all levels, and one prediction per prior.

    channels: of the incoming maps. strides: of the levels, finest first.
    make_priors: (map sizes [(h, w)], strides, device) -> Priors; priors_per_cell: how many a cell has.
    assign: (Priors, boxes [M, 4]) -> matched [A], see `assign.py`.
    coder, box_loss: how boxes are coded and compared.
    normaliser: of the losses, the positives of the batch: "image" counts every image as at least one (RetinaNet,
        ATSS), "batch" only the batch (FCOS), "batch_plus_one" adds one to them (EfficientDet); "mean" divides each
        image's loss by its own and averages (torchvision).
    quality: the branch that predicts centerness ("cls" or "box"), or None for no such output.
    joint_score: candidates are ranked and thresholded by sqrt(class score * centerness) (torchvision), not by the class
        score alone and then scored by the product.
    weigh_boxes: the box loss is weighted by the target's centerness and divided by the sum of it.
    level_scales: a learned factor per level on the box output. box_activation: after it ("exp": pixels, "relu": units
        of the stride); the result is in pixels for both.
    tower_depth, tower_norm, tower_bias, kernel: convolutions in front of, and of, the predictions.
    make_tower: a tower of another kind in place of `Tower`, with weights of its own making.
    focal_gamma: of the focal loss.
    pre_nms: candidates kept per level, or of all levels together (pre_nms_of).

    Loss terms: `cls` focal, `box`, and `centerness` with a quality branch.
    """

    predictors = ("cls", "box", "centerness")  # stay float in int8

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        make_priors: Callable[[list[tuple[int, int]], Sequence[int], torch.device], Priors],
        assign: Callable[[Priors, Tensor], Tensor],
        coder: Coder,
        box_loss: BoxLoss,
        priors_per_cell: int = 1,
        normaliser: Normaliser = "image",
        quality: Literal["cls", "box"] | None = None,
        joint_score: bool = False,
        weigh_boxes: bool = True,
        level_scales: bool = False,
        box_activation: Literal["none", "exp", "relu"] = "none",
        tower_depth: int = 4,
        tower_norm: bool = True,
        tower_bias: bool | None = None,
        kernel: int = 3,
        make_tower: Callable[[], nn.Module] | None = None,
        focal_gamma: float = 2.0,
        pre_nms: int = 1000,
        pre_nms_of: Literal["level", "all"] = "level",
    ) -> None:
        super().__init__()
        self.num_classes, self.strides, self.pre_nms = num_classes, tuple(strides), pre_nms
        self.make_priors, self.assign, self.coder, self.box_loss = make_priors, assign, coder, box_loss
        self.normaliser, self.quality, self.box_activation = normaliser, quality, box_activation
        self.joint_score, self.weigh_boxes = joint_score, weigh_boxes
        self.focal_gamma, self.pre_nms_of = focal_gamma, pre_nms_of
        plain_tower = partial(Tower, channels, tower_depth, norm=tower_norm, bias=tower_bias)
        self.cls_tower, self.box_tower = ((make_tower or plain_tower)() for _ in range(2))
        padding = kernel // 2
        self.cls = nn.Conv2d(channels, priors_per_cell * num_classes, kernel, padding=padding)
        self.box = nn.Conv2d(channels, priors_per_cell * 4, kernel, padding=padding)
        self.centerness = nn.Conv2d(channels, priors_per_cell, kernel, padding=padding) if quality else None
        self.scales = nn.ParameterList(torch.ones(()) for _ in self.strides) if level_scales else None
        towers = () if make_tower else (self.cls_tower, self.box_tower)
        self._initialise(*towers, self.cls, self.box, *filter(None, [self.centerness]))

    def _initialise(self, *parts: nn.Module) -> None:
        """N(0, 0.01) weights; class scores start at 0.01 (RetinaNet, arXiv 1708.02002, 4.1)."""
        for module in (m for part in parts for m in part.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls.bias, -math.log(99))

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> DenseRaw:
        """features: one map [B, channels, H, W] per stride. targets are not used."""
        if len(features) != len(self.strides):
            raise ValueError(f"this head was built for {len(self.strides)} levels, got {len(features)} feature maps")
        cls, box, quality = [], [], []
        for level, x in enumerate(features):
            cls_feature, box_feature = self.cls_tower(x, level), self.box_tower(x, level)
            cls.append(flatten(self.cls(cls_feature), self.num_classes))
            box.append(flatten(self._activate(self.box(box_feature), level), 4))
            if self.centerness is not None:
                source = cls_feature if self.quality == "cls" else box_feature
                quality.append(flatten(self.centerness(source), 1))
        priors = self.make_priors([tuple(x.shape[-2:]) for x in features], self.strides, features[0].device)
        joined = torch.cat(quality, 1).squeeze(2).float() if quality else None
        return DenseRaw(torch.cat(cls, 1).float(), torch.cat(box, 1), joined, priors, valid_sizes(frame))

    def _activate(self, x: Tensor, level: int) -> Tensor:
        x = x.float()
        if self.scales is not None:
            x = x * self.scales[level]
        if self.box_activation == "exp":
            return x.exp()
        if self.box_activation == "relu":
            return F.relu(x) * self.strides[level]
        return x

    def decode(self, raw: DenseRaw) -> Candidates:
        """The best `pre_nms` (prior, class) pairs of every level, or of all, a static number."""
        ranking = self._joint(raw) if self.joint_score else raw.cls
        parts = raw.priors.level_sizes if self.pre_nms_of == "level" else (ranking.shape[1],)
        best, prior, label = best_per_level(ranking, parts, self.pre_nms)
        codes = raw.box.gather(1, prior[..., None].expand(-1, -1, 4))
        boxes = clip(self.coder.decode(raw.priors.boxes[prior], codes), raw.sizes)
        class_score = score = best if self.joint_score else best.sigmoid()
        if raw.quality is not None and not self.joint_score:
            score = class_score * raw.quality.gather(1, prior).sigmoid()
        return Candidates(boxes, score, label, class_score)

    @staticmethod
    def _joint(raw: DenseRaw) -> Tensor:
        """[B, A, C] geometric mean of class score and centerness."""
        assert raw.quality is not None
        return (raw.cls.sigmoid() * raw.quality[..., None].sigmoid()).sqrt()

    def loss(self, raw: DenseRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. Returns the terms and the positives per image."""
        label, positive, truth, count = match(targets, lambda _, boxes: self.assign(raw.priors, boxes))
        normal = self._normal(count)

        focal = sigmoid_focal(raw.cls.flatten(0, 1), label.flatten(), gamma=self.focal_gamma).view_as(label)
        focal = focal * (label != IGNORE)
        terms = {"cls": (focal.sum(1) / normal).sum()}
        priors = raw.priors.boxes.expand(len(targets), -1, -1)[positive]
        codes = raw.box[positive]
        each = normal[:, None].expand_as(positive)[positive]  # of every positive the normaliser of its image
        if self.box_loss.on == "codes":
            per_box = self.box_loss.function(codes, self.coder.encode(priors, truth))
        else:
            per_box = self.box_loss.function(self.coder.decode(priors, codes), truth)
        if raw.quality is not None:
            central = centerness(encode_ltrb(priors, truth))
            entropy = F.binary_cross_entropy_with_logits(raw.quality[positive], central, reduction="none")
            terms["centerness"] = (entropy / each).sum()
            if self.weigh_boxes:
                per_box = per_box * central
                least = 1e-6 if self.normaliser == "batch" else 1
                each = reduce_mean(central.sum()).clamp(min=least / world_size())
        terms["box"] = (per_box / each).sum() * self.box_loss.weight
        return Losses(terms, {"positives": count.mean()})

    def _normal(self, count: Tensor) -> Tensor:
        """Positives per image [B] -> what each image's loss is divided by, [B]."""
        if self.normaliser == "mean":
            return count.clamp(min=1) * len(count)
        if self.normaliser == "batch_plus_one":
            return (reduce_mean(count.sum()) + 1 / world_size()).expand_as(count)
        total = (count.clamp(min=1) if self.normaliser == "image" else count).sum()
        return reduce_mean(total).clamp(min=1 / world_size()).expand_as(count)
