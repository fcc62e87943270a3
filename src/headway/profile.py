"""Where the work of a detector goes: multiply-adds by module, and seconds by part.

Multiply-adds are those of convolutions and linear layers, deformable convolutions included (counters that see only
torch's own operators miss half of a Dynamic Head's), and of attention's two products, of queries with keys and of their
weights with values; norms, activations, sampling and attention gates are not counted.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from .backbones.vit import ViTAttention
from .detector import Detector
from .layers.attention import MultiHeadAttention
from .layers.deform import DeformConv2d
from .necks.full_head import FullAttention
from .precision import autocast

_MULTIPLYING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, DeformConv2d)
_ATTENTION = (MultiHeadAttention, ViTAttention, WindowAttention, FullAttention)
PARTS = ("normalize", "backbone", "neck", "head", "decode", "select")


def count_parameters(model: nn.Module) -> int:
    """All parameters, frozen ones too; running statistics are not parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one picture of `size` (height, width). Nothing is computed: the meta device will do."""
    return sum(macs_by_module(model, size).values())


def macs_by_module(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of one picture of `size` (height, width) by module name, for the modules that have any.

    A convolution costs (input channels / groups) * kernel area per value that it puts out, a deformable one the same;
    a transposed one (output channels / groups) * kernel area per value that it reads; a linear layer its input width;
    attention twice its channels per pair of query and key, and `FullHead`'s what its formula says.
    """
    return _by_module(model, size, _macs)


def count_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Floating-point operations of one picture of `size` (height, width), as the papers of Scaled-YOLOv4 and YOLOR
    count them: two per multiply-add, two more per value of a convolution or linear layer with a bias, four per value of
    a batch norm; nothing else, so nothing for implicit values, which `headway.fuse` folds away."""
    return sum(_by_module(model, size, _flops).values())


def _by_module(model: nn.Module, size: tuple[int, int], cost: Callable[[Any, tuple, Tensor], int]) -> dict[str, int]:
    """The sum of cost(module, inputs, output) over the calls of every module, by name, where it is not 0."""
    counts: dict[str, int] = {}
    hooks = []

    def hook_for(name: str) -> Any:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, 0) + cost(module, inputs, output)

        return count

    for name, module in model.named_modules():
        if isinstance(module, (*_MULTIPLYING, *_ATTENTION, nn.BatchNorm2d)):
            hooks.append(module.register_forward_hook(hook_for(name)))
    mode = model.training
    model.eval()
    try:
        _dry_run(model, size)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return {name: count for name, count in counts.items() if count}


def _dry_run(model: nn.Module, size: tuple[int, int]) -> None:
    """One forward pass of shapes alone: fake tensors in place of all weights, so nothing is computed or allocated.

    Fake rather than meta tensors, since they also know operators whose output has as many rows as the data say (NMS).
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's NMS uses an old name of torch's
        fake = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors.items()}
        torch.func.functional_call(model, fake, (torch.empty(1, 3, *size),))


def _macs(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    if isinstance(module, FullAttention):
        return len(inputs[0]) * module.products(inputs[1])
    if isinstance(module, _ATTENTION):
        return _products(inputs[0], inputs[1] if isinstance(module, MultiHeadAttention) else inputs[0])
    if not isinstance(module, _MULTIPLYING):
        return 0
    return (inputs[0] if isinstance(module, nn.ConvTranspose2d) else output).numel() * int(module.weight[0].numel())


def _products(query: Tensor, key: Tensor) -> int:
    """query, key: [B, N, C] and [B, K, C], or the same map or windows [B, ..., C] twice."""
    return 2 * query.numel() * key.flatten(1, -2).shape[1]


def _flops(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    if isinstance(module, nn.BatchNorm2d):
        return 4 * output.numel()
    macs = _macs(module, inputs, output)
    biased = isinstance(module, _MULTIPLYING) and module.bias is not None
    return 2 * macs + (2 * output.numel() if biased else 0)


class Timing(NamedTuple):
    """seconds: of each call of `detect`; parts: seconds of one call by part, medians over the calls; deform: those of
    the deformable convolutions, already contained in the part they stand in."""

    seconds: list[float]
    parts: dict[str, float]
    deform: float

    def quantile(self, fraction: float) -> float:
        """The call at that fraction of the sorted calls: 0.5 the median, 0.9 the slow tail."""
        ordered = sorted(self.seconds)
        return ordered[min(round(fraction * (len(ordered) - 1)), len(ordered) - 1)]


def time_detect(
    model: Detector, images: Tensor, *, precision: str = "fp32", repeats: int = 5, warmup: int = 1
) -> Timing:
    """Time `model.detect(images)` as it runs in use, and the parts it consists of.

    images: [B, 3, H, W] on the model's device. precision: "fp32", "bf16" or "fp16".
    """
    clock = _Clock(images.device)
    rows: list[dict[str, float]] = []
    with _watched(model, clock), autocast(images.device, precision):
        for i in range(warmup + repeats):
            clock.start()
            model.detect(images)
            clock.mark("select")
            if i >= warmup:
                rows.append(dict(clock.parts))
    medians = {name: sorted(row.get(name, 0.0) for row in rows)[len(rows) // 2] for name in (*PARTS, "deform")}
    seconds = [sum(row[name] for name in PARTS) for row in rows]
    return Timing(seconds, {name: medians[name] for name in PARTS}, medians["deform"])


class _Clock:
    """Splits one call into consecutive parts: `mark(name)` ends the part `name`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts, self._last = device, {}, 0.0  # type: ignore[var-annotated]

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        self.parts, self._last = {}, self.now()

    def mark(self, name: str) -> None:
        now = self.now()
        self.parts[name], self._last = now - self._last, now


@contextmanager
def _watched(model: Detector, clock: _Clock) -> Iterator[None]:
    """Mark the ends of the parts. Hooks stand on the folded copies that `detect` runs, which only parts that nobody
    watches have, so the backbone gets none of its own: it ends where the neck begins."""
    begun: list[float] = []

    def deform_begins(*_: Any) -> None:
        begun.append(clock.now())

    def deform_ends(*_: Any) -> None:
        clock.parts["deform"] = clock.parts.get("deform", 0.0) + clock.now() - begun.pop()

    backbone, neck, head = model._folded_parts()
    hooks = [
        model.normalize.register_forward_hook(lambda *_: clock.mark("normalize")),
        neck.register_forward_pre_hook(lambda *_: clock.mark("backbone")),
        neck.register_forward_hook(lambda *_: clock.mark("neck")),
        head.register_forward_hook(lambda *_: clock.mark("head")),
    ]
    for module in [m for part in (backbone, neck, head) for m in part.modules()]:
        if isinstance(module, DeformConv2d):
            hooks += [module.register_forward_pre_hook(deform_begins), module.register_forward_hook(deform_ends)]
    decode = model.decode

    def timed_decode(raw: Any) -> Any:
        candidates = decode(raw)
        clock.mark("decode")
        return candidates

    model.decode = timed_decode  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.decode
        for hook in hooks:
            hook.remove()


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of `peak_memory`, where the system allows it (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux: 5 resets the peak of the resident size, proc(5)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that CUDA tensors took, or on the CPU the most memory the whole process had."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return int(peak if sys.platform == "darwin" else peak * 1024)
