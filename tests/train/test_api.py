"""`headway.train` and `headway.evaluate` from Python."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import headway.evaluate
import headway.train
from headway.commands.train import Train
from headway.data.dataset import DetectionData
from headway.data.formats.any_format import write_dataset
from headway.errors import HeadwayError
from headway.evaluate.coco import evaluate as coco_evaluate
from headway.evaluate.run import detect_dataset
from headway.train import TrainConfig

from .tiny import NAMES, make_data, make_model

SETTINGS: dict[str, Any] = {
    "epochs": 2, "batch_size": 4, "base_batch_size": 0, "learning_rate": 0.01, "preset": "none", "device": "cpu",
    "ema": 0.0,
}  # fmt: skip
BUILT: dict[str, Any] = {"arguments": {"channels": 64}, "input_size": (64, 64)}


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, DetectionData]:
    return {"train": make_data(tmp_path / "a", 16), "val": make_data(tmp_path / "b", 4, seed=1, name="val")}


@pytest.fixture
def folder(tmp_path: Path, splits: dict[str, DetectionData]) -> Path:
    write_dataset(splits, tmp_path / "photos", "coco", hardlink=True)
    return tmp_path / "photos"


def test_a_detector_and_opened_splits(tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has its checkpoints, the metrics of the best and a row per epoch; without `out` in a new folder."""
    monkeypatch.chdir(tmp_path)
    model = make_model(dropout=0.0)
    run = headway.train(model, splits, **SETTINGS | {"epochs": 3})
    assert str(run.folder) == "runs/train_tiny_body-train_tiny_head-a-1"
    assert (run.best.name, run.last.name) == ("best.safetensors", "last.safetensors")
    assert [row["epoch"] for row in run.curve] == [1, 2, 3]
    assert run.metrics["ap"] == pytest.approx(max(row["ap"] for row in run.curve), abs=1e-6)
    assert run.curve.plot().size[0] > 800
    assert "ap=" in repr(run)
    weights = [p.clone() for p in model.parameters()]
    again = headway.train(make_model(seed=5), splits, out=run.folder, resume=True, epochs=4)
    assert [row["epoch"] for row in again.curve] == [1, 2, 3, 4]
    with pytest.raises(HeadwayError, match=r"other settings \(learning_rate: 0\.01 -> 0\.02\)"):
        headway.train(model, splits, out=run.folder, resume=True, epochs=4, learning_rate=0.02)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))


def test_a_name_and_a_folder(tmp_path: Path, folder: Path) -> None:
    """The model gets the classes of the data; the run goes on from its folder alone, and can be fine-tuned."""
    run = headway.train("retinanet_r18_fpn", folder, out=tmp_path / "run", **SETTINGS | BUILT)
    card = headway.load(run.best).card
    assert (card.class_names, card.input_size) == (NAMES, (64, 64))
    longer = headway.train(run.folder, resume=True, epochs=3)
    assert [row["epoch"] for row in longer.curve] == [1, 2, 3]
    metrics = headway.evaluate(run.folder, folder, report=tmp_path / "report", device="cpu")
    assert pytest.approx(longer.metrics["ap"], abs=1e-4) == metrics.AP
    assert metrics.report == tmp_path / "report" / "report.html"


def test_evaluate_gives_cocos_figures_by_name(tmp_path: Path, splits: Any) -> None:
    """The same as detections and COCO's figures by hand, on a split alone and as one of several."""
    model = make_model(dropout=0.0)
    headway.train(model, splits, out=tmp_path / "run", **SETTINGS | {"epochs": 30, "validate_every": 30})
    expected = coco_evaluate(detect_dataset(model, splits["val"])[0], splits["val"])
    assert expected.ap > 0.05
    for data in (splits, splits["val"]):
        metrics = headway.evaluate(model, data, batch_size=3)
        assert metrics["AP"] == metrics.AP == pytest.approx(expected.ap, abs=1e-6)
        assert pytest.approx((expected.ap50, expected.ap75), abs=1e-6) == (metrics.AP50, metrics.AP75)
        assert metrics.per_class == pytest.approx({c.name: c.ap for c in expected.per_class}, abs=1e-6, nan_ok=True)
    assert list(metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert math.isnan(metrics.APl)
    assert json.loads(json.dumps(metrics.to_dict()))["ap_large"] is None
    with pytest.raises(AttributeError, match="only AP, AP50"):
        _ = metrics.AP90
    with pytest.raises(HeadwayError, match="no split 'test' here, only train, val"):
        headway.evaluate(model, splits, split="test")


def test_what_cannot_be_meant_is_refused_before_a_folder_is_made(tmp_path: Path, splits: Any, folder: Path) -> None:
    more = headway.create_model("retinanet_r18_fpn", num_classes=5, channels=16)
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (make_model(), splits, {"epoch": 3}, "unknown training setting 'epoch'; did you mean epochs"),
        (make_model(), splits, {"recipe": "small_"}, "unknown recipe 'small_'; did you mean small"),
        (make_model(), splits, {"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\)"),
        (make_model(), None, {}, "say what to train on"),
        (make_model(), tmp_path / "gone", {}, "gone does not exist"),
        (more, splits, {}, r"model predicts 5 classes .* has 3 classes .*class_names=\['red', 'green', 'blue'\]"),
        ("retinanet_r18_fpm", splits, {}, "did you mean retinanet_r18_fpn"),
        ("retinanet_r18_fpn", splits, {"resume": True}, "holds no config.json"),
    ]
    for model, data, given, words in cases:
        with pytest.raises(HeadwayError, match=words):
            headway.train(model, data, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_validation_data_of_ones_own_and_held_back(tmp_path: Path, splits: Any, capfd: Any) -> None:
    """`val` is what is validated on; without a val split a part of the training pictures is held back."""
    headway.train(make_model(), splits["train"], val=splits["val"], out=tmp_path / "one", **SETTINGS)
    assert "val: 4 pictures" in capfd.readouterr().err
    headway.train(make_model(), splits["train"], val_fraction=0.25, out=tmp_path / "two", **SETTINGS)
    told = capfd.readouterr().err
    assert "25% of the pictures are held back" in told
    assert "train: 12 pictures" in told


def test_the_command_line_has_the_same_names_and_defaults() -> None:
    """Every option of `headway train` and `headway eval` but --json is an argument with the same default."""
    from headway.commands.eval import Eval
    from headway.commands.picture_views import PictureViews

    python = inspect.signature(headway.train).parameters
    for name, option in inspect.signature(Train).parameters.items():
        if name in ("json", "config", "set", "model", "data"):
            continue
        assert python[name].default == option.default, name
    python = inspect.signature(headway.evaluate).parameters
    for name, option in inspect.signature(Eval).parameters.items():
        if name not in ("json", "checkpoint", "data", "out", "results", "views"):  # evaluate_results takes results
            assert python[name].default == option.default, name
    for name, option in inspect.signature(PictureViews).parameters.items():
        assert python[name].default == option.default, name
    assert TrainConfig() == headway.train.recipe("small")


def test_a_notebook_shows_a_bar_or_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for IPython: with ipywidgets the bar is displayed, without it the lines are, as in a log file."""
    import sys
    from types import ModuleType

    from headway import progress
    from headway.train.log import RunLog

    displayed: list[Any] = []
    notebook, widgets = ModuleType("IPython.display"), ModuleType("ipywidgets")
    notebook.display = lambda *things, **_: displayed.extend(things)  # type: ignore[attr-defined]

    class Output:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def clear_output(self, **_: object) -> None: ...

    widgets.Output = Output  # type: ignore[attr-defined]
    for name, module in (("IPython", ModuleType("IPython")), ("IPython.display", notebook), ("ipywidgets", widgets)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    for has_widgets in (True, False):
        displayed.clear()
        monkeypatch.setattr(progress, "find_spec", lambda _, found=has_widgets: found or None)
        log = RunLog(tmp_path, 10, clock=iter(range(0, 1000, 40)).__next__)
        log.tick(0, 1, 1, 0.5, 3.0)
        log.tick(0, 1, 2, 0.5, 3.0)
        log.close()
        assert any(isinstance(thing, Output) for thing in displayed) == has_widgets
        assert bool(displayed)


def test_a_dataset_and_a_transform_of_ones_own(tmp_path: Path, splits: Any, capfd: Any) -> None:
    """Samples in memory with a transform that blackens every picture: the loss is another one. Resuming without the
    transform is refused, and the run says so that it takes the same call."""
    pytest.importorskip("headway.data.open_data")
    from dataclasses import replace

    from headway.data.sample import Sample

    data = splits["train"]

    class Own:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> Sample:
            record = data.records[index]
            return Sample(record.path, record.boxes, record.labels)

    def black(sample: Sample) -> Sample:
        return replace(sample, image=sample.image * 0)

    given = SETTINGS | {"val_fraction": 0.25, "log_every": 1}
    plain = headway.train(make_model(dropout=0.0), Own(), out=tmp_path / "one", **given)
    dark = headway.train(make_model(dropout=0.0), Own(), out=tmp_path / "two", transform=black, **given)
    assert "the same call with out=" in capfd.readouterr().err
    assert plain.curve[0]["train_loss"] != dark.curve[0]["train_loss"]
    with pytest.raises(HeadwayError, match=r"given as objects: \['transform'\] -> \[\]"):
        headway.train(make_model(), Own(), out=dark.folder, resume=True)


@pytest.mark.parametrize(("node", "refused"), [("0", True), ("1", False)])
def test_each_process_of_the_first_node_refuses_a_folder_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, refused: bool
) -> None:
    """Where the first process alone refused it, the others waited for that one. Another node has folders of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").touch()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("GROUP_RANK", node)
    message = "nothing is overwritten" if refused else "gone"
    with pytest.raises(HeadwayError, match=message):
        headway.train("resnet18/fpn/atss", tmp_path / "gone", out=tmp_path / "run")
