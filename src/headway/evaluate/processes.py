"""The processes that torchrun started, on one machine or several: how they meet, and what is said when one is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, NamedTuple

import torch

from ..data.dataset import DetectionData
from ..errors import HeadwayError, one_line
from .batches import WHOLE, Share

SILENCE = "HEADWAY_SILENCE"  # seconds without an answer after which another process counts as lost


class LostProcess(HeadwayError):  # noqa: N818  (named for what happened)
    """Another process of the run, or its node, has gone."""


class Processes(NamedTuple):
    """share: the part of this process; gather: joins the lists of all; device: of this one, None where it is alone."""

    share: Share = WHOLE
    gather: Callable[[list[Any]], list[Any]] = list
    device: torch.device | None = None


def started_processes() -> int:
    """How many processes torchrun (or accelerate launch) started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def patience() -> dict[str, timedelta]:
    """The time-out of a process group, where the environment names one; else torch's: 30 minutes of gloo, 10 of NCCL.

    Raises: HeadwayError for a wrong one.
    """
    text = os.environ.get(SILENCE)
    if not text:
        return {}
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds >= 1:
        raise HeadwayError(f"{SILENCE} must be a number of seconds from 1 on, got {text!r}")
    return {"timeout": timedelta(seconds=seconds)}


def join_processes(device: Any) -> Processes:
    """Connect with the others, where there are any. device: "auto", or what was asked for."""
    if started_processes() < 2:
        return Processes()
    from accelerate import PartialState
    from accelerate.utils import gather_object

    with none_lost(lambda: "start all nodes again"):
        state = PartialState(cpu=str(device) == "cpu" or not torch.cuda.is_available(), **patience())
    return Processes(Share(state.process_index, state.num_processes), gather_object, state.device)


def digest_of(data: DetectionData) -> str:
    """Of the pictures' ids, sizes and numbers of boxes, in order."""
    return sha256(repr([(r.image_id, r.size, len(r.boxes)) for r in data.records]).encode()).hexdigest()


def check_alike(mine: Any, what: str, gather: Callable[[list[Any]], list[Any]]) -> None:
    """Raises: HeadwayError, in every process, where they were not given the same. mine: of this one; what: its name."""
    every = gather([mine])
    if other := next((rank for rank, theirs in enumerate(every) if theirs != every[0]), None):
        raise HeadwayError(
            f"process {other} has other {what} than process 0: every node needs the same pictures and annotations"
        )


@contextmanager
def none_lost(remedy: Callable[[], str]) -> Iterator[None]:
    """In place of torch's errors when another process has gone, one line with the remedy. Raises: LostProcess."""
    try:
        yield
    except RuntimeError as error:
        if started_processes() < 2 or not _is_of_connection(error):
            raise
        reason = one_line(error, None)
        reason = reason.rpartition("] ")[2] if reason.startswith("[") else reason
        raise LostProcess(f"another process, or its node, has gone ({reason[:160]}): {remedy()}") from None


def _is_of_connection(error: RuntimeError) -> bool:
    """gloo raises bare RuntimeErrors that begin with its file."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
