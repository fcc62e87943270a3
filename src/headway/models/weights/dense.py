"""Published checkpoints of RetinaNet, FCOS, ATSS and RepPoints."""

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow
from .shared import CAFFE, DETECTRON2_TRUNK, EVAL, OFFICIAL, RGB, detectron2, mmdet, torchvision

_CAFFE_OLD: dict[str, Any] = {**CAFFE, "mean": (102.9801, 115.9465, 122.7717)}
_GN: dict[str, Any] = {**EVAL, "fpn_norm": "group", "tower_norm": True}
_DCONV: dict[str, Any] = {"dcn": ("c3", "c4", "c5"), "dcn_version": 1}
_REPRODUCTION: dict[str, Any] = {
    **EVAL, "stride_in_1x1": True, "kernel": 1, "center_offset": 0.5, "zero_init_offset": False,
}  # fmt: skip
_BY_ID: dict[str, Any] = {"num_classes": 91}  # the first output, background, is never trained
_BY_ID_CARD: dict[str, Any] = {
    **RGB, "class_names": COCO_NAMES_BY_ID, "category_ids": tuple(range(91)), "drop_empty": False,
}  # fmt: skip
_TORCHVISION_RETINANET: dict[str, Any] = {
    **_BY_ID, "relu_before_extra": True, "rounded_anchors": True, "step_from_image": True, "clip_shrink": False,
    "keep_owner": True, "normaliser": "mean",
}  # fmt: skip
_TORCHVISION_FCOS: dict[str, Any] = {
    **_BY_ID, "center_offset": 0.0, "step_from_image": True, "inclusive_ranges": False, "level_scales": False,
    "joint_score": True, "weigh_boxes": False,
}  # fmt: skip
_DETECTRON2_RETINANET: dict[str, Any] = {**DETECTRON2_TRUNK, "relu_before_extra": True, "normaliser": "batch"}

ROWS = (
    mmdet("retinanet_r50_fpn", "mmdet", "retinanet/retinanet_r50_fpn_1x_coco", "_20200130-c2398f9e", 0.365),
    mmdet(
        "fcos_r50_fpn", "mmdet", "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco", "-821213aa", 0.366,
        {**EVAL, "stride_in_1x1": True, "improved": False}, _CAFFE_OLD,
    ),
    mmdet(
        "fcos_r50_fpn", "mmdet_improved",
        "fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco", "-0a0d75a8", 0.387,
        {**EVAL, "stride_in_1x1": True, "improved": True}, CAFFE,
    ),
    mmdet("atss_r50_fpn", "mmdet", "atss/atss_r50_fpn_1x_coco", "_20200209-985f7bd0", 0.394),
    mmdet(
        "atss_r50_fpn_dyhead", "mmdet", "dyhead/atss_r50_fpn_dyhead_4x4_1x_coco", "_20211219_023314-eaa620c6", 0.433
    ),
    mmdet(
        "atss_r50_fpn_dyhead", "mmdet_caffe", "dyhead/atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco",
        "_20220107_213939-162888e6", 0.425, _REPRODUCTION, {**CAFFE, "pad_multiple": 128},
    ),
    mmdet(
        "atss_swin_l_fpn_dyhead", "mmdet", "dyhead/atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco",
        "_20220509_100315-bc5b6516", 0.562, {"kernel": 1, "center_offset": 0.5, "zero_init_offset": False},
        {**RGB, "pad_multiple": 128},
    ),
    WeightsRow("retinanet_swin_t_fpn", "mmdet", "mmdet", {}, RGB),  # a configuration without published weights
    WeightsRow(
        "atss_r50_fpn_dyhead", "official", "dynamichead", {**OFFICIAL, "kernel": 1, "center_offset": 0.5},
        {**CAFFE, "pad_multiple": 128}, licence="MIT", metrics={"AP": 0.424},
    ),
    WeightsRow(
        "retinanet_r50_fpn_dyhead", "official", "dynamichead", {**OFFICIAL, "tower_depth": 4},
        {**CAFFE, "pad_multiple": 128}, licence="MIT", metrics={"AP": 0.399},
    ),
    torchvision(
        "retinanet_r50_fpn", "torchvision", "retinanet_resnet50_fpn_coco-eeacb38b", 0.364,
        {**_TORCHVISION_RETINANET, "norm": "frozen", "extra_levels": "on_output"},
        {**_BY_ID_CARD, "max_detections": 300}, pretrained_arguments={"norm_eps": 0.0},
    ),
    torchvision(
        "retinanet_r50_fpn", "torchvision_v2", "retinanet_resnet50_fpn_v2_coco-5905b1c5", 0.415,
        {**_TORCHVISION_RETINANET, "tower_norm": True, "box_loss": "giou"}, {**_BY_ID_CARD, "max_detections": 300},
    ),
    torchvision(
        "fcos_r50_fpn", "torchvision", "fcos_resnet50_fpn_coco-99b0c9b7", 0.392,
        {**_TORCHVISION_FCOS, "norm": "frozen"}, {**_BY_ID_CARD, "score_threshold": 0.2},
    ),
    *(
        detectron2(model, tag, f"COCO-Detection/retinanet_{file}", ap, _DETECTRON2_RETINANET)
        for model, tag, file, ap in (
            ("retinanet_r50_fpn", "detectron2", "R_50_FPN_1x/190397773/model_final_bfca0b", 0.374),
            ("retinanet_r50_fpn", "detectron2_3x", "R_50_FPN_3x/190397829/model_final_5bd44e", 0.387),
            ("retinanet_r101_fpn", "detectron2_3x", "R_101_FPN_3x/190397697/model_final_971ab9", 0.404),
        )
    ),
    *(
        mmdet(f"reppoints_{model}", tag, f"reppoints/reppoints_moment_{config}", end, ap, arguments)
        for model, tag, config, end, ap, arguments in (
            ("r50_fpn", "mmdet", "r50_fpn_1x_coco", "_20200330-b73db8d1", 0.370, EVAL),
            ("r50_fpn", "mmdet_gn", "r50_fpn_gn-neck%2Bhead_1x_coco", "_20200329_145952-3e51b550", 0.381, _GN),
            ("r50_fpn", "mmdet_gn_2x", "r50_fpn_gn-neck%2Bhead_2x_coco", "_20200329-91babaa2", 0.386, _GN),
            ("r101_fpn", "mmdet_gn_2x", "r101_fpn_gn-neck%2Bhead_2x_coco", "_20200329-4fbc7310", 0.405, _GN),
            (
                "r101_fpn", "mmdet_gn_dconv_2x", "r101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco", "_20200329-3309fbf2",
                0.429, {**_GN, **_DCONV},
            ),
            (
                "x101_32x4d_fpn", "mmdet_gn_dconv_2x", "x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco",
                "_20200329-f87da1ea", 0.442, {**_GN, **_DCONV},
            ),
        )
    ),
)  # fmt: skip
