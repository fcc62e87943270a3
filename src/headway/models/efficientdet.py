"""EfficientDet (arXiv 1911.09070): EfficientNet, BiFPN and a dense head of separable convolutions, all scaled together.

Numbers as released: google/automl, efficientdet/hparams_config.py, through rwightman/efficientdet-pytorch 0.4.1,
effdet/config/model_config.py (both Apache-2.0).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import nn

from ..assign import max_iou
from ..backbones.efficientnet import EfficientNetBackbone
from ..backbones.timm import NormMode
from ..boxes import Coder, decode_delta, encode_delta
from ..detector import Detector
from ..heads.dense import DenseHead
from ..heads.parts import SeparableTower
from ..layers.separable import init_fan_in
from ..losses import BoxLoss, huber_of_nonzero
from ..necks.bifpn import ACTIVATIONS, Activation, BiFPN, Fusion
from ..priors import shaped_anchors
from ..registry import register, register_variant
from .parts import make_backbone, make_card

_OCTAVES = 3
_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width and height
# The released code has no limit: this one keeps infinities out and changes no box inside a picture.
_MAX_LOG_SCALE = 16.0
_BOX_WEIGHT = 50.0


class Scaling(NamedTuple):
    """What one coefficient sets, as arguments of `efficientdet_d0`."""

    backbone: str
    input_size: tuple[int, int]
    channels: int
    cells: int
    tower_depth: int
    fusion: Fusion = "fast"
    anchor_scale: float = 4.0
    levels: int = 5


# Where the released models leave the formula. The largest two share D6's widths and depths.
_EXCEPTIONS: dict[int, dict[str, Any]] = {
    2: {"channels": 112},
    4: {"channels": 224},
    5: {"input_size": (1280, 1280), "cells": 7},
    6: {"cells": 8, "fusion": "sum"},
    7: {
        "backbone": "tf_efficientnet_b6", "input_size": (1536, 1536), "channels": 384, "cells": 8, "fusion": "sum",
        "anchor_scale": 5.0,
    },
    8: {
        "backbone": "tf_efficientnet_b7", "input_size": (1536, 1536), "channels": 384, "cells": 8, "tower_depth": 5,
        "fusion": "sum", "levels": 6,
    },
}  # fmt: skip


def compound_scaling(coefficient: int, *, published: bool = True) -> Scaling:
    """The sizes of EfficientDet-D0 to D7 by their coefficient (section 4.2); 8 is D7x.

    Formula: EfficientNet-B of the same number, 64 * 1.35^c channels to the nearest multiple of 8, 3 + c cells, towers
    of 3 + c // 3 convolutions, pictures of 512 + 128 c pixels. published: with the exceptions of the released models,
    which from D2 on are many; else the formula alone.

    Raises: ValueError for a coefficient out of 0..8.
    """
    if not 0 <= coefficient <= 8:
        raise ValueError(f"the compound coefficient must be 0..8 (8 is D7x), got {coefficient}")
    side = 512 + 128 * coefficient
    formula = Scaling(
        backbone=f"tf_efficientnet_b{coefficient}",
        input_size=(side, side),
        channels=8 * round(64 * 1.35**coefficient / 8),
        cells=3 + coefficient,
        tower_depth=3 + coefficient // 3,
    )
    return formula._replace(**_EXCEPTIONS.get(coefficient, {})) if published else formula


def _detector(
    trunk: nn.Module,
    neck: BiFPN,
    num_classes: int,
    tower_depth: int,
    act: Activation,
    bias: bool,
    anchor_scale: float,
    norm_momentum: float,
    input_size: tuple[int, int],
) -> Detector:
    """What stands behind a BiFPN."""
    strides = tuple(8 * 2**level for level in range(neck.levels))
    shapes = [(anchor_scale * 2 ** (i / _OCTAVES) * w, anchor_scale * 2 ** (i / _OCTAVES) * h)
              for i in range(_OCTAVES) for w, h in _ASPECTS]  # fmt: skip
    head = DenseHead(
        neck.channels,
        num_classes,
        strides,
        make_priors=partial(shaped_anchors, shapes=shapes),
        priors_per_cell=len(shapes),
        assign=partial(max_iou, positive_iou=0.5, negative_iou=0.5, ties=False),
        coder=Coder(encode_delta, partial(decode_delta, max_log_scale=_MAX_LOG_SCALE)),
        box_loss=BoxLoss(huber_of_nonzero, on="codes", weight=_BOX_WEIGHT / 4),
        normaliser="batch_plus_one",
        make_tower=partial(
            SeparableTower, neck.channels, tower_depth, neck.levels,
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
    card = make_card(num_classes, nms_iou=0.5, input_size=input_size, pad_multiple=strides[-1])
    return Detector(trunk, neck, head, card)


@register
def efficientdet_d0(
    *,
    num_classes: int = 80,
    backbone: str = "tf_efficientnet_b0",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    drop_path: float = 0.2,
    channels: int = 64,
    cells: int = 3,
    levels: int = 5,
    fusion: Fusion = "fast",
    act: Activation = "silu",
    bias: bool = True,
    symmetric: bool = False,
    norm_momentum: float = 0.01,
    tower_depth: int = 3,
    anchor_scale: float = 4.0,
    input_size: tuple[int, int] = (512, 512),
) -> Detector:
    """EfficientDet-D0; D1 to D7x are the same with the arguments of `compound_scaling`.

    channels, cells, levels, fusion, act, bias, symmetric, norm_momentum: see `BiFPN`; all but the first four and
    `symmetric` hold for the head too. tower_depth: convolutions in front of each prediction.
    anchor_scale: side of the smallest square anchor in strides; three octaves of three shapes a cell.
    drop_path: rate of stochastic depth in the backbone.

    Loss: focal with gamma 1.5, and 50 times a Huber loss of the mean code, over the positives of the batch plus one.
    Differs: pictures are padded to a multiple of the coarsest stride, there to the square; NMS is hard, the authors'
    own evaluation is soft (`detect(soft_nms="gaussian")`).
    """
    trunk = make_backbone(backbone, backbone_weights, norm, frozen_stages, drop_path=drop_path)
    neck = BiFPN(
        trunk.channels, channels,
        levels=levels, cells=cells, fusion=fusion, act=act, bias=bias, symmetric=symmetric, norm_momentum=norm_momentum,
    )  # fmt: skip
    return _detector(trunk, neck, num_classes, tower_depth, act, bias, anchor_scale, norm_momentum, input_size)


@register
def efficientdet_scaled(
    *,
    num_classes: int = 80,
    width: float = 1.0,
    depth: float = 1.0,
    resolution: float = 1.0,
    drop_path: float = 0.0,
    fusion: Fusion = "fast",
    norm_momentum: float = 0.01,
) -> Detector:
    """EfficientDet-D0 with every part scaled by the same factors (EfficientNet's rule, arXiv 1905.11946, equation 3).

    width: of the channels of backbone, BiFPN and head, in multiples of 8; depth: of the layers of the backbone, the
    cells and the towers; resolution: of the side of the picture, 512, in multiples of 32. `headway view scaling` draws
    what each costs and gives. There are no pretrained weights of such backbones.
    """
    trunk = EfficientNetBackbone(width, depth, drop_path=drop_path)
    cells = tower_depth = max(1, round(3 * depth))
    side = max(1, round(512 * resolution / 32)) * 32
    neck = BiFPN(trunk.channels, max(8, 8 * round(8 * width)), cells=cells, fusion=fusion, norm_momentum=norm_momentum)
    return _detector(trunk, neck, num_classes, tower_depth, "silu", True, 4.0, norm_momentum, (side, side))


for _number in range(1, 9):
    _name = f"efficientdet_d{_number}" if _number < 8 else "efficientdet_d7x"
    register_variant(_name, efficientdet_d0, **compound_scaling(_number)._asdict())

_LITE: dict[str, Any] = {"act": "relu6", "fusion": "sum"}
register_variant(
    "efficientdet_lite0",
    efficientdet_d0,
    **_LITE, backbone="tf_efficientnet_lite0", anchor_scale=3.0, drop_path=0.0, input_size=(320, 320),
)  # fmt: skip
register_variant(
    "efficientdet_tiny",
    efficientdet_d0,
    backbone="tinynet_e", channels=48, cells=2, tower_depth=2, drop_path=0.0, norm_momentum=0.1, input_size=(320, 320),
)  # fmt: skip
