"""One worker process under supervision: it gets a shard and gives its rows, whatever single pictures do to it.

A picture that raises, takes too long or kills the process is tried once more by itself and then becomes a row with the
reason. The process is the only thing that a picture can take down.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import HeadwayError
from .drawn import name_of
from .plan import Picture, Plan

_LOADING = 600.0  # seconds in which a worker must have its model
_IDLE_DEATHS = 3  # of a worker that ends without a picture, one after the other
_IDLE_KILLS = 10  # the same where it is killed
_STRIKES = 2  # deaths over a picture by itself, after which it is failed
_MERCY = 6  # more of them at most, where something else kills processes too
_WINDOW_DEATHS = 3  # of a window whose pictures all pass by themselves, after which these results stand
_WINDOW_KILLS = 6  # the same where something from outside may have killed the process


class NodeFaultError(HeadwayError):
    """The machine of a worker cannot go on (its disk is full, say); another one may."""


class StoppedError(Exception):
    """The job ends before this shard is done."""


@dataclass
class Limits:
    """time: seconds for a picture, from the start of its reading to its detections."""

    time: float = 60.0


@dataclass
class _Suspicion:
    """What is known of the pictures of one shard. strikes: deaths of a process over a picture by itself."""

    alone: set[int] = field(default_factory=set)
    strikes: dict[int, int] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)  # of a window, by its first picture
    singly: set[int] = field(default_factory=set)  # windows whose pictures are detected one by one


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
        folder = str((drawn or plan.folder).resolve()) if plan.settings.pictures else None
        self._start["drawn"] = folder
        self._shard = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._window = 1
        self._now: list[int] = []
        self._idle_deaths = 0
        self._innocent = 0  # pictures that passed after a process was killed over them: something else kills
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
        self._shard = shard
        known = _Suspicion({*suspects}, dict(strikes or {}))
        for number, count in known.strikes.items():
            if count >= 2:
                known.bad[number] = "its process was killed, and so was the whole job, twice over this picture"
        rows: dict[int, str] = {}
        while len(rows) < len(pictures):
            self._attempt(pictures, rows, known)
        return [rows[number] for number in range(len(pictures))]

    def open(self) -> None:
        """Start the worker process ahead of the first shard. Raises: HeadwayError where it cannot start."""
        while self._process is None and not self._open():
            pass

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

    def _attempt(self, pictures: Sequence[Picture], rows: dict[int, str], known: _Suspicion) -> None:
        """Go on with the windows that have no rows until all are done, or the process dies."""
        if self._stopped:
            raise StoppedError("the job was stopped")
        if self._process is None and not self._open():
            return
        step = self._window
        firsts = [first for first in range(0, len(pictures), step) if first not in rows]
        task = {
            "pictures": [
                [n, p.location, p.id, name_of(self._shard, n, p.location)]
                for f in firsts for n, p in enumerate(pictures[f : f + step], f)
            ],
            "windows": [[first, min(first + step, len(pictures))] for first in firsts],
            "alone": sorted(known.alone), "bad": known.bad,
            "singly": sorted(known.singly),
        }  # fmt: skip
        self._now, alone = [], False
        reason = "" if self._send(task) else self._how_it_ended()
        while not reason:
            message = self._next(self.limits.time * max(1, len(self._now)))
            if isinstance(message, str):
                reason = message
            elif "now" in message:
                if alone and known.strikes.get(self._now[0]):
                    self._innocent += 1
                self._now, alone = message["now"], bool(message.get("alone"))
                self.inflight(self._now, alone)
            elif "rows" in message:
                rows |= dict(message["rows"])
                self._idle_deaths = 0
                self.tell(len(message["rows"]))
            elif "node" in message:
                raise NodeFaultError(f"the machine cannot go on: {message['node']}")
            elif "end" in message:
                return
        self._kill()
        self._blame(reason, known)

    def _blame(self, reason: str, known: _Suspicion) -> None:
        """Remember over which pictures the process died. A picture's second death is proof; but where processes were
        killed over pictures that then passed, something else kills, and it takes more."""
        if not self._now:
            self._died_idle(reason)
            return
        known.alone |= {*self._now}
        from_outside = "SIGKILL" in reason or "SIGTERM" in reason
        if len(self._now) > 1:
            first = self._now[0] - self._now[0] % self._window
            known.deaths[first] = known.deaths.get(first, 0) + 1
            if known.deaths[first] >= (_WINDOW_KILLS if from_outside else _WINDOW_DEATHS):
                known.singly.add(first)
            return
        number = self._now[0]
        known.strikes[number] = known.strikes.get(number, 0) + 1
        if known.strikes[number] >= (_STRIKES + min(self._innocent, _MERCY) if from_outside else _STRIKES):
            known.bad[number] = f"it {reason}"

    def _died_idle(self, reason: str) -> None:
        """Raises: HeadwayError when it has happened too often."""
        self._idle_deaths += 1
        if self._idle_deaths >= (_IDLE_KILLS if "SIGKILL" in reason else _IDLE_DEATHS):
            raise HeadwayError(
                f"the worker process ended {self._idle_deaths} times before it saw a picture, at last it {reason}; "
                "where stderr does not say why, its memory was not enough: use fewer --workers"
            )

    def _open(self) -> bool:
        """Start the process; whether it is ready. Raises: HeadwayError with what it refuses."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment |= {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headway.jobs.child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )  # fmt: skip
        self._messages = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process, self._messages), daemon=True).start()
        self._now = []
        message = self._next(_LOADING) if self._send(self._start) else self._next(1.0)
        if isinstance(message, str):
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

    def _next(self, seconds: float) -> dict[str, Any] | str:
        """The worker's next message, or how it ended: it is killed where none comes in time."""
        process = self._process
        assert process is not None
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return f"took longer than {self.limits.time:g} s"
        if message is not None:
            return message
        return self._how_it_ended()

    def _how_it_ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return f"ended its process with exit code {code}"
        return f"killed its process by {signal.Signals(-code).name}"


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
