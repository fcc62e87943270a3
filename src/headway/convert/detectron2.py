"""detectron2's names (0.6 and its model zoo; Apache-2.0) to ours, and those of the code that is built on it.

Sources: facebookresearch/detectron2, modeling/backbone/{resnet,fpn,vit}.py, modeling/meta_arch/retinanet.py,
modeling/proposal_generator/rpn.py, modeling/roi_heads/{box_head,fast_rcnn,cascade_rcnn}.py.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..backbones.vit import ViT, from_timm
from ..layers.deform import DeformableConv2d
from .rules import Rule

_W = r"(weight|bias)"
_NORM = r"norm\.(weight|bias|running_mean|running_var|num_batches_tracked)"


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`, a RetinaNet, Faster or Cascade R-CNN, on a ResNet or, as in ViTDet, on a ViT."""
    if isinstance(model.backbone, ViT):
        trunk = _vit(model.backbone)
    else:
        trunk = [*resnet(model, r"backbone\.bottom_up\."), *pyramid(model.neck, r"backbone\.", "neck.")]
    return [
        *trunk,
        *heads(model),
        Rule(r"roi_heads\.mask_head\..*", None, reason="boxes do not depend on masks, which are not predicted here"),
    ]


def resnet(model: nn.Module, prefix: str) -> list[Rule]:
    """The bottom-up network. A norm is a child of its convolution upstream, and its neighbour here."""
    table = [
        Rule(prefix + r"stem\.conv1\.weight", "backbone.body.conv1.weight"),
        Rule(prefix + rf"stem\.conv1\.{_NORM}", r"backbone.body.bn1.\1"),
    ]
    deformable = {name for name, m in model.backbone.named_modules() if isinstance(m, DeformableConv2d)}
    for name in sorted(deformable):  # body.layer3.0.conv2
        _, stage, block, _ = name.split(".")
        theirs, ours = prefix + rf"res{int(stage[-1]) + 1}\.{block}\.conv2", f"backbone.{name}."
        table += [
            Rule(theirs + r"\.weight", ours + "conv.weight"),
            Rule(theirs + rf"_offset\.{_W}", ours + r"conv_offset.\1"),
        ]
    for number in range(2, 6):
        theirs, ours = prefix + rf"res{number}\.(\d+)\.", rf"backbone.body.layer{number - 1}.\1."
        table += [
            Rule(theirs + r"conv(\d)\.weight", ours + r"conv\2.weight"),
            Rule(theirs + rf"conv(\d)\.{_NORM}", ours + r"bn\2.\3"),
            Rule(theirs + r"shortcut\.weight", ours + "downsample.0.weight"),
            Rule(theirs + rf"shortcut\.{_NORM}", ours + r"downsample.1.\2"),
        ]
    return table


def pyramid(fpn: nn.Module, prefix: str, place: str) -> list[Rule]:
    """The FPN, which lies at `place` here. Upstream its convolutions carry the number of their level."""
    count = len(fpn.laterals)
    table = []
    for i in range(count):
        level = 6 - count + i
        table += [
            Rule(prefix + rf"fpn_lateral{level}\.{_W}", rf"{place}laterals.{i}.\1"),
            Rule(prefix + rf"fpn_output{level}\.{_W}", rf"{place}outputs.{i}.\1"),
        ]
    for i in range(2):
        table.append(Rule(prefix + rf"top_block\.p{6 + i}\.{_W}", rf"{place}extras.{i}.\1"))
    return table


def _vit(backbone: ViT) -> list[Rule]:
    """ViTDet's backbone, of which the simple pyramid is a part; there its layers are numbered, from stride 4 on."""
    table = [
        Rule(
            r"backbone\.net\.pos_embed",
            "backbone.pos_embed",
            lambda t: from_timm({"pos_embed": t}, backbone)["pos_embed"],
        ),
        Rule(r"backbone\.net\.(.+)", r"backbone.\1"),
    ]
    for stage, first in enumerate((("up0", "norm0", "act0", "up1"), ("up0",), (), ("pool",))):
        theirs, ours = rf"backbone\.simfp_{stage + 2}\.", f"neck.stages.{stage}."
        for i, name in enumerate((*first, "lateral", "output")):
            table.append(Rule(theirs + rf"{i}\.{_W}", f"{ours}{name}." + r"\1"))
            table.append(Rule(theirs + rf"{i}\.norm\.{_W}", f"{ours}{name}_norm." + r"\1"))
    return table


def heads(model: nn.Module) -> list[Rule]:
    """RetinaNet's head or the two stages', and what is no weight."""
    return [
        *(_dense(model.head) if hasattr(model.head, "cls_tower") else _two_stage(model.head)),
        Rule(r".*cell_anchors.*", None, reason="anchors are computed"),
        Rule(r"pixel_(mean|std)", None, reason="kept in the card"),
    ]


def _dense(head: nn.Module) -> list[Rule]:
    table = []
    for theirs, ours, width in ((r"(?:cls_logits|cls_score)", "cls", head.num_classes), ("bbox_pred", "box", 4)):
        transform = _ratio_major(width) if getattr(head, ours).out_channels == 9 * width else None
        table.append(Rule(rf"head\.{theirs}\.{_W}", rf"head.{ours}.\1", transform))
    for theirs, ours in (("cls_subnet", "cls_tower"), ("bbox_subnet", "box_tower")):
        for i in range(4):
            table.append(Rule(rf"head\.{theirs}\.{2 * i}\.{_W}", rf"head.{ours}.{i}.conv.\1"))
    return table


def _two_stage(head: nn.Module) -> list[Rule]:
    table = [
        Rule(rf"proposal_generator\.rpn_head\.conv\.{_W}", r"head.rpn.convs.0.\1"),
        Rule(rf"proposal_generator\.rpn_head\.conv\.conv(\d)\.{_W}", r"head.rpn.convs.\1.\2"),
        Rule(rf"proposal_generator\.rpn_head\.objectness_logits\.{_W}", r"head.rpn.cls.\1"),
        Rule(rf"proposal_generator\.rpn_head\.anchor_deltas\.{_W}", r"head.rpn.box.\1"),
    ]
    for stage in range(len(head.heads)):
        number = rf"(?:\.{stage})?" if stage == 0 else rf"\.{stage}"  # without a number where there is one stage
        ours = f"head.heads.{stage}."
        for i in range(8):
            theirs = rf"roi_heads\.box_head{number}\."
            table += [
                Rule(theirs + rf"fc{i + 1}\.{_W}", f"{ours}fcs.{i}." + r"\1"),
                Rule(theirs + rf"conv{i + 1}\.weight", f"{ours}convs.{i}.conv.weight"),
                Rule(theirs + rf"conv{i + 1}\.norm\.{_W}", f"{ours}convs.{i}.norm." + r"\1"),
            ]
        table += [
            Rule(rf"roi_heads\.box_predictor{number}\.cls_score\.{_W}", ours + r"cls.\1"),
            Rule(rf"roi_heads\.box_predictor{number}\.bbox_pred\.{_W}", ours + r"box.\1"),
        ]
    return table


def _ratio_major(width: int) -> Callable[[Tensor], Tensor]:
    """detectron2 orders a cell's nine anchors scale-major, ours are ratio-major: reorder the output channels."""

    def reorder(tensor: Tensor) -> Tensor:
        grouped = tensor.unflatten(0, (3, 3, width))  # scale, ratio, class or coordinate
        return grouped.transpose(0, 1).flatten(0, 2)

    return reorder
