"""Networks built at the cost of their Python alone: without memory, or without random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .vision import without_compiler

_RANDOM_FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_)


class _NothingDrawn(TorchFunctionMode):
    """Random fills leave the tensor as it is. On the meta device torch emulates them in Python, with sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM_FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (torch.randn, torch.rand):
            func, kwargs = torch.zeros, {key: value for key, value in kwargs.items() if key != "generator"}
        return func(*args, **kwargs)


@contextmanager
def undrawn() -> Iterator[None]:
    """Build a network whose weights are about to be loaded: no random number is drawn for it."""
    state = torch.get_rng_state()
    try:
        with _NothingDrawn():
            yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """What is built in this context has shapes and no values."""
    with without_compiler(), torch.device("meta"), _NothingDrawn():
        yield
