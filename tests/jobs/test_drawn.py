"""Pictures that a job draws on request: written whole, once more after a kill, under names of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.jobs import Plan, Settings, make_plan, run_local
from headway.jobs.drawn import name_of
from headway.jobs.runners import missing_shards
from headway.jobs.shard import Limits
from headway.jobs.sources import list_pictures

from .conftest import Job, failures, results


def drawn(plan: Plan) -> dict[str, bytes]:
    """What lies in the folder of pictures, by name."""
    files = [path for path in (plan.folder / "pictures").rglob("*") if path.is_file()]
    return {path.relative_to(plan.folder).as_posix(): path.read_bytes() for path in files}


def planned(job: Job, name: str, pictures: bool = True) -> Plan:
    settings = Settings(
        model=str(job.root / f"{name}-notes"), detector="fake_detector:Fake", shard_size=8, pictures=pictures
    )
    return make_plan(job.root / name, settings, list_pictures([str(job.root / "in")]), str(job.root))


def test_every_picture_is_drawn_once_whoever_draws_it(job: Job) -> None:
    job.write(20)
    (job.root / "in/a").mkdir()
    for number in range(2):  # the same name in another folder
        (job.root / f"in/a/{number:05d}.jpg").write_text("fine")
    plain, one, two = planned(job, "plain", pictures=False), planned(job, "one"), planned(job, "two")
    for plan, workers in ((plain, 1), (one, 1), (two, 2)):
        run_local(plan, range(plan.shards), workers)
    assert not (plain.folder / "pictures").exists()
    assert drawn(one) == drawn(two)
    assert len(drawn(one)) == 22
    assert results(one)["predictions.json"] == results(two)["predictions.json"] == results(plain)["predictions.json"]
    rows = [json.loads(line) for shard in range(one.shards) for line in one.part(shard).read_text().splitlines()]
    named = {row["picture"]: row["file_name"] for row in rows if "file_name" in row}
    assert {name: f"drawn {Path(file).name}".encode() for name, file in named.items()} == drawn(one)


def test_a_job_goes_on_with_pictures_and_faults(job: Job) -> None:
    """One picture cannot be drawn, one kills its process while it is drawn; a part and its pictures are lost."""
    job.write(20, {3: "undrawable", 9: "deadly"})
    plan = planned(job, "job")
    run_local(plan, range(plan.shards), limits=Limits(5))
    assert failures(plan) == {
        "00003.jpg": "it cannot be drawn: RuntimeError: no canvas for 00003.jpg",
        "00009.jpg": "it killed its process by SIGKILL",
    }
    before = drawn(plan)
    assert len(before) == 18
    for name in [name for name in before if name.startswith("pictures/00001/")][:3]:
        (plan.folder / name).unlink()
    plan.part(1).unlink()
    assert missing_shards(plan) == [1]
    run_local(plan, [1], limits=Limits(5))
    assert drawn(plan) == before


def test_a_folder_that_cannot_be_written_is_the_machines_fault(job: Job) -> None:
    job.write(4)
    plan = planned(job, "job")
    (plan.folder / "pictures").write_text("in the way")
    with pytest.raises(HeadwayError, match=r"the machine cannot go on: .* cannot be written"):
        run_local(plan, range(plan.shards))
    (plan.folder / "pictures").unlink()
    run_local(plan, missing_shards(plan))
    assert len(drawn(plan)) == 4


def test_a_job_with_pictures_is_another_than_one_without(job: Job) -> None:
    job.write(4)
    planned(job, "job", pictures=False)
    with pytest.raises(HeadwayError, match="is a job with --pictures False, got True: name another --out"):
        make_plan(
            job.root / "job",
            Settings(model=str(job.root / "job-notes"), detector="fake_detector:Fake", shard_size=8, pictures=True),
            list_pictures([str(job.root / "in")]), str(job.root),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("s3://b/day 1/a.png", "a"),
        ("/x/üb er%20.JPG", "üb_er_20"),
        ("a" * 300 + ".jpg", "a" * 40),
        ("x/\udcff.jpg", "_"),
        ("..", ".."),
    ],
)
def test_names_are_short_and_plain(location: str, name: str) -> None:
    assert name_of(1, 3, location) == f"pictures/00001/00003-{name}.jpg"
