"""EfficientDet's head (arXiv 1911.09070, section 4): separable towers with norms of each level, nine anchors a cell.

Numbers as released: google/automl, efficientdet/hparams_config.py, through rwightman/efficientdet-pytorch 0.4.1,
effdet/config/model_config.py (both Apache-2.0).
"""

from functools import partial

from torch import nn

from ..assign import max_iou
from ..boxes import Coder, decode_delta, encode_delta
from ..layers.levels import one_width
from ..layers.separable import ACTIVATIONS, Activation, init_fan_in
from ..losses import BoxLoss, huber_of_nonzero
from ..priors import shaped_anchors
from ..registry import register_head
from ..types import Levels
from .dense import DenseHead
from .parts import DENSE, SeparableTower

_OCTAVES = 3
_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width and height
# The released code has no limit: this one keeps infinities out and changes no box inside a picture.
_MAX_LOG_SCALE = 16.0
_BOX_WEIGHT = 50.0


@register_head("efficientdet", wants=DENSE, shares=("act", "bias", "norm_momentum"))
def efficientdet(
    inputs: Levels,
    *,
    num_classes: int,
    tower_depth: int = 3,
    anchor_scale: float = 4.0,
    act: Activation = "silu",
    bias: bool = True,
    norm_momentum: float = 0.01,
) -> DenseHead:
    """Dense head of separable convolutions with nine anchors a cell (EfficientDet).

    tower_depth: convolutions in front of each prediction.
    anchor_scale: side of the smallest square anchor in strides; three octaves of three shapes a cell.
    act: activation of the towers.
    bias: of the convolutions in front of norms.
    norm_momentum: of the batch norms; 0.01 as published, which small trainings are too short for.

    Loss: focal with gamma 1.5, and 50 times a Huber loss of the mean code, over the positives of the batch plus one.
    Differs: pictures are padded to a multiple of the coarsest stride, there to the square; NMS is hard, the authors'
    own evaluation is soft (`detect(soft_nms="gaussian")`).
    """
    shapes = [(anchor_scale * 2 ** (i / _OCTAVES) * w, anchor_scale * 2 ** (i / _OCTAVES) * h)
              for i in range(_OCTAVES) for w, h in _ASPECTS]  # fmt: skip
    channels = one_width(inputs)
    head = DenseHead(
        channels,
        num_classes,
        inputs.strides,
        make_priors=partial(shaped_anchors, shapes=shapes),
        priors_per_cell=len(shapes),
        assign=partial(max_iou, positive_iou=0.5, negative_iou=0.5, ties=False),
        coder=Coder(encode_delta, partial(decode_delta, max_log_scale=_MAX_LOG_SCALE)),
        box_loss=BoxLoss(huber_of_nonzero, on="codes", weight=_BOX_WEIGHT / 4),
        normaliser="batch_plus_one",
        make_tower=partial(
            SeparableTower, channels, tower_depth, len(inputs.strides),
            act=ACTIVATIONS[act], norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=norm_momentum), bias=bias,
        ),
        kernel=1,
        focal_gamma=1.5,
        pre_nms=5000,
        pre_nms_of="all",
    )  # fmt: skip
    prior = head.cls.bias.detach().clone()
    for output in (head.cls, head.box):
        init_fan_in(output)
    head.cls.bias.data.copy_(prior)
    head.card = {"nms_iou": 0.5, "pad_multiple": max(inputs.strides), "input_size": (512, 512)}
    return head
