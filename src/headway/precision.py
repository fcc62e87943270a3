"""The number formats that a network computes in."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch

from .errors import HeadwayError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raises: HeadwayError for another name, or for fp16 on the CPU."""
    if precision not in _DTYPES:
        raise HeadwayError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise HeadwayError("fp16 needs a GPU; use bf16 or fp32 on the CPU")


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a model runs in "fp32", "bf16" or "fp16".

    Raises: HeadwayError as `check_precision`.
    """
    check_precision(precision, device)
    dtype = _DTYPES[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
