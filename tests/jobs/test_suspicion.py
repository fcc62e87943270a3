"""Processes that are killed from outside cost time and no picture; a picture that always kills is found."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import deque
from typing import Any

import pytest

from headway.jobs import runners, suspicion
from headway.jobs.child import Worker
from headway.jobs.plan import Picture
from headway.jobs.shard import Supervisor
from headway.jobs.suspicion import End, Suspicion, end_of, memory_kills

from .conftest import Job, failures, results


class Killed(BaseException):
    """The end of a process, as this process plays it."""


class Dice:
    """A detector that is killed at a share of its calls, and at pictures that are called bad."""

    window, cap = 8, 100

    def __init__(self, seed: int, share: float) -> None:
        self.dice, self.share, self.kills = random.Random(seed), share, 0

    def roll(self, bad: bool) -> None:
        if bad or self.dice.random() < self.share:
            self.kills += 1
            raise Killed

    def read(self, source: Any, where: str) -> str:
        self.roll(False)
        return where

    def detect(self, pictures: list[str]) -> list[str]:
        self.roll(any("bad" in picture for picture in pictures))
        return pictures

    def row(self, picture: str, found: str, image_id: Any, file_name: str) -> dict[str, Any]:
        return {"file_name": file_name, "found": found, "detections": []}


class Played(Supervisor):
    """A supervisor whose worker runs here, so that thousands of deaths take no time."""

    def __init__(self, detector: Dice, code: int) -> None:
        self.detector, self.code = detector, code
        self.told: deque[Any] = deque()
        self.limits, self._stopped, self._now, self._idle_deaths = (
            type("L", (), {"time": 1.0, "outage": 1.0}),
            False,
            [],
            0,
        )
        self._waiting, self._late, self._process, self._window = "", 0.0, None, 1
        self._start = {"root": "", "common": "", "patience": 1.0, "drawn": None}
        self.tell = self.inflight = lambda *_: None

    def _open(self) -> bool:
        self._process, self._window = object(), self.detector.window  # type: ignore[assignment]
        return True

    def _kill(self) -> None:
        self._process = None

    def _send(self, message: dict[str, Any]) -> bool:
        worker = Worker(self.detector, self._start, lambda m: self.told.append(json.loads(json.dumps(m))))
        self.told.clear()
        try:
            worker.run(json.loads(json.dumps(message)))
        except Killed:
            self.told.append(end_of(self.code, memory=False))
        return True

    def _next(self, seconds: float) -> Any:
        return self.told.popleft()


@pytest.mark.parametrize(("seed", "share"), [(1, 0.05), (2, 0.1), (3, 0.2), (4, 0.33)])
def test_random_kills_fail_no_picture(seed: int, share: float) -> None:
    """200 pictures in windows of 8, and a kill at every 20th to every 3rd reading or detection."""
    detector = Dice(seed, share)
    pictures = [Picture(f"{number}.jpg", None, number) for number in range(200)]
    rows = [json.loads(row) for row in Played(detector, -signal.SIGKILL).run(pictures)]
    assert detector.kills > 200 * share
    assert [row["found"] for row in rows] == [f"{number}.jpg" for number in range(200)]


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGKILL, 1])
def test_a_picture_that_kills_is_found_among_random_kills(code: int) -> None:
    """Whatever it does to its process; the others are not failed for it."""
    share = 0.0 if code in (1, -signal.SIGSEGV) else 0.1  # a death of a process's own is a picture's doing
    names = [f"{'bad' if number in (5, 6, 40) else ''}{number}.jpg" for number in range(64)]
    rows = Played(Dice(5, share), code).run([Picture(name, None, name) for name in names])
    assert [name for name, row in zip(names, rows) if "error" in json.loads(row)] == [
        "bad5.jpg",
        "bad6.jpg",
        "bad40.jpg",
    ]


def test_a_pass_clears_a_picture() -> None:
    """Nineteen kills in a row are not enough, twenty are; after a pass it begins again. Faults: two."""
    kill, fault = End("was killed", outside=True), End("crashed")
    known = Suspicion(8, [], {})
    for _ in range(3):
        for _ in range(19):
            known.died([3], True, kill)
        assert known.order() == [3]
        known.passed(3)
    assert (known.bad, known.order()) == ({}, [])
    known.died([3], False, fault)
    known.died([4, 5], False, kill)
    assert known.order() == [3, 4, 5]  # the struck one is the first that a new process looks at
    known.died([3], True, fault)
    assert known.bad == {3: "it crashed"}


def test_which_ends_come_from_outside() -> None:
    assert not end_of(3, memory=False).outside
    assert not end_of(-signal.SIGSEGV, memory=False).outside
    assert not end_of(-signal.SIGKILL, memory=True).outside
    assert end_of(-signal.SIGKILL, memory=False).outside
    assert end_of(-signal.SIGTERM, memory=True).outside
    assert end_of(-signal.SIGTERM, memory=True).text == "killed its process by SIGTERM"


def test_real_processes_that_are_killed_at_random(job: Job) -> None:
    """At every eighth reading or detection, by fixed seeds: the bytes of a job without kills, nothing failed."""
    job.write(24)
    clean = job.plan("clean", notes="clean-notes")
    job.run(clean)
    plan = job.plan()
    (job.root / "notes").mkdir()
    (job.root / "notes" / "dice").write_text("7 0.125")
    job.run(plan)
    assert failures(plan) == {}
    assert results(plan)["predictions.json"] == results(clean)["predictions.json"]
    assert len((job.root / "notes" / "kills.txt").read_text()) > 5


def test_a_picture_that_is_killed_for_ever_is_failed_in_the_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "_KILLS", 6)
    job.write(8, {5: "kill"})
    plan = job.plan()
    job.run(plan)
    assert failures(plan) == {"00005.jpg": "it killed its process by SIGKILL"}
    assert job.calls()["00005.jpg"] == 6


def test_a_job_that_is_killed_from_outside_over_and_over_fails_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a job leaves that was killed over number 3: on this machine, whose kernel killed nothing for memory since,
    it does not count. After a kill for memory it does."""
    job.write(8)
    plan = job.plan()
    left = plan.folder / "inflight-00000"
    monkeypatch.setattr(runners, "memory_kills", lambda: 4)
    mark: dict[str, Any] = {"now": [3], "alone": True, "strikes": {}, "memory": runners._memory()}
    for _ in range(3):
        left.write_text(json.dumps(mark))
        suspects, strikes = runners.Inflight(plan).begin(0)
        assert (suspects, strikes) == ([3], {})
    monkeypatch.setattr(runners, "memory_kills", lambda: 5)
    left.write_text(json.dumps(mark))
    assert runners.Inflight(plan).begin(0)[1] == {3: 1}


@pytest.mark.skipif(not os.path.exists("/proc/vmstat"), reason="the kernel's count of kills for memory is Linux's")
def test_the_kernel_says_how_often_it_killed_for_memory() -> None:
    count = memory_kills()
    assert count is None or count >= 0
