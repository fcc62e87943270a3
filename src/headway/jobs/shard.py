"""One worker process under supervision: it gets a shard and gives its rows, whatever single pictures do to it.

A picture that raises, takes too long or kills the process is tried once more by itself and then becomes a row with the
reason (`suspicion`). The process is the only thing that a picture can take down.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import HeadwayError
from .drawn import name_of
from .outage import gone
from .plan import Picture, Plan
from .suspicion import End, Suspicion, end_of, memory_kills

log = logging.getLogger("headway")

_LOADING = 600.0  # seconds in which a worker must have its model
_IDLE_DEATHS = 3  # of a worker that ends without a picture, one after the other
_IDLE_KILLS = 10  # the same where it is killed
_WAITING = 60.0  # seconds in which a worker that waits for pictures must say so again


class NodeFaultError(HeadwayError):
    """The machine of a worker cannot go on (its disk is full, say); another one may."""


class StoppedError(Exception):
    """The job ends before this shard is done."""


@dataclass
class Limits:
    """time: seconds for a picture, from the start of its reading to its detections. outage: seconds in which pictures
    whose folder is gone must be back."""

    time: float = 60.0
    outage: float = 600.0


class Supervisor:
    """Runs a worker process and starts it again when it dies.

    worker: its number. tell: called with the numbers of pictures that were just done.
    inflight: called with the pictures that the worker begins, to be remembered if this process dies too.
    drawn: the folder below which pictures are drawn, where the settings want them; None: the job's own.
    """

    def __init__(
        self, plan: Plan, *, device: str = "cpu", worker: int = 0, plugins: Sequence[str] = (),
        limits: Limits | None = None, tell: Callable[[int], None] = lambda done: None,
        inflight: Callable[[Sequence[int], bool], None] = lambda numbers, alone: None,
        drawn: Path | None = None,
    ) -> None:  # fmt: skip
        self.limits, self.tell, self.inflight = limits or Limits(), tell, inflight
        self._threads = plan.settings.threads
        self._start = {"settings": asdict(plan.settings), "device": device, "worker": worker}
        self._start |= {"plugins": list(plugins), "root": plan.root, "count": plan.count, "white": plan.white}
        self._start |= {"common": plan.common, "patience": self.limits.outage}
        self._start["drawn"] = str((drawn or plan.folder).resolve()) if plan.settings.pictures else None
        self._shard = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._window = 1
        self._now: list[int] = []
        self._idle_deaths = 0
        self._waiting, self._late = "", 0.0  # why pictures are waited for; seconds that were lost so
        self._memory: int | None = None  # kills for memory when the process started
        self._stopped = False
        self.cap = 0

    def run(
        self, pictures: Sequence[Picture], suspects: Sequence[int] = (), strikes: dict[int, int] | None = None,
        shard: int = 0,
    ) -> list[str]:  # fmt: skip
        """The row of each picture of a shard, as JSON text, in order.

        suspects, strikes: of an earlier attempt that ended with its supervisor.
        shard: its number, for the names of drawn pictures.
        Raises: HeadwayError where no worker can start, NodeFaultError where the machine is at fault.
        """
        self.open()
        self._shard = shard
        deaths = strikes or {}
        known = Suspicion(self._window, suspects, deaths)
        for number, count in deaths.items():
            if count >= 2:
                known.bad[number] = "its process was killed, and so was the whole job, twice over this picture"
        rows: dict[int, str] = {}
        while len(rows) < len(pictures):
            self._attempt(pictures, rows, known)
        return [rows[number] for number in range(len(pictures))]

    def open(self) -> None:
        """Start the worker process ahead of the first shard. Raises: HeadwayError where it cannot start."""
        while self._process is None and not self._open():
            if self._stopped:
                raise StoppedError("the job was stopped")

    def stop(self) -> None:
        """End the worker process for good, from any thread; `run` raises `StoppedError`."""
        self._stopped = True
        self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def _attempt(self, pictures: Sequence[Picture], rows: dict[int, str], known: Suspicion) -> None:
        """Go on with the pictures that have no rows until all are done, or the process dies."""
        if self._stopped:
            raise StoppedError("the job was stopped")
        if self._process is None and not self._open():
            return
        self._now, alone = [], False
        end = None if self._send(self._task(pictures, rows, known)) else self._how_it_ended()
        while end is None:
            message = self._next(self.limits.time * max(1, len(self._now)) + _WAITING * bool(self._waiting))
            if isinstance(message, End):
                end = message
                continue
            self._note_outage(message.get("waiting", ""))
            if "now" in message:
                self._now, alone = message["now"], bool(message.get("alone"))
                self._idle_deaths = 0
                self.inflight(self._now, alone)
            elif "passed" in message:
                known.passed(message["passed"])
            elif "rows" in message:
                rows |= dict(message["rows"])
                self.tell(len(message["rows"]))
            elif "node" in message:
                raise NodeFaultError(f"the machine cannot go on: {message['node']}")
            elif "end" in message:
                return
        self._kill()
        if not self._now:
            self._died_idle(end)
        elif not self._is_outage(pictures[self._now[0]], end):
            known.died(self._now, alone, end)

    def _task(self, pictures: Sequence[Picture], rows: dict[int, str], known: Suspicion) -> dict[str, Any]:
        """What the worker process gets: see `child`."""
        windows = []
        for first in range(0, len(pictures), self._window):
            numbers = range(first, min(first + self._window, len(pictures)))
            if left := [number for number in numbers if number not in rows]:
                windows.append([left, first in known.singly])
        chosen = [(n, pictures[n]) for left, _ in windows for n in left]
        told = [[n, p.location, p.id, p.size is not None, name_of(self._shard, n, p.location)] for n, p in chosen]
        return {"pictures": told, "windows": windows, "alone": known.order(), "bad": known.bad}

    def _note_outage(self, why: str) -> None:
        """Say once that pictures are waited for, and once that they are back."""
        if bool(why) != bool(self._waiting):
            log.warning(f"waiting for the pictures: {why}" if why else "the pictures are back")
        self._waiting = why

    def _is_outage(self, picture: Picture, end: End) -> bool:
        """Whether a process that took too long waited for a folder that does not answer. Raises: NodeFaultError."""
        why = gone(picture.location, self._start["root"], self._start["common"]) if end.late else None
        self._late = self._late + self.limits.time if why else 0.0
        if why and self._late > self.limits.outage:
            raise NodeFaultError(f"the machine cannot go on: {why}; when it does, the same command goes on")
        self._note_outage(why or "")
        return bool(why)

    def _died_idle(self, end: End) -> None:
        """Raises: HeadwayError when it has happened too often."""
        self._idle_deaths += 1
        if self._idle_deaths >= (_IDLE_KILLS if end.outside else _IDLE_DEATHS):
            raise HeadwayError(
                f"the worker process ended {self._idle_deaths} times before it saw a picture, at last it {end.text}; "
                "where stderr does not say why, its memory was not enough: use fewer --workers"
            )

    def _open(self) -> bool:
        """Start the process; whether it is ready. Raises: HeadwayError with what it refuses."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment |= {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._memory = memory_kills()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headway.jobs.child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )  # fmt: skip
        self._messages = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process, self._messages), daemon=True).start()
        self._now = []
        message = self._next(_LOADING) if self._send(self._start) else self._next(1.0)
        if isinstance(message, End):
            self._kill()
            self._died_idle(message)
            return False
        if "refused" in message:
            self._kill()
            raise HeadwayError(message["refused"])
        self.cap, self._window = message["ready"], message["window"]
        return True

    def _send(self, message: dict[str, Any]) -> bool:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def _next(self, seconds: float) -> dict[str, Any] | End:
        """The worker's next message, or how it ended: it is killed where none comes in time."""
        process = self._process
        assert process is not None
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return End(f"took longer than {self.limits.time:g} s", late=True)
        if message is not None:
            return message
        return self._how_it_ended()

    def _how_it_ended(self) -> End:
        assert self._process is not None
        code, kills = self._process.wait(), memory_kills()
        return end_of(code, memory=None not in (kills, self._memory) and kills != self._memory)


def _listen(process: subprocess.Popen[bytes], messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass on what the process says; None when it has ended."""
    assert process.stdout is not None
    with suppress(OSError, ValueError):  # closed, or a line that the death cut off
        for line in process.stdout:
            messages.put(json.loads(line))
    messages.put(None)


def close_part(rows: Sequence[str], fingerprint: str, shard: int) -> bytes:
    """The content of a part: the rows, and a line that says it is whole."""
    failed = sum('"error": ' in row and "error" in json.loads(row) for row in rows)
    closing = {"shard": shard, "done": len(rows) - failed, "failed": failed, "fingerprint": fingerprint}
    return "".join(f"{line}\n" for line in [*rows, json.dumps(closing)]).encode()
