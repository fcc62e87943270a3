"""Faster and Cascade R-CNN: proposals, then one or more stages that each pool, classify and refine boxes.

Faster R-CNN (arXiv 1506.01497, on a pyramid 1612.03144) is a cascade of one stage (Cascade R-CNN, arXiv 1712.00726).
Both also with the Dynamic Head paper's task attention on regions (arXiv 2106.08322). The defaults are mmdetection's;
torchvision's and detectron2's differences are arguments (`models/weights`).

Legend: B images, K regions of an image (padded), C classes, M ground-truth boxes.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..assign import IGNORE, max_iou, sample
from ..boxes import Coder, clip, decode_delta, encode_delta
from ..errors import HeadwayError
from ..layers.levels import one_width
from ..layers.roi_pool import pyramid_roi_align
from ..losses import BoxLossName, reduce_mean, world_size
from ..losses import box_loss as make_box_loss
from ..registry import register_head, register_variant
from ..types import Candidates, Frame, Levels, Losses, Priors, Target, valid_sizes
from .roi import BoxHead, RegionOptions, TaskBoxHead
from .rpn import RPN, ProposalOptions, RPNRaw

_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
_COARSEST_POOLED = 32  # stride of the coarsest map that regions are pooled from
_POSITIVE_FRACTION = 0.25  # of the sampled regions
_PRE_NMS = 5000  # (region, class) pairs of an image that are kept, best first


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


@register_head(
    "cascade_rcnn",
    wants={"strides": (4, 8, 16, 32), "levels": 5, "extra": "max_pool", "pan.channels": 256},
)
class TwoStageHead(nn.Module):
    """Two stages and more: a proposal network, then box heads of rising quality (Cascade R-CNN).

    Each stage has a box head of its own; its boxes, detached, are the next one's regions. Regions are pooled from the
    maps of strides up to 32, or from all where none is so fine.

    ious, stds, stage_weights: one entry per stage: overlap of positives, deviations of the box codes, loss weight.
    class_agnostic: one box per region and stage instead of one per class.
    box_loss: smooth L1 has box_beta; giou compares decoded boxes.
    box_beta, box_weight: of the box loss.
    clip_shrink: see `decode_delta`.

    Loss terms: the RPN's, and `cls` (cross entropy) and `box` of each stage, numbered from 1 where there are several;
    both divided by the number of sampled regions.
    """

    needs_targets = True  # the loss needs a forward pass with targets, whose boxes know the ground truth
    fuses_views = True

    def __init__(
        self,
        inputs: Levels,
        *,
        num_classes: int,
        proposing: ProposalOptions = ProposalOptions(),  # noqa: B008  (a NamedTuple of numbers)
        regions: RegionOptions = RegionOptions(),  # noqa: B008
        ious: tuple[float, ...] = (0.5, 0.6, 0.7),
        stds: tuple[tuple[float, float, float, float], ...] = _STDS,
        stage_weights: tuple[float, ...] = (1.0, 0.5, 0.25),
        class_agnostic: bool = True,
        box_loss: BoxLossName = "smooth_l1",
        box_beta: float = 1.0,
        box_weight: float = 1.0,
        clip_shrink: bool = True,
    ) -> None:
        super().__init__()
        _check_stages(ious, stds, stage_weights)
        channels, self.options, self.num_classes = one_width(inputs), regions, num_classes
        self.strides = tuple(s for s in inputs.strides if s <= _COARSEST_POOLED) or inputs.strides
        decode = partial(decode_delta, clip_shrink=clip_shrink)
        coders = [Coder(partial(encode_delta, stds=s), partial(decode, stds=s)) for s in stds]
        self.rpn = RPN(channels, inputs.strides, Coder(encode_delta, decode), proposing)
        kind = TaskBoxHead if regions.task_attention else BoxHead
        self.heads = nn.ModuleList(kind(channels, num_classes, class_agnostic, regions) for _ in ious)
        self.stages = tuple(Stage(*row) for row in zip(ious, coders, stage_weights))
        self.box_loss = make_box_loss(box_loss, box_beta, box_weight)
        self.card = {"nms_iou": 0.5}

    @property
    def predictors(self) -> tuple[str, ...]:
        """What stays float in int8."""
        parts = ("rpn", *(f"heads.{number}" for number in range(len(self.heads))))
        return tuple(f"{part}.{name}" for part in parts for name in ("cls", "box"))

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

    def pool(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """rois [B, K, 4] in pixels -> what the box heads look at, [B * K, C, 7, 7]."""
        return pyramid_roi_align(
            features[: len(self.strides)], rois, self.strides, sampling_ratio=self.options.sampling_ratio,
            aligned=self.options.aligned, eps_after_log=self.options.level_eps_after_log,
        )  # fmt: skip

    def look(self, features: list[Tensor], regions: Regions, number: int) -> StageRaw:
        """Stage `number`'s classes and codes of the given regions."""
        batch, count = regions.rois.shape[:2]
        pooled = self.pool(features, regions.rois)
        if self.options.pool_gradient != 1:
            pooled = pooled.detach() + self.options.pool_gradient * (pooled - pooled.detach())
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
        if regions.truth is not None and self.options.resample:
            valid = valid & ~regions.truth  # the ground truth comes back by itself
        return Regions(rois, valid)

    @torch.no_grad()
    def _match(self, regions: Regions, number: int, targets: list[Target]) -> Regions:
        """Give each region its ground truth at the stage's overlap, and where sampling is due, sample."""
        threshold, sampling = self.stages[number].positive_iou, self.options.resample or number == 0
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
            matched = sample(matched, self.options.roi_samples, _POSITIVE_FRACTION)
            index = (matched != IGNORE).nonzero().squeeze(1)
            rows.append((torch.cat([truth[solid], rois])[index], matched[index], index < len(solid)))
        rois, matched, given = (
            pad_sequence(list(column), batch_first=True, padding_value=value)
            for column, value in zip(zip(*rows), (0.0, IGNORE, False))
        )
        return Regions(rois, matched != IGNORE, matched, given)

    def decode(self, raw: TwoStageRaw) -> Candidates:
        """Boxes of the last stage, mean classification of all; at most _PRE_NMS of the K * C pairs of an image;
        padding scores 0."""
        logits = torch.stack([stage.cls for stage in raw.stages])
        scores = logits.mean(0).softmax(-1) if self.options.averaging == "logits" else logits.softmax(-1).mean(0)
        regions, codes = raw.stages[-1].regions, raw.stages[-1].box.unflatten(-1, (-1, 4))
        boxes = self.stages[-1].coder.decode(regions.rois[:, :, None], codes)
        boxes = clip(boxes.flatten(1, 2), raw.sizes).view_as(codes).expand(-1, -1, self.num_classes, -1)
        keep = regions.valid[..., None] & (boxes[..., 2:] - boxes[..., :2] > self.options.min_size).all(-1)
        scores = torch.where(keep, scores[..., :-1], 0.0)
        labels = torch.arange(self.num_classes, device=scores.device).expand_as(scores).flatten(1)
        boxes, scores = boxes.flatten(1, 2), scores.flatten(1)
        if scores.shape[1] > _PRE_NMS:
            scores, index = scores.topk(_PRE_NMS, dim=1)
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
        normal = reduce_mean(raw.regions.valid.sum().float()).clamp(min=1 / world_size())
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


def _check_stages(ious: tuple, stds: tuple, weights: tuple) -> None:
    if not len(ious) == len(stds) == len(weights) >= 1:
        raise HeadwayError(
            "ious, stds and stage_weights need one entry per stage, at least one; got "
            f"{len(ious)}, {len(stds)} and {len(weights)}"
        )
    if not all(0 < iou < 1 for iou in ious):
        raise HeadwayError(f"ious must lie between 0 and 1, got {ious}")
    if not all(s > 0 for row in stds for s in row):
        raise HeadwayError(f"stds must be positive, got {stds}")


register_variant(
    "head", "faster_rcnn", "cascade_rcnn", "A proposal network, then one box head (Faster R-CNN).",
    ious=(0.5,), stds=_STDS[:1], stage_weights=(1.0,), class_agnostic=False, box_loss="l1", rpn_beta=0.0,
    rpn_border=None, proposals=(1000, 1000),
)  # fmt: skip
