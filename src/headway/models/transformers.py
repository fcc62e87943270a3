"""DETR and Deformable DETR. As published the batch norms are constants, which needs ImageNet weights: from random ones
train with `backbone.norm=batch`."""

from typing import Any

_DETR: dict[str, Any] = {"backbone.norm": "buffers"}
_DC5: dict[str, Any] = {**_DETR, "backbone.strides": (16,), "output_stride": 16}
_DEFORMABLE: dict[str, Any] = {**_DETR, "frozen_stages": 1}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "detr_r50": ("resnet50/project/detr", _DETR),
    "detr_r101": ("resnet101/project/detr", _DETR),
    "detr_r50_dc5": ("resnet50/project/detr", _DC5),
    "detr_r101_dc5": ("resnet101/project/detr", _DC5),
    # Without dropout, whose noise a small DETR from random weights takes for its queries (docs/detr.md).
    "detr_tiny": (
        "resnet18/project/detr",
        {
            "project.channels": 128, "heads": 4, "encoder_layers": 3, "decoder_layers": 3, "feedforward": 512,
            "dropout": 0.0, "input_size": (320, 448),
        },
    ),
    "deformable_detr_r50": ("resnet50/level_projection/deformable_detr", _DEFORMABLE),
    "deformable_detr_r50_refine": (
        "resnet50/level_projection/deformable_detr", {**_DEFORMABLE, "refine_boxes": True}
    ),
    "deformable_detr_r50_two_stage": (
        "resnet50/level_projection/deformable_detr", {**_DEFORMABLE, "refine_boxes": True, "two_stage": True}
    ),
    "deformable_detr_tiny": (
        "resnet18/level_projection/deformable_detr",
        {
            "level_projection.levels": 3, "level_projection.channels": 128, "heads": 4, "encoder_layers": 2,
            "decoder_layers": 3, "feedforward": 512, "queries": 100, "refine_boxes": True, "input_size": (320, 448),
        },
    ),
}  # fmt: skip
