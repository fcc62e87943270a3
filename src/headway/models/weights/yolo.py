"""Published checkpoints of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR."""

from typing import Any

from ..published import WeightsRow

_YOLO: dict[str, Any] = {"drop_empty": False}
_YOLOR_CFG: dict[str, Any] = {"form": "cfg", "clip_boxes": False}
_YOLOR_YAML: dict[str, Any] = {"form": "yaml", "clip_boxes": False}
_DARKNET: dict[str, Any] = {**_YOLOR_CFG, "norm_eps": 1e-5}  # what Darknet itself adds to a variance
_ALEXEY = "https://github.com/AlexeyAB/darknet/releases/download/darknet_yolo_v4_pre/"  # gives no hashes

ROWS = (
    *(  # on Google Drive, like the next; "_star" and "-paper-541" files of the same networks load as well
        WeightsRow(model, "cfg", "yolor_cfg", _YOLOR_CFG, _YOLO, licence="GPL-3.0", metrics=metrics)
        for model, metrics in (
            ("yolov4_csp", {"AP": 0.491}), ("yolov4_csp_x", {"AP": 0.509}), ("yolor_csp", {"AP": 0.492}),
            ("yolor_csp_x", {"AP": 0.511}), ("yolor_p6", {"AP": 0.525}), ("yolor_w6", {}),
        )
    ),
    *(
        WeightsRow(model, "yaml", "yolor_yaml", _YOLOR_YAML, _YOLO, licence="GPL-3.0", metrics={"AP": ap})
        for model, ap in (
            ("yolor_p6", 0.525), ("yolor_w6", 0.54), ("yolor_e6", 0.546), ("yolor_d6", 0.554),
            ("yolov4_p5", 0.512), ("yolov4_p6", 0.539), ("yolov4_p7", 0.55),
        )
    ),
    *(
        WeightsRow(model, tag, "yolov4", {**_DARKNET, "act": act}, _YOLO, _ALEXEY + file, licence="public domain")
        for model, tag, act, file in (
            ("yolov4_csp", "darknet", "mish", "yolov4-csp.weights"),
            ("yolov4_csp", "darknet_swish", "silu", "yolov4-csp-swish.weights"),
            ("yolov4_csp_x", "darknet", "mish", "yolov4x-mish.weights"),
            ("yolov4_csp_x", "darknet_swish", "silu", "yolov4-csp-x-swish.weights"),
        )
    ),
)  # fmt: skip
