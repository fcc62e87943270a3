"""A share that goes away while a job runs: the job waits, then ends with a reason, and no picture is failed for it."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.jobs import outage, run_local, shard
from headway.jobs.outage import gone
from headway.jobs.runners import missing_shards
from headway.jobs.shard import Limits

from .conftest import Job, failures

MISSING = FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """a/1.jpg, a/2.jpg, b/3.jpg below the job's folder."""
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        path = tmp_path / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    return tmp_path / "share"


def why(share: Path, name: str, error: OSError = MISSING) -> str | None:
    return gone(str(share / name), "/", str(share), error)


def test_a_picture_or_a_folder_that_was_deleted_is_the_pictures_own(share: Path) -> None:
    (share / "a/1.jpg").unlink()
    assert why(share, "a/1.jpg") is None
    (share / "b/3.jpg").unlink()
    assert why(share, "b/3.jpg") is None  # its folder is empty now, and the job's is not
    (share / "b").rmdir()
    assert why(share, "b/3.jpg") is None


def test_an_unmounted_share_is_gone(share: Path) -> None:
    away = share.rename(share.with_name("away"))
    assert why(share, "a/1.jpg") == f"there is no {share}"
    share.mkdir()  # the empty place where it was mounted
    assert why(share, "a/1.jpg") == f"there is no {share / 'a'}"
    share.rmdir()
    away.rename(share)
    assert why(share, "a/1.jpg") is None


def test_two_shares_have_only_their_parent_in_common(share: Path) -> None:
    """One of them is unmounted: the place where it was is empty."""
    (share / "a").rename(share.with_name("away"))
    (share / "a").mkdir()
    assert why(share, "a/sub/1.jpg") == f"there is no {share / 'a/sub'}"


def test_a_damaged_file_has_neighbours_that_can_be_read(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = OSError(errno.ESTALE, "Stale file handle")
    assert why(share, "a/1.jpg", stale) is None

    def broken(*_: object) -> None:
        raise stale

    monkeypatch.setattr(outage, "open", broken, raising=False)
    assert why(share, "a/1.jpg", stale) == f"no file in {share / 'a'} can be read: Stale file handle"


def test_content_is_the_pictures_own_and_nobody_is_asked(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_of_folder", lambda *_: "gone")
    assert gone(str(share / "a/1.jpg"), "/", str(share), OSError("image file is truncated")) is None
    assert gone("https://example.org/1.jpg", "/", "", MISSING) is None
    assert why(share, "a/1.jpg") == "gone"


def test_a_folder_that_does_not_answer_is_gone(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_PROBE", 0.05)
    monkeypatch.setattr(outage, "_of_folder", lambda *_: time.sleep(1))
    assert why(share, "a/1.jpg") == f"{share / 'a'} does not answer"


def test_storage_that_answers_lacks_the_object_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    assert gone("memory://bucket/1.jpg", "/", "", OSError("reset")) is None

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "info", down)
    said = gone("memory://bucket/1.jpg", "/", "", OSError("reset"))
    assert said == "memory://bucket does not answer: connection refused"


@pytest.fixture
def away(job: Job) -> Iterator[threading.Event]:
    """The job's pictures are gone when twelve were read, and come back when the event is set."""
    job.write(40, usual="sleep 0.01")
    back = threading.Event()

    def leave() -> None:
        while job.calls().total() < 12:
            time.sleep(0.005)
        (job.root / "in").rename(job.root / "away")
        back.wait()
        (job.root / "away").rename(job.root / "in")

    thread = threading.Thread(target=leave)
    plan = job.plan()  # before they go
    assert plan.common == str(job.root / "in")
    thread.start()
    yield back
    back.set()
    thread.join()


def test_a_job_waits_for_its_pictures(job: Job, away: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    plan, ended = job.plan(), threading.Event()

    def come() -> None:
        while "waiting" not in caplog.text and not ended.wait(0.01):
            pass
        away.set()

    thread = threading.Thread(target=come)
    thread.start()
    try:
        with caplog.at_level(logging.WARNING, "headway"):
            job.run(plan, seconds=1.0)
    finally:
        ended.set()
        thread.join()
    assert failures(plan) == {}
    assert f"waiting for the pictures: there is no {job.root / 'in'}" in caplog.text
    assert "the pictures are back" in caplog.text


def test_a_job_ends_where_they_do_not_come_back_and_goes_on_later(job: Job, away: threading.Event) -> None:
    plan = job.plan()
    with pytest.raises(HeadwayError, match=rf"there is no {job.root}/in, where pictures were planned, for 0.3 s; when"):
        run_local(plan, missing_shards(plan), limits=Limits(5.0, outage=0.3))
    assert 0 < len(missing_shards(plan)) < plan.shards
    away.set()
    while not (job.root / "in").exists():
        time.sleep(0.01)
    job.run(plan)
    assert failures(plan) == {}


def test_a_picture_whose_folder_does_not_answer_in_time_is_not_failed(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Number 5 hangs three times; twice its folder does not answer, and the third time it does: one strike."""
    job.write(8, {5: "hang thrice"})
    plan = job.plan()
    answers = iter(["the share does not answer"] * 2)
    monkeypatch.setattr(shard, "gone", lambda *_: next(answers, None))
    job.run(plan, seconds=0.4)
    assert failures(plan) == {}
    assert "waiting for the pictures: the share does not answer" in caplog.text


def test_one_file_that_cannot_be_read_is_one_row(job: Job) -> None:
    job.write(12, {5: "damaged"})
    plan = job.plan()
    job.run(plan)
    assert failures(plan) == {"00005.jpg": "OSError: [Errno 5] Input/output error"}


def test_a_picture_that_was_deleted_is_one_row(job: Job) -> None:
    job.write(12)
    plan = job.plan()
    os.unlink(job.root / "in/00005.jpg")
    job.run(plan)
    assert list(failures(plan)) == ["00005.jpg"]
