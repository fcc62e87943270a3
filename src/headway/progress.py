"""Lines and bars on stderr, for people: in a terminal, in a notebook, and in a log file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def can_draw(console: Console) -> bool:
    """Whether a bar can be drawn there: in a terminal, and in a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def say(text: str) -> None:
    """A line, from the first of several processes."""
    from rich.console import Console

    if os.environ.get("RANK", "0") == "0":
        Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A length of time for people: "40 s", "12 min", "6 h 2 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Pace:
    """When a log that cannot draw a bar gets its next line: after 30 seconds, or after 3 with a tenth more done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._spoke = (0, 0.0)

    def due(self, done: int, total: int | None) -> bool:
        """Whether to write a line now, with `done` of `total` (None: no end is known). The first call starts the clock
        and is never due, and neither is the end."""
        now = self._clock()
        if self._first is None:
            self._first = self._spoke = (done, now)
            return False
        waited, more = now - self._spoke[1], done - self._spoke[0]
        if total is None:
            is_due = waited >= 30
        else:
            is_due = done < total and (waited >= 30 or (waited >= 3 and more >= 0.1 * total))
        if not is_due:
            return False
        self._spoke = (done, now)
        return True

    def left(self, done: int, total: int) -> str:
        """The time that the rest will take at the speed so far, for people; empty before there is a speed."""
        if self._first is None or done <= self._first[0]:
            return ""
        return f"{duration((self._clock() - self._first[1]) / (done - self._first[0]) * (total - done))} left"

    def rate(self, done: int) -> float:
        """How many a second so far; 0 before there is a speed."""
        if self._first is None:
            return 0.0
        seconds = self._clock() - self._first[1]
        return (done - self._first[0]) / seconds if seconds > 0 else 0.0


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar where one can be drawn, else now and then a line; gives a function to call with (done, of how many)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    drawn, pace = can_draw(console), Pace()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not drawn) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not drawn and pace.due(done, total):
                say(f"{title} {done}/{total}  {pace.left(done, total)}".rstrip())

        yield tell


@contextmanager
def rate_bar(title: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """`progress_bar` that also says how many a second; (done, None) where no end is known, as of a camera."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    drawn, pace = can_draw(console), Pace()
    rate = TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not drawn) as bar:
        task = bar.add_task(title, total=None, rate=0.0)

        def tell(done: int, total: int | None) -> None:
            due = pace.due(done, total)
            bar.update(task, completed=done, total=total, rate=pace.rate(done))
            if not drawn and due:
                of, left = ("", "") if total is None else (f"/{total}", pace.left(done, total))
                say(f"{title} {done}{of}  {pace.rate(done):.1f} {unit}/s  {left}".rstrip())

        yield tell
