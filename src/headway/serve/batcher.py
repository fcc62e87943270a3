"""Requests of many clients to passes of a few pictures, one pass at a time, in a thread of its own.

A job that finds the thread free runs at once: nothing waits for company. Jobs that come while the thread is busy go
together where their keys are equal. A batch that fails is run again job by job, so that only the one at fault fails. A
job whose caller has gone is not run.

The size of a batch must not change an answer. The first time that so many jobs of a key come together, they run alone
and together, and the answers are compared to the bit. Where they differ, jobs run alone from then on.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

from ..errors import HeadwayError

logger = logging.getLogger("headway.serve")

Run = Callable[[Sequence[Any]], Sequence[Any]]
Same = Callable[[Any, Any], bool | None]
_TRIES = 4  # comparisons of nothing with nothing after which a key runs alone
_KEYS = 1024  # of which it is remembered what comparing them has shown


class FullError(HeadwayError):
    """More pictures than the queue takes. seconds: when to ask again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class Done(NamedTuple):
    """waited, ran: seconds in the queue and in the pass. together: jobs of that pass."""

    result: Any
    waited: float
    ran: float
    together: int


@dataclass(slots=True)
class _Job:
    key: Hashable
    item: Any
    run: Run
    future: asyncio.Future[Done]
    since: float = field(default_factory=perf_counter)


class Batcher:
    """limit: pictures that may be reserved at once. largest: most jobs per pass.

    same: whether two results are equal to the bit; None where both are empty, which shows nothing. Without it batches
    are not compared. observe: called with the size and the seconds of each pass.
    """

    def __init__(
        self,
        limit: int,
        largest: int,
        same: Same | None = None,
        observe: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self.limit, self.largest = limit, largest
        self.held = 0
        self._same, self._observe = same, observe
        self._jobs: deque[_Job] = deque()
        self._tries: dict[tuple[Hashable, int], int] = {}  # key and size -> comparisons left; 0: they may go together
        self._seconds = 0.5  # of a picture, a running mean
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "headway-network")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Stop. Jobs that wait are dropped; a pass that runs comes to its end."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for job in self._jobs:
            job.future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def reserve(self, pictures: int) -> Iterator[None]:
        """Places in the queue. Raises: FullError when it has not as many."""
        if self.held + pictures > self.limit:
            seconds = min(max(math.ceil(self.held * self._seconds), 1), 60)
            raise FullError(
                f"the queue is full: {self.held} of {self.limit} pictures wait, and {pictures} came; ask again in "
                f"{seconds} s",
                seconds,
            )
        self.held += pictures
        try:
            yield
        finally:
            self.held -= pictures

    async def submit(self, key: Hashable, item: Any, run: Run) -> Done:
        """What `run([item])` gives, perhaps together with other items of this key. Cancel it, and it is not run.

        Raises: what `run` raises for this item.
        """
        job = _Job(key, item, run, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._wake.set()
        return await job.future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            chosen = self._next()
            if not chosen:
                self._wake.clear()
                continue
            start = perf_counter()
            results: Sequence[Any]
            try:
                results = await loop.run_in_executor(self._thread, self._attempt, chosen)
                self._observe(len(chosen), perf_counter() - start)
            except Exception as error:  # whatever it is, those who wait are told, and the next ones are served
                results = [error] * len(chosen)
            ran = perf_counter() - start
            self._seconds += 0.1 * (ran / len(chosen) - self._seconds)
            for job, result in zip(chosen, results):
                if job.future.done():
                    continue
                if isinstance(result, Exception):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(Done(result, start - job.since, ran, len(chosen)))

    def _next(self) -> list[_Job]:
        """The oldest job that somebody waits for and, of those behind it, the ones that go with it, in their order."""
        chosen: list[_Job] = []
        left: deque[_Job] = deque()
        for job in self._jobs:
            if job.future.done():
                continue
            fits = not chosen or (len(chosen) < self.largest and job.key == chosen[0].key)
            (chosen if fits else left).append(job)
        self._jobs = left
        return chosen

    def _attempt(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        """A result or an exception for each, in the thread."""
        key = (jobs[0].key, len(jobs))
        tries = self._tries.get(key, _TRIES)
        if len(jobs) > 1 and self._same is not None and tries:
            alone = [_alone(job) for job in jobs]
            if tries > 0:
                self._compare(key, jobs, alone, tries)
            return alone
        if len(jobs) > 1:
            try:
                return jobs[0].run([job.item for job in jobs])
            except Exception:  # of one of them; it is told alone
                logger.info("a batch of %d failed and is run one by one", len(jobs))
        return [_alone(job) for job in jobs]

    def _compare(self, key: tuple[Hashable, int], jobs: Sequence[_Job], alone: Sequence[Any], tries: int) -> None:
        """Run them together as well, and remember whether that changes anything."""
        assert self._same is not None
        if any(isinstance(result, Exception) for result in alone):
            return
        try:
            together = jobs[0].run([job.item for job in jobs])
        except Exception:  # one of them is at fault: nothing is learned about the others
            return
        equal = [self._same(*pair) for pair in zip(alone, together)]
        if len(self._tries) >= _KEYS:
            self._tries.clear()
        if False in equal:
            self.largest = 1
            logger.info("a batch of %d changes the last bits of a result: pictures run one by one", len(jobs))
        else:  # -1: never compared again, and run alone
            self._tries[key] = 0 if True in equal else tries - 1 or -1


def _alone(job: _Job) -> Any:
    try:
        return job.run([job.item])[0]
    except Exception as error:
        return error
