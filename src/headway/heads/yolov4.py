"""YOLOv4-CSP's and Scaled-YOLOv4's head (arXiv 2011.08036), and with implicit knowledge at every prediction YOLOR's
(arXiv 2105.04206): a learned vector added to the features before it, and one that multiplies what comes out."""

from __future__ import annotations

from torch import nn

from ..errors import HeadwayError, LevelsError
from ..layers.csp import Activation, ConvNormAct, Form, Style
from ..layers.implicit import Implicit, ImplicitConv2d, ImplicitModel, Operator, Refinement
from ..registry import register_head, register_variant
from ..types import Levels
from .tasks import TaskHead, make_tasks
from .yolo import YoloHead

Anchors = tuple[tuple[tuple[float, float], ...], ...]
_3_LEVELS: Anchors = (
    ((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401)),
)  # fmt: skip
_4_LEVELS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
_5_LEVELS: Anchors = (
    ((13, 17), (22, 25), (27, 66), (55, 41)),
    ((57, 88), (112, 69), (69, 177), (136, 138)),
    ((136, 138), (287, 114), (134, 275), (268, 248)),
    ((268, 248), (232, 504), (445, 416), (640, 640)),
    ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
)
_ANCHORS = {len(anchors): anchors for anchors in (_3_LEVELS, _4_LEVELS, _5_LEVELS)}


@register_head("yolov4", wants={"strides": (8, 16, 32), "levels": 3}, shares=("form", "act", "norm_eps"))
def yolov4(
    inputs: Levels,
    *,
    num_classes: int,
    form: Form = "cfg",
    act: Activation = "silu",
    norm_eps: float | None = None,
    anchors: Anchors | None = None,
    align: Operator | None = None,
    refine: Refinement | None = None,
    implicit: ImplicitModel = "vector",
    box_weight: float = 0.05,
    objectness_weight: float = 0.7,
    class_weight: float = 0.3,
    clip_boxes: bool = True,
    tags: bool = False,
    embedding: int = 0,
    detect: bool = True,
    tag_weight: float = 0.1,
    identity_weight: float = 0.02,
) -> YoloHead | TaskHead:
    """Grid head: every anchor of every cell predicts a box, an object and the classes (YOLOv4-CSP).

    form: of the blocks and of the assignment, see `headway.layers.csp.Style`; weights of one do not fit the other.
    act: activation; leaky has slope 0.1.
    norm_eps: of the batch norms; None: the form's.
    anchors: per level, finest first, as many (width, height) in pixels for each; None: the published ones of as many
        levels.
    align, refine, implicit: implicit values before and after each prediction, see `ImplicitConv2d` and `Implicit`.
    box_weight, objectness_weight, class_weight, clip_boxes: see `YoloHead`.
    tags: score each class for the picture as a whole too.
    embedding: numbers of an embedding per object; 0: none.
    detect: False leaves the boxes out.
    tag_weight, identity_weight: of the losses of tags and embeddings.
    """
    style = Style(form, act, norm_eps)
    anchors = _checked(anchors, inputs)
    outputs = len(anchors[0]) * (5 + num_classes)
    tasks = make_tasks(
        inputs.channels, num_classes, tags=tags, embedding=embedding, align=align, implicit=implicit,
        tag_weight=tag_weight, identity_weight=identity_weight,
    )  # fmt: skip
    head = YoloHead(
        [ConvNormAct(c, 2 * c, 3, style=style) for c in inputs.channels],
        [_prediction(2 * c, outputs, align, refine, implicit) for c in inputs.channels],
        num_classes=num_classes, anchors=anchors, strides=inputs.strides, neighbours=form,
        box_weight=box_weight, objectness_weight=objectness_weight, class_weight=class_weight, clip_boxes=clip_boxes,
        **tasks,
    ) if detect else TaskHead(anchors=anchors, strides=inputs.strides, **tasks)  # fmt: skip
    head.card = {
        "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0), "pad": (114.0, 114.0, 114.0), "input_size": (640, 640),
        "pad_multiple": max(inputs.strides), "score_threshold": 0.001, "nms_iou": 0.65, "max_detections": 300,
    }  # fmt: skip
    return head


register_variant(
    "head", "yolor", "yolov4", "Grid head with implicit knowledge at every prediction (YOLOR).",
    align="add", refine="mul",
)  # fmt: skip


def _checked(anchors: Anchors | None, inputs: Levels) -> Anchors:
    levels = len(inputs.strides)
    if anchors is None:
        if levels not in _ANCHORS:
            raise LevelsError(
                f"has published anchors for 3, 4 and 5 levels, got {inputs}: put `fpn`, `pan` or "
                "`simple_pyramid` in front of it, or give one row per level as head.anchors"
            )
        return _ANCHORS[levels]
    counts = {len(level) for level in anchors}
    if len(anchors) != levels or len(counts) != 1 or not all(s > 0 for level in anchors for a in level for s in a):
        raise HeadwayError(
            f"anchors must be {levels} levels, finest first, of as many (width, height) pairs of positive pixels each, "
            f"got {anchors}"
        )
    return anchors


def _prediction(
    channels: int,
    outputs: int,
    align: Operator | None,
    refine: Refinement | None,
    implicit: ImplicitModel,
) -> nn.Module:
    conv = nn.Conv2d(2 * channels if align == "concat" else channels, outputs, 1)
    if align is None and refine is None:
        return conv
    return ImplicitConv2d(
        conv,
        None if align is None else Implicit(channels, align, implicit),
        None if refine is None else Implicit(outputs, refine, implicit),
    )
