"""Folding for inference: implicit values into the layers they surround, batch norms into the convolutions in front."""

import copy
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from ..vision import without_compiler
from .deform import DeformConv2d

Convolution = nn.Conv2d | nn.ConvTranspose2d | DeformConv2d  # linear in their weight, and with a bias or none

logger = logging.getLogger("headway")

_PROBE_SIZE = 128
_TOLERANCE = 1e-4  # of the largest output; folding rounds by 1e-12 in double precision, a wrong fold is off by tenths


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose implicit values and batch norms are folded into their convolutions, exact to
    float rounding.

    model: anything that takes [B, 3, H, W] images: a Detector or a backbone. It is not changed.

    Every module with a method `folded()` (`ImplicitConv2d`) is replaced by what that returns. A norm is folded where a
    run on a random picture shows that it alone reads the output of its convolution: no other operation, no hook, and
    not the model's result. A second run compares the outputs; if they differ, no norm is folded, and the log says so.
    """
    with without_compiler(), torch.inference_mode(False), torch.no_grad():
        twin = copy.deepcopy(model).eval()
        _fold_modules(twin)
        dtypes = {t.dtype for t in twin.state_dict().values() if t.is_floating_point()}
        if len(dtypes) == 1:  # in double precision nothing but a wrong fold makes a difference
            twin.double()
        probe = _Probe(twin)
        expected, pairs = probe.run(), probe.pairs()
        for conv, norm in pairs:
            # timm's BatchNormAct2d carries its activation.
            probe.replace(conv, _with_norm(conv, norm))
            probe.replace(norm, getattr(norm, "act", None) or nn.Identity())
        if pairs and not _agree(expected, _Probe(twin).run()):
            logger.warning("%s: folded batch norms change the result, so they are left alone", type(model).__name__)
            for module in (module for pair in pairs for module in pair):
                probe.replace(module, module)
        twin.requires_grad_(False).to(memory_format=torch.channels_last)  # as the pictures of `detect`
        return twin.to(dtypes.pop()) if len(dtypes) == 1 else twin


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


def _fold_modules(model: nn.Module) -> None:
    """Replace every module that offers `folded()`, one that is used in several places by the same in all of them."""
    folded: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if hasattr(module, "folded"):
            if module not in folded:
                folded[module] = module.folded()
            _replace(model, name, folded[module])


class _Probe(TorchDispatchMode):
    """One run of a model that notes who reads the outputs of its convolutions.

    It stands below autograd and Python, so it sees every operation that reads values, of modules and of functions, and
    none that reads a shape or a type.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self._made: dict[int, Convolution] = {}
        self._alive: list[Tensor] = []  # the convolutions' outputs, so that no other tensor gets the id of one
        self._norm: nn.BatchNorm2d | None = None  # the one that runs
        self._reader: dict[int, nn.BatchNorm2d] = {}
        self._shared: set[int] = set()  # outputs that something else reads
        self._calls: Counter[nn.Module] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            if id(tensor) in self._made and self._reader.get(id(tensor)) is not (self._norm or self):
                self._shared.add(id(tensor))
        return func(*args, **kwargs)

    def run(self) -> Any:
        """The model's output. Hooks of others do not run; what they would see counts as read."""
        theirs = [(m, m._forward_hooks, m._forward_pre_hooks) for m in self.names]
        watched = [m for m, after, before in theirs if after or before]
        for module in watched:
            module._forward_hooks, module._forward_pre_hooks = (
                type(module._forward_hooks)(),
                type(module._forward_hooks)(),
            )
        hooks = [m.register_forward_hook(self._note_shown) for m in watched]
        for module in self.names:
            if isinstance(module, nn.BatchNorm2d):
                hooks += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
            elif isinstance(module, Convolution):
                hooks.append(module.register_forward_hook(self._note_made))
        weight = next(self.model.parameters())
        generator = torch.Generator().manual_seed(0)
        picture = torch.rand(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=generator).to(weight.device, weight.dtype)
        try:
            with torch.autocast(weight.device.type, enabled=False), self:
                output = self.model(picture)
        finally:
            for hook in hooks:
                hook.remove()
            for module, after, before in theirs:
                module._forward_hooks, module._forward_pre_hooks = after, before
        self._note_shown(self.model, (), output)
        return output

    def replace(self, module: nn.Module, other: nn.Module) -> None:
        """Put `other` into the place where `module` was in the run."""
        _replace(self.model, self.names[module], other)

    def pairs(self) -> list[tuple[Convolution, nn.BatchNorm2d]]:
        """Convolutions and their norms that can be one: both run once, and nothing else reads what is between."""
        found = [(self._made[key], norm) for key, norm in self._reader.items() if key not in self._shared]
        return [(c, n) for c, n in found if self._calls[c] == self._calls[n] == 1 and n.running_var is not None]

    def _note_made(self, module: Convolution, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._calls[module] += 1
        self._made[id(output)] = module
        self._alive.append(output)

    def _enter(self, norm: nn.BatchNorm2d, inputs: tuple[Any, ...]) -> None:
        self._calls[norm] += 1
        self._norm = norm
        if inputs and id(inputs[0]) in self._made:
            self._reader.setdefault(id(inputs[0]), norm)

    def _leave(self, norm: nn.BatchNorm2d, inputs: tuple[Any, ...], output: Any) -> None:
        self._norm = None

    def _note_shown(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._shared |= {id(tensor) for tensor in tensors_in((inputs, output))}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def _agree(expected: Any, found: Any) -> bool:
    """Whether two outputs are equal but for rounding."""
    pairs = list(zip(tensors_in(expected), tensors_in(found)))
    return all(a.shape == b.shape and _close(a, b) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    limit = _TOLERANCE * float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
    return torch.allclose(a, b, rtol=0, atol=limit, equal_nan=True)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
