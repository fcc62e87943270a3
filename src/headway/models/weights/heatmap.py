"""Published checkpoints of TTFNet, PAFNet and CenterNet."""

from typing import Any

from ..published import WeightsRow
from .shared import mmdet

_PADDLE = "https://paddledet.bj.bcebos.com/models/"  # gives no hashes
_HEATMAP: dict[str, Any] = {"score_threshold": 0.01, "drop_empty": False}
_ZJU = "http://downloads.zjulearning.org.cn/ttfnet/"
_ZJU_TRUNK: dict[str, Any] = {"frozen_stages": 1, "align_corners": True}
_CENTERNET: dict[str, Any] = {"score_threshold": 0.0, "drop_empty": False}
_CENTERNET_COLOURS: dict[str, Any] = {
    "channels": "bgr", "mean": (104.0136, 114.0342, 119.9165), "std": (73.6028, 69.8908, 70.9151),
}  # fmt: skip
_MMDET_CENTERNET: dict[str, Any] = {"score_clip": 0.0, "clip_boxes": False}

ROWS = (
    WeightsRow(
        "pafnet", "paddle", "paddle", {"norm": "frozen", "clip_boxes": False}, _HEATMAP,
        _PADDLE + "pafnet_10x_coco.pdparams",
        metrics={"AP": 0.398},
    ),
    WeightsRow(
        "pafnet_lite", "paddle", "paddle", {"clip_boxes": False}, _HEATMAP,
        _PADDLE + "pafnet_lite_mobilenet_v3_20x_coco.pdparams", metrics={"AP": 0.239},
    ),
    mmdet(
        "centernet_r18", "mmdet", "centernet/centernet_resnet18_140e_coco", "_20210705_093630-bb5b3bf7", 0.259,
        {**_MMDET_CENTERNET, "deformable": False}, _CENTERNET,
    ),
    mmdet(
        "centernet_r18", "mmdet_dcn", "centernet/centernet_resnet18_dcnv2_140e_coco", "_20210702_155131-c8cd631f",
        0.295, {**_MMDET_CENTERNET, "deform_bias": False}, _CENTERNET,
    ),
    *(  # on Google Drive, which programs cannot fetch from; links in the authors' readme/MODEL_ZOO.md
        WeightsRow(
            model, "centernet", "centernet", {"clip_boxes": False}, {**_CENTERNET, **_CENTERNET_COLOURS},
            licence="MIT", metrics={"AP": ap},
        )
        for model, ap in (("centernet_r18", 0.281), ("centernet_r101", 0.346), ("centernet_dla34", 0.374))
    ),
    WeightsRow(
        "ttfnet_darknet53", "paddle", "paddle", {"frozen_stem": True, "clip_boxes": False}, _HEATMAP,
        _PADDLE + "ttfnet_darknet53_1x_coco.pdparams", metrics={"AP": 0.335},
    ),
    WeightsRow(
        "ttfnet_r18", "ttfnet", "ttfnet", _ZJU_TRUNK, _HEATMAP, _ZJU + "ttf18_aug_10x-0c5709be.pth", "0c5709be",
        metrics={"AP": 0.318},
    ),
    WeightsRow(
        "ttfnet_r34", "ttfnet", "ttfnet", _ZJU_TRUNK, _HEATMAP, _ZJU + "ttf34_aug_10x-b394ba77.pth", "b394ba77",
        metrics={"AP": 0.353},
    ),
    WeightsRow(
        "ttfnet_darknet53", "ttfnet", "ttfnet",
        {"frozen_stem": True, "align_corners": True}, _HEATMAP,
        _ZJU + "ttf53_aug_10x-86c43dd3.pth", "86c43dd3", metrics={"AP": 0.393},
    ),
)  # fmt: skip
