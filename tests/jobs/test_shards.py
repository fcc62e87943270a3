"""Pictures of a job that lie in tar shards: each is read where it lies, as the file of its own would be."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from headway.errors import DataError
from headway.jobs import Settings, make_plan, run_local
from headway.jobs.shard import Limits
from headway.jobs.sources import list_pictures, read_bytes

from .conftest import Job, failures


def write(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def test_a_job_over_shards(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pictures of two shards, beside members that are none; one raises."""
    monkeypatch.chdir(job.root)
    write(job.root / "in/0.tar", {"a.jpg": "fine", "a.json": "{}", "._a.jpg": "x"})
    write(job.root / "in/1.tar", {"b.jpg": "raise", "b/c.png": "fine"})
    settings = Settings(model=str(job.root / "notes"), detector="fake_detector:Fake", shard_size=2)
    plan = make_plan(job.root / "job", settings, list_pictures(["in/{0..1}.tar"]))
    rows = [tuple(picture) for shard in range(plan.shards) for picture in plan.pictures(shard)]
    assert rows == [("in/0.tar/a.jpg", 4, "a"), ("in/1.tar/b/c.png", 4, "c"), ("in/1.tar/b.jpg", 5, "b")]
    run_local(plan, range(plan.shards))
    assert failures(plan) == {"b.jpg": "RuntimeError: cannot see b.jpg"}
    found = json.loads((plan.folder / "predictions.json").read_text())
    assert [row["file_name"] for row in found] == ["in/0.tar/a.jpg", "in/1.tar/b/c.png"]
    assert [*list_pictures(["in/*.tar"])] == [*list_pictures(["in/{0..1}.tar"])]


@pytest.mark.parametrize("name", ["0.tar", "0.TAR", "a.tar/0.tar"])
def test_a_picture_that_hangs_in_the_only_shard_is_one_row(job: Job, name: str) -> None:
    """The shard is there, so that nothing is waited for. Its name and its folder may end as they like."""
    path = job.root / "in" / name
    path.parent.mkdir(exist_ok=True)
    write(path, {"a.jpg": "fine", "b.jpg": "hang", "c.jpg": "damaged"})
    settings = Settings(model=str(job.root / "notes"), detector="fake_detector:Fake", shard_size=4)
    plan = make_plan(job.root / "job", settings, list_pictures([str(path)]))
    run_local(plan, [0], limits=Limits(0.4, outage=1.0))
    reasons = {"b.jpg": "it took longer than 0.4 s", "c.jpg": "OSError: [Errno 5] Input/output error"}
    assert failures(plan) == reasons


def test_shards_that_cannot_be_read_end_the_plan_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"a.txt": "fine"})
    with pytest.raises(DataError, match=r"0.tar holds no picture; expected files with a picture's ending"):
        [*list_pictures([str(tmp_path / "0.tar")])]
    with pytest.raises(DataError, match=rf"{tmp_path} holds no picture; name its tar shards, as '{tmp_path}/\*.tar'"):
        [*list_pictures([str(tmp_path)])]
    (tmp_path / "1.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match=r"1.tar is no tar file in POSIX or GNU form"):
        [*list_pictures([str(tmp_path / "1.tar")])]
    (tmp_path / "2.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"2.tar.gz is compressed"):
        [*list_pictures([str(tmp_path / "2.tar.gz")])]
    with pytest.raises(DataError, match=r"gone.jpg is not in its tar shard; plan the job anew"):
        read_bytes("0.tar/gone.jpg", str(tmp_path))
