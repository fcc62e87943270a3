"""Folding for inference: implicit values into the layers they surround, batch norms into the convolutions in front."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .deform import DeformConv2d

Convolution = nn.Conv2d | nn.ConvTranspose2d | DeformConv2d  # linear in their weight, and with a bias or none

_PROBE_SIZE = 128


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose implicit values and batch norms are folded into their convolutions, exact to
    float rounding.

    model: anything that takes [B, 3, H, W] images: a Detector or a backbone. Every module with a method `folded()`
    (`ImplicitConv2d`) is replaced by what that returns. Then it is run once on a small random picture to see which norm
    reads which convolution's output; only pairs used once, and by each other alone, are folded.
    The model itself is not changed.
    """
    twin = copy.deepcopy(model).eval()
    _fold_modules(twin)
    names = {module: name for name, module in twin.named_modules()}
    for conv, norm in _pairs(twin):
        _replace(twin, names[conv], _with_norm(conv, norm))
        # timm's BatchNormAct2d carries its activation.
        _replace(twin, names[norm], getattr(norm, "act", None) or nn.Identity())
    return twin.requires_grad_(False)


def _with_norm(conv: Convolution, norm: nn.BatchNorm2d) -> nn.Module:
    """A copy of the convolution that includes the norm of its output."""
    if not isinstance(conv, nn.ConvTranspose2d):
        return fuse_conv_bn_eval(conv, norm)
    # A transposed weight is [in, out / groups, k, k], and torch's own function takes groups to be 1.
    fused = copy.deepcopy(conv)
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
    bias = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    each = scale.view(conv.groups, 1, -1).expand(-1, conv.in_channels // conv.groups, -1)
    fused.weight = nn.Parameter(conv.weight * each.reshape(conv.in_channels, -1, 1, 1))
    fused.bias = nn.Parameter(bias * scale + (0.0 if norm.bias is None else norm.bias))
    return fused


def can_fold(module: nn.Module) -> bool:
    """Whether `fuse` may fold something of this one module."""
    return isinstance(module, nn.BatchNorm2d) or hasattr(module, "folded")


def _fold_modules(model: nn.Module) -> None:
    """Replace every module that offers `folded()`, one that is used in several places by the same in all of them."""
    folded: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if hasattr(module, "folded"):
            if module not in folded:
                folded[module] = module.folded()
            _replace(model, name, folded[module])


def _pairs(model: nn.Module) -> list[tuple[Convolution, nn.BatchNorm2d]]:
    made: dict[int, Convolution] = {}
    read: Counter[int] = Counter()
    calls: Counter[nn.Module] = Counter()
    pairs: list[tuple[Convolution, nn.BatchNorm2d, int]] = []
    alive: list[Tensor] = []  # the convolutions' outputs, so that no other tensor gets the id of one

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        for x in inputs:
            if id(x) in made:  # the id of anything else may be given again
                read[id(x)] += 1
        if isinstance(module, Convolution):
            made[id(output)] = module
            alive.append(output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])], module, id(inputs[0])))

    leaves = [m for m in model.modules() if not list(m.children()) or isinstance(m, nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(note) for module in leaves]
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
    weight = next(model.parameters())
    try:
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            model(picture.to(weight.device, weight.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return [(c, n) for c, n, output in pairs if calls[c] == calls[n] == 1 and read[output] == 1]


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
