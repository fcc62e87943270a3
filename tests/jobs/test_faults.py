"""Pictures that raise, hang or kill: one retry, one row with the reason, and every other row as without them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.jobs import shard
from headway.jobs.runners import missing_shards

from .conftest import Job, failures, results

POISON = {
    "raise": "RuntimeError: cannot see 00005.jpg",
    "hang": "it took longer than 0.4 s",
    "kill": "it killed its process by SIGKILL",
    "abort": "it killed its process by SIGABRT",
    "exit": "it ended its process with exit code 3",
}


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that counts every kill as one for memory."""
    monkeypatch.setattr(shard, "memory_kills", itertools.count().__next__)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.usefixtures("no_memory")
def test_a_poison_picture_costs_one_retry_and_one_row(job: Job, poison: str) -> None:
    """20 pictures in shards of 8, windows of 4. Number 5 is poison at its reading: two calls, then it is left out."""
    job.write(20, {5: poison})
    plan = job.plan()
    job.run(plan, seconds=0.4)
    assert failures(plan) == {"00005.jpg": POISON[poison]}
    assert job.calls()["00005.jpg"] == 2
    assert len(results(plan)["predictions.json"].splitlines()) == 19 + 2


def test_a_picture_without_a_row_costs_its_own_and_not_the_job(job: Job) -> None:
    job.write(12, {5: "rowless"})
    plan = job.plan()
    job.run(plan)
    reason = "its detections cannot be written: RuntimeError: no row for 00005.jpg"
    assert failures(plan) == {"00005.jpg": reason}
    assert max(job.calls().values()) == 1


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.usefixtures("no_memory")
def test_a_poison_picture_among_those_of_its_window_is_found(job: Job, poison: str) -> None:
    """It strikes when its window of four is detected, so that first all four are suspects."""
    job.write(12, {5: f"late {poison}"})
    plan = job.plan()
    job.run(plan, seconds=0.4)
    assert failures(plan) == {"00005.jpg": POISON[poison]}
    assert job.calls()["00005.jpg"] <= 4
    assert max(count for name, count in job.calls().items() if name != "00005.jpg") <= 6


def test_what_fails_once_is_done_and_the_bytes_are_those_without_faults(job: Job) -> None:
    job.write(20)
    clean = job.plan("clean")
    job.run(clean)
    for text, numbers in (
        ("kill once", (3, 9)),
        ("late abort once", (6,)),
        ("raise once", (11,)),
        ("hang once", (14,)),
    ):
        for number in numbers:
            (job.root / "in" / f"{number:05d}.jpg").write_text(f"{text:15}")
    for number in {*range(20)} - {3, 9, 6, 11, 14}:
        (job.root / "in" / f"{number:05d}.jpg").write_text("fine")
    faulty = job.plan("faulty")
    job.run(faulty, workers=2, seconds=1)
    assert failures(faulty) == {}
    assert results(faulty)["predictions.json"] == results(clean)["predictions.json"]


def test_kills_from_outside_blame_no_picture(job: Job) -> None:
    """One of two processes is killed when 20, 50 and 80 pictures were read: all rows, none failed."""
    job.write(96, usual="sleep 0.01")
    plan = job.plan()
    done = threading.Event()

    def kill() -> None:
        for number in (20, 50, 80):
            while job.calls().total() < number and not done.wait(0.01):
                pass
            for pid in workers_of(os.getpid())[:1]:
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        job.run(plan, workers=2)
    finally:
        done.set()
        thread.join()
    assert failures(plan) == {}
    assert max(job.calls().values()) > 1  # kills did hit


def test_a_job_that_is_killed_goes_on_and_repeats_one_shard(job: Job) -> None:
    """The whole job is killed when 21 of 40 pictures were read, in shards of 8: two are done, the third is repeated."""
    job.write(40, usual="sleep 0.02")
    plan = job.plan()
    script = (
        "import sys; from pathlib import Path; from headway.jobs import run_local;"
        "from headway.jobs.plan import open_plan;"
        "run_local(plan := open_plan(Path(sys.argv[1])), range(plan.shards))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, plan.folder], env=environment)
    while job.calls().total() < 21:
        time.sleep(0.005)
    children = workers_of(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)  # a worker ends with its supervisor
    assert missing_shards(plan) == [2, 3, 4]
    before = job.calls()
    job.run(plan)
    again = {name for name, count in job.calls().items() if count > 1}
    assert again <= {f"{number:05d}.jpg" for number in range(16, 24)}
    assert before.total() >= 21
    assert failures(plan) == {}
    assert not [*plan.folder.glob("inflight-*")]


def test_a_picture_that_takes_the_whole_job_down_is_left_out_in_the_end(job: Job) -> None:
    """What a job leaves that was killed whole, as in a container without memory: the pictures that it had begun. They
    are tried by themselves; after two such ends over number 3 it is failed without a third look."""
    job.write(8)
    plan = job.plan()
    left = plan.folder / "inflight-00000"
    left.write_text('{"now": [3], "alone": true, "strikes": {"3": 1}}\n')
    job.run(plan)
    assert failures(plan) == {"00003.jpg": "its process was killed, and so was the whole job, twice over this picture"}
    assert "00003.jpg" not in job.calls()
    other = job.plan("other", notes="other-notes")
    (other.folder / "inflight-00000").write_text('{"now": [3, 4], "alone": false, "strikes": {}}\n')
    job.run(other)
    assert failures(other) == {}
    assert [name for name, count in job.calls("other-notes").items() if count == 2] == ["00003.jpg", "00004.jpg"]


def test_a_worker_that_cannot_start_ends_the_job_with_a_reason(job: Job) -> None:
    job.write(4)
    plan = job.plan()
    (job.root / "notes").mkdir()
    (job.root / "notes" / "cannot-start").touch()
    with pytest.raises(HeadwayError, match=r"ended 3 times before it saw a picture, .* exit code 7"):
        job.run(plan)


def test_a_full_disk_ends_the_job_and_the_same_call_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the machine's fault, and no picture's."""
    job.write(12, {9: "full"})
    plan = job.plan()
    with monkeypatch.context() as patch:
        patch.setenv("FULL_DISK", "1")
        with pytest.raises(HeadwayError, match="the machine cannot go on: No space left on device"):
            job.run(plan)
    assert missing_shards(plan) == [1]
    job.run(plan)
    assert failures(plan) == {}


def workers_of(pid: int) -> list[int]:
    """The worker processes of a supervisor."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"\nPPid:\t{pid}\n" in (folder / "status").read_text():
                found += [int(folder.name)] * (b"headway.jobs.child" in (folder / "cmdline").read_bytes())
        except OSError:
            continue
    return found
