"""An evaluation over the processes that torchrun started, on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .batches import WHOLE, Share


class Processes(NamedTuple):
    """share: the part of this process; gather: joins the lists of all; device: of this one, None where it is alone."""

    share: Share = WHOLE
    gather: Callable[[list[Any]], list[Any]] = list
    device: torch.device | None = None


def started_processes() -> int:
    """How many processes torchrun (or accelerate launch) started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def join_processes(device: Any) -> Processes:
    """Connect with the others, where there are any. device: "auto", or what was asked for."""
    if started_processes() < 2:
        return Processes()
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=str(device) == "cpu" or not torch.cuda.is_available())
    return Processes(Share(state.process_index, state.num_processes), gather_object, state.device)
