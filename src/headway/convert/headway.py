"""The state dict of a detector of ours, as a training loop of one's own saves it (`torch.save(model.state_dict())`)."""

from torch import nn

from .rules import Rule


def rules(model: nn.Module) -> list[Rule]:
    """Every name is its own."""
    return [Rule(r"(.+)", r"\1")]
