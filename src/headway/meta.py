"""Networks built at the cost of their Python alone: without memory, or without random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .vision import without_compiler

_DEFAULTS = {Tensor.normal_: ("mean", 0.0), Tensor.uniform_: ("from", 0.0)}


class _NothingDrawn(TorchFunctionMode):
    """Random fills set one value, and initialisers nothing. On the meta device torch emulates them in Python.

    One value, since torch's truncated normal draws until all numbers lie within the bounds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in _DEFAULTS:
            name, default = _DEFAULTS[func]
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get(name, default))
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
