"""Running a detector over a data set, with a stand-in whose detections are known."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from headway.data.dataset import DetectionData, Record
from headway.detector import Detector
from headway.errors import HeadwayError
from headway.evaluate.run import detect_dataset, evaluate_model, match_classes, measure
from headway.types import Candidates, Losses, ModelCard

SIZES = [(60, 80), (80, 60), (40, 40), (30, 90), (64, 64)]  # (height, width)


class Raw(NamedTuple):
    sizes: Tensor
    brightness: Tensor


class QuarterHead(nn.Module):
    """Says of every picture: one object, from a quarter to three quarters of each side."""

    def __init__(self, classes: int, label: int) -> None:
        super().__init__()
        self.classes, self.label = classes, label
        self.weight = nn.Parameter(torch.ones(1))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, features, frame, targets=None):
        self.dtypes.add(torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype)  # autocast's, if it is on
        return Raw(frame.sizes.float(), features[0].mean((1, 2, 3)) * self.weight)

    def decode(self, raw):
        height, width = raw.sizes.unbind(1)
        boxes = torch.stack([width, height, 3 * width, 3 * height], 1)[:, None] / 4
        count = raw.sizes.shape[0]
        return Candidates(boxes, torch.full((count, 1), 0.75), torch.full((count, 1), self.label))

    def loss(self, raw, targets):
        boxes = torch.tensor([float(len(t.boxes)) for t in targets]).mean()
        return Losses({"boxes": boxes, "half": boxes / 2}, {})


class OneLevel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return [self.conv(images)]


def detector(class_names, label=0):
    card = ModelCard(class_names=tuple(class_names), input_size=(32, 48), score_threshold=0.05, pad_multiple=16)
    return Detector(OneLevel(), nn.Identity(), QuarterHead(len(class_names), label), card)


@pytest.fixture
def data(tmp_path):
    """Five pictures; in each a quarter box of class "cell", and image i has i more boxes of "dot"."""
    records = []
    for i, (height, width) in enumerate(SIZES):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((height, width, 3), 40 * i, np.uint8)).save(path)
        quarter = [width / 4, height / 4, 3 * width / 4, 3 * height / 4]
        boxes = np.asarray([quarter] + [[1, 1, 5, 6]] * i, np.float32)
        labels = np.asarray([1] + [0] * i, np.int64)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        records.append(Record(10 + i, path, (height, width), boxes, labels, np.zeros(len(boxes), bool), area))
    return DetectionData("val", tmp_path, "coco", records, ("dot", "cell"), (5, 9))


def test_detections_are_in_original_pixels_and_the_data_sets_ids(data):
    rows, seconds = detect_dataset(detector(["dot", "cell"], label=1), data, batch_size=2)
    assert sorted(r["image_id"] for r in rows) == [10, 11, 12, 13, 14]
    for row in rows:
        height, width = SIZES[row["image_id"] - 10]
        assert row["bbox"] == pytest.approx([width / 4, height / 4, width / 2, height / 2], abs=1e-3)
        assert row["category_id"] == 9
        assert row["score"] == 0.75
    assert seconds > 0


class PaddingHead(QuarterHead):
    """A score that sees the padding, as every convolution does: the mean over the whole map."""

    def decode(self, raw):
        return super().decode(raw)._replace(scores=(0.5 + 0.4 * raw.brightness.tanh())[:, None])


def test_scores_do_not_depend_on_the_batch_size(data):
    """Pictures of one padded shape share a batch, so none is padded further than alone."""
    torch.manual_seed(0)
    model = detector(["dot", "cell"], label=1)
    model.head = PaddingHead(2, label=1)
    one, two, five = (detect_dataset(model, data, batch_size=size)[0] for size in (1, 2, 5))
    assert len({row["score"] for row in one}) > 2
    for other in (two, five):
        assert [row["image_id"] for row in other] == [10, 11, 12, 13, 14]
        assert [row["score"] for row in other] == pytest.approx([row["score"] for row in one], abs=2e-6)
        assert [row["bbox"] for row in other] == [row["bbox"] for row in one]


def test_a_head_that_samples_by_the_targets_does_not_see_them_in_its_detections(data):
    """The loss gets a second pass of the head with targets, on the same maps; boxes come from the one without."""
    model, calls = detector(["dot", "cell"], label=1), []
    model.head.needs_targets = True
    model.head.register_forward_hook(lambda _, given, __: calls.append(len(given) > 2 and given[2] is not None))
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    found = measure(model, data, batch_size=5, losses=True)
    assert found.losses["boxes"] == pytest.approx(3.0)
    assert calls == [False, True] * len(passes)


def test_two_shares_make_the_whole(data):
    """Rows in the order of the data set, and the loss of five pictures, from parts of two processes."""
    from headway.evaluate.batches import Share

    model = detector(["dot", "cell"], label=1)
    whole = measure(model, data, batch_size=2, losses=True)
    parts = []
    for rank in range(2):
        share = Share(rank, 2)
        measure(model, data, batch_size=2, losses=True, share=share, gather=lambda part: parts.append(part[0]) or part)
    first, first_sums, second, second_sums = parts
    assert not first.keys() & second.keys()
    assert [row for index in range(5) for row in {**first, **second}[index]] == whole.rows
    for name, value in whole.losses.items():
        assert (first_sums[name] + second_sums[name]) / 5 == pytest.approx(value)


def test_classes_are_matched_by_name(data):
    """The model's order differs from the data set's, and it has a class more."""
    rows, _ = detect_dataset(detector(["cell", "moon", "dot"], label=0), data)
    assert {r["category_id"] for r in rows} == {9}
    assert detect_dataset(detector(["cell", "moon", "dot"], label=1), data)[0] == []


def test_boxes_of_a_class_the_model_does_not_know_are_refused(data):
    with pytest.raises(HeadwayError, match=r"\['cell'\].*did you mean cells"):
        match_classes(("dot", "cells"), data)
    bare = data.subset([0], "bare")  # holds no "dot"
    assert match_classes(("cell",), bare) == [9]


def test_score_threshold_is_passed_on(data):
    assert detect_dataset(detector(["dot", "cell"]), data, score_threshold=0.8)[0] == []


def test_progress_counts_images(data):
    seen = []
    detect_dataset(
        detector(["dot", "cell"]), data, batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_evaluate_model_by_hand(data):
    """Every cell is found and nothing else: AP of cell 1, of dot 0, mean 0.5."""
    metrics = evaluate_model(detector(["dot", "cell"], label=1), data)
    assert [c.ap for c in metrics.per_class] == pytest.approx([0, 1])
    assert metrics.ap == pytest.approx(0.5)
    assert metrics.boxes == 15


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_autocasts(data, precision):
    model = detector(["dot", "cell"])
    detect_dataset(model, data, precision=precision)
    assert model.head.dtypes == {torch.float32 if precision == "fp32" else torch.bfloat16}
    with pytest.raises(HeadwayError, match="fp32, bf16, fp16"):
        detect_dataset(model, data, precision="int8")


def test_modes_are_restored_even_after_an_error(data):
    model = detector(["dot", "cell"]).train()
    model.backbone.eval()  # a frozen part
    detect_dataset(model, data)
    assert (model.training, model.head.training, model.backbone.training) == (True, True, False)
    data.records[2].path.write_bytes(b"no picture")
    with pytest.raises(HeadwayError, match=r"2\.png"):
        detect_dataset(model, data)
    assert (model.training, model.backbone.training) == (True, False)


def test_validation_loss_is_the_mean_over_images(data):
    """Boxes per image 1..5, mean 3, in batches of two and one: batches by themselves would not average to 3."""
    model = detector(["dot", "cell"]).train()
    losses = measure(model, data, batch_size=2, losses=True).losses
    assert losses == pytest.approx({"boxes": 3.0, "half": 1.5, "loss": 4.5})
    assert model.training
    assert model.head.weight.grad is None
