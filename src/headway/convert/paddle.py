"""PaddleDetection's names (release 2.6, Apache-2.0: ppdet/modeling, TTFNet and what is built on it) to ours.

Layouts are the same, nothing is transposed. A batch norm there has `_mean` and `_variance`, and no counter. The tables
of the families share no upstream name, so all of them are tried.
"""

import string

from torch import nn

from ..backbones.mobilenet import ExpandedMobileNetV3
from ..layers.deform import DeformableConv2d
from .rules import Rule


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`: whether a block of its ResNet is deformable decides where that block's weight lies."""
    return [*_resnet(model.backbone), *_DARKNET, *_mobilenet(model.backbone), *_TTF_NECK, *_TTF_HEAD, *_LITE]


def conv(theirs: str, ours: str) -> list[Rule]:
    """Weight and bias of a module. theirs: a pattern; ours: a target that may refer to its groups."""
    return [Rule(rf"{theirs}\.(?P<leaf>weight|bias)", rf"{ours}.\g<leaf>")]


def norm(theirs: str, ours: str) -> list[Rule]:
    """The four tensors of a batch norm."""
    statistics = (("_mean", "running_mean"), ("_variance", "running_var"))
    return conv(theirs, ours) + [Rule(rf"{theirs}\.{leaf}", f"{ours}.{name}") for leaf, name in statistics]


def _resnet(backbone: nn.Module) -> list[Rule]:
    """ResNet-vd, timm's ResNet-D: a deep stem, and 1x1 shortcuts behind an average pool that has no tensors."""
    body, table = getattr(backbone, "body", None), []
    for i, ours in enumerate(("bn1", "conv1.4", "conv1.1")):
        theirs = rf"backbone\.conv1\.conv1_{3 - i}"
        table += conv(rf"{theirs}\.conv", f"backbone.body.conv1.{6 - 3 * i}")
        table += norm(rf"{theirs}\.norm", f"backbone.body.{ours}")
    for stage in range(1, 5):
        for i, block in enumerate(getattr(body, f"layer{stage}", ())):
            theirs = rf"backbone\.res{stage + 1}\.res{stage + 1}{string.ascii_lowercase[i]}"
            ours = f"backbone.body.layer{stage}.{i}"
            if isinstance(block.conv2, DeformableConv2d):
                table += conv(rf"{theirs}\.branch2b\.conv", f"{ours}.conv2.conv")
                table += conv(rf"{theirs}\.branch2b\.conv_offset", f"{ours}.conv2.conv_offset")
            for k, letter in enumerate("abc", start=1):
                table += conv(rf"{theirs}\.branch2{letter}\.conv", f"{ours}.conv{k}")
                table += norm(rf"{theirs}\.branch2{letter}\.norm", f"{ours}.bn{k}")
            table += conv(rf"{theirs}\.short(?:\.conv)?\.conv", f"{ours}.downsample.1")
            table += norm(rf"{theirs}\.short(?:\.conv)?\.norm", f"{ours}.downsample.2")
    return table


def _darknet() -> list[Rule]:
    """Darknet-53: each stage's stride-2 convolution belongs upstream to the stage before it, the first to none."""
    body = "backbone.body."
    places = [
        (r"conv0", body + "stem_conv1"),
        (r"downsample0\.conv_bn_layer", body + "stages_0.conv_down"),
        *((rf"stage\.{i}\.downsample\.conv_bn_layer", body + f"stages_{i + 1}.conv_down") for i in range(4)),
        (r"stage\.(\d)\.basicblock0\.conv([12])", body + r"stages_\1.blocks.0.conv\2"),
        (r"stage\.(\d)\.stage\.\1\.(\d)\.conv([12])", body + r"stages_\1.blocks.\2.conv\3"),
    ]
    table = []
    for theirs, ours in places:
        table += conv(rf"backbone\.{theirs}\.conv", f"{ours}.conv")
        table += norm(rf"backbone\.{theirs}\.batch_norm", f"{ours}.bn")
    return table


def _mobilenet(backbone: nn.Module) -> list[Rule]:
    """MobileNetV3: upstream counts the blocks through all stages, from conv2 on; the last convolution is one more."""
    if not isinstance(backbone, ExpandedMobileNetV3):
        return []
    *blocks, last = (f"blocks.{s}.{b}" for s, stage in enumerate(backbone.body.blocks) for b in range(len(stage)))
    body, end = "backbone.body.", rf"backbone\.conv{len(blocks) + 2}"
    table = [*conv(r"backbone\.conv1\.conv", f"{body}conv_stem"), *norm(r"backbone\.conv1\.bn", f"{body}bn1")]
    table += [*conv(rf"{end}\.conv", f"{body}{last}.conv"), *norm(rf"{end}\.bn", f"{body}{last}.bn1")]
    for i, place in enumerate(blocks, start=2):
        theirs, ours = rf"backbone\.conv{i}", body + place
        for k, (layer, name) in enumerate((("expand", "pw"), ("bottleneck", "dw"), ("linear", "pwl")), start=1):
            table += conv(rf"{theirs}\.{layer}_conv\.conv", f"{ours}.conv_{name}")
            table += norm(rf"{theirs}\.{layer}_conv\.bn", f"{ours}.bn{k}")
        table += conv(rf"{theirs}\.mid_se\.conv1", f"{ours}.se.conv_reduce")
        table += conv(rf"{theirs}\.mid_se\.conv2", f"{ours}.se.conv_expand")
    return table


def _lite() -> list[Rule]:
    """PAFNet-Lite's neck and branches."""
    theirs, ours = r"neck\.upsample\.(\d)\.deconv\.deconv", r"neck.upsamples.\1.deconv"
    table = [*conv(rf"{theirs}\.conv2", f"{ours}.depthwise.conv"), *norm(rf"{theirs}\.bn", f"{ours}.depthwise.norm")]
    for i, name in ((1, "pointwise1"), (3, "pointwise2")):
        table += conv(rf"{theirs}\.conv{i}\.conv", f"{ours}.{name}.conv")
        table += norm(rf"{theirs}\.conv{i}\.norm", f"{ours}.{name}.norm")
    places = (
        (r"neck\.upsample\.(\d)\.conv", r"neck.upsamples.\1.conv"),
        (r"neck\.shortcut\.(\d)\.shortcut\.shortcut\.\1\.conv\.(\d)", r"neck.shortcuts.\1.\2"),
        (r"ttf_head\.hm_head\.feat\.hm\.conv\.(\d)", r"head.heatmap.conv\1"),
        (r"ttf_head\.wh_head\.feat\.wh\.conv\.(\d)", r"head.box.conv\1"),
    )
    for theirs, ours in places:
        for i, name in enumerate(("depthwise1", "pointwise1", "pointwise2", "depthwise2"), start=1):
            table += conv(rf"{theirs}\.lite_conv\.conv{i}\.conv", f"{ours}.{name}.conv")
            table += norm(rf"{theirs}\.lite_conv\.conv{i}\.norm", f"{ours}.{name}.norm")
    return table


def _ttf_head() -> list[Rule]:
    table = []
    for theirs, ours in (("hm", "heatmap"), ("wh", "box")):
        feature, place = rf"ttf_head\.{theirs}_head\.feat\.conv\.(\d+)", rf"head.{ours}.conv\1"
        table += conv(feature, place)
        table += conv(rf"{feature}\.conv_dcn", f"{place}.conv")
        table += conv(rf"{feature}\.conv_offset", f"{place}.conv_offset")
        table += conv(rf"ttf_head\.{theirs}_head\.head", f"head.{ours}.out")
    return table


_DARKNET = _darknet()
_TTF_NECK = [
    *conv(r"neck\.upsample\.(\d)\.dcn\.conv_dcn", r"neck.upsamples.\1.conv.conv"),
    *conv(r"neck\.upsample\.(\d)\.dcn\.conv_offset", r"neck.upsamples.\1.conv.conv_offset"),
    *norm(r"neck\.upsample\.(\d)\.bn", r"neck.upsamples.\1.norm"),
    *conv(r"neck\.shortcut\.(\d)\.shortcut\.shortcut\.\1\.conv\.(\d)", r"neck.shortcuts.\1.conv\2"),
]
_TTF_HEAD = _ttf_head()
_LITE = _lite()
