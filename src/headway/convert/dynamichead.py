"""The Dynamic Head authors' names (microsoft/DynamicHead at 9c7cd66, MIT, on detectron2) to ours.

Derived from module names; no released file could be opened, since the authors took them down.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .dyhead_keys import OFFICIAL_DYHEAD
from .rules import Rule

_RESNET = r"backbone\.backbone\.bottom_up\."
_NORM = r"(weight|bias|running_mean|running_var)"


def rules(model: nn.Module) -> list[Rule]:
    """The table for a one-stage `model`: its FPN decides the numbers of the pyramid's levels."""
    table = [
        Rule(_RESNET + r"stem\.conv1\.weight", "backbone.body.conv1.weight"),
        Rule(_RESNET + rf"stem\.conv1\.norm\.{_NORM}", r"backbone.body.bn1.\1"),
    ]
    for stage in range(2, 6):
        block = _RESNET + rf"res{stage}\.(\d+)\."
        ours = rf"backbone.body.layer{stage - 1}.\1."
        table += [
            Rule(block + r"conv(\d)\.weight", ours + r"conv\2.weight"),
            Rule(block + rf"conv(\d)\.norm\.{_NORM}", ours + r"bn\2.\3"),
            Rule(block + r"shortcut\.weight", ours + "downsample.0.weight"),
            Rule(block + rf"shortcut\.norm\.{_NORM}", ours + r"downsample.1.\2"),
        ]
    for i in range(3):
        table += [
            Rule(rf"backbone\.backbone\.fpn_lateral{i + 3}\.(weight|bias)", rf"neck.0.laterals.{i}.\1"),
            Rule(rf"backbone\.backbone\.fpn_output{i + 3}\.(weight|bias)", rf"neck.0.outputs.{i}.\1"),
        ]
    for i, level in enumerate(("p6", "p7")):
        table.append(Rule(rf"backbone\.backbone\.top_block\.{level}\.(weight|bias)", rf"neck.0.extras.{i}.\1"))
    table += [Rule(r"backbone\." + pattern, "neck.1." + target) for pattern, target in OFFICIAL_DYHEAD]
    table += [
        Rule(r"head\.scales\.(\d+)\.scale", r"head.scales.\1"),
        Rule(r"head\.centerness\.(weight|bias)", r"head.centerness.\1"),
        Rule(r".*cell_anchors.*", None, reason="anchors are computed"),
        Rule(r"pixel_(mean|std)", None, reason="kept in the card"),
    ]
    return table + _predictors(model)


def _predictors(model: nn.Module) -> list[Rule]:
    table = []
    for theirs, ours in ((r"(?:cls_logits|cls_score)", "cls"), ("bbox_pred", "box")):
        width = model.head.num_classes if ours == "cls" else 4
        transform = _ratio_major(width) if getattr(model.head, ours).out_channels == 9 * width else None
        table.append(Rule(rf"head\.{theirs}\.(weight|bias)", rf"head.{ours}.\1", transform))
    for theirs, ours in (("cls_subnet", "cls_tower"), ("bbox_subnet", "box_tower")):
        for i in range(4):
            table.append(Rule(rf"head\.{theirs}\.{2 * i}\.(weight|bias)", rf"head.{ours}.{i}.conv.\1"))
    return table


def _ratio_major(width: int) -> Callable[[Tensor], Tensor]:
    """detectron2 orders a cell's nine anchors scale-major, ours are ratio-major: reorder the output channels."""

    def reorder(tensor: Tensor) -> Tensor:
        grouped = tensor.unflatten(0, (3, 3, width))  # scale, ratio, class or coordinate
        return grouped.transpose(0, 1).flatten(0, 2)

    return reorder
