"""The loop: what it learns, keeps, refuses, and what it does when a step breaks."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from headway.checkpoint import load, read_card
from headway.data.dataset import DetectionData
from headway.errors import HeadwayError
from headway.evaluate.coco import evaluate
from headway.evaluate.run import measure
from headway.train import TrainConfig
from headway.train import fit as fit_module
from headway.train.fit import NonFiniteLoss, fit
from headway.train.log import read_rows
from headway.train.start import training_loader
from headway.train.state import read_state

from .tiny import NAMES, make_data, make_model


@pytest.fixture
def splits(tmp_path: Path) -> tuple[DetectionData, DetectionData]:
    return make_data(tmp_path / "a", 16), make_data(tmp_path / "b", 4, seed=1, name="val")


def settings(tmp_path: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": tmp_path / "run", "epochs": 2, "batch_size": 4, "base_batch_size": 0, "learning_rate": 0.01,
        "preset": "none", "device": "cpu", "log_every": 2, "warmup_steps": 2, "ema": 0.0,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def test_a_run_learns_and_leaves_what_it_promises(tmp_path: Path, splits: Any) -> None:
    train, val = splits
    model = make_model(dropout=0.0)
    folder = fit(model, train, val, settings(tmp_path, epochs=40, ema=0.9, input_size=(64, 96)))
    assert folder == tmp_path / "run"
    rows = read_rows(folder / "metrics.jsonl")
    steps, epochs = ([r for r in rows if r["kind"] == kind] for kind in ("step", "epoch"))
    assert [r["step"] for r in steps] == list(range(2, 161, 2))
    assert [r["epoch"] for r in epochs] == list(range(1, 41))
    assert epochs[-1]["train_loss"] < 0.15 * epochs[0]["train_loss"]
    assert all(r["loss"] == pytest.approx(r["loss/classes"] + r["loss/boxes"], rel=1e-4) for r in steps)
    best = max(epochs, key=lambda r: r["ap"])
    assert best["ap50"] > 0.3
    card = read_card(folder / "best.safetensors")
    assert card.metrics["ap"] == pytest.approx(best["ap"], abs=1e-6)
    assert card.training["epoch"] == best["epoch"]
    assert (card.input_size, card.category_ids, card.class_names) == ((64, 96), (1, 2, 3), NAMES)
    found = evaluate(measure(load(folder / "best.safetensors"), val, batch_size=8).rows, val)
    assert card.thresholds == pytest.approx(found.thresholds(), abs=1e-5)
    assert any(limit is not None for limit in card.thresholds)
    assert TrainConfig.from_dict(card.training["config"]) == TrainConfig.load(folder / "config.json")
    state, last = read_state(folder), load_file(folder / "last.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, last[key])
        assert torch.equal(value, state["ema"][f"module.{key}"])
    assert any(not torch.equal(state["model"][k], v) for k, v in last.items())
    assert not model.training
    pixels = np.asarray(Image.open(folder / "curve.png").convert("RGB"))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_without_validation_there_is_no_best(tmp_path: Path, splits: Any) -> None:
    folder = fit(make_model(), splits[0], None, settings(tmp_path, log_every=100))
    assert [row["kind"] for row in read_rows(folder / "metrics.jsonl")] == ["epoch", "epoch"]
    assert Image.open(folder / "curve.png").size[0] > 800
    assert (folder / "last.safetensors").exists()
    assert not (folder / "best.safetensors").exists()
    assert "ap" not in read_rows(folder / "metrics.jsonl")[-1]


class Figures:
    """What validation found, as far as the loop asks."""

    def __init__(self, ap: float) -> None:
        self.ap = ap

    def summary(self) -> dict[str, float]:
        return {"ap": self.ap}

    def thresholds(self) -> tuple[float, ...]:
        return (self.ap,) * len(NAMES)


def test_best_and_early_stop_follow_ap(tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP 0.1, 0.4, 0.4, 0.3: epoch 2 is the best (a tie is not better), and two epochs without a better one end it."""
    scores = iter([0.1, 0.4, 0.4, 0.3, 0.9])
    monkeypatch.setattr(fit_module, "evaluate", lambda *_, **__: Figures(next(scores)))
    config = settings(tmp_path, epochs=9, early_stop=2)
    fit(make_model(), *splits, config)
    assert [r["ap"] for r in read_rows(config.out / "metrics.jsonl") if r["kind"] == "epoch"] == [0.1, 0.4, 0.4, 0.3]
    assert read_card(config.out / "best.safetensors").training["epoch"] == 2
    assert len(set(read_card(config.out / "best.safetensors").thresholds)) == 1
    assert read_card(config.out / "last.safetensors").training["epoch"] == 4
    assert read_state(config.out)["progress"].finished


@pytest.mark.parametrize("summed", [False, True])
def test_accumulated_step_is_the_mean_or_sum_of_its_gradients(tmp_path: Path, splits: Any, summed: bool) -> None:
    """One SGD step over 16 pictures in 4 batches, against torch by hand. The batches are those the loader gives."""
    from headway.data.batch import to_model_input
    from headway.data.loader import make_loader

    config = settings(
        tmp_path, epochs=1, accumulate=4, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_grad=0.0,
        warmup_steps=0, sum_batches=summed,
    )  # fmt: skip
    model, twin = (make_model(frozen_norm=True, dropout=0.0).train() for _ in range(2))
    loader = make_loader(splits[0], twin.card, batch_size=4, train=True, preset="none", seed=0)
    loader.set_epoch(0)
    for batch in loader:
        (
            twin.loss(twin(to_model_input(batch, "cpu"), batch.sizes), batch.targets).total / (1 if summed else 4)
        ).backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.01 * parameter.grad
    fit(model, splits[0], None, config)
    assert read_state(config.out)["progress"].step == 1
    for one, other in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_clipping_bounds_the_step(tmp_path: Path, splits: Any) -> None:
    """Plain SGD with rate 1 and gradients clipped to 0.01 moves the weights by 0.01, whatever the loss."""
    config = settings(
        tmp_path, epochs=1, accumulate=4, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_grad=0.01,
        warmup_steps=0, learning_rate=1.0,
    )  # fmt: skip
    model = make_model()
    before = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
    fit(model, splits[0], None, config)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_bf16_trains_in_fp32_weights(tmp_path: Path, splits: Any) -> None:
    model = make_model(dropout=0.0)
    folder = fit(model, *splits, settings(tmp_path, precision="bf16"))
    full = fit(make_model(dropout=0.0), *splits, settings(tmp_path, out=tmp_path / "fp32"))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    ours, theirs = (read_rows(f / "metrics.jsonl")[0]["loss"] for f in (folder, full))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)
    assert model(torch.rand(1, 3, 64, 64)).logits.dtype == torch.float32


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_non_finite_step_names_its_images(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The sixth step (second of epoch 2) breaks: nothing of it reaches the files."""
    train, val = splits
    model = make_model()
    original, calls, seen = model.head.loss, [0], []

    def loss(raw: Any, targets: Any) -> Any:
        losses = original(raw, targets)
        if torch.is_grad_enabled():
            calls[0] += 1
            if calls[0] == 6:
                seen.extend(t.boxes.tolist() for t in targets)
                broken = raw.sides.flatten()[0] - raw.sides.flatten()[0].detach()
                extra = broken.sqrt() if where == "gradient" else broken * float("nan")
                return losses._replace(terms={**losses.terms, "odd": extra})
            return losses._replace(terms={**losses.terms, "odd": losses.total * 0})
        return losses

    monkeypatch.setattr(model.head, "loss", loss)
    config = settings(tmp_path, save_every=1)
    with pytest.raises(NonFiniteLoss, match=rf"{where} is not finite .*epoch 2, step 6") as caught:
        fit(model, train, val, config)
    batch = json.loads((config.out / "bad_batch" / "batch.json").read_text())
    assert [image["boxes"] for image in batch["images"]] == seen
    assert all(image["path"] in str(caught.value) for image in batch["images"])
    tensors = load_file(config.out / "bad_batch" / "tensors.safetensors")
    assert tensors["0.images"].shape == (4, 3, 64, 64)
    state = read_state(config.out)
    assert state["progress"].step == 5
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert all(torch.isfinite(v).all() for v in load_file(config.out / "last.safetensors").values())
    fit(make_model(), train, val, config, resume=True)
    assert read_state(config.out)["progress"].finished


def relabelled(data: DetectionData, label: int) -> DetectionData:
    first = data.records[0]
    return dataclasses.replace(
        data, records=[dataclasses.replace(first, labels=np.full(len(first.boxes), label)), *data.records[1:]]
    )


def test_wrong_inputs_are_refused_before_anything_is_written(tmp_path: Path, splits: Any) -> None:
    train, val = splits
    config = settings(tmp_path)
    empty = dataclasses.replace(
        train, records=[dataclasses.replace(r, boxes=r.boxes[:0], labels=r.labels[:0]) for r in train.records]
    )
    more = dataclasses.replace(train, class_names=("red", "green", "blue", "grey"))
    swapped = dataclasses.replace(val, class_names=("green", "red", "blue"))
    cases: list[tuple[Any, Any, TrainConfig, str]] = [
        (more, val, config, r"model predicts 3 classes .* has 4 classes .*class_names="),
        (train, swapped, config, "same classes in the same order"),
        (relabelled(train, 3), val, config, r"labels must be 0\.\.2, got \[3\] in .*train000\.png"),
        (train, relabelled(val, -1), config, r"got \[-1\] in .*val000\.png"),
        (empty, val, config, "no box in any of the 16 training images"),
        (train, val.subset([], "val"), config, "validation split 'val' .* is empty"),
        (train, None, config.changed(early_stop=2), "early_stop needs validation data"),
        (train, val, config.changed(batch_size=32), "only 16 training images"),
        (train, val, config.changed(precision="fp16"), "fp16 training needs a CUDA device"),
        (train, val, config.changed(sync_bn=True), "sync_bn needs CUDA"),
    ]
    for given, validation, asked, words in cases:
        with pytest.raises(HeadwayError, match=words):
            fit(make_model(), given, validation, asked)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("preset", "switch"),
    [
        ("none", {"cutmix": 1.0}),
        ("none", {"gridmask": 1.0}),
        ("none", {"preset": "ssd"}),
        ("ssd", {"sizes": (32,)}),
        ("ssd", {"colour": 0.0}),
        ("small", {"cutmix": 1.0}),
    ],
)
def test_switches_reach_the_pictures(tmp_path: Path, splits: Any, preset: str, switch: dict[str, Any]) -> None:
    """The last epoch of ten; and with CutMix, the same as without once the plain epochs have begun."""
    config, card = settings(tmp_path, preset=preset, epochs=10), make_model().card

    def pictures(changed: TrainConfig) -> list[torch.Tensor]:
        loader = training_loader(splits[0], card, changed)
        loader.set_epoch(9)
        return [batch.images for batch in loader]

    plain, tricked = pictures(config), pictures(config.changed(**switch))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, tricked))
    if "cutmix" in switch:
        late = pictures(config.changed(plain_epochs=1, **switch))
        assert all(torch.equal(a, b) for a, b in zip(plain, late))


def test_tensorboard_holds_the_rows(tmp_path: Path, splits: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = fit(make_model(), *splits, settings(tmp_path, tensorboard=True))
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = [r for r in read_rows(folder / "metrics.jsonl") if r["kind"] == "step"]
    got = {e.step: e.value for e in events.Scalars("step/loss")}
    assert got == pytest.approx({r["step"]: r["loss"] for r in rows}, rel=1e-5)


def test_missing_tensorboard_says_what_to_install(tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(HeadwayError, match=r"headway\[tensorboard\]"):
        fit(make_model(), *splits, settings(tmp_path, tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "mobilenetv3_small_100", "cspdarknet53"])
def test_sync_bn_keeps_the_activations(name: str) -> None:
    """timm's BatchNormAct2d holds the activation behind it, which torch's own converter drops."""
    import timm

    from headway.train.start import convert_sync_batchnorm

    torch.manual_seed(0)
    backbone = timm.create_model(name, features_only=True).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        converted = convert_sync_batchnorm(backbone)
        after = converted(images)
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules())
    assert not any(type(m).__name__ == "BatchNormAct2d" for m in converted.modules())
    for one, other in zip(before, after):
        torch.testing.assert_close(other, one)


def test_each_picture_is_validated_once_by_each_model(tmp_path: Path, splits: Any) -> None:
    """Loss, detections and AP from one pass: four pictures in one batch, so one pass of the backbone in eval mode."""
    model, seen = make_model(), []
    model.backbone.register_forward_hook(lambda module, *_: seen.append(module.training))
    fit(model, *splits, settings(tmp_path, epochs=1))
    assert seen.count(False) == 1


def test_processes_share_the_validation() -> None:
    """Five batches of two pictures and one of one, dealt out: every picture once, with the same neighbours."""
    from headway.evaluate.batches import Share, evaluation_batches
    from headway.types import ModelCard

    card = ModelCard(input_size=(64, 64), pad_multiple=8)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), 11)
        parts = [
            [turn and turn[0] for turn in evaluation_batches(data, card, batch_size=2, share=Share(rank, 4))]
            for rank in range(4)
        ]
    assert parts == [[[0, 1], [8, 9]], [[2, 3], [10]], [[4, 5], None], [[6, 7], None]]


def test_a_detector_put_together_by_hand_trains(tmp_path: Path, splits: Any) -> None:
    from headway.detector import Detector
    from headway.types import ModelCard

    from .tiny import TinyBackbone, TinyHead

    torch.manual_seed(0)
    card = ModelCard(class_names=NAMES, input_size=(64, 64), pad_multiple=8)
    model = Detector(TinyBackbone(False, 0.0), torch.nn.Identity(), TinyHead(16, 3), card)
    folder = fit(model, *splits, settings(tmp_path))
    assert (folder / "last.safetensors").is_file()
    assert read_state(folder)["progress"].finished


def test_a_run_without_a_folder_makes_the_next_free_one(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(tmp_path, out=None, epochs=1)
    folders = [fit(make_model(), splits[0], None, config) for _ in range(2)]
    assert [str(folder) for folder in folders] == [
        "runs/train_tiny_body-train_tiny_head-a-1",
        "runs/train_tiny_body-train_tiny_head-a-2",
    ]
    assert TrainConfig.load(folders[1] / "config.json").out == folders[1]


def test_a_loader_of_ones_own(tmp_path: Path, splits: Any) -> None:
    """The batches that the settings would give, from outside: the same weights; stopped in between, too."""
    config = settings(tmp_path, save_every=1)
    one, other = make_model(dropout=0.0), make_model(dropout=0.0)
    loader = training_loader(splits[0], one.card, config)
    fit(one, splits[0], None, config)

    class Own:
        def __len__(self) -> int:
            return len(loader)

        def set_epoch(self, epoch: int) -> None:
            loader.set_epoch(epoch)

        def __iter__(self) -> Any:
            return iter(list(loader))

    fit(other, splits[0], None, config.changed(out=tmp_path / "own"), loader=Own())
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)
