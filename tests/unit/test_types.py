"""The plain data types: moving, indexing, mapping back to the picture, exports and the model card."""

import dataclasses
import json

import pytest
import torch

from headway.types import Detections, Losses, Meta, ModelCard, Target


@pytest.fixture
def detections() -> Detections:
    return Detections(
        boxes=torch.tensor([[10.0, 20, 30, 60], [0, 0, 5, 5], [50, 50, 70, 80]]),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        labels=torch.tensor([1, 0, 2]),
        names=("cat", "dog"),
        extras={"row": torch.tensor([7, 8, 9])},
    )


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


@pytest.mark.parametrize("index", [0, 2, -1])
def test_one_detection_is_still_detections(detections, index):
    one = detections[index]
    assert len(one) == 1
    assert torch.equal(one.boxes[0], detections.boxes[index])
    assert one.extras["row"].tolist() == [detections.extras["row"][index]]


@pytest.mark.parametrize("index", [slice(0, 2), torch.tensor([True, True, False]), torch.tensor([0, 1]), [0, 1]])
def test_detections_take_any_index(detections, index):
    some = detections[index]
    assert torch.equal(some.scores, detections.scores[:2])
    assert some.extras["row"].tolist() == [7, 8]
    assert some.names == ("cat", "dog")


@pytest.mark.parametrize("index", [3, -4])
def test_a_detection_that_is_not_there_is_an_index_error(detections, index):
    with pytest.raises(IndexError):
        detections[index]


def test_iterating_names_each_class_and_numbers_the_nameless(detections):
    assert [(box, name) for box, _, name in detections] == [
        ([10, 20, 30, 60], "dog"),
        ([0, 0, 5, 5], "cat"),
        ([50, 50, 70, 80], "2"),
    ]


def test_to_original_inverts_the_affine_and_clips(detections):
    """input = original * (2, 4) + (4, 8), so x: (10 - 4) / 2 = 3, y: (20 - 8) / 4 = 3, x2: 13, y2: 13. The second box
    starts at (0 - 4) / 2 = -2 -> 0 and ends at .5 and -.75 -> 0. The third, 23 to 33 and 10.5 to 18, is cut at the
    picture's 30 x 15."""
    meta = Meta(1, "a.jpg", (15, 30), (2.0, 4.0, 4.0, 8.0))
    boxes = detections.to_original(meta).boxes
    assert boxes.tolist() == [[3, 3, 13, 13], [0, 0, 0.5, 0], [23, 10.5, 30, 15]]
    assert detections.boxes[0].tolist() == [10, 20, 30, 60]


def test_to_coco_is_xywh_with_the_data_sets_ids(detections):
    rows = detections.to_coco("img", category_ids=[11, 22, 33])
    assert rows[0] == {"image_id": "img", "category_id": 22, "bbox": [10, 20, 20, 40], "score": 0.9}
    assert [r["category_id"] for r in detections.to_coco(5)] == [2, 1, 3]
    assert json.loads(json.dumps(rows)) == rows


def test_to_supervision(detections):
    supervision = pytest.importorskip("supervision")
    result = detections.to_supervision()
    assert isinstance(result, supervision.Detections)
    assert result.xyxy.tolist() == detections.boxes.tolist()
    assert list(result.data["class_name"]) == ["dog", "cat", "2"]
    assert len(detections[:0].to_supervision()) == 0


def test_to_pandas(detections):
    pytest.importorskip("pandas")
    frame = detections.to_pandas()
    assert list(frame.columns) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert frame.loc[0, "y2"] == 60
    assert list(frame["name"]) == ["dog", "cat", "2"]


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
    ],
)
def test_card_refuses_what_it_cannot_use(entry, reason):
    with pytest.raises(ValueError, match=reason):
        ModelCard.from_dict(entry)
