"""Jobs with a detector that does what the pictures say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from headway.jobs import Plan, Settings, make_plan, merge, run_local
from headway.jobs.runners import missing_shards
from headway.jobs.shard import Limits
from headway.jobs.sources import list_pictures


class Job:
    """Pictures in `root/in`, the notes of the detector in `root/notes`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "in").mkdir()

    def write(self, count: int, special: dict[int, str] | None = None, usual: str = "fine") -> None:
        """Pictures 00000.jpg and so on; special: the texts of some."""
        for number in range(count):
            (self.root / "in" / f"{number:05d}.jpg").write_text((special or {}).get(number, usual))

    def plan(self, name: str = "job", shard_size: int = 8, notes: str = "notes") -> Plan:
        settings = Settings(model=str(self.root / notes), detector="fake_detector:Fake", shard_size=shard_size)
        return make_plan(self.root / name, settings, list_pictures([str(self.root / "in")]), str(self.root))

    def run(self, plan: Plan, workers: int = 1, seconds: float = 5.0) -> None:
        run_local(plan, missing_shards(plan), workers, limits=Limits(seconds))

    def calls(self, notes: str = "notes") -> Counter[str]:
        """How often each picture was read."""
        path = self.root / notes / "calls.txt"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def busy(self, notes: str = "notes") -> int:
        """The process that supervises the worker which read a picture last."""
        while not (text := (self.root / notes / "busy.txt").read_text()):
            pass
        return int(text)


def results(plan: Plan) -> dict[str, bytes]:
    """What a job wrote, by name, without what names the plan's moment."""
    merge(plan)
    names = ["predictions.json", "failed.jsonl", "summary.json", *(plan.part(s).name for s in range(plan.shards))]
    return {name: (plan.folder / name).read_bytes() for name in names}


def failures(plan: Plan) -> dict[str, str]:
    """Reason by name of the picture."""
    merge(plan)
    lines = (plan.folder / "failed.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["file_name"] for row in rows}) == len(rows)
    return {Path(row["file_name"]).name: row["error"] for row in rows}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return Job(tmp_path)
