"""Faster R-CNN (arXiv 1506.01497 on a pyramid, 1612.03144) and Cascade R-CNN (arXiv 1712.00726), plain and with a
Dynamic Head (arXiv 2106.08322). One builder: Faster R-CNN is a cascade of one stage."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn

from ..assign import max_iou
from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_delta, encode_delta
from ..detector import Detector
from ..errors import HeadwayError
from ..heads.roi import BoxHead, RoINorm, TaskBoxHead
from ..heads.rpn import RPN
from ..heads.two_stage import Averaging, Stage, TwoStageHead
from ..layers.roi_pool import pyramid_roi_align
from ..necks.dyhead import DyHeadForm, HighOffset
from ..necks.fpn import FPNNorm
from ..priors import anchor_grid
from ..registry import register, register_variant
from .parts import SWIN, BoxLossName, make_backbone, make_box_loss, make_card, make_fpn, with_dyhead

TwoStageDyHead = Literal["none", "pyramid", "roi"]
_RATIOS = (0.5, 1.0, 2.0)
_MMDET_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@register
def cascade_rcnn_r50_fpn(
    *,
    num_classes: int = 80,
    backbone: str = "resnet50",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    stride_in_1x1: bool = False,
    norm_eps: float | None = None,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    channels: int = 256,
    finest_stride: int = 4,
    fpn_norm: FPNNorm = "none",
    dyhead: TwoStageDyHead = "none",
    blocks: int = 6,
    scale: bool = True,
    spatial: bool = True,
    task: bool = True,
    high_offset: HighOffset = "flat",
    form: DyHeadForm = "released",
    zero_init_offset: bool = True,
    deform_bias: bool = False,
    anchor_scale: float = 8.0,
    rounded_anchors: bool = False,
    step_from_image: bool = False,
    keep_owner: bool = False,
    rpn_depth: int = 1,
    rpn_beta: float = 1 / 9,
    rpn_min_iou: float = 0.3,
    rpn_border: float | None = 0.0,
    rpn_samples: int | None = 256,
    pre_nms: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    proposal_min_size: float = 0.0,
    ious: tuple[float, ...] = (0.5, 0.6, 0.7),
    stds: tuple[tuple[float, float, float, float], ...] = _MMDET_STDS,
    stage_weights: tuple[float, ...] = (1.0, 0.5, 0.25),
    class_agnostic: bool = True,
    box_loss: BoxLossName = "smooth_l1",
    box_beta: float = 1.0,
    box_weight: float = 1.0,
    roi_samples: int | None = 512,
    resample: bool = True,
    averaging: Averaging = "logits",
    pool_gradient: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    level_eps_after_log: bool = False,
    box_convs: int = 0,
    box_fcs: int = 2,
    box_norm: RoINorm = "none",
    hidden: int = 1024,
    clip_shrink: bool = True,
    min_size: float = 0.0,
    input_size: tuple[int, int] = (800, 1333),
) -> Detector:
    """Cascade R-CNN on an FPN, by default as mmdetection publishes it.

    finest_stride: of the pyramid, whose last level is the coarsest one halved; regions read all levels but that.
    dyhead: "pyramid", the released form: all attentions between pyramid and RPN; "roi", the paper's figure: scale and
        spatial attention there, task attention on the pooled regions in place of the fully connected layers. blocks
        to deform_bias are DyHead's.
    anchor_scale: side of the anchors in strides. rounded_anchors, step_from_image: see `anchor_grid`; keep_owner and
        rpn_min_iou (of a rescued anchor): see `max_iou`; torchvision has True, True, True, 0, detectron2 False, False,
        True, 0. rpn_depth: its convolutions. rpn_beta: of its smooth L1; 0 is L1. rpn_border: how far anchors
        may reach beyond the image in training; None: any. rpn_samples, roi_samples: None takes all.
    pre_nms, proposals: per level before suppression and of all levels after it: (training, inference).
    ious, stds, stage_weights: one entry per stage: overlap of positives, deviations of the box codes, loss weight.
    class_agnostic: one box per region and stage instead of one per class. box_loss: smooth L1 has `box_beta`; giou
        compares decoded boxes.
    resample, averaging, pool_gradient, min_size: see `TwoStageHead`; detectron2 has False, "probabilities", 1 / stages.
    sampling_ratio, aligned, level_eps_after_log: see `pyramid_roi_align`; torchvision has 2, False, True.
    box_convs, box_fcs, box_norm, hidden: of the box head. clip_shrink: see `decode_delta`.
    """
    _check_stages(ious, stds, stage_weights)
    strides = tuple(s for s in (4, 8, 16, 32) if s >= finest_stride)
    trunk = make_backbone(
        backbone, backbone_weights, norm, frozen_stages, stride_in_1x1, norm_eps=norm_eps,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups, drop_path=drop_path, strides=strides,
    )  # fmt: skip
    neck: nn.Module = make_fpn(trunk, channels, "max_pool", norm=fpn_norm, strides=strides, levels=len(strides) + 1)
    if dyhead != "none":
        neck = with_dyhead(
            neck,
            blocks=blocks, scale=scale, spatial=spatial, task=task and dyhead == "pyramid", high_offset=high_offset,
            form=form, zero_init_offset=zero_init_offset, deform_bias=deform_bias,
        )  # fmt: skip
    rpn = _rpn(
        channels, strides, clip_shrink, rpn_beta,
        anchors={"scales": (anchor_scale,), "rounded": rounded_anchors, "step_from_image": step_from_image},
        matching={"min_positive_iou": rpn_min_iou, "keep_owner": keep_owner},
        depth=rpn_depth, samples=rpn_samples, border=rpn_border, pre_nms=pre_nms, post_nms=proposals,
        min_size=proposal_min_size,
    )  # fmt: skip
    if dyhead == "roi" and task:
        make_head = partial(TaskBoxHead, channels, num_classes, class_agnostic=class_agnostic)
    else:
        make_head = partial(
            BoxHead, channels, num_classes, class_agnostic=class_agnostic, convs=box_convs, fcs=box_fcs,
            hidden=hidden, norm=box_norm,
        )  # fmt: skip
    coders = [
        Coder(partial(encode_delta, stds=s), partial(decode_delta, stds=s, clip_shrink=clip_shrink)) for s in stds
    ]
    head = TwoStageHead(
        rpn,
        [make_head() for _ in ious],
        [Stage(*row) for row in zip(ious, coders, stage_weights)],
        num_classes=num_classes,
        strides=strides,
        pool=partial(
            pyramid_roi_align, sampling_ratio=sampling_ratio, aligned=aligned, eps_after_log=level_eps_after_log
        ),
        box_loss=make_box_loss(box_loss, box_beta, box_weight),
        samples=roi_samples,
        resample=resample,
        averaging=averaging,
        pool_gradient=pool_gradient,
        min_size=min_size,
    )
    return Detector(trunk, neck, head, make_card(num_classes, nms_iou=0.5, input_size=input_size))


def _rpn(
    channels: int,
    strides: tuple[int, ...],
    clip_shrink: bool,
    beta: float,
    *,
    anchors: dict[str, Any],
    matching: dict[str, Any],
    **arguments: Any,
) -> RPN:
    """Three anchors a cell, on one level more than `strides`. anchors: of `anchor_grid`; matching: of `max_iou`."""
    return RPN(
        channels,
        (*strides, 2 * strides[-1]),
        make_priors=partial(anchor_grid, ratios=_RATIOS, **anchors),
        priors_per_cell=len(_RATIOS),
        coder=Coder(encode_delta, partial(decode_delta, clip_shrink=clip_shrink)),
        box_loss=make_box_loss("smooth_l1" if beta else "l1", beta),
        assign=partial(max_iou, positive_iou=0.7, negative_iou=0.3, **matching),
        **arguments,
    )


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


_FASTER = {
    "ious": (0.5,), "stds": _MMDET_STDS[:1], "stage_weights": (1.0,), "class_agnostic": False, "box_loss": "l1",
    "rpn_beta": 0.0, "rpn_border": None, "proposals": (1000, 1000),
}  # fmt: skip
_R18 = {
    "backbone": "resnet18", "channels": 128, "finest_stride": 8, "anchor_scale": 4.0, "blocks": 2, "hidden": 256,
    "rpn_samples": 128, "roi_samples": 128, "pre_nms": (500, 300), "proposals": (300, 300), "input_size": (320, 320),
}  # fmt: skip

_FORMS = {
    "": {},
    "_dconv": {"dcn": ("c3", "c4", "c5"), "dcn_version": 1},
    "_mdconv": {"dcn": ("c3", "c4", "c5"), "dcn_version": 2},
    "_dyhead": {"dyhead": "pyramid"},
    "_dyhead_roi": {"dyhead": "roi"},
}

for _family, _defaults in (("cascade_rcnn", {}), ("faster_rcnn", _FASTER)):
    for _form, _other in _FORMS.items():
        for _size, _trunk in (("r50", {}), ("r101", {"backbone": "resnet101"}), ("r18", _R18)):
            if (_name := f"{_family}_{_size}_fpn{_form}") != "cascade_rcnn_r50_fpn":
                register_variant(_name, cascade_rcnn_r50_fpn, **{**_defaults, **_other, **_trunk})

_HEAVY = {"box_convs": 4, "box_fcs": 1, "box_norm": "batch", "class_agnostic": False, "box_loss": "giou"}
for _size in ("t", "s", "b"):  # the authors' Cascade R-CNN (arXiv 2103.14030, table 2)
    register_variant(f"cascade_rcnn_swin_{_size}_fpn", cascade_rcnn_r50_fpn, **_HEAVY, box_weight=10.0, **SWIN[_size])
register_variant(
    "cascade_rcnn_swin_t_fpn_dyhead", cascade_rcnn_r50_fpn, dyhead="pyramid", **_HEAVY, box_weight=10.0, **SWIN["t"]
)
register_variant("faster_rcnn_swin_t_fpn", cascade_rcnn_r50_fpn, **{**_FASTER, **SWIN["t"]})

_VITDET = {  # arXiv 2203.16527, section 3; detectron2's projects/ViTDet
    **_HEAVY, "box_norm": "layer", "box_loss": "l1", "class_agnostic": True, "backbone": "vitdet_base",
    "drop_path": 0.1, "rpn_depth": 2, "input_size": (1024, 1024),
}  # fmt: skip
register_variant("cascade_rcnn_vit_b", cascade_rcnn_r50_fpn, **_VITDET)
register_variant("faster_rcnn_vit_b", cascade_rcnn_r50_fpn, **{**_VITDET, **_FASTER})
register_variant(
    "faster_rcnn_vit_tiny",
    cascade_rcnn_r50_fpn,
    **{**_FASTER, **_R18, "backbone": "vit_tiny_patch16", "finest_stride": 8},
)
