"""Published checkpoints: one row per tag, with everything needed to rebuild, convert, normalise and cite it."""

from __future__ import annotations

from typing import Any

from ..errors import HeadwayError, nearest
from .classes import COCO_NAMES_BY_ID
from .published import WeightsRow

_RGB: dict[str, Any] = {"score_threshold": 0.05}
_CAFFE: dict[str, Any] = {**_RGB, "channels": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
_CAFFE_OLD: dict[str, Any] = {**_CAFFE, "mean": (102.9801, 115.9465, 122.7717)}
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0/"


def find_row(model: str, tag: str) -> WeightsRow:
    """Raises: HeadwayError for an unknown tag, naming those the model has."""
    tags = {row.tag: row for row in ROWS if row.model == model}
    if tag not in tags:
        known = f"it has {', '.join(sorted(tags))}" if tags else "it has none"
        other = nearest(f"{model}.{tag}", [row.name for row in ROWS])
        raise HeadwayError(f"{model} has no tag {tag!r}: {known}; {other}".rstrip("; "))
    return tags[tag]


_EVAL: dict[str, Any] = {"norm": "eval"}
_GN: dict[str, Any] = {**_EVAL, "fpn_norm": "group", "tower_norm": True}
_DCONV: dict[str, Any] = {"dcn": ("c3", "c4", "c5"), "dcn_version": 1}
_REPRODUCTION: dict[str, Any] = {
    **_EVAL, "stride_in_1x1": True, "kernel": 1, "center_offset": 0.5, "zero_init_offset": False,
}  # fmt: skip
_OFFICIAL: dict[str, Any] = {
    "norm": "frozen", "stride_in_1x1": True, "relu_before_extra": True, "zero_init_offset": False, "deform_bias": True,
}  # fmt: skip
_TORCHVISION = "https://download.pytorch.org/models/"
_BY_ID: dict[str, Any] = {"num_classes": 91}  # the first output, background, is never trained
_BY_ID_CARD: dict[str, Any] = {
    **_RGB, "class_names": COCO_NAMES_BY_ID, "category_ids": tuple(range(91)), "drop_empty": False,
}  # fmt: skip
_TORCHVISION_RETINANET: dict[str, Any] = {
    **_BY_ID, "relu_before_extra": True, "rounded_anchors": True, "step_from_image": True, "clip_shrink": False,
    "keep_owner": True, "normaliser": "mean",
}  # fmt: skip
_TORCHVISION_FCOS: dict[str, Any] = {
    **_BY_ID, "center_offset": 0.0, "step_from_image": True, "inclusive_ranges": False, "level_scales": False,
    "joint_score": True, "weigh_boxes": False,
}  # fmt: skip
_TORCHVISION_FASTER: dict[str, Any] = {
    "num_classes": 90, "rounded_anchors": True, "step_from_image": True, "keep_owner": True, "clip_shrink": False,
    "rpn_beta": 1 / 9, "rpn_min_iou": 0.0, "proposals": (2000, 1000), "proposal_min_size": 1e-3, "sampling_ratio": 2,
    "aligned": False, "level_eps_after_log": True, "box_loss": "smooth_l1", "box_beta": 1 / 9, "min_size": 1e-2,
}  # fmt: skip
_TORCHVISION_FASTER_CARD: dict[str, Any] = {
    **_RGB, "class_names": COCO_NAMES_BY_ID[1:], "category_ids": tuple(range(1, 91))
}  # fmt: skip
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
_DETECTRON2_TRUNK: dict[str, Any] = {
    "norm": "frozen", "frozen_stages": 1, "stride_in_1x1": True, "clip_shrink": False, "keep_owner": True,
}  # fmt: skip
_DETECTRON2_RETINANET: dict[str, Any] = {**_DETECTRON2_TRUNK, "relu_before_extra": True, "normaliser": "batch"}
_DETECTRON2_FASTER: dict[str, Any] = {**_DETECTRON2_TRUNK, "rpn_min_iou": 0.0}
_DETECTRON2_CASCADE: dict[str, Any] = {
    **_DETECTRON2_FASTER, "rpn_beta": 0.0, "rpn_border": None, "stage_weights": (1.0, 1.0, 1.0), "box_loss": "l1",
    "stds": ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (1 / 30, 1 / 30, 1 / 15, 1 / 15)),
    "resample": False, "averaging": "probabilities", "pool_gradient": 1 / 3,
}  # fmt: skip
_PADDLE = "https://paddledet.bj.bcebos.com/models/"  # gives no hashes
_HEATMAP: dict[str, Any] = {"score_threshold": 0.01, "drop_empty": False}
_ZJU = "http://downloads.zjulearning.org.cn/ttfnet/"
_ZJU_TRUNK: dict[str, Any] = {"frozen_stages": 1, "align_corners": True}
_CENTERNET: dict[str, Any] = {"score_threshold": 0.0, "drop_empty": False}
_CENTERNET_COLOURS: dict[str, Any] = {
    "channels": "bgr", "mean": (104.0136, 114.0342, 119.9165), "std": (73.6028, 69.8908, 70.9151),
}  # fmt: skip
_MMDET_CENTERNET: dict[str, Any] = {"score_clip": 0.0, "clip_boxes": False}

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
    WeightsRow(
        "pafnet", "paddle", "paddle", {"norm": "frozen", "clip_boxes": False}, _HEATMAP,
        _PADDLE + "pafnet_10x_coco.pdparams",
        metrics={"AP": 0.398},
    ),
    WeightsRow(
        "pafnet_lite", "paddle", "paddle", {"clip_boxes": False}, _HEATMAP,
        _PADDLE + "pafnet_lite_mobilenet_v3_20x_coco.pdparams", metrics={"AP": 0.239},
    ),
    WeightsRow(
        "centernet_r18", "mmdet", "mmdet", {**_MMDET_CENTERNET, "deformable": False}, _CENTERNET,
        _MMDET + "centernet/centernet_resnet18_140e_coco/centernet_resnet18_140e_coco_20210705_093630-bb5b3bf7.pth",
        "bb5b3bf7", metrics={"AP": 0.259},
    ),
    WeightsRow(
        "centernet_r18", "mmdet_dcn", "mmdet", {**_MMDET_CENTERNET, "deform_bias": False}, _CENTERNET,
        _MMDET + "centernet/centernet_resnet18_dcnv2_140e_coco/"
        "centernet_resnet18_dcnv2_140e_coco_20210702_155131-c8cd631f.pth",
        "c8cd631f", metrics={"AP": 0.295},
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
    WeightsRow(
        "faster_rcnn_r50_fpn", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
        "047c8118", metrics={"AP": 0.374},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn", "mmdet_2x", "mmdet", _EVAL, _RGB,
        _MMDET + "faster_rcnn/faster_rcnn_r50_fpn_2x_coco/"
        "faster_rcnn_r50_fpn_2x_coco_bbox_mAP-0.384_20200504_210434-a5d8aa15.pth",
        "a5d8aa15", metrics={"AP": 0.384},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn_dconv", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "dcn/faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco/"
        "faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco_20200130-d68aed1e.pth",
        "d68aed1e", metrics={"AP": 0.413},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn_mdconv", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "dcn/faster_rcnn_r50_fpn_mdconv_c3-c5_1x_coco/"
        "faster_rcnn_r50_fpn_mdconv_c3-c5_1x_coco_20200130-d099253b.pth",
        "d099253b", metrics={"AP": 0.414},
    ),
    WeightsRow(
        "cascade_rcnn_r50_fpn_dconv", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "dcn/cascade_rcnn_r50_fpn_dconv_c3-c5_1x_coco/"
        "cascade_rcnn_r50_fpn_dconv_c3-c5_1x_coco_20200130-2f1fca44.pth",
        "2f1fca44", metrics={"AP": 0.438},
    ),
    WeightsRow(
        "cascade_rcnn_r50_fpn", "mmdet_20e", "mmdet", _EVAL, _RGB,
        _MMDET + "cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco/"
        "cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth",
        "e9872a90", metrics={"AP": 0.41},
    ),
    WeightsRow(
        "cascade_rcnn_r50_fpn", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco/cascade_rcnn_r50_fpn_1x_coco_20200316-3dc56deb.pth",
        "3dc56deb", metrics={"AP": 0.403},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth", "c2398f9e",
        metrics={"AP": 0.365},
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "reppoints/reppoints_moment_r50_fpn_1x_coco/reppoints_moment_r50_fpn_1x_coco_20200330-b73db8d1.pth",
        "b73db8d1", metrics={"AP": 0.370},
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet_gn", "mmdet", _GN, _RGB,
        _MMDET + "reppoints/reppoints_moment_r50_fpn_gn-neck%2Bhead_1x_coco/"
        "reppoints_moment_r50_fpn_gn-neck%2Bhead_1x_coco_20200329_145952-3e51b550.pth",
        "3e51b550", metrics={"AP": 0.381},
    ),
    WeightsRow(
        "reppoints_r50_fpn", "mmdet_gn_2x", "mmdet", _GN, _RGB,
        _MMDET + "reppoints/reppoints_moment_r50_fpn_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r50_fpn_gn-neck%2Bhead_2x_coco_20200329-91babaa2.pth",
        "91babaa2", metrics={"AP": 0.386},
    ),
    WeightsRow(
        "reppoints_r101_fpn", "mmdet_gn_2x", "mmdet", _GN, _RGB,
        _MMDET + "reppoints/reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco_20200329-4fbc7310.pth",
        "4fbc7310", metrics={"AP": 0.405},
    ),
    WeightsRow(
        "reppoints_r101_fpn", "mmdet_gn_dconv_2x", "mmdet", {**_GN, **_DCONV}, _RGB,
        _MMDET + "reppoints/reppoints_moment_r101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_r101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-3309fbf2.pth",
        "3309fbf2", metrics={"AP": 0.429},
    ),
    WeightsRow(
        "reppoints_x101_32x4d_fpn", "mmdet_gn_dconv_2x", "mmdet", {**_GN, **_DCONV}, _RGB,
        _MMDET + "reppoints/reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco/"
        "reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea.pth",
        "f87da1ea", metrics={"AP": 0.442},
    ),
    WeightsRow(
        "fcos_r50_fpn", "mmdet", "mmdet", {**_EVAL, "stride_in_1x1": True, "improved": False}, _CAFFE_OLD,
        _MMDET + "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth", "821213aa",
        metrics={"AP": 0.366},
    ),
    WeightsRow(
        "fcos_r50_fpn", "mmdet_improved", "mmdet", {**_EVAL, "stride_in_1x1": True, "improved": True}, _CAFFE,
        _MMDET + "fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco/"
        "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth", "0a0d75a8",
        metrics={"AP": 0.387},
    ),
    WeightsRow(
        "atss_r50_fpn", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "atss/atss_r50_fpn_1x_coco/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth", "985f7bd0",
        metrics={"AP": 0.394},
    ),
    WeightsRow(
        "atss_r50_fpn_dyhead", "mmdet", "mmdet", _EVAL, _RGB,
        _MMDET + "dyhead/atss_r50_fpn_dyhead_4x4_1x_coco/atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth",
        "eaa620c6", metrics={"AP": 0.433},
    ),
    WeightsRow(
        "atss_r50_fpn_dyhead", "mmdet_caffe", "mmdet", _REPRODUCTION, {**_CAFFE, "pad_multiple": 128},
        _MMDET + "dyhead/atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco/"
        "atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco_20220107_213939-162888e6.pth",
        "162888e6", metrics={"AP": 0.425},
    ),
    WeightsRow(
        "atss_r50_fpn_dyhead", "official", "dynamichead", {**_OFFICIAL, "kernel": 1, "center_offset": 0.5},
        {**_CAFFE, "pad_multiple": 128}, licence="MIT", metrics={"AP": 0.424},
    ),
    WeightsRow(
        "retinanet_r50_fpn_dyhead", "official", "dynamichead", {**_OFFICIAL, "tower_depth": 4},
        {**_CAFFE, "pad_multiple": 128}, licence="MIT", metrics={"AP": 0.399},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn_dyhead", "official", "dynamichead",
        {
            **{k: v for k, v in _OFFICIAL.items() if k != "relu_before_extra"},  # its P6 is P5 halved
            "clip_shrink": False, "keep_owner": True, "rpn_min_iou": 0.0,
        },
        _CAFFE, licence="MIT", metrics={"AP": 0.403},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "torchvision", "torchvision",
        {**_TORCHVISION_RETINANET, "norm": "frozen", "extra_levels": "on_output"},
        {**_BY_ID_CARD, "max_detections": 300},
        _TORCHVISION + "retinanet_resnet50_fpn_coco-eeacb38b.pth", "eeacb38b", "BSD-3-Clause", {"AP": 0.364},
        pretrained_arguments={"norm_eps": 0.0},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "torchvision_v2", "torchvision",
        {**_TORCHVISION_RETINANET, "tower_norm": True, "box_loss": "giou"}, {**_BY_ID_CARD, "max_detections": 300},
        _TORCHVISION + "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", "5905b1c5", "BSD-3-Clause", {"AP": 0.415},
    ),
    WeightsRow(
        "fcos_r50_fpn", "torchvision", "torchvision", {**_TORCHVISION_FCOS, "norm": "frozen"},
        {**_BY_ID_CARD, "score_threshold": 0.2},
        _TORCHVISION + "fcos_resnet50_fpn_coco-99b0c9b7.pth", "99b0c9b7", "BSD-3-Clause", {"AP": 0.392},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn", "torchvision", "torchvision", {**_TORCHVISION_FASTER, "norm": "frozen"},
        _TORCHVISION_FASTER_CARD,
        _TORCHVISION + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "258fb6c6", "BSD-3-Clause", {"AP": 0.37},
        pretrained_arguments={"norm_eps": 0.0},
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn", "torchvision_v2", "torchvision",
        {**_TORCHVISION_FASTER, "fpn_norm": "batch", "rpn_depth": 2, "box_convs": 4, "box_fcs": 1, "box_norm": "batch"},
        _TORCHVISION_FASTER_CARD,
        _TORCHVISION + "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", "dd69338a", "BSD-3-Clause", {"AP": 0.467},
    ),
    WeightsRow(
        "retinanet_r50_fpn", "detectron2", "detectron2", _DETECTRON2_RETINANET, _CAFFE,
        _DETECTRON2 + "COCO-Detection/retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.374}, md5="bfca0b",
    ),
    WeightsRow(
        "retinanet_r50_fpn", "detectron2_3x", "detectron2", _DETECTRON2_RETINANET, _CAFFE,
        _DETECTRON2 + "COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.387}, md5="5bd44e",
    ),
    WeightsRow(
        "retinanet_r101_fpn", "detectron2_3x", "detectron2", _DETECTRON2_RETINANET, _CAFFE,
        _DETECTRON2 + "COCO-Detection/retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.404}, md5="971ab9",
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn", "detectron2", "detectron2", _DETECTRON2_FASTER, _CAFFE,
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.379}, md5="b275ba",
    ),
    WeightsRow(
        "faster_rcnn_r50_fpn", "detectron2_3x", "detectron2", _DETECTRON2_FASTER, _CAFFE,
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.402}, md5="280758",
    ),
    WeightsRow(
        "faster_rcnn_r101_fpn", "detectron2_3x", "detectron2", _DETECTRON2_FASTER, _CAFFE,
        _DETECTRON2 + "COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.42}, md5="f6e8b1",
    ),
    WeightsRow(  # a Cascade Mask R-CNN, whose boxes do not depend on its masks
        "cascade_rcnn_r50_fpn", "detectron2", "detectron2", _DETECTRON2_CASCADE, _CAFFE,
        _DETECTRON2 + "Misc/cascade_mask_rcnn_R_50_FPN_1x/138602847/model_final_e9d89b.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.421}, md5="e9d89b",
    ),
    WeightsRow(
        "cascade_rcnn_r50_fpn", "detectron2_3x", "detectron2", _DETECTRON2_CASCADE, _CAFFE,
        _DETECTRON2 + "Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl",
        licence="CC-BY-SA-3.0", metrics={"AP": 0.443}, md5="480dd8",
    ),
)  # fmt: skip
