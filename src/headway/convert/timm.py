"""timm's classifiers (1.0, Apache-2.0) to the backbone of a detector; neck and heads stay as they are."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..backbones.vit import ViT, from_timm
from .rules import KEPT, Rule, keep_own

_CLASSIFIER = r"(head|head_norm|head_dist|fc|fc_norm|classifier|conv_head|bn2|norm|last_linear)\..+"


def prepare(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict with what timm's network lacks; a ViT's in our shapes already."""
    if not isinstance(model.backbone, ViT):
        return keep_own(state_dict, model)
    tables = {f"own.backbone.{key}": v for key, v in model.backbone.state_dict().items() if "rel_pos" in key}
    return keep_own(from_timm(state_dict, model.backbone), model) | tables


def rules(model: nn.Module) -> list[Rule]:
    """A network of feature maps has its stages as children of its own: `layers.0` is `layers_0` there."""
    if isinstance(model.backbone, ViT):
        return [KEPT, Rule(r"(.+)", r"backbone.\1")]
    flat = [name[:-2] for name, _ in model.backbone.body.named_children() if name.endswith("_0")]
    return [
        KEPT,
        Rule(_CLASSIFIER, None, reason="the classifier's"),
        *(Rule(rf"{name}\.(\d+)\.(.+)", rf"backbone.body.{name}_" + r"\1.\2") for name in flat),
        Rule(r"(.+)", r"backbone.body.\1"),
    ]
