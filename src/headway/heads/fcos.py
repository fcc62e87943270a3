"""FCOS (arXiv 1904.01355) in both published forms: the base one, and "improved" (centre sampling, boxes in units of
the stride, centerness on the box branch, GIoU), with torchvision's variant of the second as arguments."""

import math
from functools import partial

from ..assign import fcos_points
from ..boxes import Coder, decode_ltrb, encode_ltrb
from ..layers.levels import one_width
from ..losses import BoxLoss, giou, iou_log
from ..priors import point_grid
from ..registry import register_head
from ..types import Levels
from .dense import DenseHead
from .parts import DENSE

_REACH = 8  # of a level, in strides: its objects end at such a distance from the point


@register_head("fcos", wants={**DENSE, "relu_before_extra": True})
def fcos(
    inputs: Levels,
    *,
    num_classes: int,
    tower_depth: int = 4,
    improved: bool = True,
    center_offset: float = 0.5,
    step_from_image: bool = False,
    inclusive_ranges: bool = True,
    level_scales: bool = True,
    joint_score: bool = False,
    weigh_boxes: bool = True,
) -> DenseHead:
    """Dense head without anchors: four distances and centerness from every point (FCOS).

    torchvision has center_offset 0, step_from_image, no inclusive_ranges, no level_scales, joint_score, no weigh_boxes.

    tower_depth: convolutions in front of the predictions; none behind a Dynamic Head.
    improved: False gives the base form of the paper's first version.
    center_offset, step_from_image: of the points, see `point_grid`.
    inclusive_ranges: whether an object at the end of a level's range is in it, see `fcos_points`.
    level_scales: a learned factor per level on the distances.
    joint_score: rank by the geometric mean of class score and centerness.
    weigh_boxes: weigh the box loss by centerness.
    """
    reach = [_REACH * stride for stride in inputs.strides]
    ranges = tuple(zip([-1, *reach], [*reach[:-1], math.inf]))
    head = DenseHead(
        one_width(inputs),
        num_classes,
        inputs.strides,
        make_priors=partial(point_grid, center_offset=center_offset, step_from_image=step_from_image),
        assign=partial(fcos_points, ranges=ranges, center_radius=1.5 if improved else None, inclusive=inclusive_ranges),
        coder=Coder(encode_ltrb, decode_ltrb),
        box_loss=BoxLoss(giou if improved else iou_log, on="boxes"),
        normaliser="batch",
        quality="box" if improved else "cls",
        joint_score=joint_score,
        weigh_boxes=weigh_boxes,
        level_scales=level_scales,
        box_activation="relu" if improved else "exp",
        tower_depth=tower_depth,
        tower_bias=True if improved else None,
    )
    head.card = {"nms_iou": 0.6 if improved else 0.5}
    return head
