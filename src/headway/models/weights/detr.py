"""Published checkpoints of DETR."""

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow

_MMDET = "https://download.openmmlab.com/mmdetection/v3.0/detr/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/detr/"
_HF = "https://huggingface.co/facebook/"  # gives no short hashes
_BY_ID: dict[str, Any] = {"num_classes": 91, "frozen_stages": 1}  # the first output is of no class
_ALL: dict[str, Any] = {"score_threshold": 0.0, "drop_empty": False, "pad_multiple": 1}  # every query is a detection
_BY_ID_CARD: dict[str, Any] = {**_ALL, "class_names": COCO_NAMES_BY_ID, "category_ids": tuple(range(91))}

ROWS = (
    WeightsRow(
        "detr_r50", "mmdet", "mmdet", {"norm": "frozen", "frozen_stages": 1}, _ALL,
        _MMDET + "detr_r50_8xb2-150e_coco/detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth", "436d03e8",
        metrics={"AP": 0.399},
    ),
    *(
        WeightsRow(
            model, "facebook", "detr", _BY_ID, _BY_ID_CARD, f"{_FACEBOOK}{file}-{digest}.pth", digest,
            metrics={"AP": ap, "AP50": ap50},
        )
        for model, file, digest, ap, ap50 in (
            ("detr_r50", "detr-r50", "e632da11", 0.42, 0.624),
            ("detr_r50_dc5", "detr-r50-dc5", "f0fb7ef5", 0.433, 0.631),
            ("detr_r101", "detr-r101", "2c7b67e5", 0.435, 0.638),
            ("detr_r101_dc5", "detr-r101-dc5", "a2e86def", 0.449, 0.647),
        )
    ),
    *(
        WeightsRow(
            model, "hf", "hf", _BY_ID, _BY_ID_CARD, url and f"{_HF}{url}/resolve/main/model.safetensors",
            metrics={"AP": ap},
        )
        for model, url, ap in (  # the DC5 models are there as well, under addresses that we have not seen
            ("detr_r50", "detr-resnet-50", 0.42), ("detr_r50_dc5", "", 0.433), ("detr_r101", "detr-resnet-101", 0.435),
            ("detr_r101_dc5", "", 0.449),
        )
    ),
)  # fmt: skip
