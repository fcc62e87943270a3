"""A collapsed heat map ends the run with its causes; a healthy run is left alone."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from headway.detector import Detector
from headway.heads.heatmap import HeatmapHead, HeatmapRaw, open_distances, set_prior
from headway.train import TrainConfig
from headway.train.fit import fit
from headway.train.guard import PATIENCE, CollapsedTraining, HealthGuard
from headway.train.log import read_rows
from headway.types import Losses, Target

from .tiny import STRIDE, make_data, make_model

BOXES = rf"boxes have collapsed: at epoch 3, step {PATIENCE}, for {PATIENCE} steps [1-3] of the four"


def heatmap_model() -> Detector:
    model = make_model(dropout=0.0)
    heatmap, box = nn.Conv2d(16, 3, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
    nn.init.normal_(heatmap.weight, std=0.01)
    set_prior(heatmap, 0.01)
    model.head = HeatmapHead(heatmap, box, num_classes=3, stride=STRIDE)
    return model


def settings(tmp_path: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": tmp_path / "run", "epochs": 2, "batch_size": 2, "base_batch_size": 0, "learning_rate": 0.002,
        "preset": "none", "device": "cpu", "log_every": 1, "warmup_steps": 2, "weight_decay": 0.0, "ema": 0.0,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def heatmap_rows(config: TrainConfig) -> list[dict[str, float]]:
    return [row for row in read_rows(config.out / "metrics.jsonl") if row["kind"] == "step"]


def test_a_learning_rate_far_too_high_ends_in_an_explanation(tmp_path: Path) -> None:
    """150 times the rate of the healthy run below: the map starts well, is thrown below the clip, and from then on its
    loss is 9.2085 in every row."""
    config = settings(tmp_path, learning_rate=0.3, clip_grad=0.0)
    with pytest.raises(CollapsedTraining) as caught:
        fit(heatmap_model(), make_data(tmp_path / "a", 80), None, config)
    losses = [row["loss/heatmap"] for row in heatmap_rows(config)]
    assert losses[0] < 5
    assert losses[-PATIENCE:] == pytest.approx([9.2085] * PATIENCE, abs=0.01)
    words = str(caught.value)
    for part in ("loss/heatmap 9.2085", f"for {PATIENCE} steps", "it is 0.3", "warmup_steps", "without --resume"):
        assert part in words
    assert "fp16" not in words


@pytest.mark.parametrize("bias", [(-20.0, -20.0, -20.0), (20.0, -20.0, -20.0)])
def test_a_dead_start_is_found_after_the_patience(tmp_path: Path, bias: tuple[float, ...]) -> None:
    """At the lower limit, and with one class at the upper one. 20 steps an epoch: the count goes on into the next."""
    model = heatmap_model()
    model.head.heatmap.bias.data = torch.tensor(bias)
    with pytest.raises(CollapsedTraining, match=rf"epoch 3, step {PATIENCE},"):
        fit(model, make_data(tmp_path / "a", 40), None, settings(tmp_path, epochs=3))


def closed_model() -> Detector:
    """The distance to the right side starts far behind the rectifier."""
    model = heatmap_model()
    open_distances(model.head.box)
    model.head.box.bias.data[2] = -20.0
    return model


def test_a_distance_behind_the_rectifier_is_found(tmp_path: Path) -> None:
    """With `open_distances` alone none is."""
    with pytest.raises(CollapsedTraining, match=BOXES):
        fit(closed_model(), make_data(tmp_path / "a", 40), None, settings(tmp_path, epochs=3))


def test_it_is_found_where_half_of_every_step_has_no_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches a step, the second emptied: `closed` is 1 and 0, and the mean of a half is not taken for a recovery.
    20 steps an epoch."""
    model, batches = closed_model(), itertools.count(1)
    loss = model.head.loss

    def emptied(raw: HeatmapRaw, targets: list[Target]) -> Losses:
        if next(batches) % 2 == 0:
            targets = [Target(t.boxes[:0], t.labels[:0]) for t in targets]
        return loss(raw, targets)

    monkeypatch.setattr(model.head, "loss", emptied)
    with pytest.raises(CollapsedTraining, match=BOXES):
        fit(model, make_data(tmp_path / "a", 80), None, settings(tmp_path, epochs=3, accumulate=2))


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    config = settings(tmp_path)
    fit(heatmap_model(), make_data(tmp_path / "a", 80), None, config)
    rows = heatmap_rows(config)
    assert len(rows) > PATIENCE
    assert rows[-1]["loss/heatmap"] < rows[0]["loss/heatmap"]
    assert max(row["stat/stuck"] / row["loss/heatmap"] for row in rows) < 0.5


def test_steps_are_counted_as_documented(tmp_path: Path) -> None:
    """Steps without objects neither count nor reset; a loss with a gradient, or a small one, resets; heads without the
    stat are not judged."""
    guard = HealthGuard(heatmap_model().head, settings(tmp_path, precision="fp16"), patience=3)
    stuck = {"loss/heatmap": 9.2085, "stat/positives": 2.5, "stat/stuck": 9.2085}
    alive, right = {**stuck, "stat/stuck": 9.1}, {**stuck, "loss/heatmap": 1e-5, "stat/stuck": 1e-5}
    empty = {"loss/heatmap": 0.0, "stat/positives": 0.0, "stat/stuck": 0.0}
    for step, values in enumerate((stuck, stuck, alive, stuck, stuck, right, stuck, empty, stuck, {"loss/cls": 1.0})):
        guard.check(values, 1, step)
    assert guard.steps == {"the heat map has collapsed": 2}
    with pytest.raises(CollapsedTraining, match=r"step 10, .* 3 steps .*fp16"):
        guard.check(stuck, 1, 10)


def test_closed_distances_are_counted_as_documented(tmp_path: Path) -> None:
    """The share of batches that learn a box is divided out; one batch of two with a closed distance is no collapse."""
    guard = HealthGuard(heatmap_model().head, settings(tmp_path), patience=3)
    step = {"loss/heatmap": 1.0, "stat/positives": 2.5, "stat/stuck": 0.0}
    half, whole = ({**step, "stat/closed": v, "stat/judged": v} for v in (0.5, 1.0))
    some, unjudged = {**step, "stat/closed": 0.5, "stat/judged": 1.0}, {**step, "stat/closed": 0.0, "stat/judged": 0.0}
    for number, values in enumerate((half, whole, some, half, unjudged, whole)):
        guard.check(values, 1, number)
    assert guard.steps == {"the boxes have collapsed": 2}
    with pytest.raises(CollapsedTraining, match="boxes have collapsed: at epoch 1, step 6, for 3 steps 1 of the four"):
        guard.check(half, 1, 6)


def test_the_stuck_map_has_no_gradient() -> None:
    """What the guard's message says: below the clip the heat-map loss cannot move a weight."""
    model = heatmap_model()
    nn.init.constant_(model.head.heatmap.bias, -20.0)
    images = torch.rand(1, 3, 64, 64)
    target = Target(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]))
    losses = model.loss(model(images), [target])
    losses.terms["heatmap"].backward()
    assert losses.terms["heatmap"].item() == pytest.approx(9.2085, abs=1e-4)
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
