"""Published checkpoints of Deformable DETR."""

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow

_MMDET = "https://download.openmmlab.com/mmdetection/v3.0/deformable_detr/"
_HF = "https://huggingface.co/SenseTime/deformable-detr"  # gives no short hashes
_CARD: dict[str, Any] = {"score_threshold": 0.0, "drop_empty": False, "pad_multiple": 1}
_BY_ID: dict[str, Any] = {"num_classes": 91}  # the outputs of numbers that COCO does not use are never trained
_BY_ID_CARD: dict[str, Any] = {**_CARD, "class_names": COCO_NAMES_BY_ID, "category_ids": tuple(range(91))}
_SINGLE: dict[str, Any] = {**_BY_ID, "level_projection.levels": 1, "backbone.strides": (32,)}
_SINGLE_DC5: dict[str, Any] = {**_SINGLE, "backbone.strides": (16,), "backbone.output_stride": 16}
_FORMS = (
    ("deformable_detr_r50", "", _BY_ID, "", 0.445),
    ("deformable_detr_r50_refine", "", _BY_ID, "-with-box-refine", 0.462),
    ("deformable_detr_r50_two_stage", "", _BY_ID, "-with-box-refine-two-stage", 0.469),
    ("deformable_detr_r50", "_single_scale", _SINGLE, "-single-scale", 0.394),
    ("deformable_detr_r50", "_single_scale_dc5", _SINGLE_DC5, "-single-scale-dc5", 0.415),
)

ROWS = (
    *(
        WeightsRow(
            model, "mmdet", "mmdet", {}, _CARD,
            f"{_MMDET}{form}_r50_16xb2-50e_coco/{form}_r50_16xb2-50e_coco_{date}.pth",
            date.rpartition("-")[2], metrics={"AP": ap},
        )
        for model, form, date, ap in (
            ("deformable_detr_r50", "deformable-detr", "20221029_210934-6bc7d21b", 0.443),
            ("deformable_detr_r50_refine", "deformable-detr-refine", "20221022_225303-844e0f93", 0.462),
            ("deformable_detr_r50_two_stage", "deformable-detr-refine-twostage", "20221021_184714-acc8a5ff", 0.47),
        )
    ),
    *(  # on Google Drive, which programs cannot fetch from; links in the authors' README
        WeightsRow(model, f"official{form}", "deformable_detr", arguments, _BY_ID_CARD, metrics={"AP": ap})
        for model, form, arguments, _, ap in _FORMS
    ),
    *(  # the same weights
        WeightsRow(
            model, f"hf{form}", "hf", arguments, _BY_ID_CARD, f"{_HF}{name}/resolve/main/model.safetensors",
            metrics={"AP": ap},
        )
        for model, form, arguments, name, ap in _FORMS
    ),
)  # fmt: skip
