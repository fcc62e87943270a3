"""The best threshold of each class: found by validation, kept on the card, used by prediction."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import headway
from headway.checkpoint import read_card
from headway.data.dataset import DetectionData, Record
from headway.detections import Detections
from headway.errors import HeadwayError
from headway.evaluate.coco import evaluate
from headway.options import best_thresholds
from headway.runtime.found import Found
from headway.types import ModelCard

NAMES = ("a", "b", "c")


def test_validation_finds_them():
    """Class a: hits at 0.9 and 0.6, a miss at 0.3: F1 is best at 0.6. Class b: a hit at 0.2 below a wrong one at 0.8:
    F1 = 2/3 at 0.2 and 0 at 0.8. Class c has no box."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    labels = np.array([0, 0, 1])
    record = Record(1, Path("x.jpg"), (60, 60), boxes, labels, np.zeros(3, bool), np.full(3, 100, np.float32))
    data = DetectionData("val", Path(), "coco", [record], NAMES, (1, 2, 3))
    found = [(1, 0, 0.9), (1, 20, 0.6), (1, 45, 0.3), (2, 40, 0.2), (2, 5, 0.8), (3, 0, 0.7)]
    rows = [{"image_id": 1, "category_id": c, "bbox": [x, 0, 10, 10], "score": s} for c, x, s in found]
    metrics = evaluate(rows, data)
    assert metrics.thresholds() == (0.6, 0.2, None)


def test_a_class_without_one_has_that_of_all():
    card = ModelCard(class_names=NAMES, thresholds=(0.6, 0.2, None), metrics={"threshold": 0.5})
    assert best_thresholds(card) == pytest.approx((0.6, 0.2, 0.5), abs=1e-5)
    assert all(limit < given for limit, given in zip(best_thresholds(card), (0.6, 0.2, 0.5)))  # which itself passes
    exported = SimpleNamespace(**{**card.to_dict(), "thresholds": [0.6, 0.2, None]})
    assert best_thresholds(exported) == best_thresholds(card)
    old = ModelCard(class_names=NAMES, metrics={"threshold": 0.5})
    assert best_thresholds(old) == pytest.approx((0.5, 0.5, 0.5), abs=1e-5)
    with pytest.raises(HeadwayError, match="has no best threshold"):
        best_thresholds(ModelCard(class_names=NAMES, thresholds=(0.6, 0.2, None)))


def test_cards_of_before_and_of_nonsense():
    before = ModelCard(class_names=NAMES).to_dict()
    del before["thresholds"]
    assert ModelCard.from_dict(before).thresholds == ()
    for wrong in ((0.5,), (0.5, 2.0, None), (0.5, "x", None), 0.5):
        with pytest.raises(ValueError, match="threshold"):
            ModelCard.from_dict({**before, "thresholds": wrong})


def test_a_checkpoint_keeps_them_and_other_classes_do_not(tmp_path):
    torch.manual_seed(0)
    model = headway.create_model("resnet10t/fpn/retinanet", class_names=NAMES, channels=16, tower_depth=1)
    model.card.thresholds = (0.25, None, 1.0)
    path = headway.save(model, tmp_path / "a.safetensors")
    assert read_card(path).thresholds == (0.25, None, 1.0)
    fresh, _ = headway.factory.with_classes(model, ["x", "y"])
    assert fresh.card.thresholds == ()


def test_filter_by_label():
    scores, labels = [0.9, 0.5, 0.4, 0.4], [0, 1, 1, 2]
    limits = (0.95, 0.45, 0.3)
    of_torch = Detections(torch.zeros(4, 4), torch.tensor(scores), torch.tensor(labels), NAMES)
    of_numpy = Found(np.zeros((4, 4)), np.array(scores, np.float32), np.array(labels), NAMES)
    for found in (of_torch, of_numpy):
        assert found.filter(threshold=limits).labels.tolist() == [1, 2]
        assert len(found.filter(threshold=0.45)) == 2
        assert len(found.filter()) == 4


def test_predict_uses_them():
    from headway.demo import ASSETS, DATA

    model = headway.load(ASSETS / "demo.safetensors")
    photo = DATA / "val" / "BloodImage_00037.jpg"
    everything = model.predict(photo, threshold=0.05)
    model.card.thresholds = (0.6, 0.1, 0.4)
    chosen = model.predict(photo, threshold="best")
    expected = [d for d in everything if d.score > (0.6, 0.1, 0.4)[d.label]]
    assert [d.label for d in chosen] == [d.label for d in expected]
    assert 0 < len(chosen) < len(everything)
