"""torchvision's operators, imported without torch's compiler.

torchvision and timm mark functions for `torch._dynamo`, and so does torch itself for some operators on the meta device.
The import of that module costs as much as the rest of torch. A stand-in sets the marks, and imports the real module
when anything else is asked of it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch


class _StandIn(ModuleType):
    """An empty module that takes every attribute from the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system itself
            raise AttributeError(name)
        _remove()
        return getattr(import_module(self.__name__), name)


def _remove() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]


def _is_compile_supported(device_type: Any) -> Any:
    """torchvision's RoIAlign asks this when it is called on a GPU."""
    return import_module("torch._dynamo.utils").is_compile_supported(device_type)


def _disable(function: Any, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True) -> Any:
    """Mark a function as the compiler's own `disable` does, so that it is called and not traced."""
    if function is None or not recursive:
        _remove()
        return import_module("torch._dynamo").disable(function, recursive, reason=reason, wrapping=wrapping)
    function._torchdynamo_disable, function._torchdynamo_disable_msg = True, reason
    return function


@contextmanager
def without_compiler() -> Iterator[None]:
    """Put the stand-in into the place of `torch._dynamo`, unless that is imported already."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = _StandIn("torch._dynamo"), _StandIn("torch._dynamo.utils")
    package.__path__ = [f"{path}/_dynamo" for path in torch.__path__]
    package.__dict__["disable"], utils.__dict__["is_compile_supported"] = _disable, _is_compile_supported
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    try:
        yield
    finally:
        _remove()


with without_compiler():
    import torchvision.tv_tensors  # noqa: F401
    from torchvision.ops import deform_conv2d, nms, roi_align

__all__ = ["deform_conv2d", "nms", "roi_align", "without_compiler"]
