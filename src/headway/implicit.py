"""Implicit knowledge (YOLOR, arXiv 2105.04206) on the predictions of any detector."""

import torch
from torch import nn

from .detector import Detector
from .errors import HeadwayError
from .layers.implicit import Implicit, ImplicitConv2d, ImplicitLinear, ImplicitModel, Operator, Refinement

# Children of a head or of its parts that predict. Their last convolution or linear layer is what is wrapped; of a list,
# that of each member.
_PREDICTIONS = ("cls", "box", "centerness", "pts_init", "pts_refine", "heatmap", "offset", "predictions")


def add_implicit(
    model: Detector,
    *,
    align: Operator | None = "add",
    refine: Refinement | None = "mul",
    implicit: ImplicitModel = "vector",
) -> Detector:
    """Surround the last layer of every prediction of `model` with implicit values, in place: `align` what it reads,
    `refine` what it gives (None: not). Returns the model.

    Heads that share their layers over the levels share the implicit values too. A "concat" alignment doubles what the
    layer reads; the new weights are drawn as wide as the old ones. The card keeps the three arguments, so that
    `headway.load` rebuilds the model; `create_model(name, align=..., refine=..., implicit=...)` calls this.

    Raises: HeadwayError for a model that has implicit values, or whose head has no prediction of a known name.
    """
    if any(isinstance(module, Implicit) for module in model.head.modules()):
        raise HeadwayError("the head has implicit values already; build the model with those that it shall have")
    places = _places(model.head)
    if not places:
        raise HeadwayError(f"{type(model.head).__name__} has no prediction called {', '.join(_PREDICTIONS)}")
    for parent, name in places:
        setattr(parent, name, _wrapped(getattr(parent, name), align, refine, implicit))
    model.card.arguments = {**model.card.arguments, "align": align, "refine": refine, "implicit": implicit}
    return model


def _places(head: nn.Module) -> list[tuple[nn.Module, str]]:
    """(parent, attribute) of the last layer of every prediction."""
    places = []
    for part in list(head.modules()):
        for name, child in part.named_children():
            if name not in _PREDICTIONS:
                continue
            members = list(child.named_children()) if isinstance(child, nn.ModuleList) else [("", child)]
            for key, member in members:
                layers = [n for n, m in member.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
                path = ".".join(filter(None, (name, key, layers[-1])))
                parent, _, attribute = path.rpartition(".")
                places.append((part.get_submodule(parent), attribute))
    return places


def _wrapped(
    layer: nn.Conv2d | nn.Linear, align: Operator | None, refine: Refinement | None, model: ImplicitModel
) -> ImplicitConv2d | ImplicitLinear:
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    if align == "concat":
        layer = _widened(layer)
    with torch.device(layer.weight.device):
        first = Implicit(inputs, align, model) if align else None
        second = Implicit(outputs, refine, model) if refine else None
    return (ImplicitConv2d if isinstance(layer, nn.Conv2d) else ImplicitLinear)(layer, first, second)


def _widened(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with as many inputs again in front, whose weights are as wide as the others."""
    weight = layer.weight.detach()
    front = torch.randn_like(weight) * weight.std()
    layer.weight = nn.Parameter(torch.cat([front, weight], 1))
    if isinstance(layer, nn.Conv2d):
        layer.in_channels *= 2
    else:
        layer.in_features *= 2
    return layer
