"""Raw outputs that say exactly what is there, for every kind of raw output. A new kind needs a function here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from headway.boxes import encode_grid, to_cxcywh
from headway.heads.deformable_detr import DeformableDetrRaw
from headway.heads.dense import DenseRaw
from headway.heads.detr import DetrRaw
from headway.heads.heatmap import HeatmapRaw
from headway.heads.reppoints import RepPointsRaw
from headway.heads.two_stage import TwoStageRaw
from headway.heads.yolo import YoloRaw
from headway.types import Target

SURE = 20.0  # a logit


class Perfect(NamedTuple):
    """raw: the output, whose loss terms `vanishing` are zero."""

    raw: Any
    vanishing: tuple[str, ...]


def dense(head: nn.Module, raw: DenseRaw, truth: Target) -> Perfect:
    """At every assigned prior its box's code, its class and full quality."""
    matched = head.assign(raw.priors, truth.boxes)
    positive = matched >= 0
    cls, box = torch.full_like(raw.cls, -SURE), raw.box.clone()
    cls[0, positive, truth.labels[matched[positive]]] = SURE
    box[0, positive] = head.coder.encode(raw.priors.boxes[positive], truth.boxes[matched[positive]])
    quality = None if raw.quality is None else torch.full_like(raw.quality, SURE)
    return Perfect(raw._replace(cls=cls, box=box, quality=quality), ("cls", "box"))


def reppoints(head: nn.Module, raw: RepPointsRaw, truth: Target) -> Perfect:
    """Points on the corners of the box, whose extremes are the box; of 9 values, 4 at -d, 4 at d and one in the middle,
    the unbiased deviation is d."""
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1], [-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]])
    points, cls = torch.zeros_like(raw.pts_init), torch.full_like(raw.cls, -SURE)
    matched = head.init_assign(raw.priors, truth.boxes)
    for prior in (matched >= 0).nonzero().flatten().tolist():
        x1, y1, x2, y2 = truth.boxes[matched[prior]].tolist()
        middle, half = torch.tensor([(y1 + y2) / 2, (x1 + x2) / 2]), torch.tensor([(y2 - y1) / 2, (x2 - x1) / 2])
        place = raw.priors.boxes[prior, [1, 0]]
        points[0, prior] = ((middle - place + corners * half) / raw.priors.stride[prior]).flatten()
        cls[0, prior, truth.labels[matched[prior]]] = SURE
    moment = None if raw.moment is None else torch.zeros_like(raw.moment)
    perfect = raw._replace(cls=cls, pts_init=points, pts_refine=points, moment=moment)
    return Perfect(perfect, ("cls", "pts_init", "pts_refine"))


def two_stage(head: nn.Module, raw: TwoStageRaw, truth: Target) -> Perfect:
    """At every sampled anchor and region of every stage the code of its box and its class. raw: with targets."""
    matched = raw.rpn.matched
    positive = matched >= 0
    rpn_box = raw.rpn.box.clone()
    rpn_box[positive] = head.rpn.coder.encode(
        raw.rpn.priors.boxes.expand_as(rpn_box)[positive], truth.boxes[matched[positive]]
    )
    rpn = raw.rpn._replace(cls=torch.where(positive, SURE, -SURE), box=rpn_box)
    stages = []
    for stage, plan in zip(raw.stages, head.stages):
        matched = stage.regions.matched
        positive = matched >= 0
        background = stage.cls.shape[-1] - 1
        label = torch.where(positive, truth.labels[matched.clamp(min=0)], background)
        cls = torch.full_like(stage.cls, -SURE).scatter(-1, label[..., None], SURE)
        box = stage.box.clone()
        codes = plan.coder.encode(stage.regions.rois[positive], truth.boxes[matched[positive]])
        box[positive] = codes.repeat(1, box.shape[-1] // 4)
        stages.append(stage._replace(cls=cls, box=box))
    names = [""] if len(stages) == 1 else range(1, len(stages) + 1)
    terms = ["rpn_cls", "rpn_box", *(f"{kind}{n}" for kind in ("cls", "box") for n in names)]
    return Perfect(raw._replace(rpn=rpn, stages=tuple(stages)), tuple(terms))


def heatmap(head: nn.Module, raw: HeatmapRaw, truth: Target) -> Perfect:
    """A peak in the cell of every centre, and there the box. Around it TTFNet's loss wants more peaks and boxes."""
    centres = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    column, row = (centres / 4).long().unbind(1)
    peaks = torch.full_like(raw.heatmap, -SURE)
    peaks[0, truth.labels, row, column] = 8.0
    box, offset = raw.box.clone(), raw.offset
    if offset is None:
        points = torch.stack([column, row], 1) * 4
        box[0, :, row, column] = torch.cat([points - truth.boxes[:, :2], truth.boxes[:, 2:] - points], 1).T
        return Perfect(HeatmapRaw(peaks, box, None, raw.sizes), ())
    offset = offset.clone()
    box[0, :, row, column] = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T / 4
    offset[0, :, row, column] = (centres / 4).frac().T
    return Perfect(HeatmapRaw(peaks, box, offset, raw.sizes), ("size", "offset"))


def yolo(head: nn.Module, raw: YoloRaw, truth: Target) -> Perfect:
    """At every matched anchor the code of its box, an object and its class."""
    raw = raw._replace(maps=[torch.full_like(x, -SURE) for x in raw.maps])
    priors, matched = head.priors(raw), head.match(raw, [truth])
    start = 0
    for x, pairs, count in zip(raw.maps, matched.pairs, priors.level_sizes):
        rows = start + (pairs.anchor * x.shape[2] + pairs.y) * x.shape[3] + pairs.x
        place = (0, pairs.anchor, pairs.y, pairs.x)
        x[(*place, slice(4))] = encode_grid(priors.boxes[rows], priors.stride[rows], truth.boxes[pairs.box])
        x[(*place, 4)] = SURE
        x[(*place, 5 + truth.labels[pairs.box])] = SURE
        start += count
    return Perfect(raw, ("box", "objectness", "class"))


def _queries(raw: Any, truth: Target) -> dict[str, torch.Tensor]:
    """Queries 4, 2 and 7 of every layer know the three boxes; with "no object" as a class, the others know that."""
    height, width = raw.sizes[0].tolist()
    cls, box = torch.full_like(raw.cls, -SURE), raw.box.clone()
    if isinstance(raw, DetrRaw):
        cls[..., -1] = 0.0
    cls[:, 0, [4, 2, 7], truth.labels] = SURE
    box[:, 0, [4, 2, 7]] = to_cxcywh(truth.boxes) / torch.tensor([width, height] * 2)
    return {"cls": cls, "box": box}


def detr(head: nn.Module, raw: DetrRaw, truth: Target) -> Perfect:
    return Perfect(raw._replace(**_queries(raw, truth)), ("cls", "box", "giou", "cls_0", "box_0", "giou_0"))


def deformable_detr(head: nn.Module, raw: DeformableDetrRaw, truth: Target) -> Perfect:
    raw = raw._replace(**_queries(raw, truth), proposal_cls=None, proposal_box=None)
    return Perfect(raw, ("cls", "box", "giou", "cls_0", "box_0", "giou_0"))


PERFECT: dict[type, Callable[[nn.Module, Any, Target], Perfect]] = {
    DenseRaw: dense, RepPointsRaw: reppoints, TwoStageRaw: two_stage, HeatmapRaw: heatmap, YoloRaw: yolo,
    DetrRaw: detr, DeformableDetrRaw: deformable_detr,
}  # fmt: skip


def perfect(head: nn.Module, raw: Any, truth: Target) -> Perfect:
    """The perfect raw output like `raw`, of one picture with three boxes."""
    assert type(raw) in PERFECT, f"write a function for {type(raw).__name__} in tests/parts/perfect.py"
    return PERFECT[type(raw)](head, raw, truth)
