"""YOLOv4-CSP, Scaled-YOLOv4 (arXiv 2011.08036) and YOLOR (arXiv 2105.04206)."""

from typing import Any

_V4 = "csp_darknet/pan/yolov4"
_YOLOR = "csp_darknet/pan/yolor"
_CSP_X: dict[str, Any] = {"layout": "csp_x", "blocks": 3, "spp_extra": True}
_SCALED: dict[str, Any] = {
    "form": "yaml", "act": "mish", "objectness_weight": 1.0, "class_weight": 0.5, "blocks": 3
}  # fmt: skip
_LARGE: dict[str, Any] = {
    "stem": "reorg", "objectness_weight": 1.0, "class_weight": 0.5, "blocks": 3, "input_size": (1280, 1280),
}  # fmt: skip
_YAML: dict[str, Any] = {"form": "yaml", "csp_down": True}
_P5_ANCHORS = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((48, 102), (119, 96), (97, 189), (217, 184)),
    ((171, 384), (324, 451), (616, 618), (800, 800)),
)
_P6_ANCHORS = (
    ((13, 17), (31, 25), (24, 51), (61, 45)),
    ((61, 45), (48, 102), (119, 96), (97, 189)),
    ((97, 189), (217, 184), (171, 384), (324, 451)),
    ((324, 451), (545, 357), (616, 618), (1024, 1024)),
)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "yolov4_csp": (_V4, {}),
    "yolov4_csp_x": (_V4, _CSP_X),
    "yolov4_p5": (_V4, {**_SCALED, "layout": "v4_p5", "anchors": _P5_ANCHORS, "input_size": (896, 896)}),
    "yolov4_p6": (_V4, {**_SCALED, "layout": "v4_p6", "anchors": _P6_ANCHORS, "input_size": (1280, 1280)}),
    "yolov4_p7": (_V4, {**_SCALED, "layout": "v4_p7", "input_size": (1536, 1536)}),
    "yolor_s": (
        _YOLOR, {"form": "yaml", "depth": 0.33, "width": 0.5, "objectness_weight": 1.0, "class_weight": 0.5}
    ),
    "yolor_csp": (_YOLOR, {}),
    "yolor_csp_x": (_YOLOR, _CSP_X),
    "yolor_p6": (_YOLOR, {**_LARGE, "layout": "p6"}),
    "yolor_w6": (_YOLOR, {**_LARGE, "layout": "w6"}),
    "yolor_e6": (_YOLOR, {**_LARGE, **_YAML, "layout": "e6"}),
    "yolor_d6": (_YOLOR, {**_LARGE, **_YAML, "layout": "d6"}),
}  # fmt: skip
