"""Where the work of a detector goes: multiply-adds and parameters by module and part, and seconds by part.

Multiply-adds are those of convolutions, linear layers and products of matrices (attention's, for example), as
`torch.utils.flop_counter` counts them. That counter does not see deformable convolutions (half of a Dynamic Head's
work), which are added here. Norms, activations and sampling are not counted.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .detector import Detector
from .factory import create_model, without_weights
from .layers.deform import DeformConv2d
from .meta import on_meta_device
from .precision import autocast
from .process import peak_of_process

PARTS = ("normalize", "backbone", "neck", "head", "decode", "select")


def count_parameters(model: nn.Module) -> int:
    """All parameters, frozen ones too; running statistics are not parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one picture of `size` (height, width). Nothing is computed: the meta device will do."""
    return macs_by_module(model, size).get("", 0)


def count_parts(model: Detector, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """(parameters, multiply-adds of one picture of `size`) of the backbone, of each neck and of the head, by name:
    backbone, neck.0, neck.1, head. They sum to those of the detector."""
    macs = macs_by_module(model, size)
    necks = [f"neck.{i}" for i in range(len(model.neck))] if isinstance(model.neck, nn.Sequential) else ["neck"]
    names = ["backbone", *([] if isinstance(model.neck, nn.Identity) else necks), "head"]
    return {name: (count_parameters(model.get_submodule(name)), macs.get(name, 0)) for name in names}


def count_named(name: str, size: tuple[int, int] | None = None, **arguments: Any) -> dict[str, Any]:
    """parameters, macs and size of `create_model(name, **arguments)`, without memory. size: (height, width) of the
    picture; None: the model's input size."""
    with on_meta_device():
        model = create_model(name, **without_weights(arguments))
    size = size or model.card.input_size
    return {"parameters": count_parameters(model), "macs": count_macs(model, size), "size": list(size)}


def macs_by_module(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of one picture of `size` (height, width) by module name, "" for the model, where they are not 0.

    A module's number contains those of the modules that it calls.
    """
    on_the_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter lacks
    counter = FlopCounterMode(
        display=False, custom_mapping={on_the_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    )
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                hooks.enter_context(module.register_forward_pre_hook(_convolve_plainly))
        _dry_run(model, size, counter)
    # Names begin with the class of the model, but for the counter's own "Global".
    counts = {name.partition(".")[2]: ops for name, ops in counter.get_flop_counts().items() if name != "Global"}
    return {name: sum(by_operator.values()) // 2 for name, by_operator in counts.items()}


def count_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Floating-point operations of one picture of `size` (height, width), as the papers of Scaled-YOLOv4 and YOLOR
    count them: two per multiply-add, two more per value of a convolution or linear layer with a bias, four per value of
    a batch norm; nothing else, so nothing for implicit values, which `headway.fuse` folds away."""
    biased = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, DeformConv2d)
    further = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal further
        further += (4 if isinstance(module, nn.BatchNorm2d) else 2) * output.numel()

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) or (isinstance(module, biased) and module.bias is not None):
                hooks.enter_context(module.register_forward_hook(count))
        macs = count_macs(model, size)
    return 2 * macs + further


def _dry_run(model: nn.Module, size: tuple[int, int], counter: FlopCounterMode) -> None:
    """One forward pass of shapes alone: fake tensors in place of all weights, so nothing is computed or allocated.

    Fake rather than meta tensors, since they also know operators whose output has as many rows as the data say (NMS).
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    mode = model.training
    model.eval()
    try:
        with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torchvision's NMS uses an old name of torch's
            fake = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors.items()}
            images = torch.empty(1, 3, *size)
            with counter:
                torch.func.functional_call(model, fake, (images,))
    finally:
        model.train(mode)


def _convolve_plainly(module: DeformConv2d, inputs: tuple[Tensor, ...]) -> None:
    """The counter sees the plain convolution of the same shape, which has as many products as the deformable one."""
    groups = inputs[0].shape[1] // module.weight.shape[1]
    F.conv2d(inputs[0], module.weight, None, module.stride, module.padding, module.dilation, groups)


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
    clock = Clock(images.device)
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


class Clock:
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
def _watched(model: Detector, clock: Clock) -> Iterator[None]:
    """Mark the ends of the parts."""
    decode = model.decode

    def count_deform(seconds: float) -> None:
        clock.parts["deform"] = clock.parts.get("deform", 0.0) + seconds

    def timed_decode(raw: Any) -> Any:
        candidates = decode(raw)
        clock.mark("decode")
        return candidates

    with ExitStack() as hooks:
        for name in PARTS[:4]:
            part = model.get_submodule(name)
            hooks.enter_context(part.register_forward_hook(lambda *_, name=name: clock.mark(name)))
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                hooks.enter_context(module.register_forward_pre_hook(lambda *_: count_deform(-clock.now())))
                hooks.enter_context(module.register_forward_hook(lambda *_: count_deform(clock.now())))
        hooks.callback(delattr, model, "decode")
        model.decode = timed_decode  # type: ignore[method-assign]
        yield


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
    return peak_of_process()
