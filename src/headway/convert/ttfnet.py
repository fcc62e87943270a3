"""ZJULearning/ttfnet's names (commit 700ad90c, Apache-2.0: mmdet/models/anchor_heads/ttf_head.py,
backbones/darknet.py, utils/conv_custom.py, on mmdetection 1) to ours."""

from torch import nn

from .rules import Rule

_ANY = r"(?P<leaf>\w+)"
_W = r"(?P<leaf>weight|bias)"


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`. A ResNet has timm's names, a Darknet has its own."""
    darknet = _darknet() if hasattr(model.backbone.body, "stages_0") else []
    return [*darknet, Rule(r"backbone\.(.+)", r"backbone.body.\1"), *_neck(), *_head(model)]


def _darknet() -> list[Rule]:
    table = [Rule(rf"backbone\.stem\.(conv|bn)\.{_ANY}", r"backbone.body.stem_conv1.\1.\g<leaf>")]
    for stage in range(5):
        theirs, ours = rf"backbone\.layer{stage + 1}", f"backbone.body.stages_{stage}"
        table.append(Rule(rf"{theirs}\.0\.(conv|bn)\.{_ANY}", rf"{ours}.conv_down.\1.\g<leaf>"))
        for block in range(8):
            for i in range(2):
                source = rf"{theirs}\.{block + 1}\.body\.{i}\.(conv|bn)\.{_ANY}"
                table.append(Rule(source, rf"{ours}.blocks.{block}.conv{i + 1}.\1.\g<leaf>"))
    return table


def _neck() -> list[Rule]:
    """Both names of the offset convolution: mmdetection changed it between 0.6 and 1.0."""
    theirs, ours = r"bbox_head\.deconv_layers\.(\d)", r"neck.upsamples.\1"
    shortcut = r"bbox_head\.shortcut_layers\.(\d)"
    return [
        Rule(rf"{theirs}\.0\.{_W}", rf"{ours}.conv.conv.\g<leaf>"),
        Rule(rf"{theirs}\.0\.conv_offset(?:_mask)?\.{_W}", rf"{ours}.conv.conv_offset.\g<leaf>"),
        Rule(rf"{theirs}\.1\.{_ANY}", rf"{ours}.norm.\g<leaf>"),
        *(Rule(rf"{shortcut}\.layers\.{2 * i}\.{_W}", rf"neck.shortcuts.\1.conv{i}.\g<leaf>") for i in range(3)),
        Rule(rf"{shortcut}\.shortcut\..+", None, reason="a convolution that ShortcutConv2d holds but never calls"),
    ]


def _head(model: nn.Module) -> list[Rule]:
    """Of each branch the last module is the 1x1 prediction, so its index is the number of convolutions."""
    table = []
    for theirs, ours in (("hm", "heatmap"), ("wh", "box")):
        branch = getattr(model.head, ours)
        depth = sum(name.startswith("conv") for name, _ in branch.named_children())
        table.append(Rule(rf"bbox_head\.{theirs}\.(\d+)\.conv\.{_W}", rf"head.{ours}.conv\1.\g<leaf>"))
        table.append(Rule(rf"bbox_head\.{theirs}\.{depth}\.{_W}", rf"head.{ours}.out.\g<leaf>"))
    return table
