"""The number formats that a network computes in."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import HeadwayError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def check_precision(precision: str, device: torch.device) -> None:
    """Raises: HeadwayError for another name, or for fp16 on the CPU."""
    if precision not in get_args(Precision):
        raise HeadwayError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise HeadwayError("fp16 needs a GPU; use bf16 or fp32 on the CPU")


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a model runs in "fp32", "bf16" or "fp16".

    Raises: HeadwayError as `check_precision`.
    """
    import torch

    check_precision(precision, device)
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
