"""RetinaNet, FCOS, ATSS, RepPoints and EfficientDet, plain and behind a Dynamic Head."""

from typing import Any

from .scaling import compound_scaling
from .trunks import SMALL, SWIN, VIT

# Published networks begin as their authors' do; it decides nothing where weights are loaded.
PUBLISHED: dict[str, Any] = {"dyhead.start": "all"}
_R18: dict[str, Any] = {"fpn.channels": 128, **SMALL}
# What one head has beside the defaults: as published, and behind a Dynamic Head.
_HEADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "retinanet": ({"tower_norm": False}, {"fpn.extra": "on_output"}),
    "fcos": ({}, {}),
    "atss": ({}, {}),
    "reppoints": ({"tower_norm": False, "center_init": True}, {"fpn.extra": "on_output"}),
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {}
for _head, (_published, _dyhead) in _HEADS.items():
    for _size, _name in (("r50", "resnet50"), ("r101", "resnet101")):
        MODELS[f"{_head}_{_size}_fpn"] = f"{_name}/fpn/{_head}", _published
        MODELS[f"{_head}_{_size}_fpn_dyhead"] = f"{_name}/fpn/dyhead/{_head}", {**_published, **_dyhead, **PUBLISHED}
    MODELS[f"{_head}_r18_fpn"] = f"resnet18/fpn/{_head}", _R18
    MODELS[f"{_head}_r18_fpn_dyhead"] = f"resnet18/fpn/dyhead/{_head}", {**_R18, "blocks": 2, **_dyhead}
    if _head != "reppoints":
        _path, _arguments = SWIN["t"]
        MODELS[f"{_head}_swin_t_fpn"] = f"{_path}/{_head}", {**_arguments, **_published}
        MODELS[f"{_head}_swin_t_fpn_dyhead"] = (
            f"{_path}/dyhead/{_head}", {**_arguments, **_published, **_dyhead, **PUBLISHED}
        )  # fmt: skip

MODELS["reppoints_x101_32x4d_fpn"] = "resnext101_32x4d/fpn/reppoints", _HEADS["reppoints"][0]
MODELS["atss_x101_64x4d_fpn_dyhead"] = "resnext101_64x4d/fpn/dyhead/atss", PUBLISHED
for _size, (_path, _arguments) in SWIN.items():
    _blocks = {"blocks": 2} if _size == "nano" else PUBLISHED
    MODELS[f"atss_swin_{_size}_fpn_dyhead"] = f"{_path}/dyhead/atss", {**_arguments, **_blocks}
    if _size != "l":
        MODELS[f"atss_swin_{_size}_fpn"] = f"{_path}/atss", _arguments
for _size, (_path, _arguments) in VIT.items():
    _blocks = {"blocks": 2} if "tiny" in _size else PUBLISHED
    MODELS[f"atss_vit_{_size}"] = f"{_path}/atss", _arguments
    MODELS[f"atss_vit_{_size}_dyhead"] = f"{_path}/dyhead/atss", {**_arguments, **_blocks}
MODELS["retinanet_vit_b"] = f"{VIT['b'][0]}/retinanet", {**VIT["b"][1], **_HEADS["retinanet"][0]}

for _number in range(9):
    _name = f"efficientdet_d{_number}" if _number < 8 else "efficientdet_d7x"
    MODELS[_name] = compound_scaling(_number)
MODELS["efficientdet_scaled"] = "efficientnet/bifpn/efficientdet", {}
MODELS["efficientdet_lite0"] = (
    "tf_efficientnet_lite0/bifpn/efficientdet",
    {"act": "relu6", "fusion": "sum", "anchor_scale": 3.0, **SMALL},
)
MODELS["efficientdet_tiny"] = (
    "tinynet_e/bifpn/efficientdet",
    {"bifpn.channels": 48, "cells": 2, "tower_depth": 2, "norm_momentum": 0.1, **SMALL},
)
