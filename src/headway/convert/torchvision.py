"""torchvision's detectors (models/detection of release 0.29, BSD-3-Clause) to ours.

Published files are older than today's modules: there the convolutions of FPN, RetinaNet's towers and the RPN have no
index of their own inside their block. Both names are read.
"""

import torch
from torch import Tensor, nn

from .rules import KEPT, Rule
from .rules import keep_own as prepare  # noqa: F401  (read by `from_upstream`)
from .swin_keys import is_swin, torchvision_backbone

_W = r"(weight|bias)"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`: a RetinaNet, FCOS or Faster R-CNN, whose backbones have the same names as timm's; or for
    any detector on Swin, of which torchvision has classifiers."""
    if is_swin(model):
        return [KEPT, *torchvision_backbone()]
    head = _dense(model) if hasattr(model.head, "cls_tower") else _two_stage(model)
    return [Rule(r"backbone\.body\.(.+)", r"backbone.body.\1"), *_fpn(model), *head]


def _fpn(model: nn.Module) -> list[Rule]:
    theirs, normed = r"backbone\.fpn\.", isinstance(model.neck.laterals[0], nn.Sequential)
    conv = ".conv" if normed else ""
    table = []
    for upstream, ours in (("inner_blocks", "laterals"), ("layer_blocks", "outputs")):
        table += [
            Rule(theirs + rf"{upstream}\.(\d+)(?:\.0)?\.{_W}", rf"neck.{ours}.\1{conv}.\2"),
            Rule(theirs + rf"{upstream}\.(\d+)\.1\.{_NORM}", rf"neck.{ours}.\1.norm.\2"),
        ]
    return table + [Rule(theirs + rf"extra_blocks\.p{6 + i}\.{_W}", rf"neck.extras.{i}.\1") for i in range(2)]


def _dense(model: nn.Module) -> list[Rule]:
    table = []
    for branch, tower in (("classification_head", "cls_tower"), ("regression_head", "box_tower")):
        theirs, ours = rf"head\.{branch}\.conv\.", f"head.{tower}."
        table += [
            Rule(theirs + rf"(\d+)\.0\.{_W}", ours + r"\1.conv.\2"),
            Rule(theirs + rf"(\d+)\.1\.{_W}", ours + r"\1.norm.\2"),
        ]
        # One flat sequence: FCOS has convolution, norm, ReLU, and an early RetinaNet convolution, ReLU.
        layers = ("conv", "norm", "act") if hasattr(model.head.cls_tower[0], "norm") else ("conv", "act")
        for i in range(len(model.head.cls_tower) * len(layers)):
            place = f"{i // len(layers)}.{layers[i % len(layers)]}"
            table.append(Rule(theirs + rf"{i}\.{_W}", ours + place + r".\1"))
    return [
        *table,
        Rule(rf"head\.classification_head\.cls_logits\.{_W}", r"head.cls.\1"),
        Rule(rf"head\.regression_head\.bbox_reg\.{_W}", r"head.box.\1"),
        Rule(rf"head\.regression_head\.bbox_ctrness\.{_W}", r"head.centerness.\1"),
    ]


def _two_stage(model: nn.Module) -> list[Rule]:
    table = [
        Rule(rf"rpn\.head\.conv\.{_W}", r"head.rpn.convs.0.\1"),
        Rule(rf"rpn\.head\.conv\.(\d+)\.0\.{_W}", r"head.rpn.convs.\1.\2"),
        Rule(rf"rpn\.head\.cls_logits\.{_W}", r"head.rpn.cls.\1"),
        Rule(rf"rpn\.head\.bbox_pred\.{_W}", r"head.rpn.box.\1"),
        Rule(rf"roi_heads\.box_predictor\.cls_score\.{_W}", r"head.heads.0.cls.\1", _background_last),
        Rule(rf"roi_heads\.box_predictor\.bbox_pred\.{_W}", r"head.heads.0.box.\1", lambda rows: rows[4:]),
    ]
    theirs, ours, box_head = r"roi_heads\.box_head\.", "head.heads.0.", model.head.heads[0]
    for i in range(len(box_head.convs)):
        table += [
            Rule(theirs + rf"{i}\.0\.{_W}", f"{ours}convs.{i}.conv." + r"\1"),
            Rule(theirs + rf"{i}\.1\.{_NORM}", f"{ours}convs.{i}.norm." + r"\1"),
        ]
    for i in range(len(box_head.fcs)):
        # After convolutions one sequence: these, a flatten, then linear and ReLU in turn.
        place = str(len(box_head.convs) + 1 + 2 * i) if len(box_head.convs) else f"fc{6 + i}"
        table.append(Rule(theirs + rf"{place}\.{_W}", f"{ours}fcs.{i}." + r"\1"))
    return table


def _background_last(rows: Tensor) -> Tensor:
    """torchvision's class 0 is background; ours is the last, and has no box: its four rows there are dropped."""
    return torch.cat([rows[1:], rows[:1]])
