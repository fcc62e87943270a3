"""Jobs on a real Ray cluster of three nodes on this machine, whose workers, nodes and driver are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headway.jobs import Plan, Settings, make_plan, ray_runner, run_local
from headway.jobs.ray_runner import run_ray
from headway.jobs.runners import missing_shards
from headway.jobs.shard import Limits
from headway.jobs.sources import list_pictures

from .conftest import Job, failures, results

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head without CPUs and three nodes of one CPU."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    if old is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = old


@pytest.fixture
def connected(cluster) -> Iterator[object]:
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()


def run(plan: Plan, seconds: float = 5.0) -> None:
    run_ray(plan, missing_shards(plan), limits=Limits(seconds), device="cpu")


def after(job: Job, reads: int, act: Callable[[], object]) -> threading.Thread:
    """Does `act` when so many pictures were read."""

    def wait() -> None:
        while job.calls().total() < reads:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_three_nodes_give_the_bytes_of_one_process(job: Job, connected) -> None:
    """With a picture that raises, one that kills its process, and one that hangs."""
    job.write(40, {3: "raise", 17: "late abort", 30: "hang"})
    here, there = job.plan("here", notes="here-notes"), job.plan("there", notes="there-notes")
    run_local(here, range(here.shards), limits=Limits(0.5))
    run(there, 0.5)
    assert failures(there).keys() == {"00003.jpg", "00017.jpg", "00030.jpg"}
    mine, theirs = results(here), results(there)
    for name in ("predictions.json", "failed.jsonl"):
        assert mine[name] == theirs[name]


def test_the_driver_writes_the_pictures_that_nodes_draw(job: Job, connected, tmp_path: Path) -> None:
    job.write(20, {3: "undrawable"})
    found = []
    for name in ("here", "there"):
        settings = Settings(str(tmp_path / "notes"), detector="fake_detector:Fake", shard_size=8, pictures=True)
        plan = make_plan(tmp_path / name, settings, list_pictures([str(tmp_path / "in")]), str(tmp_path))
        run_local(plan, range(plan.shards)) if name == "here" else run(plan)
        assert failures(plan) == {"00003.jpg": "it cannot be drawn: RuntimeError: no canvas for 00003.jpg"}
        files = [*(plan.folder / "pictures").rglob("*.jpg")]
        found.append({file.relative_to(plan.folder): file.read_bytes() for file in files})
    assert found[0] == found[1]
    assert len(found[0]) == 19


def test_a_killed_worker_and_a_killed_node_lose_nothing(job: Job, connected) -> None:
    """An actor's process is killed, then a node with everything on it; a new node comes."""
    job.write(60, usual="sleep 0.05")
    plan = job.plan()

    node = connected.add_node(num_cpus=1)
    threads = [
        after(job, 12, lambda: os.kill(job.busy(), signal.SIGKILL)),
        after(job, 24, lambda: connected.remove_node(node, allow_graceful=False)),
    ]
    run(plan)
    for thread in threads:
        thread.join()
    assert failures(plan) == {}
    assert 2 <= max(job.calls().values()) <= 3  # each of the two faults may repeat a picture once


def test_a_killed_driver_goes_on_with_the_shards_that_are_left(job: Job, cluster) -> None:
    job.write(40, usual="sleep 0.05")
    plan = job.plan()
    script = (
        "import sys; from pathlib import Path; from headway.jobs.plan import open_plan;"
        "from headway.jobs.ray_runner import run_ray; plan = open_plan(Path(sys.argv[1]));"
        "run_ray(plan, range(plan.shards), sys.argv[2], device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", script, plan.folder, cluster.address])
    while len(missing_shards(plan)) > 3:
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = missing_shards(plan)
    assert 0 < len(left) <= 3
    done = {picture.location for shard in range(plan.shards) if shard not in left for picture in plan.pictures(shard)}
    before = job.calls()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        run(plan)
    finally:
        ray.shutdown()
    assert failures(plan) == {}
    assert all(job.calls()[Path(location).name] == before[Path(location).name] for location in done)


def test_a_node_with_a_full_disk_is_left_out(job: Job, connected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is one that a machine with a full disk cannot do; the fourth node is such a machine."""
    job.write(60, usual="full sleep 0.05")
    plan = job.plan()
    with monkeypatch.context() as patch:
        patch.setenv("FULL_DISK", "1")
        node = connected.add_node(num_cpus=1)
    run(plan)
    connected.remove_node(node)
    assert failures(plan) == {}
    assert 1 <= sum(count - 1 for count in job.calls().values()) <= 3


def test_an_actor_that_falls_silent_loses_its_shard_to_another(
    job: Job, connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a cut cable: it is stopped, so that no connection ends and no answer comes."""
    monkeypatch.setattr(ray_runner, "LEASE", 2.0)
    monkeypatch.setattr(ray_runner, "_ASK", 0.3)
    job.write(60, usual="sleep 0.05")
    plan = job.plan()
    thread = after(job, 12, lambda: os.kill(job.busy(), signal.SIGSTOP))
    run(plan)
    thread.join()
    assert failures(plan) == {}
    assert max(job.calls().values()) == 2
