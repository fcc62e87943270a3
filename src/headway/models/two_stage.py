"""Faster and Cascade R-CNN, plain, with deformable stages, and with a Dynamic Head in both of its two-stage forms."""

from typing import Any

from .dense import PUBLISHED
from .trunks import SWIN

_R18: dict[str, Any] = {
    "fpn.channels": 128, "backbone.strides": (8, 16, 32), "fpn.levels": 4, "anchor_scale": 4.0, "hidden": 256,
    "rpn_samples": 128, "roi_samples": 128, "pre_nms": (500, 300), "proposals": (300, 300), "input_size": (320, 320),
}  # fmt: skip
_STAGES = ("c3", "c4", "c5")
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "": ("", {}),
    "_dconv": ("", {"dcn": _STAGES, "dcn_version": 1}),
    "_mdconv": ("", {"dcn": _STAGES, "dcn_version": 2}),
    "_dyhead": ("dyhead/", {}),
    "_dyhead_roi": ("dyhead/", {"dyhead.task": False, "task_attention": True}),
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {}
for _head in ("faster_rcnn", "cascade_rcnn"):
    for _form, (_neck, _arguments) in _FORMS.items():
        for _size, _name in (("r18", "resnet18"), ("r50", "resnet50"), ("r101", "resnet101")):
            _other = {"blocks": 2} if _size == "r18" else PUBLISHED
            _small = {**(_R18 if _size == "r18" else {}), **(_other if _neck else {})}
            MODELS[f"{_head}_{_size}_fpn{_form}"] = f"{_name}/fpn/{_neck}{_head}", {**_small, **_arguments}

# The authors' Cascade R-CNN on Swin (arXiv 2103.14030, table 2).
_HEAVY: dict[str, Any] = {
    "box_convs": 4, "box_fcs": 1, "box_norm": "batch", "class_agnostic": False, "box_loss": "giou",
}  # fmt: skip
for _size in ("t", "s", "b"):
    _path, _arguments = SWIN[_size]
    MODELS[f"cascade_rcnn_swin_{_size}_fpn"] = f"{_path}/cascade_rcnn", {**_HEAVY, "box_weight": 10.0, **_arguments}
_path, _arguments = SWIN["t"]
MODELS["cascade_rcnn_swin_t_fpn_dyhead"] = (
    f"{_path}/dyhead/cascade_rcnn", {**_HEAVY, "box_weight": 10.0, **_arguments, **PUBLISHED}
)  # fmt: skip
MODELS["faster_rcnn_swin_t_fpn"] = f"{_path}/faster_rcnn", _arguments

# ViTDet (arXiv 2203.16527, section 3; detectron2's projects/ViTDet).
_VITDET: dict[str, Any] = {
    **_HEAVY, "box_norm": "layer", "box_loss": "l1", "drop_path": 0.1, "rpn_depth": 2, "input_size": (1024, 1024),
}  # fmt: skip
_PYRAMID = "vitdet_base/simple_pyramid"
MODELS["cascade_rcnn_vit_b"] = f"{_PYRAMID}/cascade_rcnn", {**_VITDET, "class_agnostic": True}
MODELS["faster_rcnn_vit_b"] = f"{_PYRAMID}/faster_rcnn", _VITDET
MODELS["faster_rcnn_vit_tiny"] = (
    "vit_tiny_patch16/simple_pyramid/faster_rcnn",
    {k.replace("fpn.", "simple_pyramid."): v for k, v in _R18.items() if k != "backbone.strides"}
    | {"simple_pyramid.strides": (8, 16, 32)},
)
