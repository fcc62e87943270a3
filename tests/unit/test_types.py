"""The plain data types: moving, and the model card."""

import dataclasses
import json

import pytest
import torch

from headway.types import Losses, ModelCard, Target


def test_target_without_crowd_drops_boxes_labels_and_ids_together():
    boxes = torch.arange(12.0).view(3, 4)
    target = Target(boxes, torch.tensor([4, 5, 6]), torch.tensor([False, True, False]), torch.tensor([1, 2, 3]))
    kept = target.without_crowd()
    assert torch.equal(kept.boxes, boxes[[0, 2]])
    assert kept.labels.tolist() == [4, 6]
    assert kept.ids.tolist() == [1, 3]
    assert not kept.crowd.any()


def test_target_that_knows_of_no_crowd_is_unchanged():
    target = Target(torch.zeros(2, 4), torch.tensor([0, 1]))
    assert target.without_crowd() is target


def test_target_moves_every_tensor():
    moved = Target(torch.zeros(1, 4), torch.tensor([0]), tags=torch.ones(3)).to("meta")
    assert moved.boxes.is_meta
    assert moved.labels.is_meta
    assert moved.tags.is_meta
    assert moved.crowd is None


def test_targets_and_metas_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Target(torch.zeros(0, 4), torch.zeros(0)).boxes = torch.ones(1, 4)


def test_losses_total_is_the_sum_of_the_terms():
    losses = Losses({"cls": torch.tensor(1.5), "box": torch.tensor(2.0)}, {"positives": torch.tensor(9.0)})
    assert losses.total.item() == 3.5


def test_card_survives_json():
    card = ModelCard(
        model="m",
        arguments={"num_classes": 2, "input_size": (3, 4)},
        class_names=("a", "b"),
        mean=(1.0, 2.0, 3.0),
        input_size=(320, 320),
        nms_iou=None,
        metrics={"AP": 0.5},
    )
    back = ModelCard.from_dict(json.loads(json.dumps(card.to_dict())))
    assert back.to_dict() | {"arguments": None} == card.to_dict() | {"arguments": None}
    assert back.class_names == ("a", "b")
    assert back.num_classes == 2


def test_card_pad_value_becomes_zero_after_normalisation():
    """RGB order in 0..1 whatever the order of the weights: mean (10, 20, 30) in BGR is red 30, green 20, blue 10."""
    assert ModelCard(mean=(10, 20, 30), channels="bgr").pad_value == (30 / 255, 20 / 255, 10 / 255)
    assert ModelCard(mean=(10, 20, 30), channels="rgb").pad_value == (10 / 255, 20 / 255, 30 / 255)


def test_card_can_state_the_colour_of_padding():
    """Always RGB, also black; a card written before the entry was known has the mean."""
    card = ModelCard(mean=(0, 0, 0), std=(255, 255, 255), channels="bgr", pad=(51, 102, 204))
    assert card.pad_value == pytest.approx((0.2, 0.4, 0.8))
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))).pad == (51, 102, 204)
    assert ModelCard(pad=(0, 0, 0)).pad_value == (0, 0, 0)
    old = {key: value for key, value in ModelCard().to_dict().items() if key != "pad"}
    assert ModelCard.from_dict(old).pad_value == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"future": 1}, r"unknown model card entries \['future'\].*newer headway"),
        ({"class_names": "cat"}, "'class_names' must be a list of strings, got 'cat'"),
        ({"class_names": ["cat", 3]}, "'class_names' must be a list of strings"),
        ({"arguments": [1]}, "'arguments' must be an object"),
        ({"model": None}, "'model' must be a string, got None"),
        ({"channels": "xyz"}, "'channels'"),
        ({"mean": [1, 2]}, "'mean'"),
        ({"std": [1, 0, 1]}, "'std'"),
        ({"mean": ["a", "b", "c"]}, "'mean'"),
        ({"mean": [float("nan"), 1, 1]}, "'mean'"),
        ({"input_size": [10**9, 10**9]}, "'input_size'"),
        ({"pad_multiple": True}, "'pad_multiple'"),
        ({"input_size": [0, 10]}, "'input_size'"),
        ({"input_size": "large"}, "'input_size'"),
        ({"pad_multiple": 0}, "'pad_multiple'"),
        ({"pad": [114, 114]}, "'pad' must be three numbers from 0 to 255, or null"),
        ({"pad": [114, 114, 256]}, "'pad'"),
        ({"pad": 114}, "'pad'"),
        ({"score_threshold": "low"}, "'score_threshold'"),
        ({"nms_iou": [0.5]}, "'nms_iou'"),
        ({"max_detections": -1}, "'max_detections'"),
        ({"category_ids": ["a"]}, "'category_ids'"),
        ({"class_names": ["cat", "dog"], "category_ids": [3]}, "a category id for each class, got 1 ids"),
    ],
)
def test_card_refuses_what_it_cannot_use(entry, reason):
    with pytest.raises(ValueError, match=reason):
        ModelCard.from_dict(entry)
