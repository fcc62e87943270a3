"""The Dynamic Head authors' names (microsoft/DynamicHead at 9c7cd66, MIT, on detectron2) to ours.

Derived from module names; no released file could be opened, since the authors took them down.
"""

from torch import nn

from . import detectron2
from .dyhead_keys import OFFICIAL_DYHEAD
from .rules import Rule

_INNER = r"backbone\.backbone\."  # their backbone is detectron2's with the tower behind it


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`, of one stage or two."""
    return [
        *detectron2.resnet(model, _INNER + r"bottom_up\."),
        *detectron2.pyramid(model.neck[0], _INNER, "neck.0."),
        *(Rule(r"backbone\." + pattern, "neck.1." + target) for pattern, target in OFFICIAL_DYHEAD),
        Rule(r"head\.scales\.(\d+)\.scale", r"head.scales.\1"),
        Rule(r"head\.centerness\.(weight|bias)", r"head.centerness.\1"),
        *detectron2.heads(model),
    ]
