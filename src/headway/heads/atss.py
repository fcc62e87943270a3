"""ATSS (arXiv 1912.02424): one square anchor a cell, adaptive assignment, centerness; mmdetection's numbers."""

from functools import partial

from ..assign import atss as assign
from ..boxes import Coder, decode_delta, encode_delta
from ..layers.levels import one_width
from ..losses import BoxLoss, giou
from ..priors import anchor_grid
from ..registry import register_head
from ..types import Levels
from .dense import DenseHead
from .parts import DENSE

_STDS = (0.1, 0.1, 0.2, 0.2)


@register_head("atss", wants=DENSE)
def atss(
    inputs: Levels, *, num_classes: int, tower_depth: int = 4, kernel: int = 3, center_offset: float = 0.0
) -> DenseHead:
    """Dense head with one anchor a cell and assignment by the statistics of each object's candidates (ATSS).

    tower_depth: convolutions in front of the predictions; none behind a Dynamic Head.
    kernel: side of the prediction's convolution.
    center_offset: of the anchors, in cells; 0.5 in the authors' Dynamic Head.
    """
    head = DenseHead(
        one_width(inputs),
        num_classes,
        inputs.strides,
        make_priors=partial(anchor_grid, scales=(8.0,), ratios=(1.0,), center_offset=center_offset),
        assign=assign,
        coder=Coder(partial(encode_delta, stds=_STDS), partial(decode_delta, stds=_STDS)),
        box_loss=BoxLoss(giou, on="boxes", weight=2.0),
        quality="box",
        level_scales=True,
        tower_depth=tower_depth,
        kernel=kernel,
    )
    head.card = {"nms_iou": 0.6}
    return head
