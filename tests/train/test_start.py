"""What a run says and checks before its first step, and what it starts from."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import headway
import headway.train
from headway.checkpoint import read_card
from headway.data.dataset import DetectionData, Record
from headway.errors import HeadwayError
from headway.train import start as start_module
from headway.train.check import check_norms, drops_last, share_of_small, size_warning
from headway.train.fit import TrainingStopped, fit
from headway.train.log import read_rows
from headway.train.recipes import recipe, recipe_for
from headway.train.start import training_loader
from headway.train.state import read_state

from .test_fit import settings
from .tiny import NAMES, make_data, make_model

SETTINGS: dict[str, Any] = {
    "epochs": 1, "batch_size": 4, "base_batch_size": 0, "learning_rate": 0.01, "preset": "none", "device": "cpu",
    "ema": 0.0,
}  # fmt: skip


@pytest.fixture
def splits(tmp_path: Path) -> tuple[DetectionData, DetectionData]:
    return make_data(tmp_path / "a", 16), make_data(tmp_path / "b", 4, seed=1, name="val")


def without_boxes(data: DetectionData) -> DetectionData:
    empty = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "crowd": np.zeros(0, np.bool_),
             "areas": np.zeros(0, np.float32)}  # fmt: skip
    return dataclasses.replace(data, records=[dataclasses.replace(record, **empty) for record in data.records])


# ---------------------------------------------------------------------------------------------- size of the objects
def one_picture(folder: Path, side: int, boxes: list[tuple[float, ...]]) -> DetectionData:
    """A picture of `side` x `side` with these boxes, which are not drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side)).save(folder / "one.png")
    array = np.array(boxes, np.float32)
    zeros = np.zeros(len(boxes))
    record = Record(1, folder / "one.png", (side, side), array, zeros.astype(np.int64), zeros.astype(bool), zeros)
    return DetectionData("train", folder, "coco", [record], NAMES, (1, 2, 3))


def test_boxes_under_8_px_after_scaling_are_counted_and_a_size_is_named(tmp_path: Path) -> None:
    """A picture of 800 px at 200 px: a quarter. Sides 16, 28, 40 and 80 become 4, 7, 10 and 20. At one and a half times
    the size, 320 px (a multiple of 32 from 300), a factor 0.4: 6.4, 11.2, 16 and 32, so a quarter is left; at 416 px
    (from 400), 0.52: 8.3, none is left."""
    data = one_picture(tmp_path, 800, [(0, 0, side, side) for side in (16, 28, 40, 80)])
    assert share_of_small(data, (200, 200)) == 0.5
    assert share_of_small(data, (320, 320)) == 0.25
    warning = size_warning(data, (200, 200))
    assert warning is not None
    assert "50% of the 4 boxes are under 8 px at the input size 200x200" in warning
    assert "--input-size 416 416 leaves 0%" in warning
    assert size_warning(data, (416, 416)) is None


def test_where_no_size_up_to_the_pictures_helps_tiles_are_the_remedy(tmp_path: Path) -> None:
    warning = size_warning(one_picture(tmp_path, 200, [(0, 0, 4, 4)]), (200, 200))
    assert warning is not None
    assert "--input-size" not in warning
    assert "tiles" in warning


def test_a_run_whose_objects_get_no_positions_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """200 boxes of 32 px in a picture of 4000 px, 2.6 px at 320: ATSS finds places for a few of them only. Failed
    before: it trained without a word."""
    draw = random.Random(0)
    corners = [(draw.uniform(0, 3960), draw.uniform(0, 3960)) for _ in range(200)]
    data = one_picture(tmp_path / "data", 4000, [(x, y, x + 32, y + 32) for x, y in corners])
    torch.manual_seed(0)
    model = headway.create_model("resnet18/fpn/atss", class_names=NAMES, channels=16, input_size=(320, 320))
    config = settings(tmp_path, epochs=1, batch_size=1)
    fit(model, data, None, config)
    told = capfd.readouterr().err
    assert "100% of the 200 boxes are under 8 px at the input size 320x320" in told
    assert "positions per object so far, so most objects are not learned at all" in told
    assert "--input-size" in told


def test_a_run_with_objects_that_fit_warns_of_nothing(
    tmp_path: Path, splits: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(make_model(), *splits, settings(tmp_path, epochs=2))
    told = capfd.readouterr().err
    assert "warning" not in told
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[0]["stat/objects"] == pytest.approx(
        read_rows(tmp_path / "run" / "metrics.jsonl")[0]["stat/positives_per_image"], abs=0.5
    )


# ------------------------------------------------------------------------------------------------ batches of one
@pytest.mark.parametrize(
    ("pictures", "batch", "world", "views", "dropped"),
    [(9, 4, 1, 1, True), (10, 4, 1, 1, False), (8, 4, 1, 1, False), (5, 1, 1, 1, False), (10, 4, 2, 1, True),
     (11, 4, 2, 1, False), (1, 4, 1, 1, False), (9, 4, 1, 2, False), (9, 2, 2, 1, False)],
)  # fmt: skip
def test_a_last_batch_of_one_picture_per_process_is_left_out(
    pictures: int, batch: int, world: int, views: int, dropped: bool
) -> None:
    assert drops_last(pictures, batch, world, views) == dropped


def test_nine_pictures_in_batches_of_four_are_two_batches(tmp_path: Path) -> None:
    loader = training_loader(make_data(tmp_path, 9), make_model().card, settings(tmp_path))
    assert len(loader) == 2
    assert [len(batch.images) for batch in loader] == [4, 4]


def test_a_batch_norm_that_would_see_one_value_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    """Level P7 of a picture of 64 px is one cell. Two pictures at a time will do, and so will frozen norms."""
    data = make_data(tmp_path / "a", 4)
    model = headway.create_model("efficientdet_d0", class_names=NAMES, input_size=(64, 64))
    with pytest.raises(HeadwayError, match=r"cannot be trained on 1 picture of 64 x 64.*batch of 2"):
        fit(model, data, None, settings(tmp_path, batch_size=1))
    assert not (tmp_path / "run").exists()
    check_norms(model, 2)
    check_norms(make_model(), 1)


# ------------------------------------------------------------------------------------------------- validation data
def test_one_picture_names_the_way_without_validation(tmp_path: Path) -> None:
    data = make_data(tmp_path / "a", 1)
    with pytest.raises(HeadwayError, match=r"has 1 training pictures, too few .* val_fraction=0"):
        headway.train(make_model(), data, out=tmp_path / "run", **SETTINGS)
    with pytest.raises(HeadwayError, match=r"only 1 training images: set batch_size=1 or less"):
        headway.train(make_model(), data, out=tmp_path / "run", val_fraction=0, **SETTINGS)
    headway.train(make_model(), data, out=tmp_path / "run", val_fraction=0, **SETTINGS | {"batch_size": 1})


def test_a_validation_split_without_boxes_is_told(
    tmp_path: Path, splits: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    train, val = splits[0], without_boxes(splits[1])
    folder = fit(make_model(), train, val, settings(tmp_path, epochs=1))
    assert "none of the 4 validation images has a box, so there will be no AP" in capfd.readouterr().err
    assert not (folder / "best.safetensors").exists()
    with pytest.raises(HeadwayError, match="early_stop needs validation data with boxes"):
        fit(make_model(), train, val, settings(tmp_path, out=tmp_path / "other", early_stop=2))


def test_the_test_split_is_never_validated_on(tmp_path: Path, splits: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Failed before: the best checkpoint was chosen on test."""
    given = {"train": splits[0], "test": dataclasses.replace(splits[1], name="test")}
    headway.train(make_model(), given, val_fraction=0.25, out=tmp_path / "run", **SETTINGS)
    told = capfd.readouterr().err
    assert "25% of the pictures are held back for it (stratified); the test split is left for `headway eval`" in told
    assert "train: 12 pictures" in told
    assert "val: 4 pictures" in told
    with pytest.raises(HeadwayError, match="no split 'train' here, only val, test"):
        headway.train(make_model(), {"val": splits[1], "test": given["test"]}, out=tmp_path / "no", **SETTINGS)


def test_the_banner_counts_classes_that_are_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = (*NAMES, *(f"other{i}" for i in range(77)))
    data = dataclasses.replace(make_data(tmp_path / "a", 16), class_names=names, category_ids=tuple(range(1, 81)))
    torch.manual_seed(0)
    model = headway.create_model("train_tiny_body/train_tiny_head", class_names=names)
    headway.train(model, data, val_fraction=0, out=tmp_path / "run", **SETTINGS)
    told = capfd.readouterr().err
    assert "other5" not in told
    assert "none of 77 classes)" in told
    assert "input size 64x64" in told


# ------------------------------------------------------------------------------------------------ what it starts from
MANY = {"epochs": 40, "validate_every": 20}


@pytest.fixture
def trained(tmp_path: Path, splits: Any) -> Path:
    """A run that has learned something."""
    data = {"train": splits[0], "val": splits[1]}
    return headway.train(make_model(dropout=0.0), data, out=tmp_path / "trained", **SETTINGS | MANY).folder


def test_fine_tuning_is_never_below_its_start(
    tmp_path: Path, splits: Any, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At a rate that ruins the weights: the best checkpoint is the start. Failed before: the ruin was 'best yet'."""
    data = {"train": splits[0], "val": splits[1]}
    before = read_card(trained / "best.safetensors").metrics["ap"]
    assert before > 0.05
    ruin = SETTINGS | {"learning_rate": 1.0, "optimizer": "sgd", "clip_grad": 5.0, "warmup_steps": 0}
    run = headway.train(trained, data, out=tmp_path / "tuned", **ruin)
    assert [row["epoch"] for row in run.curve] == [0, 1]
    assert run.metrics["ap"] == pytest.approx(before, abs=1e-6)
    assert run.curve[1]["ap"] < before
    told = capfd.readouterr().err
    assert f"from the weights of {trained}/best.safetensors" in told
    assert "before the first step  val_loss" in told
    record = json.loads((run.folder / "command.json").read_text())
    assert record["recipe"] == "finetune"
    old, new = headway.load(trained), headway.load(run.best)
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values()))
    assert run.curve.plot().size[0] > 800


def test_a_stop_in_the_first_validation_is_made_good(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.train import fit as module

    config = settings(tmp_path, validate_start=True, epochs=2)
    whole = fit(make_model(), *splits, config.changed(out=tmp_path / "whole"))
    original, calls = module.measure, []

    def measure(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise module.Stopped
        return original(*arguments, **options)

    monkeypatch.setattr(module, "measure", measure)
    with pytest.raises(TrainingStopped):
        fit(make_model(), *splits, config)
    fit(make_model(seed=9), *splits, config, resume=True)
    assert [r["epoch"] for r in read_rows(config.out / "metrics.jsonl") if r["kind"] == "epoch"] == [0, 1, 2]
    one, other = (headway.load(folder / "last.safetensors") for folder in (whole, config.out))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert read_state(config.out)["progress"].start_validated


def test_the_recipe_follows_from_what_is_there(tmp_path: Path) -> None:
    trained = headway.save(make_model(), tmp_path / "mine.safetensors")
    assert recipe_for("atss_r18_fpn") == recipe_for("resnet18/fpn/atss") == "small"
    assert recipe_for("atss_r50_fpn.mmdet") == recipe_for(trained) == "finetune"
    assert recipe_for("atss_r50_fpn.mmdet", random=True) == "small"
    for name in ("efficientdet_tiny", "yolor_s", "yolov4_csp", "resnet18.a1_in1k/bifpn/dyhead/efficientdet"):
        assert recipe_for(name) == "small_light"
    assert recipe_for("efficientdet_d0.effdet", random=True) == "small_light"
    assert recipe_for("resnet18/bifpn/atss") == recipe_for(make_model()) == "small"
    assert recipe_for("efficientdet_d0.effdet") == "finetune"
    assert recipe("finetune").validate_start
    assert recipe("finetune").learning_rate < recipe("small").learning_rate


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["atss_r50_fpn.mmdet", "--data", "d"], "finetune"),
        (["--data", "some.folder", "atss_r50_fpn.mmdet"], "finetune"),
        (["--data", "d", "--json", "atss_r50_fpn.mmdet"], "finetune"),
        (["atss_r50_fpn.mmdet", "--random", "--data", "d"], "small"),
        (["atss_r50_fpn", "--set", "a=x.y", "b=0.5"], "small"),
        (["atss_r50_fpn.mmdet", "--recipe", "mmdet_1x"], "mmdet_1x"),
        (["gone/best.safetensors"], "small"),
        (["--data", "d", "efficientdet_tiny"], "small_light"),
        (["resnet18/fpn/yolor", "--pretrained", "--data", "d"], "small_light"),
    ],
)
def test_the_command_line_has_the_defaults_of_that_recipe(arguments: list[str], name: str) -> None:
    from headway.commands.train import Train

    given = Train.defaults(arguments)
    assert given.recipe == name
    assert given.config == recipe(name)


def test_a_tag_means_its_published_weights(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights that cannot be had are an error with both ways. Failed before: random weights without a word."""
    from headway.models import weights

    row = weights.find_row("atss_r50_fpn", "mmdet")
    gone = dataclasses.replace(row, url=(tmp_path / "gone.pth").as_uri())
    monkeypatch.setattr(weights, "ROWS", tuple(gone if r is row else r for r in weights.ROWS))
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    data = {"train": splits[0], "val": splits[1]}
    words = r"published weights: could not download .*convert FILE --model atss_r50_fpn\.mmdet.*--random"
    with pytest.raises(HeadwayError, match=words):
        headway.train("atss_r50_fpn.mmdet", data, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()
    small = {"arguments": {"channels": 16, "backbone": "resnet10t"}, "input_size": (64, 64)}
    headway.train("atss_r50_fpn.mmdet", data, out=tmp_path / "run", random=True, **SETTINGS, **small)
    assert "from random weights; input size 64x64" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "command.json").read_text())["recipe"] == "small"


def test_published_weights_given_as_a_detector_are_fine_tuned(tmp_path: Path, splits: Any) -> None:
    model = make_model()
    model.card.training = {"published": "atss_r50_fpn.mmdet"}
    run = headway.train(model, {"train": splits[0], "val": splits[1]}, out=tmp_path / "run", **SETTINGS)
    record = json.loads((run.folder / "command.json").read_text())
    assert (record["recipe"], record["weights"]) == ("finetune", "the published weights of atss_r50_fpn.mmdet")


# ------------------------------------------------------------------------------------------------------ the machine
def test_what_the_machine_decides_is_said_and_kept(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that began with bf16 goes on with it where the machine would choose otherwise."""
    from headway import precision

    for native, name in ((True, "bf16"), (False, "fp32")):
        for module in (precision, start_module):
            monkeypatch.setattr(module, "computes_bf16", lambda device, native=native: native)
        folder = fit(make_model(), *splits, settings(tmp_path, out=tmp_path / name, epochs=1, precision="auto"))
        assert f"0 loading processes, {name};" in capfd.readouterr().err
        assert json.loads((folder / "config.json").read_text())["precision"] == name
        told = fit(make_model(), *splits, settings(tmp_path, out=tmp_path / f"fp32 of {name}", epochs=1))
        assert ("--precision bf16 is faster" in capfd.readouterr().err) == native, told
    longer = settings(tmp_path, out=tmp_path / "bf16", epochs=2, precision="auto")
    fit(make_model(), *splits, longer, resume=True)
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["precision"] == "bf16"


def test_mps_is_refused_where_there_is_none(tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(HeadwayError, match="device is mps, but torch sees no Apple GPU"):
        fit(make_model(), *splits, settings(tmp_path, device="mps"))


def test_memory_that_is_too_small_names_the_levers(
    tmp_path: Path, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .tiny import TinyHead

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TinyHead, "loss", full)
    with pytest.raises(HeadwayError, match=r"does not hold a batch of 4 at 64x64 .*accumulate=2"):
        fit(make_model(), *splits, settings(tmp_path))
