"""Published checkpoints of RetinaNet, FCOS, ATSS and RepPoints."""

from __future__ import annotations

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow
from .shared import CAFFE, DETECTRON2, DETECTRON2_TRUNK, EVAL, MMDET, OFFICIAL, RGB, TORCHVISION

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
    WeightsRow(
        "retinanet_r50_fpn", "mmdet", "mmdet", EVAL, RGB,
        MMDET + "retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth", "c2398f9e",
        metrics={"AP": 0.365},
    ),
    WeightsRow(
        "fcos_r50_fpn", "mmdet", "mmdet", {**EVAL, "stride_in_1x1": True, "improved": False}, _CAFFE_OLD,
        MMDET + "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth", "821213aa",
        metrics={"AP": 0.366},
    ),
    WeightsRow(
        "fcos_r50_fpn", "mmdet_improved", "mmdet", {**EVAL, "stride_in_1x1": True, "improved": True}, CAFFE,
        MMDET + "fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco/"
        "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth", "0a0d75a8",
        metrics={"AP": 0.387},
    ),
    WeightsRow(
        "atss_r50_fpn", "mmdet", "mmdet", EVAL, RGB,
        MMDET + "atss/atss_r50_fpn_1x_coco/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth", "985f7bd0",
        metrics={"AP": 0.394},
    ),
    WeightsRow(
        "atss_r50_fpn_dyhead", "mmdet", "mmdet", EVAL, RGB,
        MMDET + "dyhead/atss_r50_fpn_dyhead_4x4_1x_coco/atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth",
        "eaa620c6", metrics={"AP": 0.433},
    ),
    WeightsRow(
        "atss_r50_fpn_dyhead", "mmdet_caffe", "mmdet", _REPRODUCTION, {**CAFFE, "pad_multiple": 128},
        MMDET + "dyhead/atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco/"
        "atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco_20220107_213939-162888e6.pth",
        "162888e6", metrics={"AP": 0.425},
    ),
    WeightsRow(
        "atss_swin_l_fpn_dyhead", "mmdet", "mmdet", {"kernel": 1, "center_offset": 0.5, "zero_init_offset": False},
        {**RGB, "pad_multiple": 128},
        MMDET + "dyhead/atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco/"
        "atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco_20220509_100315-bc5b6516.pth",
        "bc5b6516", metrics={"AP": 0.562},
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
    WeightsRow(
        "retinanet_r50_fpn", "torchvision", "torchvision",
        {**_TORCHVISION_RETINANET, "norm": "frozen", "extra_levels": "on_output"},
        {**_BY_ID_CARD, "max_detections": 300},
        TORCHVISION + "retinanet_resnet50_fpn_coco-eeacb38b.pth", "eeacb38b", "BSD-3-Clause", {"AP": 0.364},
        pretrained_arguments={"norm_eps": 0.0},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "torchvision_v2", "torchvision",
        {**_TORCHVISION_RETINANET, "tower_norm": True, "box_loss": "giou"}, {**_BY_ID_CARD, "max_detections": 300},
        TORCHVISION + "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", "5905b1c5", "BSD-3-Clause", {"AP": 0.415},
    ),
    WeightsRow(
        "fcos_r50_fpn", "torchvision", "torchvision", {**_TORCHVISION_FCOS, "norm": "frozen"},
        {**_BY_ID_CARD, "score_threshold": 0.2},
        TORCHVISION + "fcos_resnet50_fpn_coco-99b0c9b7.pth", "99b0c9b7", "BSD-3-Clause", {"AP": 0.392},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "detectron2", "detectron2", _DETECTRON2_RETINANET, CAFFE,
        DETECTRON2 + "COCO-Detection/retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.374}, md5="bfca0b",
    ),
    WeightsRow(
        "retinanet_r50_fpn", "detectron2_3x", "detectron2", _DETECTRON2_RETINANET, CAFFE,
        DETECTRON2 + "COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.387}, md5="5bd44e",
    ),
    WeightsRow(
        "retinanet_r101_fpn", "detectron2_3x", "detectron2", _DETECTRON2_RETINANET, CAFFE,
        DETECTRON2 + "COCO-Detection/retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.404}, md5="971ab9",
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet", "mmdet", EVAL, RGB,
        MMDET + "reppoints/reppoints_moment_r50_fpn_1x_coco/reppoints_moment_r50_fpn_1x_coco_20200330-b73db8d1.pth",
        "b73db8d1", metrics={"AP": 0.370},
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet_gn", "mmdet", _GN, RGB,
        MMDET + "reppoints/reppoints_moment_r50_fpn_gn-neck%2Bhead_1x_coco/"
        "reppoints_moment_r50_fpn_gn-neck%2Bhead_1x_coco_20200329_145952-3e51b550.pth",
        "3e51b550", metrics={"AP": 0.381},
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet_gn_2x", "mmdet", _GN, RGB,
        MMDET + "reppoints/reppoints_moment_r50_fpn_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r50_fpn_gn-neck%2Bhead_2x_coco_20200329-91babaa2.pth",
        "91babaa2", metrics={"AP": 0.386},
    ),
    WeightsRow(
        "reppoints_r101_fpn", "mmdet_gn_2x", "mmdet", _GN, RGB,
        MMDET + "reppoints/reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco_20200329-4fbc7310.pth",
        "4fbc7310", metrics={"AP": 0.405},
    ),
    WeightsRow(
        "reppoints_r101_fpn", "mmdet_gn_dconv_2x", "mmdet", {**_GN, **_DCONV}, RGB,
        MMDET + "reppoints/reppoints_moment_r101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-3309fbf2.pth",
        "3309fbf2", metrics={"AP": 0.429},
    ),
    WeightsRow(
        "reppoints_x101_32x4d_fpn", "mmdet_gn_dconv_2x", "mmdet", {**_GN, **_DCONV}, RGB,
        MMDET + "reppoints/reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea.pth",
        "f87da1ea", metrics={"AP": 0.442},
    ),
)  # fmt: skip
