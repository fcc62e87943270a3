"""Which picture of a shard ended a worker process. Suspects are tried by themselves, first thing in a new process.

What a process does to itself (a fault in a decoder, an exit, a lack of memory that the kernel counted, too much time)
is the picture's doing when it happens twice over this picture. A kill from outside looks the same from here, whichever
picture it hits. So it takes `_KILLS` of them in a row over one picture by itself, and a pass in between clears it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# How a process ends itself; every other signal comes from outside.
_OWN = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP,
    signal.SIGXCPU, signal.SIGXFSZ,
}  # fmt: skip
_KILLS = 20  # kills from outside over a picture by itself, one after the other, after which it is failed
_DEATHS = 2  # of a process's own, after which it is failed
_WINDOW_KILLS, _WINDOW_DEATHS = 6, 3  # over pictures together that all pass by themselves: then those results stand


class End(NamedTuple):
    """How a worker process ended. text: for people, after "it"; outside: something else than the picture may have done
    it; late: it took too long and was killed for that."""

    text: str
    outside: bool = False
    late: bool = False


def end_of(code: int, memory: bool) -> End:
    """code: as of `Popen.wait`. memory: the kernel has killed for memory since the process started."""
    if code >= 0:
        return End(f"ended its process with exit code {code}")
    number = signal.Signals(-code)
    own = number in _OWN or (number == signal.SIGKILL and memory)
    return End(f"killed its process by {number.name}", outside=not own)


def memory_kills() -> int | None:
    """How often this machine's kernel has killed a process for memory; None where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/vmstat").read_text().split("\noom_kill ")[1].split()[0])
    return None


class Suspicion:
    """What is known of the pictures of one shard. window: pictures that are detected together."""

    def __init__(self, window: int, suspects: Iterable[int], deaths: Mapping[int, int]) -> None:
        self.window = window
        self.bad: dict[int, str] = {}  # number -> reason
        self.singly: set[int] = set()  # windows, by their first number, whose pictures are detected one by one
        self._suspects = {*suspects}
        self._weights = {number: _KILLS // _DEATHS * count for number, count in deaths.items()}
        self._windows: dict[int, int] = {}

    def order(self) -> list[int]:
        """The suspects. Those over which processes died come first: each is tried by a new process."""
        return sorted(self._suspects, key=lambda number: (-self._weights.get(number, 0), number))

    def passed(self, number: int) -> None:
        """It came through by itself."""
        self._suspects.discard(number)
        self._weights.pop(number, None)

    def died(self, now: list[int], alone: bool, end: End) -> None:
        """A process ended while it looked at the pictures `now`; alone: at one that was suspected."""
        self._suspects |= {*now}
        first = now[0] - now[0] % self.window
        if len(now) == 1:
            number = now[0]
            self._weights[number] = self._weights.get(number, 0) + (1 if end.outside else _KILLS // _DEATHS)
            if self._weights[number] >= _KILLS:
                self.bad[number] = f"it {end.text}"
                self._suspects.discard(number)
                self._windows.pop(first, None)  # explained
                return
        if not alone:
            weight = 1 if end.outside else _WINDOW_KILLS // _WINDOW_DEATHS
            self._windows[first] = self._windows.get(first, 0) + weight
            if self._windows[first] >= _WINDOW_KILLS:
                self.singly.add(first)
