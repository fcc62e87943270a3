"""What the published checkpoints of several families have in common."""

from __future__ import annotations

from typing import Any

RGB: dict[str, Any] = {"score_threshold": 0.05}
CAFFE: dict[str, Any] = {**RGB, "channels": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
MMDET = "https://download.openmmlab.com/mmdetection/v2.0/"
EVAL: dict[str, Any] = {"norm": "eval"}
OFFICIAL: dict[str, Any] = {
    "norm": "frozen", "stride_in_1x1": True, "relu_before_extra": True, "zero_init_offset": False, "deform_bias": True,
}  # fmt: skip
TORCHVISION = "https://download.pytorch.org/models/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
DETECTRON2_TRUNK: dict[str, Any] = {
    "norm": "frozen", "frozen_stages": 1, "stride_in_1x1": True, "clip_shrink": False, "keep_owner": True,
}  # fmt: skip
