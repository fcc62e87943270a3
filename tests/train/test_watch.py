"""One line where a run does not learn, and how a log without a bar tells how far it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from headway.progress import Pace, duration
from headway.train.log import RunLog, draw_curve
from headway.train.watch import PATIENCE, RANDOM, STEPS, Watch


def watched(*, new: bool = True, weights: str = RANDOM) -> tuple[Watch, list[str]]:
    told: list[str] = []
    return Watch(told.append, new=new, record={"data": "photos", "weights": weights}), told


def test_few_positions_per_object_are_told_once() -> None:
    """200 objects an image and 16 positives are 0.08 each."""
    watch, told = watched()
    for _ in range(2 * STEPS):
        watch.step({"stat/objects": 200.0, "stat/positives": 16.0})
    assert len(told) == 1
    assert "learns from 0.08 positions per object" in told[0]


@pytest.mark.parametrize(
    ("values", "new"),
    [
        ({"stat/objects": 2.0, "stat/positives": 18.0}, True),
        ({"stat/objects": 0.0, "stat/positives": 0.0}, True),
        ({"stat/objects": 2.0}, True),
        ({"stat/objects": 400.0, "stat/positives": 128.0, "stat/rpn_positives": 128.0}, True),
        ({"stat/objects": 200.0, "stat/positives": 16.0}, False),
    ],
)
def test_enough_or_no_count_is_not_told(values: dict[str, float], new: bool) -> None:
    watch, told = watched(new=new)
    for _ in range(STEPS):
        watch.step(values)
    watch.epoch({"train_loss": 1.0})
    assert told == []


def test_an_epoch_of_few_steps_is_judged_at_its_end() -> None:
    watch, told = watched()
    watch.step({"stat/objects": 10.0, "stat/positives": 1.0})
    assert told == []
    watch.epoch({"train_loss": 1.0})
    assert len(told) == 1


def test_ap_that_stays_at_nothing_is_told_with_what_to_check() -> None:
    watch, told = watched()
    for ap in (0.0, 0.004, 0.006, 0.0, None, 0.001, 0.002, 0.0):
        watch.epoch({"train_loss": 1.0, "ap": ap, "val_loss": 1.5})
    assert len(told) == 1
    assert f"AP is still 0.0020 after {PATIENCE} validations" in told[0]
    order = [told[0].index(word) for word in ("data check photos", "--pretrained", "--input-size", "learning rate")]
    assert order == sorted(order)
    watch, told = watched(weights="the weights of a file")
    for _ in range(PATIENCE):
        watch.epoch({"train_loss": 1.0, "ap": 0.0})
    assert "--pretrained" not in told[0]


def test_validation_loss_far_above_training_loss_is_told() -> None:
    watch, told = watched()
    for val_loss in (3.5, 2.9, 4.0, 5.0, 150.0, 150.0):
        watch.epoch({"train_loss": 1.0, "val_loss": val_loss, "ap": 0.3})
    assert len(told) == 1
    assert "validation loss 150 is more than three times the training loss 1," in told[0]


# -------------------------------------------------------------------------------------------------------- progress
def test_durations() -> None:
    assert [duration(s) for s in (0.2, 40, 89, 100, 3599, 21708)] == ["1 s", "40 s", "89 s", "2 min", "1 h 0 min",
                                                                      "6 h 2 min"]  # fmt: skip


def test_a_line_for_a_tenth_after_3_seconds_or_after_30() -> None:
    """Of 100: 10 more after 2 s is too early, after 4 s it is due; 5 more wait for the 30 s."""
    times = iter([0.0, 2.0, 4.0, 30.0, 34.0, 44.0, 90.0])
    pace = Pace(lambda: next(times))
    assert [pace.due(done, 100) for done in (0, 10, 10, 15, 15)] == [False, False, True, False, True]
    assert pace.left(20, 100) == "3 min left"  # 44 s for 20, so 176 s for 80
    assert not pace.due(100, 100)


class Lines:
    """A log in a file: what RunLog prints, with a clock that a step moves on."""

    def __init__(self, folder: Path, seconds: float, total: int) -> None:
        self.now, self.seconds, self.text = 0.0, seconds, io.StringIO()
        self.log = RunLog(folder, total, clock=lambda: self.now)
        self.log._console = Console(file=self.text)

    def run(self, total: int) -> list[str]:
        for step in range(1, total + 1):
            self.now += self.seconds
            self.log.tick(0, 1, step, 0.5, 8.0)
        self.log.close()
        return self.text.getvalue().splitlines()


def test_a_log_file_gets_few_lines_and_an_estimate_after_three_steps(tmp_path: Path) -> None:
    """A hundred steps of 1 s: ten lines at most, one for the estimate: 97 steps of 1 s are 97 s, rounded 2 min."""
    lines = Lines(tmp_path, 1.0, 100).run(100)
    assert lines[0] == "the remaining 97 steps take about 2 min, without validations"
    assert lines[1].startswith("epoch 1/1  step 11/100  loss 0.5000  8.0 img/s  89 s left")
    assert len(lines) == 10
    slow = Lines(tmp_path, 20.0, 1000).run(20)
    assert slow[0].startswith("epoch 1/1  step 3/1000") or "remaining 997 steps take about 5 h 32 min" in slow[0]
    assert sum("shorter by fewer --epochs" in line for line in slow) == 1
    assert len(slow) == 1 + 9


def test_the_axis_of_ap_fits_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP50 up to 0.02: the axis ends at 0.023. Failed before: it ended at 1, and the curve was a flat line."""
    from matplotlib.axes import Axes

    rows = [{"kind": "epoch", "step": 0, "epoch": 0, "ap": 0.001, "ap50": 0.01, "val_loss": 2.0}]
    rows += [{"kind": "epoch", "step": 5, "epoch": 1, "train_loss": 2.0, "ap": 0.004, "ap50": 0.02, "val_loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits: list[Any] = []
    original = Axes.set_ylim

    def noted(self: Axes, *arguments: Any, **options: Any) -> Any:
        limits.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Axes, "set_ylim", noted)
    draw_curve(tmp_path)
    assert limits[-1] == pytest.approx((0, 0.023))
