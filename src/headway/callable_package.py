"""A package that can be called like its main function, so that `headway.train` is a verb and a package at once.

`headway.train(...)` and `headway.train.config` must both work, whichever was imported first: importing a submodule puts
the package itself where a function of that name would stand.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str, function: str) -> None:
    """Have a call of `package` call `function` of its `module`, which is imported only then."""

    class CallablePackage(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.__wrapped__(*args, **kwargs)

        @property
        def __wrapped__(self) -> Any:  # what `inspect.signature` and `help` look at
            return getattr(import_module(f"{package}.{module}"), function)

    sys.modules[package].__class__ = CallablePackage
