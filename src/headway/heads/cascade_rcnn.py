"""Faster R-CNN (arXiv 1506.01497 on a pyramid, 1612.03144) and Cascade R-CNN (arXiv 1712.00726), plain and with the
Dynamic Head paper's task attention on regions (arXiv 2106.08322). Faster R-CNN is a cascade of one stage.

The defaults are mmdetection's; torchvision's and detectron2's differences are arguments (`models/weights`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ..assign import max_iou
from ..boxes import Coder, decode_delta, encode_delta
from ..errors import HeadwayError
from ..layers.levels import one_width
from ..layers.roi_pool import pyramid_roi_align
from ..losses import BoxLossName
from ..losses import box_loss as make_box_loss
from ..priors import anchor_grid
from ..registry import register_head, register_variant
from ..types import Levels
from .roi import BoxHead, RoINorm, TaskBoxHead
from .rpn import RPN
from .two_stage import Averaging, Stage, TwoStageHead

_RATIOS = (0.5, 1.0, 2.0)
_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
_COARSEST_POOLED = 32  # stride of the coarsest map that regions are pooled from


class ProposalOptions(NamedTuple):
    """The proposal network.

    anchor_scale: side of the anchors in strides.
    rounded_anchors, step_from_image: see `anchor_grid`; torchvision has both, detectron2 and mmdetection neither.
    keep_owner, rpn_min_iou: of a rescued anchor, see `max_iou`; torchvision and detectron2 have True and 0.
    rpn_depth: its convolutions.
    rpn_beta: of its smooth L1; 0 is L1.
    rpn_border: how far anchors may reach beyond the image in training; None: any.
    rpn_samples: anchors of an image that are trained on; None takes all.
    pre_nms, proposals: per level before suppression and of all levels after it: (training, inference).
    proposal_min_size: proposals are wider and higher than this.
    """

    anchor_scale: float = 8.0
    rounded_anchors: bool = False
    step_from_image: bool = False
    keep_owner: bool = False
    rpn_depth: int = 1
    rpn_beta: float = 1 / 9
    rpn_min_iou: float = 0.3
    rpn_border: float | None = 0.0
    rpn_samples: int | None = 256
    pre_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_min_size: float = 0.0


class RegionOptions(NamedTuple):
    """What looks at a region.

    roi_samples: regions of an image that a stage is trained on; None takes all.
    resample, averaging, pool_gradient, min_size: see `TwoStageHead`; detectron2 has False, "probabilities", 1 / stages.
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


@register_head(
    "cascade_rcnn",
    wants={
        "strides": (4, 8, 16, 32), "finest_stride": 4, "levels": 5, "extra": "max_pool", "pan.channels": 256,
    },
)  # fmt: skip
def cascade_rcnn(
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
) -> TwoStageHead:
    """Two stages and more: a proposal network, then box heads of rising quality (Cascade R-CNN).

    Regions are pooled from the maps of strides up to 32, or from all where none is so fine.

    ious, stds, stage_weights: one entry per stage: overlap of positives, deviations of the box codes, loss weight.
    class_agnostic: one box per region and stage instead of one per class.
    box_loss: smooth L1 has box_beta; giou compares decoded boxes.
    box_beta, box_weight: of the box loss.
    clip_shrink: see `decode_delta`.
    """
    _check_stages(ious, stds, stage_weights)
    channels = one_width(inputs)
    pooled = tuple(s for s in inputs.strides if s <= _COARSEST_POOLED) or inputs.strides
    decode = partial(decode_delta, clip_shrink=clip_shrink)
    coders = [Coder(partial(encode_delta, stds=s), partial(decode, stds=s)) for s in stds]
    head = TwoStageHead(
        _rpn(channels, inputs.strides, Coder(encode_delta, decode), proposing),
        [_box_head(channels, num_classes, class_agnostic, regions) for _ in ious],
        [Stage(*row) for row in zip(ious, coders, stage_weights)],
        num_classes=num_classes,
        strides=pooled,
        pool=partial(
            pyramid_roi_align, sampling_ratio=regions.sampling_ratio, aligned=regions.aligned,
            eps_after_log=regions.level_eps_after_log,
        ),
        box_loss=make_box_loss(box_loss, box_beta, box_weight),
        samples=regions.roi_samples,
        resample=regions.resample,
        averaging=regions.averaging,
        pool_gradient=regions.pool_gradient,
        min_size=regions.min_size,
    )  # fmt: skip
    head.card = {"nms_iou": 0.5}
    return head


def _rpn(channels: int, strides: tuple[int, ...], coder: Coder, options: ProposalOptions) -> RPN:
    """Three anchors a cell on every level."""
    return RPN(
        channels,
        strides,
        make_priors=partial(
            anchor_grid, ratios=_RATIOS, scales=(options.anchor_scale,), rounded=options.rounded_anchors,
            step_from_image=options.step_from_image,
        ),
        priors_per_cell=len(_RATIOS),
        coder=coder,
        box_loss=make_box_loss("smooth_l1" if options.rpn_beta else "l1", options.rpn_beta),
        assign=partial(
            max_iou, positive_iou=0.7, negative_iou=0.3, min_positive_iou=options.rpn_min_iou,
            keep_owner=options.keep_owner,
        ),
        depth=options.rpn_depth,
        samples=options.rpn_samples,
        border=options.rpn_border,
        pre_nms=options.pre_nms,
        post_nms=options.proposals,
        min_size=options.proposal_min_size,
    )  # fmt: skip


def _box_head(channels: int, num_classes: int, class_agnostic: bool, options: RegionOptions) -> BoxHead | TaskBoxHead:
    if options.task_attention:
        return TaskBoxHead(channels, num_classes, class_agnostic=class_agnostic)
    return BoxHead(
        channels, num_classes, class_agnostic=class_agnostic, convs=options.box_convs, fcs=options.box_fcs,
        hidden=options.hidden, norm=options.box_norm,
    )  # fmt: skip


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
