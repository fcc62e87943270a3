"""mmdetection's names (release 3.3.0, Apache-2.0; checkpoints of 2.x have the same keys) to ours."""

from __future__ import annotations

from torch import nn

from .dyhead_keys import MMDET_DYHEAD
from .rules import Rule

_BACKBONE = (Rule(r"backbone\.(.+)", r"backbone.body.\1"),)
_HEAD = (
    Rule(r"bbox_head\.cls_convs\.(\d+)\.conv\.(weight|bias)", r"head.cls_tower.\1.conv.\2"),
    Rule(r"bbox_head\.cls_convs\.(\d+)\.gn\.(weight|bias)", r"head.cls_tower.\1.norm.\2"),
    Rule(r"bbox_head\.reg_convs\.(\d+)\.conv\.(weight|bias)", r"head.box_tower.\1.conv.\2"),
    Rule(r"bbox_head\.reg_convs\.(\d+)\.gn\.(weight|bias)", r"head.box_tower.\1.norm.\2"),
    Rule(r"bbox_head\.(?:atss|retina|conv)_(cls|centerness)\.(weight|bias)", r"head.\1.\2"),
    Rule(r"bbox_head\.(?:atss|retina|conv)_reg\.(weight|bias)", r"head.box.\1"),
    Rule(r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1"),
)


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`: its neck decides whether FPN and DyHead are told apart by an index."""
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
    return [*_BACKBONE, *neck, *dyhead, *_HEAD]
