"""The parts of a training step: they make up the step, and watching changes nothing."""

import json
from itertools import islice

import pytest
import torch
from torch import nn

import headway
from headway.cli import main
from headway.demo import DATA
from headway.detector import Detector
from headway.train.fit import one_step
from headway.train.recipes import recipe
from headway.train.timing import PARTS, made_batches, open_session, time_loading, time_steps

SETTINGS = recipe("small").changed(batch_size=2, device="cpu", warmup_steps=0)


def make(neck: bool = True) -> Detector:
    torch.manual_seed(0)
    model = headway.create_model("fcos_r18_fpn", num_classes=3, channels=32, tower_depth=1)
    if neck:
        return model
    return Detector(nn.Sequential(model.backbone, model.neck), None, model.head, model.card)


def batches(model: Detector, size: tuple[int, int] = (64, 96)):
    return made_batches(model.card, 2, size)


def test_the_parts_make_up_the_step_and_change_nothing():
    """The losses are those of steps that nobody watches, to the bit; afterwards no hook is left."""
    model = make()
    run = open_session(model, SETTINGS, steps=3)
    timing = time_steps(run, batches(model), repeats=2, warmup=1)
    assert tuple(timing.parts) == PARTS
    assert all(timing.parts[name] > 0 for name in PARTS)
    assert len(timing.seconds) == len(timing.losses) == 2
    model = make()
    plain = open_session(model, SETTINGS, steps=3)
    losses = [one_step(plain, [batch], [])[0]["loss"] for batch in islice(batches(model), 3)]
    assert timing.losses == losses[1:]
    assert losses[2] != losses[1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.core.modules())
    assert "loss" not in vars(run.core)
    assert "backward" not in vars(run.accelerator)
    assert not run.optimizer.optimizer._optimizer_step_pre_hooks


def test_without_a_neck_the_head_keeps_its_time():
    model = make(neck=False)
    timing = time_steps(open_session(model, SETTINGS, steps=2), batches(model), repeats=1, warmup=1)
    assert timing.parts["neck"] == timing.parts["neck, backward"] == 0
    assert timing.parts["head, backward"] > 0
    assert timing.parts["backbone, backward"] > 0


def test_made_batches_are_valid_targets():
    model = make()
    batch = next(batches(model))
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    limit = torch.tensor([96, 64, 96, 64])
    for target in batch.targets:
        assert ((target.boxes >= 0) & (target.boxes <= limit)).all()
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
    assert torch.equal(batch.images, next(batches(model)).images)


def test_loading_counts_pictures_not_batches(monkeypatch):
    """Three batches of 2 pictures in 3 seconds, after one that is not counted."""
    moments = iter([10.0, 13.0])
    monkeypatch.setattr("headway.train.timing.time.perf_counter", lambda: next(moments))
    assert time_loading(batches(make()), warmup=1, most=3) == 2.0


def bench(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    command = ["bench", "fcos_r18_fpn", "--size", "64", "64", "--batch", "2", "--repeats", "1", *options]
    assert main(command) == 0
    return capsys.readouterr().out


def test_bench_train_tells_the_parts(capsys):
    lines = bench(capsys, "--train").splitlines()
    assert lines[0].startswith("training of fcos_r18_fpn at 64x64, batch 2, fp32, cpu")
    labels = [line[:22].strip() for line in lines[lines.index("") + 3 :]]
    assert labels == ["waiting for pictures", "normalize", "backbone", "neck", "head", "assignment and loss",
                      "gradient clipping", "optimizer", "schedule and EMA"]  # fmt: skip


def test_bench_data_tells_what_arrives(capsys):
    found = json.loads(bench(capsys, "--data", str(DATA), "--json"))
    assert found["arriving_per_s"] > 0
    assert found["images_per_s"] > 0
    assert set(found["parts_ms"]) == set(PARTS)
    assert found["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["photos.onnx", "--train"], "no checkpoint or run folder at photos.onnx"),
        (["fcos_r18_fpn", "--train", "--recipe", "mmdet_3x"], "did you mean mmdet_2x"),
    ],
)
def test_what_cannot_be_meant_is_told(options, expected, capsys):
    assert main(["bench", *options]) in (1, 2)
    assert expected in capsys.readouterr().err
