"""timm's convolutions that pad by the size of their map, as TensorFlow does, with constants instead.

One of stride s pads a side of n by (ceil(n / s) - 1) s + (k - 1) d + 1 - n, k its kernel and d its dilation. Where s
divides n, that is (k - 1) d + 1 - s whatever n is, so the graph can be of any size.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Padded(nn.Module):
    """padding: left, right, top, bottom, in front of `layer`."""

    def __init__(self, layer: nn.Module, padding: list[int]) -> None:
        super().__init__()
        self.layer, self.padding = layer, padding

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(F.pad(x, self.padding))
        return result


def pads_by_size(model: nn.Module) -> bool:
    """Whether some layer does."""
    return any(_is_same(module) for module in model.modules())


def fix_padding(model: nn.Module, multiple: int) -> bool:
    """Give such convolutions of `model` constant paddings, in place; False, and nothing changes, where a picture whose
    sides `multiple` divides has maps that a stride does not divide, or for another layer that pads so."""
    layers = {name: module for name, module in model.named_modules() if _is_same(module)}
    if not all(isinstance(layer, nn.Conv2d) for layer in layers.values()):
        return False
    fits = True

    def look(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal fits
        fits &= all(side % stride == 0 for side, stride in zip(inputs[0].shape[2:], layer.stride))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers.values()]
    with torch.no_grad():
        model(torch.zeros(1, 3, multiple, multiple), torch.tensor([[multiple, multiple]]))
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items() if fits else ():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _with_constant(layer))
    return fits


def _is_same(module: nn.Module) -> bool:
    return type(module).__name__.endswith("2dSame")


def _with_constant(layer: nn.Conv2d) -> _Padded:
    padding = [*_sides(layer, 1), *_sides(layer, 0)]
    plain = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, 0, layer.dilation, layer.groups,
        bias=layer.bias is not None,
    ).requires_grad_(False)  # fmt: skip
    plain.load_state_dict(layer.state_dict())
    return _Padded(plain, padding)


def _sides(layer: Any, axis: int) -> Iterator[int]:
    """What comes in front of an axis and behind it."""
    kernel, stride, dilation = (x[axis] for x in (layer.kernel_size, layer.stride, layer.dilation))
    total = max((kernel - 1) * dilation + 1 - stride, 0)
    yield total // 2
    yield total - total // 2
