"""What does not depend on the number of processes: an evaluation, and a training that goes on with another number."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from headway.errors import HeadwayError
from headway.train import TrainConfig
from headway.train.fit import fit
from headway.train.log import read_rows
from headway.train.state import read_state

from .test_resume import SETTINGS, run_child
from .tiny import make_data, make_model

RANKS = str(Path(__file__).parent / "ranks.py")
PLAIN: dict[str, Any] = SETTINGS | {"optimizer": "sgd", "preset": "none", "save_every": 0, "epochs": 2}


COUNTS, WORLDS = (7, 4), (1, 2, 3)


def job_of(root: Path, name: str, world: int, **changes: Any) -> dict[str, Any]:
    model = {"frozen_norm": True, "dropout": 0.3 if name in ("drop", "again") else 0.0}
    base = {"world": world, "data": str(root / "pictures"), "count": 20, "model": model, "resume": False, "stop_at": 0}
    return base | {"settings": PLAIN | {"out": str(root / name)}} | changes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the jobs of this file write, all started from one process that imports torch once."""
    root = tmp_path_factory.mktemp("ranks")
    make_data(root / "pictures", 20)
    make_data(root / "pictures", 5, seed=1, name="val")
    jobs: list[dict[str, Any]] = [
        *({"world": w, "count": n, "batch_size": 2, "out": str(root)} for n in COUNTS for w in WORLDS),
        job_of(root, "whole", 1),
        job_of(root, "up", 1, stop_at=7), job_of(root, "up", 2, resume=True),
        job_of(root, "down", 2, stop_at=7), job_of(root, "down", 1, resume=True),
        job_of(root, "drop", 1, stop_at=7), {"copy": [str(root / "drop"), str(root / "again")]},
        job_of(root, "drop", 2, resume=True), job_of(root, "again", 2, resume=True),
    ]  # fmt: skip
    run_child(RANKS, job=jobs)  # type: ignore[arg-type]
    return root


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_two_and_three_processes_measure_what_one_does(root: Path, count: int, world: int) -> None:
    """7 and 4 pictures in passes of 2, which neither 2 nor 3 processes share evenly. Each picture goes through one
    network once; detections are the same to the bit, loss and AP to 1e-6, in every process."""
    alone = json.loads((root / f"1-{count}-0.json").read_text())
    assert alone["ap"] > 0.2
    assert alone["losses"]["loss"] > 0
    assert alone["seen"] == count
    parts = [json.loads((root / f"{world}-{count}-{rank}.json").read_text()) for rank in range(world)]
    assert sum(part["seen"] for part in parts) == count
    assert max(part["seen"] for part in parts) < count
    for part in parts:
        assert part["rows"] == alone["rows"]
        assert part["losses"] == pytest.approx(alone["losses"], rel=0, abs=1e-6)
        assert part["ap"] == pytest.approx(alone["ap"], abs=1e-6)


@pytest.mark.parametrize(("name", "processes"), [("up", 2), ("down", 1)])
def test_a_run_goes_on_with_another_number_of_processes(root: Path, name: str, processes: int) -> None:
    """Stopped at step 7 of 10, in the middle of the second epoch: from one process to two and from two to one it ends
    with the weights of the run that was not stopped, and with its validations."""
    one, other = read_state(root / "whole"), read_state(root / name)
    assert one["progress"].step == other["progress"].step == 10
    assert len(other["random"]) == processes
    for key, value in one["model"].items():
        torch.testing.assert_close(other["model"][key], value, atol=1e-6, rtol=1e-5)
    mine, theirs = (read_rows(root / folder / "metrics.jsonl") for folder in ("whole", name))
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for a, b in zip(mine, theirs):
        for key in ("lr", "val_loss", "ap", "loss"):
            assert b.get(key) == (None if a.get(key) is None else pytest.approx(a[key], rel=1e-4, abs=1e-6))


def test_what_dropout_draws_with_another_number_of_processes_is_repeatable(root: Path) -> None:
    """The same state goes on with two processes twice, to the same bits; the two draw differently."""
    first, second = (load_file(root / folder / "last.safetensors") for folder in ("drop", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    states = read_state(root / "drop")["random"]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


def test_what_changes_with_the_number_of_processes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A state that two processes wrote; of 22 pictures in batches of 4 two are left, which one process trains on and
    two, with one each, do not."""
    data = make_data(tmp_path / "pictures", 22)
    config = TrainConfig(**PLAIN | {"epochs": 1}, out=tmp_path / "run")
    fit(make_model(), data, None, config)
    state = read_state(tmp_path / "run")
    from headway.train import start

    monkeypatch.setattr(start, "read_state", lambda folder: state | {"random": state["random"] * 2})
    fit(make_model(), data, None, config.changed(epochs=2), resume=True)
    told = " ".join(capfd.readouterr().err.split())
    assert "1 process(es) instead of 2 from step 6 on: the same batches" in told
    assert "an epoch has 6 batches from here on, with the short one at its end" in told


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from headway.train import start

    class Three:
        num_processes = 3

    monkeypatch.setattr(start, "Accelerator", lambda **_: Three())
    with pytest.raises(HeadwayError, match=r"batch_size 8 .* multiple of their number, 3: start 1, 2, 4 or 8 of them"):
        start.make_accelerator(TrainConfig(device="cpu", batch_size=8))


def test_processes_with_other_data_are_told_so() -> None:
    from headway.evaluate.processes import check_alike

    check_alike({"images": 3}, "training data", list)
    with pytest.raises(
        HeadwayError, match="process 1 has other training data than process 0: every node needs the same"
    ):
        check_alike({"images": 3}, "training data", lambda mine: [*mine, {"images": 4}])


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_a_wrong_silence_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from headway.evaluate.processes import patience

    monkeypatch.setitem(os.environ, "HEADWAY_SILENCE", text)
    with pytest.raises(HeadwayError, match=r"HEADWAY_SILENCE must be a number of seconds from 1 on, got"):
        patience()
