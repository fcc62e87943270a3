"""Networks without memory, to learn their shapes: built on the meta device at the cost of their Python alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .vision import without_compiler

_DRAWING = (Tensor.normal_, Tensor.uniform_)


class _NothingDrawn(TorchFunctionMode):
    """Random fills leave the tensor as it is. On the meta device torch emulates them in Python, with sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """What is built in this context has shapes and no values."""
    with without_compiler(), torch.device("meta"), _NothingDrawn():
        yield
