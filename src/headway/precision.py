"""The number formats that a network computes in, and the devices that have them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import HeadwayError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
# The greatest loss of AP by bf16 in torch on BCCD, and of how many trained models (benchmarks/results/formats.md).
BF16_COST = (0.0017, 5)


def choose_precision(precision: str, device: torch.device) -> str:
    """`precision`; of "auto" bf16 where the device computes in it natively (GPUs from compute capability 8.0 on, CPUs
    with AVX512-BF16 or AMX), else fp32.

    Raises: HeadwayError for another name, or for fp16 on the CPU.
    """
    if precision not in get_args(Precision):
        raise HeadwayError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise HeadwayError("fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return precision if precision != "auto" else "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16, so that it is faster than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def check_precision(precision: str, device: torch.device) -> None:
    """Raises: HeadwayError as `choose_precision`."""
    choose_precision(precision, device)


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a model runs in "fp32", "bf16", "fp16", or what `choose_precision` makes of "auto".

    Raises: HeadwayError as `choose_precision`.
    """
    import torch

    precision = choose_precision(precision, device)
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def require_mps() -> None:
    """Raises: HeadwayError where torch sees no GPU of Apple's."""
    import torch

    if not torch.backends.mps.is_available():
        raise HeadwayError("device is mps, but torch sees no Apple GPU here; use auto or cpu")


def pick_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one. Raises: HeadwayError for CUDA or MPS where there is none."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise HeadwayError("device cuda was asked for, but torch sees none; `headway doctor` says more, or use cpu")
    if str(device).startswith("mps"):
        require_mps()
    return torch.device(device)
