"""Faster and Cascade R-CNN: proposals, then one or more stages that each pool, classify and refine boxes.

Faster R-CNN (arXiv 1506.01497, on a pyramid 1612.03144) is a cascade of one stage (Cascade R-CNN, arXiv 1712.00726).

Legend: B images, K regions of an image (padded), C classes, M ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..assign import IGNORE, max_iou, sample
from ..boxes import Coder, clip
from ..losses import BoxLoss, reduce_mean
from ..types import Candidates, Frame, Losses, Priors, Target, valid_sizes
from .rpn import RPN, RPNRaw

Averaging = Literal["logits", "probabilities"]


class Stage(NamedTuple):
    """What differs from stage to stage. positive_iou: a region this close to a box is a positive, all others are
    background; coder; weight of the stage's loss."""

    positive_iou: float
    coder: Coder
    weight: float = 1.0


class Regions(NamedTuple):
    """Input of a stage. rois [B, K, 4]; valid [B, K]; matched [B, K] the ground-truth box of each region (index
    without crowds), NEGATIVE, or IGNORE for padding, None in inference; truth [B, K]: the region is a ground-truth
    box itself."""

    rois: Tensor
    valid: Tensor
    matched: Tensor | None = None
    truth: Tensor | None = None


class StageRaw(NamedTuple):
    """regions that went in; cls [B, K, C + 1] logits, background last; box [B, K, 4] or [B, K, 4 C] codes."""

    regions: Regions
    cls: Tensor
    box: Tensor


class TwoStageRaw(NamedTuple):
    """The proposal network's output, one entry per stage, sizes [B, 2] valid (height, width)."""

    rpn: RPNRaw
    stages: tuple[StageRaw, ...]
    sizes: Tensor


class TwoStageHead(nn.Module):
    """RPN, then `stages`, each with a box head of its own; a stage's boxes, detached, are the next one's regions.

    pool: (features, rois [B, K, 4], strides) -> [B * K, C, r, r]. strides: of the finest levels, which are pooled from.
    heads, stages: one of each per stage. box_loss: on codes, or on decoded boxes.
    samples, positive_fraction: regions of an image that a stage is trained on; None takes all.
    resample: every stage samples anew and sees the ground truth again (mmdetection); otherwise later stages take the
        first one's regions as they were refined (detectron2).
    averaging: of the stages' classifications, before or after the softmax.
    pool_gradient: factor on the gradient from the box heads to the pyramid (detectron2: 1 / stages).
    min_size: final boxes must be wider and higher than this. pre_nms: (region, class) pairs kept, best first.

    Loss terms: the RPN's, and `cls` (cross entropy) and `box` of each stage, numbered from 1 where there are several;
    both divided by the number of sampled regions.
    """

    needs_targets = True  # the loss needs a forward pass with targets, whose boxes know the ground truth

    def __init__(
        self,
        rpn: RPN,
        heads: Sequence[nn.Module],
        stages: Sequence[Stage],
        *,
        num_classes: int,
        strides: Sequence[int],
        pool: Callable[[Sequence[Tensor], Tensor, Sequence[int]], Tensor],
        box_loss: BoxLoss,
        samples: int | None = 512,
        positive_fraction: float = 0.25,
        resample: bool = True,
        averaging: Averaging = "logits",
        pool_gradient: float = 1.0,
        min_size: float = 0.0,
        pre_nms: int = 5000,
    ) -> None:
        super().__init__()
        if not heads or len(heads) != len(stages):
            raise ValueError(f"as many heads as stages, at least one; got {len(heads)} and {len(stages)}")
        self.rpn, self.heads, self.stages = rpn, nn.ModuleList(heads), tuple(stages)
        self.num_classes, self.strides, self.pool, self.box_loss = num_classes, tuple(strides), pool, box_loss
        self.samples, self.positive_fraction, self.resample = samples, positive_fraction, resample
        self.averaging, self.pool_gradient = averaging, pool_gradient
        self.min_size, self.pre_nms = min_size, pre_nms

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> TwoStageRaw:
        """features: the maps of the RPN's strides, finest first. Targets are sampled here, so that `loss` draws
        nothing; with them the RPN proposes as in training, whatever mode the module is in."""
        rpn = self.rpn(features, frame, targets)
        proposals = self.rpn.propose(rpn, training=targets is not None)
        stages = self.refine(features, proposals.boxes, proposals.valid, valid_sizes(frame), targets)
        return TwoStageRaw(rpn, stages, valid_sizes(frame))

    def refine(
        self, features: list[Tensor], rois: Tensor, valid: Tensor, sizes: Tensor, targets: list[Target] | None = None
    ) -> tuple[StageRaw, ...]:
        """All stages on given regions: rois [B, K, 4] in pixels, valid [B, K]."""
        stages: list[StageRaw] = []
        regions = Regions(rois, valid)
        for number in range(len(self.stages)):
            if number:
                regions = self.advance(stages[-1], number - 1, sizes, targets)
            if targets is not None:
                regions = self._match(regions, number, targets)
            stages.append(self.look(features, regions, number))
        return tuple(stages)

    def look(self, features: list[Tensor], regions: Regions, number: int) -> StageRaw:
        """Stage `number`'s classes and codes of the given regions."""
        batch, count = regions.rois.shape[:2]
        pooled = self.pool(features[: len(self.strides)], regions.rois, self.strides)
        if self.pool_gradient != 1:
            pooled = pooled.detach() + self.pool_gradient * (pooled - pooled.detach())
        cls, box = self.heads[number](pooled)
        return StageRaw(regions, cls.float().view(batch, count, -1), box.float().view(batch, count, -1))

    @torch.no_grad()
    def advance(self, raw: StageRaw, number: int, sizes: Tensor, targets: list[Target] | None = None) -> Regions:
        """Regions for the stage after `number`: its own, refined. Where boxes are coded per class, by the class of the
        region's ground truth in training, else by the best class."""
        best = raw.cls[..., :-1].argmax(-1)
        regions = raw.regions
        if targets is not None and regions.matched is not None:
            labels = _labels(regions.matched, targets, self.num_classes)
            best = torch.where(regions.matched >= 0, labels, best)
        codes = raw.box.unflatten(-1, (-1, 4))
        index = torch.zeros_like(best) if codes.shape[2] == 1 else best
        codes = codes.gather(2, index[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        rois = clip(self.stages[number].coder.decode(regions.rois, codes), sizes)
        valid = regions.valid
        if regions.truth is not None and self.resample:
            valid = valid & ~regions.truth  # the ground truth comes back by itself
        return Regions(rois, valid)

    @torch.no_grad()
    def _match(self, regions: Regions, number: int, targets: list[Target]) -> Regions:
        """Give each region its ground truth at the stage's overlap, and where sampling is due, sample."""
        threshold, sampling = self.stages[number].positive_iou, self.resample or number == 0
        rows = []
        for rois, valid, target in zip(regions.rois, regions.valid, targets):
            truth = target.without_crowd().boxes.to(rois.dtype)
            if not sampling:
                valid = valid & (rois[:, 2:] > rois[:, :2]).all(1)
                rows.append((rois, torch.where(valid, _assign(rois, truth, threshold), IGNORE), valid & False))
                continue
            solid = (truth[:, 2:] > truth[:, :2]).all(1).nonzero().squeeze(1)  # a region needs an area
            rois = rois[valid]
            matched = torch.cat([solid, _assign(rois, truth, threshold)])
            matched = sample(matched, self.samples, self.positive_fraction)
            index = (matched != IGNORE).nonzero().squeeze(1)
            rows.append((torch.cat([truth[solid], rois])[index], matched[index], index < len(solid)))
        rois, matched, given = (
            pad_sequence(list(column), batch_first=True, padding_value=value)
            for column, value in zip(zip(*rows), (0.0, IGNORE, False))
        )
        return Regions(rois, matched != IGNORE, matched, given)

    def decode(self, raw: TwoStageRaw) -> Candidates:
        """Boxes of the last stage, mean classification of all; at most `pre_nms` of the K * C pairs of an image;
        padding scores 0."""
        logits = torch.stack([stage.cls for stage in raw.stages])
        scores = logits.mean(0).softmax(-1) if self.averaging == "logits" else logits.softmax(-1).mean(0)
        regions, codes = raw.stages[-1].regions, raw.stages[-1].box.unflatten(-1, (-1, 4))
        boxes = self.stages[-1].coder.decode(regions.rois[:, :, None], codes)
        boxes = clip(boxes.flatten(1, 2), raw.sizes).view_as(codes).expand(-1, -1, self.num_classes, -1)
        keep = regions.valid[..., None] & (boxes[..., 2:] - boxes[..., :2] > self.min_size).all(-1)
        scores = torch.where(keep, scores[..., :-1], 0.0)
        labels = torch.arange(self.num_classes, device=scores.device).expand_as(scores).flatten(1)
        boxes, scores = boxes.flatten(1, 2), scores.flatten(1)
        if scores.shape[1] > self.pre_nms:
            scores, index = scores.topk(self.pre_nms, dim=1)
            boxes, labels = boxes.gather(1, index[..., None].expand(-1, -1, 4)), labels.gather(1, index)
        return Candidates(boxes, scores, labels)

    def loss(self, raw: TwoStageRaw, targets: list[Target]) -> Losses:
        """Raises: ValueError for a raw output that was computed without targets, from which nothing was sampled."""
        if raw.rpn.matched is None:
            raise ValueError("a two-stage loss needs what was sampled: call the model with targets as well")
        terms, positives = self.rpn.loss(raw.rpn, targets)
        stats = {"rpn_positives": positives}
        for number, stage in enumerate(raw.stages):
            suffix = "" if len(raw.stages) == 1 else str(number + 1)
            for name, value in self._stage_loss(stage, number, targets).items():
                terms[name + suffix] = value * self.stages[number].weight
            assert stage.regions.matched is not None
            stats["positives" + suffix] = (stage.regions.matched >= 0).sum(1).float().mean()
        return Losses(terms, stats)

    def _stage_loss(self, raw: StageRaw, number: int, targets: list[Target]) -> dict[str, Tensor]:
        matched = raw.regions.matched
        assert matched is not None
        normal = reduce_mean(raw.regions.valid.sum().float()).clamp(min=1)
        labels = _labels(matched, targets, self.num_classes)
        entropy = F.cross_entropy(raw.cls.flatten(0, 1), labels.flatten(), reduction="none")
        positive = matched >= 0
        truth = torch.cat([t.without_crowd().boxes[m[p]] for t, m, p in zip(targets, matched, positive)])
        codes = raw.box[positive].unflatten(-1, (-1, 4))
        index = torch.zeros_like(labels[positive]) if codes.shape[1] == 1 else labels[positive]
        codes = codes[torch.arange(len(codes), device=codes.device), index]
        rois, coder = raw.regions.rois[positive], self.stages[number].coder
        if self.box_loss.on == "codes":
            box = self.box_loss.function(codes, coder.encode(rois, truth))
        else:
            box = self.box_loss.function(coder.decode(rois, codes), truth)
        return {
            "cls": (entropy * raw.regions.valid.flatten()).sum() / normal,
            "box": box.sum() / normal * self.box_loss.weight,
        }


def _assign(rois: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    """Regions [N, 4], boxes [M, 4] -> matched [N]: one threshold, no region in between and no rescue."""
    priors = Priors(rois, rois.new_empty(0), ())
    return max_iou(priors, boxes, positive_iou=threshold, negative_iou=threshold, rescue=False)


def _labels(matched: Tensor, targets: list[Target], background: int) -> Tensor:
    """Class of every region [B, K]: its ground truth's, or `background`."""
    rows = []
    for row, target in zip(matched, targets):
        labels = torch.cat([target.without_crowd().labels, row.new_full((1,), background)])
        rows.append(labels[torch.where(row >= 0, row, -1)])
    return torch.stack(rows)
