"""Checkpoints as people save them: under the names of a training loop and of wrappers, with things beside the weights,
and with classes of their own."""

import copy
import random

import numpy as np
import pytest
import torch
from mmdet_names import mmdet_names
from torch import nn
from torch.optim.swa_utils import AveragedModel

import headway
from headway.convert import from_upstream, read_upstream
from headway.convert.rules import count_classes
from headway.errors import CheckpointError
from headway.factory import shapes_of
from headway.types import ModelCard

NAMES = ("red", "white", "platelet")
PATH = "resnet18/fpn/atss"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return headway.create_model(PATH, class_names=NAMES, channels=32)


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


class Lightning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


WRAPPED = {
    "as it is": lambda m: m.state_dict(),
    "DataParallel": lambda m: nn.DataParallel(m).state_dict(),
    "Lightning": lambda m: Lightning(m).state_dict(),
    "running mean": lambda m: AveragedModel(m).state_dict(),
    "compiled": lambda m: {f"_orig_mod.{k}": v for k, v in m.state_dict().items()},
    "compiled and parallel": lambda m: {f"module._orig_mod.{k}": v for k, v in m.state_dict().items()},
    "compiled backbone": lambda m: {
        k.replace("backbone.", "backbone._orig_mod."): v for k, v in m.state_dict().items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_wrapper_does_not_matter(tmp_path, model, wrapping):
    """Failed before for all but the first: every key was unmapped."""
    torch.save(WRAPPED[wrapping](copy.deepcopy(model)), tmp_path / "a.pth")
    converted = from_upstream(read_upstream(tmp_path / "a.pth"), "headway", model)
    assert converted.keys() == model.state_dict().keys()
    assert all(torch.equal(converted[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "place",
    "state_dict model_state_dict model net ema ema.module model_ema ema_state_dict ema.model.state_dict".split(),
)
def test_where_training_loops_put_the_weights(tmp_path, model, place):
    """With an optimizer, a schedule, settings and the state of every random generator beside them. Failed before: the
    places were not known, and NumPy's generator made the file "damaged"."""
    content = state_of(model)
    for key in reversed(place.split(".")):
        content = {key: content}
    optimizer = torch.optim.AdamW(model.parameters())
    content |= {
        "optimizer": optimizer.state_dict(), "epoch": 3, "best": np.float64(0.5), "lr": np.linspace(0, 1, 3),
        "rng": {"numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()},
        "names": np.array(NAMES), "objects": np.array([{"a": 1}], dtype=object), "generator": np.random.default_rng(0),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pth")
    found = read_upstream(tmp_path / "a.pth")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def test_of_several_the_model_is_taken_and_the_others_are_named(tmp_path, caplog):
    torch.save({"ema": {"a": torch.zeros(2)}, "model": {"a": torch.ones(2)}}, tmp_path / "a.pth")
    with caplog.at_level("INFO", "headway"):
        assert read_upstream(tmp_path / "a.pth")["a"].tolist() == [1, 1]
    assert "the weights under 'model' are taken; it also holds ema" in caplog.text


def test_what_is_no_wrapper_is_refused_as_before(model):
    with pytest.raises(CheckpointError, match=r"upstream keys unmapped|model lacks: other\."):
        from_upstream({f"other.{key}": value for key, value in state_of(model).items()}, "headway", model)
    half = {key: value for i, (key, value) in enumerate(state_of(model).items()) if i % 2}
    with pytest.raises(CheckpointError, match="keys of the model not filled"):
        from_upstream({f"module.{key}": value for key, value in half.items()}, "headway", model)


@pytest.mark.parametrize(
    "name", [PATH, "resnet18/fpn/faster_rcnn", "resnet18/upsample/ttfnet", "csp_darknet/pan/yolor"]
)
@pytest.mark.parametrize("count", [1, 3, 80])
def test_the_number_of_classes_is_read_from_the_shapes(name, count):
    def shapes(number):
        return shapes_of(ModelCard(model=name), number)

    theirs, ours = shapes(count), shapes(5)
    found = {key: shape for key, shape in theirs.items() if shape != ours[key]}
    assert found
    assert count_classes(shapes, found) == count
    assert count_classes(shapes, {next(iter(found)): (7, 7, 7)}) == 0


SMALL = {"backbone": "resnet18", "channels": 16, "tower_depth": 1}
NUMBERED = ("class0", "class1", "class2")
OTHERS = {
    "names": ({"dataset_meta": {"classes": NAMES}}, NAMES),
    "old names": ({"CLASSES": list(NAMES)}, NAMES),
    "too few": ({"CLASSES": ("a",)}, NUMBERED),
    "none": ({}, NUMBERED),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_other_classes_makes_its_own_card(tmp_path, case):
    """A RetinaNet of three classes, opened as the published one of 80. Failed before: "keys of another shape"."""
    meta, names = OTHERS[case]
    torch.manual_seed(0)
    theirs = headway.create_model("retinanet_r50_fpn.mmdet", class_names=NAMES, **SMALL)
    torch.save({"state_dict": mmdet_names(theirs), "meta": meta}, tmp_path / "a.pth")
    ours = headway.create_model("retinanet_r50_fpn.mmdet", pretrained=tmp_path / "a.pth", **SMALL)
    assert ours.card.class_names == names
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert headway.load(headway.save(ours, tmp_path / "b.safetensors")).card.class_names == names


def test_other_shapes_that_no_class_explains_are_refused(tmp_path):
    theirs = headway.create_model("retinanet_r50_fpn.mmdet", class_names=NAMES, **SMALL | {"channels": 24})
    torch.save({"state_dict": mmdet_names(theirs)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="keys of another shape"):
        headway.create_model("retinanet_r50_fpn.mmdet", pretrained=tmp_path / "a.pth", **SMALL)
