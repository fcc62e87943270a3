"""Published checkpoints of Faster and Cascade R-CNN."""

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow
from .shared import CAFFE, DETECTRON2_TRUNK, OFFICIAL, RGB, detectron2, mmdet, torchvision

_TORCHVISION_FASTER: dict[str, Any] = {
    "num_classes": 90, "rounded_anchors": True, "step_from_image": True, "keep_owner": True, "clip_shrink": False,
    "rpn_beta": 1 / 9, "rpn_min_iou": 0.0, "proposals": (2000, 1000), "proposal_min_size": 1e-3, "sampling_ratio": 2,
    "aligned": False, "level_eps_after_log": True, "box_loss": "smooth_l1", "box_beta": 1 / 9, "min_size": 1e-2,
}  # fmt: skip
_TORCHVISION_FASTER_CARD: dict[str, Any] = {
    **RGB, "class_names": COCO_NAMES_BY_ID[1:], "category_ids": tuple(range(1, 91))
}  # fmt: skip
_DETECTRON2_FASTER: dict[str, Any] = {**DETECTRON2_TRUNK, "rpn_min_iou": 0.0}
_DETECTRON2_CASCADE: dict[str, Any] = {
    **_DETECTRON2_FASTER, "rpn_beta": 0.0, "rpn_border": None, "stage_weights": (1.0, 1.0, 1.0), "box_loss": "l1",
    "stds": ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (1 / 30, 1 / 30, 1 / 15, 1 / 15)),
    "resample": False, "averaging": "probabilities", "pool_gradient": 1 / 3,
}  # fmt: skip

_VITDET: dict[str, Any] = {"clip_shrink": False, "keep_owner": True, "rpn_min_iou": 0.0}
_VITDET_CARD: dict[str, Any] = {**RGB, "pad_multiple": 1024}  # always a square of 1024 pixels
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/"  # gives no hashes

ROWS = (
    *(  # Mask and Cascade Mask R-CNNs
        detectron2(model, "detectron2", f"ViTDet/COCO/{file}", ap, arguments, _VITDET_CARD)
        for model, arguments, file, ap in (
            ("faster_rcnn_vit_b", _VITDET, "mask_rcnn_vitdet_b/f325346929/model_final_61ccd1", 0.516),
            (
                "cascade_rcnn_vit_b",
                {k: v for k, v in _DETECTRON2_CASCADE.items() if k not in ("norm", "frozen_stages", "stride_in_1x1")},
                "cascade_mask_rcnn_vitdet_b/f325358525/model_final_435fa9",
                0.54,
            ),
        )
    ),
    *(  # Cascade Mask R-CNNs, whose boxes do not depend on their masks
        WeightsRow(model, tag, "swin", {}, RGB, f"{_SWIN}{file}.pth", metrics={"AP": ap})
        for model, tag, file, ap in (
            ("cascade_rcnn_swin_t_fpn", "swin_1x", "v1.0.3/cascade_mask_rcnn_swin_tiny_patch4_window7_1x", 0.481),
            ("cascade_rcnn_swin_t_fpn", "swin", "v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7", 0.504),
            ("cascade_rcnn_swin_s_fpn", "swin", "v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7", 0.519),
            ("cascade_rcnn_swin_b_fpn", "swin", "v1.0.2/cascade_mask_rcnn_swin_base_patch4_window7", 0.519),
        )
    ),
    *(
        mmdet(f"{family}_r50_fpn", tag, f"{family}/{family}_r50_fpn_{schedule}_coco", end, ap)
        for family, tag, schedule, end, ap in (
            ("faster_rcnn", "mmdet", "1x", "_20200130-047c8118", 0.374),
            ("faster_rcnn", "mmdet_2x", "2x", "_bbox_mAP-0.384_20200504_210434-a5d8aa15", 0.384),
            ("cascade_rcnn", "mmdet_20e", "20e", "_bbox_mAP-0.41_20200504_175131-e9872a90", 0.41),
            ("cascade_rcnn", "mmdet", "1x", "_20200316-3dc56deb", 0.403),
        )
    ),
    *(
        mmdet(model, "mmdet", f"dcn/{model}_c3-c5_1x_coco", end, ap)
        for model, end, ap in (
            ("faster_rcnn_r50_fpn_dconv", "_20200130-d68aed1e", 0.413),
            ("faster_rcnn_r50_fpn_mdconv", "_20200130-d099253b", 0.414),
            ("cascade_rcnn_r50_fpn_dconv", "_20200130-2f1fca44", 0.438),
        )
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn_dyhead", "official", "dynamichead",
        {
            **{k: v for k, v in OFFICIAL.items() if k != "relu_before_extra"},  # its P6 is P5 halved
            "clip_shrink": False, "keep_owner": True, "rpn_min_iou": 0.0,
        },
        CAFFE, licence="MIT", metrics={"AP": 0.403},
    ),
    torchvision(
        "faster_rcnn_r50_fpn", "torchvision", "fasterrcnn_resnet50_fpn_coco-258fb6c6", 0.37,
        {**_TORCHVISION_FASTER, "norm": "frozen"}, _TORCHVISION_FASTER_CARD, pretrained_arguments={"norm_eps": 0.0},
    ),
    torchvision(
        "faster_rcnn_r50_fpn", "torchvision_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a", 0.467,
        {**_TORCHVISION_FASTER, "fpn_norm": "batch", "rpn_depth": 2, "box_convs": 4, "box_fcs": 1, "box_norm": "batch"},
        _TORCHVISION_FASTER_CARD,
    ),
    *(
        detectron2(f"faster_rcnn_{model}", tag, f"COCO-Detection/faster_rcnn_{file}", ap, _DETECTRON2_FASTER)
        for model, tag, file, ap in (
            ("r50_fpn", "detectron2", "R_50_FPN_1x/137257794/model_final_b275ba", 0.379),
            ("r50_fpn", "detectron2_3x", "R_50_FPN_3x/137849458/model_final_280758", 0.402),
            ("r101_fpn", "detectron2_3x", "R_101_FPN_3x/137851257/model_final_f6e8b1", 0.42),
        )
    ),
    *(  # Cascade Mask R-CNNs as well
        detectron2("cascade_rcnn_r50_fpn", tag, f"Misc/cascade_mask_rcnn_{file}", ap, _DETECTRON2_CASCADE)
        for tag, file, ap in (
            ("detectron2", "R_50_FPN_1x/138602847/model_final_e9d89b", 0.421),
            ("detectron2_3x", "R_50_FPN_3x/144998488/model_final_480dd8", 0.443),
        )
    ),
)  # fmt: skip
