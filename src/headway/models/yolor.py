"""YOLOR (arXiv 2105.04206): Scaled-YOLOv4's networks with implicit knowledge at every prediction, a learned vector
added to the features before it and one that multiplies what comes out."""

from __future__ import annotations

from ..registry import register_variant
from .yolov4 import yolov4_csp

_IMPLICIT = {"align": "add", "refine": "mul"}
_LARGE = {
    **_IMPLICIT, "stem": "reorg", "objectness_weight": 1.0, "class_weight": 0.5, "input_size": (1280, 1280)
}  # fmt: skip

register_variant("yolor_csp", yolov4_csp, **_IMPLICIT)
register_variant("yolor_csp_x", yolov4_csp, layout="csp_x", **_IMPLICIT)
register_variant(
    "yolor_s", yolov4_csp, form="yaml", depth=0.33, width=0.5, objectness_weight=1.0, class_weight=0.5, **_IMPLICIT
)
register_variant("yolor_p6", yolov4_csp, layout="p6", **_LARGE)
register_variant("yolor_w6", yolov4_csp, layout="w6", **_LARGE)
register_variant("yolor_e6", yolov4_csp, layout="e6", form="yaml", **_LARGE)
register_variant("yolor_d6", yolov4_csp, layout="d6", form="yaml", **_LARGE)
