"""Worker processes of this machine, one or several, over the shards of a job that have no part yet."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import HeadwayError
from ..files import write_atomically
from .drawn import write_drawn
from .plan import Plan
from .shard import Limits, NodeFaultError, StoppedError, Supervisor, close_part
from .suspicion import memory_kills

Progress = Callable[[int, int], None]


def closing_line(plan: Plan, shard: int) -> dict[str, object] | None:
    """The last line of a shard's part; None where the part is missing, cut off, or of another plan."""
    try:
        with plan.part(shard).open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 1024))
            line = stream.read().rsplit(b"\n", 2)[-2]
        closing: dict[str, object] = json.loads(line)
    except (OSError, ValueError, IndexError):
        return None
    whole = isinstance(closing, dict) and closing.get("fingerprint") == plan.fingerprint
    return closing if whole and closing.get("shard") == shard else None


def missing_shards(plan: Plan, chosen: Iterable[int] | None = None) -> list[int]:
    """Shards without a part, among `chosen` (None: all)."""
    asked = range(plan.shards) if chosen is None else chosen  # an array may have more entries than shards: an empty one
    return [shard for shard in asked if closing_line(plan, shard) is None]


def run_local(
    plan: Plan,
    shards: Sequence[int],
    workers: int = 1,
    *,
    device: str = "cpu",
    plugins: Sequence[str] = (),
    limits: Limits | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the parts of `shards` with so many processes.

    progress: called with (pictures done, of how many), of these shards.
    Raises: HeadwayError where no worker can start or the machine cannot go on. Parts that are whole stay.
    """
    tally = _Tally(progress, sum(plan.size_of(shard) for shard in shards))
    waiting = iter(shards)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        marks = Inflight(plan)
        supervisor = Supervisor(
            plan, device=device, worker=number, plugins=plugins, limits=limits, tell=tally.add, inflight=marks.now
        )
        crew.append(supervisor)
        try:
            for shard in _taken(waiting, lock):
                if errors:
                    return
                suspects, strikes = marks.begin(shard)
                rows = supervisor.run(plan.pictures(shard), suspects, strikes, shard)
                write_part(plan, shard, rows)
                marks.end()
        except StoppedError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            supervisor.stop()

    crew: list[Supervisor] = []
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(min(workers, len(shards)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not errors:
                thread.join(0.2)
    finally:
        for supervisor in crew:
            supervisor.stop()
    for thread in threads:
        thread.join(10)
    if errors:
        raise errors[0]


def write_part(plan: Plan, shard: int, rows: Sequence[str], drawn: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Write the drawn pictures of a shard that are not there yet, then its part.

    Raises: HeadwayError where the disk does not take it.
    """
    try:
        write_drawn(plan.folder, drawn)
        write_atomically(plan.part(shard), close_part(rows, plan.fingerprint, shard))
    except OSError as error:
        raise NodeFaultError(
            f"{plan.part(shard)} cannot be written: {error.strerror}; mend that, and the same command goes on"
        ) from None


def _taken(waiting: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    """What several threads take from one iterator."""
    while True:
        with lock:
            shard = next(waiting, None)
        if shard is None:
            return
        yield shard


class _Tally:
    """Pictures done, of all workers."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._lock = progress, total, 0, threading.Lock()
        progress(0, total)

    def add(self, done: int) -> None:
        with self._lock:
            self._done += done
            self._progress(self._done, self._total)


class Inflight:
    """JOB/inflight-SHARD: what a worker is looking at, for the case that its whole job dies (a container that runs out
    of memory takes the supervisor too). The next job tries these pictures by themselves, and after two such ends over
    one picture it leaves that picture out. An end on the same machine, whose kernel has counted no kill for memory
    since, came from outside and does not count."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._path, self._handle = plan, Path(), -1
        self._strikes: dict[int, int] = {}
        self._memory: list[Any] = []

    def begin(self, shard: int) -> tuple[list[int], dict[int, int]]:
        """(suspects, strikes) that an earlier job left."""
        self._path, suspects = self._plan.folder / f"inflight-{shard:05d}", []
        self._strikes, self._handle, self._memory = {}, -1, _memory()
        with suppress(OSError, ValueError, KeyError, TypeError):
            left = json.loads(self._path.read_text(encoding="utf-8"))
            self._strikes = {int(number): int(count) for number, count in left["strikes"].items()}
            suspects = [int(number) for number in left["now"]]
            if left["alone"] and suspects and not _is_same(left.get("memory")):
                self._strikes[suspects[0]] = self._strikes.get(suspects[0], 0) + 1
        with suppress(OSError):
            self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        return [*suspects, *self._strikes], dict(self._strikes)

    def now(self, numbers: Sequence[int], alone: bool) -> None:
        """A mark that cannot be written is left out: the job goes on without it."""
        mark = {"now": list(numbers), "alone": alone, "strikes": self._strikes, "memory": self._memory}
        text = json.dumps(mark).encode() + b"\n"
        with suppress(OSError):
            os.pwrite(self._handle, text, 0)
            os.ftruncate(self._handle, len(text))

    def end(self) -> None:
        handle, self._handle = self._handle, -1
        with suppress(OSError):
            os.close(handle)
            self._path.unlink()


def _memory() -> list[Any]:
    """Which start of which machine this is, and how often its kernel has killed for memory."""
    with suppress(OSError):
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), memory_kills()]
    return []


def _is_same(memory: list[Any] | None) -> bool:
    """Whether no process was killed for memory since; False where that is not known."""
    return bool(memory) and None not in memory and memory == _memory()


def shards_of(text: str, count: int) -> range:
    """The shards of "3/16", the third of sixteen: every sixteenth from the third on. Raises: HeadwayError."""
    first, slash, number = text.partition("/")
    if not (slash and text.isascii() and first.isdigit() and number.isdigit() and 1 <= int(first) <= int(number)):
        raise HeadwayError(f"--shard is K/N with K in 1..N, as in 3/16, got {text!r}")
    return range(int(first) - 1, count, int(number))
