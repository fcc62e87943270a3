"""RetinaNet (arXiv 1708.02002): nine anchors a cell, focal loss, assignment by overlap; mmdetection's numbers, and as
arguments what torchvision and detectron2 do differently."""

from functools import partial

from ..assign import max_iou
from ..boxes import Coder, decode_delta, encode_delta
from ..layers.levels import one_width
from ..losses import BoxLossName
from ..losses import box_loss as make_box_loss
from ..priors import anchor_grid
from ..registry import register_head
from ..types import Levels
from .dense import DenseHead, Normaliser
from .parts import DENSE

_SCALES = tuple(4 * 2 ** (i / 3) for i in range(3))
_RATIOS = (0.5, 1.0, 2.0)


@register_head("retinanet", wants={**DENSE, "extra": "on_input"})
def retinanet(
    inputs: Levels,
    *,
    num_classes: int,
    tower_depth: int = 4,
    tower_norm: bool = True,
    rounded_anchors: bool = False,
    step_from_image: bool = False,
    clip_shrink: bool = True,
    keep_owner: bool = False,
    normaliser: Normaliser = "image",
    box_loss: BoxLossName = "l1",
    box_beta: float = 1.0,
) -> DenseHead:
    """Dense head with nine anchors a cell, assigned by overlap (RetinaNet).

    torchvision has rounded_anchors and step_from_image, no clip_shrink, keep_owner and normaliser "mean"; detectron2
    no clip_shrink, keep_owner and a running mean of "batch".

    tower_depth: convolutions in front of the predictions; none behind a Dynamic Head.
    tower_norm: GroupNorm in the towers. Most published ones have none; from random weights those learn little in a
        short training.
    rounded_anchors, step_from_image: of the anchors, see `anchor_grid`.
    clip_shrink: see `decode_delta`.
    keep_owner: see `max_iou`.
    normaliser: of the losses, see `DenseHead`.
    box_loss: on codes, or giou on decoded boxes.
    box_beta: of smooth_l1.
    """
    head = DenseHead(
        one_width(inputs),
        num_classes,
        inputs.strides,
        make_priors=partial(
            anchor_grid, scales=_SCALES, ratios=_RATIOS, rounded=rounded_anchors, step_from_image=step_from_image
        ),
        priors_per_cell=len(_SCALES) * len(_RATIOS),
        assign=partial(max_iou, positive_iou=0.5, negative_iou=0.4, keep_owner=keep_owner),
        coder=Coder(encode_delta, partial(decode_delta, clip_shrink=clip_shrink)),
        box_loss=make_box_loss(box_loss, box_beta),
        normaliser=normaliser,
        tower_depth=tower_depth,
        tower_norm=tower_norm,
    )
    head.card = {"nms_iou": 0.5}
    return head
