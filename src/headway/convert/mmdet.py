"""mmdetection's names (release 3.3.0, Apache-2.0; checkpoints of 2.x have the same keys) to ours."""

import re

from torch import nn

from ..heads.deformable_detr import DeformableDetrHead
from ..heads.detr import DetrHead
from ..layers.deform import DeformableConv2d
from ..necks.deconv import DeconvNeck
from .deformable_detr import mmdet_rules as deformable_detr_rules
from .detr import mmdet_rules as detr_rules
from .detr import prepare  # noqa: F401  (read by `from_upstream`)
from .dyhead_keys import MMDET_DYHEAD
from .rules import Rule
from .swin_keys import is_swin, mmdet_backbone

_HEAD = (
    Rule(r"bbox_head\.cls_convs\.(\d+)\.conv\.(weight|bias)", r"head.cls_tower.\1.conv.\2"),
    Rule(r"bbox_head\.cls_convs\.(\d+)\.gn\.(weight|bias)", r"head.cls_tower.\1.norm.\2"),
    Rule(r"bbox_head\.reg_convs\.(\d+)\.conv\.(weight|bias)", r"head.box_tower.\1.conv.\2"),
    Rule(r"bbox_head\.reg_convs\.(\d+)\.gn\.(weight|bias)", r"head.box_tower.\1.norm.\2"),
    Rule(r"bbox_head\.(?:atss|retina|conv)_(cls|centerness)\.(weight|bias)", r"head.\1.\2"),
    Rule(r"bbox_head\.(?:atss|retina|conv)_reg\.(weight|bias)", r"head.box.\1"),
    Rule(r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1"),
    Rule(r"bbox_head\.reppoints_(pts_init_conv|cls_conv|pts_refine_conv)\.(weight|bias)", r"head.\1.\2"),
    Rule(r"bbox_head\.reppoints_(pts_init|cls|pts_refine)_out\.(weight|bias)", r"head.\1.\2"),
    Rule(r"bbox_head\.moment_transfer", "head.moment"),
)
_RPN = (
    Rule(r"rpn_head\.rpn_conv\.(weight|bias)", r"head.rpn.convs.0.\1"),
    Rule(r"rpn_head\.rpn_conv\.(\d+)\.conv\.(weight|bias)", r"head.rpn.convs.\1.\2"),
    Rule(r"rpn_head\.rpn_cls\.(weight|bias)", r"head.rpn.cls.\1"),
    Rule(r"rpn_head\.rpn_reg\.(weight|bias)", r"head.rpn.box.\1"),
)
_ROI = (  # under bbox_head, or bbox_head.<stage> in a cascade
    (r"shared_convs\.(?P<k>\d+)\.conv\.(?P<w>weight|bias)", r"convs.\g<k>.conv.\g<w>"),
    (r"shared_convs\.(?P<k>\d+)\.bn\.(?P<w>\w+)", r"convs.\g<k>.norm.\g<w>"),
    (r"shared_fcs\.(?P<k>\d+)\.(?P<w>weight|bias)", r"fcs.\g<k>.\g<w>"),
    (r"fc_cls\.(?P<w>weight|bias)", r"cls.\g<w>"),
    (r"fc_reg\.(?P<w>weight|bias)", r"box.\g<w>"),
)
_STAGES = ((r"roi_head\.bbox_head\.", "head.heads.0."), (r"roi_head\.bbox_head\.(?P<s>\d+)\.", r"head.heads.\g<s>."))
_TWO_STAGE = (*_RPN, *(Rule(start + theirs, place + ours) for start, place in _STAGES for theirs, ours in _ROI))


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`: backbone, neck and head."""
    if isinstance(model.neck, DeconvNeck):
        return _centernet(model)
    if isinstance(model.head, DetrHead):
        return detr_rules(model)
    if isinstance(model.head, DeformableDetrHead):
        return deformable_detr_rules(model)
    backbone = mmdet_backbone(model) if is_swin(model) else backbone_rules(model.backbone)
    return [*backbone, *detector_rules(model)]


def detector_rules(model: nn.Module) -> list[Rule]:
    """Neck and head; the neck decides whether FPN and DyHead are told apart by an index."""
    chain = isinstance(model.neck, nn.Sequential)
    theirs, ours = (r"neck\.0", "neck.0") if chain else ("neck", "neck")
    first = (model.neck[0] if chain else model.neck).laterals
    inputs = len(first)
    conv = ".conv" if isinstance(first[0], nn.Sequential) else ""  # with a norm each place has two children
    neck = []
    for i in range(8):
        place = f"outputs.{i}" if i < inputs else f"extras.{i - inputs}"
        for upstream, target in ((rf"lateral_convs\.{i}", f"laterals.{i}"), (rf"fpn_convs\.{i}", place)):
            neck.append(Rule(theirs + rf"\.{upstream}\.conv\.(weight|bias)", f"{ours}.{target}{conv}." + r"\1"))
            neck.append(Rule(theirs + rf"\.{upstream}\.gn\.(weight|bias)", f"{ours}.{target}.norm." + r"\1"))
    dyhead = [Rule(r"neck\.1\." + pattern, "neck.1." + target) for pattern, target in MMDET_DYHEAD]
    return [*neck, *dyhead, *_HEAD, *_TWO_STAGE]


def _centernet(model: nn.Module) -> list[Rule]:
    """Upstream the layers of the neck count through, and a deformable one holds its weight itself."""
    table = backbone_rules(model.backbone)
    for i, step in enumerate(model.neck.steps):
        deformable = isinstance(step.conv.conv, DeformableConv2d)
        for k, block in enumerate(("conv", "deconv")):
            theirs, ours = rf"neck\.deconv_layers\.{2 * i + k}\.", f"neck.steps.{i}.{block}."
            place = "conv.conv." if block == "conv" and deformable else "conv."
            table += [
                Rule(theirs + r"conv\.weight", f"{ours}{place}weight"),
                Rule(theirs + r"conv\.conv_offset\.(weight|bias)", ours + r"conv.conv_offset.\1"),
                Rule(theirs + r"bn\.(.+)", ours + r"norm.\1"),
            ]
    for upstream, ours in (("heatmap", "heatmap"), ("wh", "box"), ("offset", "offset")):
        table.append(Rule(rf"bbox_head\.{upstream}_head\.0\.(weight|bias)", rf"head.{ours}.conv0.\1"))
        table.append(Rule(rf"bbox_head\.{upstream}_head\.2\.(weight|bias)", rf"head.{ours}.out.\1"))
    return table


def backbone_rules(backbone: nn.Module) -> list[Rule]:
    """The table for a ResNet. Upstream a deformable layer holds its weight itself; its offset convolution is a child,
    or in old files a neighbour, `conv2_offset` (mmcv 2.1, mmcv/ops/deform_conv.py, `_load_from_state_dict`). Its
    channels have our order: mmcv joins the first two thirds of them to offsets, by group and tap dy, dx.
    """
    table = []
    for name, module in backbone.named_modules():
        if isinstance(module, DeformableConv2d):
            theirs, ours = re.escape(name.removeprefix("body.")), f"backbone.{name}."
            table += [
                Rule(rf"backbone\.{theirs}\.(weight|bias)", ours + r"conv.\1"),
                Rule(rf"backbone\.{theirs}(?:\.conv)?_offset\.(weight|bias)", ours + r"conv_offset.\1"),
            ]
    return [*table, Rule(r"backbone\.(.+)", r"backbone.body.\1")]
