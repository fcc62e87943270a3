"""YOLOv4-CSP and Scaled-YOLOv4 (arXiv 2011.08036): CSPDarknet, a path aggregation neck of CSP blocks and a grid head.
With implicit knowledge at the predictions they are YOLOR (`yolor.py`)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from ..backbones.csp_darknet import CSPDarknet, StemKind, make_stem
from ..detector import Detector
from ..errors import HeadwayError
from ..heads.tasks import TaskHead, make_tasks
from ..heads.yolo import YoloHead
from ..layers.csp import Activation, ConvNormAct, Form, Style, repeated, scaled
from ..layers.implicit import Implicit, ImplicitConv2d, ImplicitModel, Operator, Refinement
from ..necks.pan import PAN
from ..registry import register, register_variant
from .parts import make_card

LayoutName = Literal["csp", "csp_x", "v4_p5", "v4_p6", "v4_p7", "p6", "w6", "e6", "d6"]
Anchors = tuple[tuple[tuple[float, float], ...], ...]
_MAX_FACTOR = 4.0


class Layout(NamedTuple):
    """Widths and depths of a network.

    stem: channels of the convolution at full size and of that at half of it; alone, the stages begin at full size.
    widths, blocks: of the stages; residual, transition, csp_down: see `CSPDarknet`.
    neck: channels per level, finest first; neck_blocks, spp_extra: see `PAN`. anchors: per level, in pixels.
    """

    stem: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    neck: tuple[int, ...]
    neck_blocks: int
    anchors: Anchors
    residual: bool = False
    transition: bool = False
    csp_down: bool = False
    spp_extra: bool = False


_CSP_ANCHORS = (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401)))
_P6_ANCHORS = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
_V4_P5_ANCHORS = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((48, 102), (119, 96), (97, 189), (217, 184)),
    ((171, 384), (324, 451), (616, 618), (800, 800)),
)
_V4_P6_ANCHORS = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((61, 45), (48, 102), (119, 96), (97, 189)),
    ((97, 189), (217, 184), (171, 384), (324, 451)),
    ((324, 451), (545, 357), (616, 618), (1024, 1024)),
)
_V4_P7_ANCHORS = (
    ((13, 17), (22, 25), (27, 66), (55, 41)),
    ((57, 88), (112, 69), (69, 177), (136, 138)),
    ((136, 138), (287, 114), (134, 275), (268, 248)),
    ((268, 248), (232, 504), (445, 416), (640, 640)),
    ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
)
_E6 = Layout((40, 80), (160, 320, 640, 960, 1280), (3, 7, 7, 3, 3), (160, 320, 480, 640), 3, _P6_ANCHORS, csp_down=True)
LAYOUTS: dict[str, Layout] = {
    "csp": Layout(
        (32, 64), (128, 256, 512, 1024), (2, 8, 8, 4), (128, 256, 512), 2, _CSP_ANCHORS,
        residual=True, transition=True,
    ),
    "csp_x": Layout(
        (32, 80), (160, 320, 640, 1280), (3, 10, 10, 5), (160, 320, 640), 3, _CSP_ANCHORS,
        residual=True, transition=True, spp_extra=True,
    ),
    "v4_p5": Layout(
        (32,), (64, 128, 256, 512, 1024), (1, 3, 15, 15, 7), (128, 256, 512), 3, _V4_P5_ANCHORS, transition=True
    ),
    "v4_p6": Layout(
        (32,), (64, 128, 256, 512, 1024, 1024), (1, 3, 15, 15, 7, 7), (128, 256, 512, 512), 3, _V4_P6_ANCHORS,
        transition=True,
    ),
    "v4_p7": Layout(
        (40,), (80, 160, 320, 640, 1280, 1280, 1280), (1, 3, 15, 15, 7, 7, 7), (160, 320, 640, 640, 640), 3,
        _V4_P7_ANCHORS, transition=True,
    ),
    "p6": Layout((32, 64), (128, 256, 384, 512, 640), (3, 7, 7, 3, 3), (128, 192, 256, 320), 3, _P6_ANCHORS),
    "w6": Layout((32, 64), (128, 256, 512, 768, 1024), (3, 7, 7, 3, 3), (128, 256, 384, 512), 3, _P6_ANCHORS),
    "e6": _E6,
    "d6": _E6._replace(blocks=(3, 15, 15, 7, 7)),
}  # fmt: skip


@register
def yolov4_csp(
    *,
    num_classes: int = 80,
    layout: LayoutName = "csp",
    form: Form = "cfg",
    act: Activation = "silu",
    stem: StemKind = "conv",
    depth: float = 1.0,
    width: float = 1.0,
    anchors: Anchors | None = None,
    align: Operator | None = None,
    refine: Refinement | None = None,
    implicit: ImplicitModel = "vector",
    norm_eps: float | None = None,
    box_weight: float = 0.05,
    objectness_weight: float = 0.7,
    class_weight: float = 0.3,
    clip_boxes: bool = True,
    tags: bool = False,
    embedding: int = 0,
    detect: bool = True,
    tag_weight: float = 0.1,
    identity_weight: float = 0.02,
    input_size: tuple[int, int] = (640, 640),
) -> Detector:
    """YOLOv4-CSP; with other layouts Scaled-YOLOv4's and YOLOR's networks.

    form: of the blocks, see `headway.layers.csp.Style`; weights of one form do not fit the other. norm_eps: None: its.
    stem: "conv"; "reorg" (space to depth; YOLOv4-CSP-fast) and "haar" halve the picture without a convolution, which
        Scaled-YOLOv4's networks do not do.
    depth, width: factors of the blocks and of the channels (rounded up to multiples of 8).
    anchors: per level, finest first, as many (width, height) in pixels for each; None: the published ones.
    align, refine, implicit: implicit knowledge before and after each prediction, see `ImplicitConv2d` and `Implicit`.
    box_weight, objectness_weight, class_weight, clip_boxes: see `YoloHead`.
    tags: score each class for the picture as a whole too. embedding: numbers of an embedding per object; 0: none. Their
        branches have implicit values of their own by `align` and `implicit`, and losses weighted by `tag_weight` and
        `identity_weight`; see `headway.heads.tasks`. detect: False leaves the boxes out.
    """
    plan = _scaled(LAYOUTS[layout], depth, width)
    style = Style(form, act, norm_eps)
    anchors = plan.anchors if anchors is None else _checked(anchors, len(plan.neck))
    halves = len(plan.stem) == 2
    if not halves and stem != "conv":
        raise HeadwayError(f"stem={stem!r} halves the picture, and {layout!r} begins at its full size; use 'conv'")
    entry = make_stem(stem, plan.stem, style=style)
    backbone = CSPDarknet(
        entry, plan.stem[-1], 2 if halves else 1, plan.widths, plan.blocks,
        residual=plan.residual, transition=plan.transition, csp_down=plan.csp_down, style=style,
    )  # fmt: skip
    neck = PAN(
        backbone.channels, plan.neck, plan.neck_blocks, csp_down=plan.csp_down, spp_extra=plan.spp_extra, style=style
    )
    outputs = len(anchors[0]) * (5 + num_classes)
    tasks = make_tasks(
        neck.channels, num_classes, tags=tags, embedding=embedding, align=align, implicit=implicit,
        tag_weight=tag_weight, identity_weight=identity_weight,
    )  # fmt: skip
    head = YoloHead(
        [ConvNormAct(c, 2 * c, 3, style=style) for c in neck.channels],
        [_prediction(2 * c, outputs, align, refine, implicit) for c in neck.channels],
        num_classes=num_classes, anchors=anchors, strides=backbone.strides, neighbours=form,
        box_weight=box_weight, objectness_weight=objectness_weight, class_weight=class_weight, clip_boxes=clip_boxes,
        **tasks,
    ) if detect else TaskHead(anchors=anchors, strides=backbone.strides, **tasks)  # fmt: skip
    card = make_card(
        num_classes, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), pad=(114.0, 114.0, 114.0),
        input_size=input_size, pad_multiple=backbone.strides[-1],
        score_threshold=0.001, nms_iou=0.65, max_detections=300,
    )  # fmt: skip
    return Detector(backbone, neck, head, card)


def _scaled(plan: Layout, depth: float, width: float) -> Layout:
    for name, factor in (("depth", depth), ("width", width)):
        if not 0 < factor <= _MAX_FACTOR:
            raise HeadwayError(f"{name} must be above 0 and at most {_MAX_FACTOR}, got {factor}")
    return plan._replace(
        stem=scaled(plan.stem, width), widths=scaled(plan.widths, width), neck=scaled(plan.neck, width),
        blocks=repeated(plan.blocks, depth), neck_blocks=repeated([plan.neck_blocks], depth)[0],
    )  # fmt: skip


def _checked(anchors: Anchors, levels: int) -> Anchors:
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


_V4 = {"form": "yaml", "act": "mish", "objectness_weight": 1.0, "class_weight": 0.5}
register_variant("yolov4_csp_x", yolov4_csp, layout="csp_x")
register_variant("yolov4_p5", yolov4_csp, layout="v4_p5", input_size=(896, 896), **_V4)
register_variant("yolov4_p6", yolov4_csp, layout="v4_p6", input_size=(1280, 1280), **_V4)
register_variant("yolov4_p7", yolov4_csp, layout="v4_p7", input_size=(1536, 1536), **_V4)
