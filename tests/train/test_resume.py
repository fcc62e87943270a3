"""Runs that are killed, stopped or spread over processes end with the weights of the run that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from headway.data.dataset import DetectionData
from headway.errors import CheckpointError, HeadwayError
from headway.train import TrainConfig
from headway.train.fit import TrainingStopped, fit
from headway.train.log import read_rows
from headway.train.optim import rate_factor
from headway.train.state import STATE, read_state

from .tiny import TinyHead, make_data, make_model

CHILD = str(Path(__file__).parent / "child.py")
SETTINGS: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "learning_rate": 0.01, "base_batch_size": 4, "ema": 0.9, "save_every": 2,
    "log_every": 2, "device": "cpu", "warmup_steps": 3,
}  # fmt: skip
YOLO: dict[str, Any] = {
    "preset": "yolo", "mosaic9": 0.5, "mixup": 0.5, "optimizer": "sgd", "momentum": 0.937, "nesterov": True,
    "momentum_warmup": 0.8, "bias_warmup": 10.0, "schedule": "cosine_epochs", "ema_warmup": 5, "learning_rate": 0.001,
    "rotate": 10.0, "decay_batch_size": 64, "warmup_steps": 8,
}  # fmt: skip
TIMES = ("seconds", "images_per_s")


def run_child(*command: str, job: dict[str, Any]) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = (sys.executable, *command, json.dumps(job))
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = child.communicate(timeout=300)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)  # the processes that a launcher started as well
        raise
    assert child.returncode == 0, errors[-3000:]
    return output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rows_without_times(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: training weights, running mean, optimizer and what was logged."""
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name
    a, b = read_state(one), read_state(other)
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
    for slot, values in a["optimizer"]["state"].items():
        assert all(torch.equal(v, b["optimizer"]["state"][slot][k]) for k, v in values.items())
    assert rows_without_times(one) == rows_without_times(other)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    make_data(folder, 20)
    make_data(folder, 4, seed=1, name="val")
    return folder


def test_sigkill_anywhere_changes_nothing(tmp_path: Path, data: Path) -> None:
    """Fifteen steps with dropout and augmentation; killed at drawn moments and in the middle of writes."""
    draw = random.Random(5)
    moments: list[tuple[str, float]] = [("seconds", round(draw.uniform(0.1, 1.5), 3)) for _ in range(5)]
    writes: list[tuple[str, float]] = [("fsync", 2), ("replace", 4), ("fsync", 3), ("truncate", 1), ("replace", 5)]
    job = {"data": str(data), "model": {}, "settings": SETTINGS | {"out": str(tmp_path / "killed")}}
    died = int(run_child(CHILD, "kills", job=job | {"kills": [*writes, *moments]}).split()[-1])
    assert died >= len(writes) - 1
    whole = job | {"settings": SETTINGS | {"out": str(tmp_path / "whole")}, "kills": []}
    assert int(run_child(CHILD, "kills", job=whole).split()[-1]) == 0
    assert read_state(tmp_path / "whole")["progress"].step == 15
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob("*.part"))


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_equal_one(tmp_path: Path, data: Path, launcher: str) -> None:
    """Batch norms frozen, pictures of one size, no dropout: gradients of halves average to those of the whole."""
    settings = SETTINGS | {"optimizer": "sgd", "preset": "none", "accumulate": 2, "clip_grad": 1.0}
    job: dict[str, Any] = {"data": str(data), "model": {"frozen_norm": True, "dropout": 0.0}}
    launch = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
                       "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={free_port()}"],
    }[launcher]  # fmt: skip
    run_child("-m", *launch, CHILD, "train", job=job | {"settings": settings | {"out": str(tmp_path / "two")}})
    train, val = make_data(data, 20), make_data(data, 4, seed=1, name="val")
    fit(make_model(**job["model"]), train, val, TrainConfig(**settings, out=tmp_path / "one"))
    one, two = read_state(tmp_path / "one"), read_state(tmp_path / "two")
    assert one["progress"].step == two["progress"].step == 9
    assert len(two["random"]) == 2
    start = make_model(frozen_norm=True, dropout=0.0).state_dict()
    assert any((start[k] - v).abs().max() > 1e-2 for k, v in one["model"].items())
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(rows_without_times(tmp_path / "one"), rows_without_times(tmp_path / "two")):
        assert ours.keys() == theirs.keys()
        numbers = {k: v for k, v in ours.items() if isinstance(v, float)}
        assert numbers == pytest.approx({k: theirs[k] for k in numbers}, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, YOLO], ids=["small", "yolo"])
def test_ctrl_c_saves_and_resumes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    train, val = make_data(data, 20), make_data(data, 4, seed=1, name="val")
    settings = SETTINGS | changes
    fit(make_model(), train, val, TrainConfig(**settings, out=tmp_path / "whole"))

    model = make_model()
    original, calls = model.head.loss, [0]

    def loss(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(model.head, "loss", loss)
    before = signal.getsignal(signal.SIGINT)
    config = TrainConfig(**settings, out=tmp_path / "stopped")
    with pytest.raises(TrainingStopped, match=r"epoch 1, step 3.*resume=True"):
        fit(model, train, val, config)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_state(tmp_path / "stopped")["progress"].step == 3
    fit(make_model(seed=9), train, val, config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    again = (tmp_path / "stopped" / "metrics.jsonl").read_bytes()
    fit(make_model(seed=9), train, val, config, resume=True)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == again


def test_a_signal_before_the_first_step_ends_the_process(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process of several may wait for another there without end, deaf to a signal that is only noted."""
    seen: list[Any] = []

    def start(*_: Any) -> Any:
        seen.append(signal.getsignal(signal.SIGTERM))
        raise HeadwayError("this process ends")

    monkeypatch.setattr("headway.train.fit.start", start)
    train = make_data(data, 20)
    with pytest.raises(HeadwayError, match="this process ends"):
        fit(make_model(), train, None, TrainConfig(**SETTINGS, out=tmp_path / "run"))
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_what_may_not_be_resumed_is_refused_by_name(tmp_path: Path, data: Path) -> None:
    train, val = make_data(data, 20), make_data(data, 4, seed=1, name="val")
    config = TrainConfig(**SETTINGS | {"epochs": 1}, out=tmp_path / "run")
    with pytest.raises(HeadwayError, match="nothing to resume"):
        fit(make_model(), train, val, config, resume=True)
    fit(make_model(), train, val, config)
    kept = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(HeadwayError, match="is not empty; nothing is overwritten"):
        fit(make_model(), train, val, config)
    with pytest.raises(HeadwayError, match=r"other settings \(learning_rate: 0\.01 -> 0\.5\)"):
        fit(make_model(), train, val, config.changed(epochs=2, learning_rate=0.5), resume=True)
    wider = make_model()
    wider.head.classes = torch.nn.Conv2d(16, 3, 1)
    with pytest.raises(HeadwayError, match="another model"):
        fit(wider, train, val, config, resume=True)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == kept
    assert TrainConfig.load(tmp_path / "run" / "config.json").epochs == 1
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        fit(make_model(), train, val, config, resume=True)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"no state"])
def test_a_damaged_state_is_told(tmp_path: Path, content: bytes) -> None:
    """Failed before with an IndexError: what torch raises for a file that is cut off has no text."""
    (tmp_path / STATE).parent.mkdir(exist_ok=True)
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or not a training state: "):
        read_state(tmp_path)


def boxes_moved(data: DetectionData) -> DetectionData:
    first = data.records[0]
    return replace(data, records=[replace(first, boxes=first.boxes + 1), *data.records[1:]])


def labels_swapped(data: DetectionData) -> DetectionData:
    first = data.records[0]
    return replace(data, records=[replace(first, labels=(first.labels + 1) % 3), *data.records[1:]])


def reversed_order(data: DetectionData) -> DetectionData:
    return replace(data, records=data.records[::-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.subset(list(range(19)), "train"), r"images: 20 -> 19"),
        (boxes_moved, r"training: other boxes\)"),
        (labels_swapped, r"training: other labels\)"),
        (reversed_order, r"training: other pictures; other boxes; other labels\)"),
    ],
)
def test_other_data_is_not_resumed(tmp_path: Path, data: Path, change: Any, words: str) -> None:
    """Counts and class names are the same in all but the first. The same pictures in another folder are the same."""
    train = make_data(data, 20)
    config = TrainConfig(**SETTINGS | {"epochs": 1}, out=tmp_path / "run")
    fit(make_model(), train, None, config)
    with pytest.raises(HeadwayError, match=words):
        fit(make_model(), change(train), None, config, resume=True)
    fit(make_model(), make_data(tmp_path / "moved", 20), None, config, resume=True)


def test_other_or_missing_validation_data_is_not_resumed(tmp_path: Path, data: Path) -> None:
    train, val = make_data(data, 20), make_data(data, 4, seed=1, name="val")
    config = TrainConfig(**SETTINGS | {"epochs": 1}, out=tmp_path / "run")
    fit(make_model(), train, val, config)
    with pytest.raises(HeadwayError, match="had validation data, and now there is none"):
        fit(make_model(), train, None, config, resume=True)
    with pytest.raises(HeadwayError, match=r"validation: other boxes\)"):
        fit(make_model(), train, boxes_moved(val), config, resume=True)


def test_a_finished_run_is_trained_longer(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """2 epochs, then 4: the last two follow the cosine over all 4, and fewer are refused."""
    train, val = make_data(data, 20), make_data(data, 4, seed=1, name="val")
    config = TrainConfig(**SETTINGS | {"epochs": 2, "log_every": 1}, out=tmp_path / "run")
    fit(make_model(), train, val, config)
    fit(make_model(seed=9), train, val, config.changed(epochs=4), resume=True)
    assert "4 epochs instead of 2" in capfd.readouterr().err
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [r["epoch"] for r in rows if r["kind"] == "epoch"] == [1, 2, 3, 4]
    rates = [r["lr"] for r in rows if r["kind"] == "step"]
    assert rates[11] == pytest.approx(config.learning_rate * rate_factor(11, 20, 5, config.changed(epochs=4)))
    assert TrainConfig.load(tmp_path / "run" / "config.json").epochs == 4
    assert read_state(tmp_path / "run")["progress"].finished
    with pytest.raises(HeadwayError, match=r"epochs: 4 -> 3"):
        fit(make_model(), train, val, config.changed(epochs=3), resume=True)


def test_a_signal_in_validation_is_noticed_after_one_batch(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of validation in the only epoch; SIGTERM comes in the first. Resumed, nothing is different."""
    train, val = make_data(data, 20), make_data(data, 12, seed=1, name="val")
    settings = SETTINGS | {"epochs": 1}
    fit(make_model(), train, val, TrainConfig(**settings, out=tmp_path / "whole"))
    calls = [0]
    original = TinyHead.decode

    def decode(head: TinyHead, raw: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(head, raw)

    monkeypatch.setattr(TinyHead, "decode", decode)
    config = TrainConfig(**settings, out=tmp_path / "stopped")
    with pytest.raises(TrainingStopped, match=rf"the same call with out='{tmp_path}/stopped' and resume=True goes on"):
        fit(make_model(), train, val, config)
    assert calls[0] == 1
    fit(make_model(seed=9), train, val, config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
