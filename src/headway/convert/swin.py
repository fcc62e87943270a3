"""The authors' Swin checkpoints to ours: classifiers (microsoft/Swin-Transformer, MIT) and detectors
(SwinTransformer/Swin-Transformer-Object-Detection, Apache-2.0)."""

from torch import nn

from .mmdet import detector_rules
from .rules import KEPT, Rule
from .rules import keep_own as prepare  # noqa: F401  (read by `from_upstream`)
from .swin_keys import BODY, CLASSIFIER, COMPUTED, W, map_norms, merging


def rules(model: nn.Module) -> list[Rule]:
    """A detector, whose neck and heads are mmdetection's, or a classifier, for its backbone."""
    block = (r"(?:backbone\.)?layers\.(\d+)\.blocks\.(\d+)\.", BODY + r"layers_\1.blocks.\2.")
    return [
        KEPT,
        Rule(r"roi_head\.mask_.+", None, reason="boxes do not depend on masks"),
        Rule(r"norm\..+|head\.(weight|bias)", None, reason=CLASSIFIER),
        Rule(block[0] + r"(?:attn_mask|attn\.relative_position_index)", None, reason=COMPUTED),
        Rule(rf"(?:backbone\.)?patch_embed\.(proj|norm)\.{W}", BODY + r"patch_embed.\1.\2"),
        Rule(block[0] + "(.+)", block[1] + r"\3"),
        *merging(r"(?:backbone\.)?layers\.{}\.downsample\."),
        *map_norms(model),
        *detector_rules(model),
    ]
