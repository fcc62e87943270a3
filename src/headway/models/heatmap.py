"""CenterNet, TTFNet, PAFNet and PAFNet-Lite.

PAFNet for servers is TTFNet on a ResNet-50-D with deformable stages C3 to C5 and a deformable head, as released in
PaddleDetection 2 (configs/ttfnet/pafnet_10x_coco.yml, Apache-2.0). Its tricks in training are the argument `ags` and
switches of the training (EMA, CutMix, GridMask); its better pre-training is weights that were trained for longer, of
which timm has several (`backbone="resnet50d.a1_in1k"`).
"""

from typing import Any

_DARKNET: dict[str, Any] = {"leaky_slope": 0.1, "box_convs": 2}  # the original's slope; timm's weights have 0.01
_DCN: dict[str, Any] = {"dcn": ("c3", "c4", "c5")}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "centernet_r18": ("resnet18/deconv/centernet", {}),
    "centernet_r101": ("resnet101/deconv/centernet", {}),
    "centernet_dla34": ("dla34/dla_up/centernet", {"head_width": 256}),
    "ttfnet_r18": ("resnet18/upsample/ttfnet", {}),
    "ttfnet_r34": ("resnet34/upsample/ttfnet", {"box_convs": 2}),
    "ttfnet_darknet53": ("darknet53/upsample/ttfnet", _DARKNET),
    "ttfnet_r18_dyhead": ("resnet18/dyhead_upsample/ttfnet", {}),
    "pafnet": ("resnet50d/upsample/pafnet", _DCN),
    "pafnet_dyhead": (
        "resnet50d/dyhead_upsample/pafnet", {**_DCN, "dyhead_upsample.channels": 256, "dyhead_upsample.blocks": 6}
    ),
    "pafnet_lite": ("expanded_mobilenetv3_large_100/lite_upsample/pafnet_lite", {}),
}  # fmt: skip
