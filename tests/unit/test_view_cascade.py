"""The numbers of `headway view cascade` on heads whose answer is known."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

import headway
from headway.data.dataset import DetectionData, Record
from headway.errors import HeadwayError
from headway.evaluate.run import evaluate_model
from headway.heads.two_stage import StageRaw
from headway.view import cascade
from headway.view.cascade import INPUT_EDGES, PROPOSAL_EDGES

NAMES = ("red", "white")
BOXES = [[[10, 12, 50, 40], [60, 20, 80, 60]], [[30, 30, 70, 62]], []]
CENTRES = [(a + b) / 2 for a, b in pairwise(INPUT_EDGES)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionData:
    """Three pictures of 64 x 96, the network's own size; the last without boxes."""
    folder, records = tmp_path_factory.mktemp("pictures"), []
    rng = np.random.default_rng(0)
    for i, rows in enumerate(BOXES):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        boxes = np.array(rows, np.float32).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        labels, crowd = np.arange(len(boxes), dtype=np.int64), np.zeros(len(boxes), bool)
        records.append(Record(i + 1, folder / f"{i}.png", (64, 96), boxes, labels, crowd, areas))
    return DetectionData("val", folder, "coco", records, NAMES, (1, 2))


@pytest.fixture
def model() -> headway.Detector:
    torch.manual_seed(0)
    return headway.create_model(
        "cascade_rcnn_r18_fpn", class_names=NAMES, channels=32, hidden=16, proposals=(20, 20), input_size=(64, 96)
    ).eval()


def test_jitter_reaches_its_bins() -> None:
    boxes = torch.tensor([[10.0, 12.0, 50.0, 40.0], [0.0, 0.0, 2.5, 60.0], [60.0, 20.0, 96.0, 64.0]])
    moved, found = cascade.jitter(boxes, torch.tensor([64, 96]), torch.Generator().manual_seed(3))
    assert moved.shape == (3, 13, 4)
    assert found.all()
    for box, row in zip(boxes, moved):
        iou = box_iou(row, box[None]).squeeze(1)
        for value, low, high in zip(iou.tolist(), INPUT_EDGES, INPUT_EDGES[1:]):
            assert low - 1e-5 <= value <= high + 1e-5
        assert (row[:, :2] >= 0).all()
        assert (row[:, 2:] <= torch.tensor([96, 64])).all()
    again, _ = cascade.jitter(boxes, torch.tensor([64, 96]), torch.Generator().manual_seed(3))
    assert torch.equal(moved, again)
    other, _ = cascade.jitter(boxes, torch.tensor([64, 96]), torch.Generator().manual_seed(4))
    assert not torch.equal(moved, other)


def test_jitter_knows_no_direction() -> None:
    """Shifts are even to all sides, and as many boxes grow as shrink. 2,600 draws: the mean of as many signs has a
    standard error of 0.02."""
    box = torch.tensor([[400.0, 400.0, 500.0, 480.0]]).expand(200, 4)
    moved, found = cascade.jitter(box, torch.tensor([1000, 1000]), torch.Generator().manual_seed(0))
    assert found.all()
    shift = moved.unflatten(-1, (2, 2)).mean(-2) - torch.tensor([450.0, 440.0])
    growth = (moved[..., 2:] - moved[..., :2]).log() - torch.tensor([100.0, 80.0]).log()
    for signs in (*shift.sign().flatten(0, 1).T, *growth.sign().flatten(0, 1).T):
        assert abs(signs.mean()) < 0.08


def test_a_box_that_cannot_get_worse_is_left_out() -> None:
    """A box over the whole image, clipped to it, does not change by growing: for some directions no length will do."""
    box = torch.tensor([[0.0, 0.0, 96.0, 64.0]]).expand(300, 4)
    moved, found = cascade.jitter(box, torch.tensor([64, 96]), torch.Generator().manual_seed(0))
    assert 0.3 < found.float().mean() < 1
    low, high = torch.tensor(INPUT_EDGES[:-1]), torch.tensor(INPUT_EDGES[1:])
    iou = box_iou(moved.flatten(0, 1), box[:1]).view_as(found)
    assert ((iou >= low - 1e-5) & (iou <= high + 1e-5))[found].all()


def test_stages_that_change_nothing(model: headway.Detector, data: DetectionData) -> None:
    """Zero codes: what goes in comes out, and every stage sees what the first one saw."""
    for head in model.head.heads:
        torch.nn.init.zeros_(head.box.weight)
    found = cascade.watch_stages(model, data)
    assert [line.iou for line in found.localisation] == [0.5, 0.6, 0.7]
    for line in found.localisation:
        assert line.count == [3] * 13
        assert line.output == pytest.approx(line.input, abs=1e-5)
        assert line.input == pytest.approx(CENTRES, abs=0.025)
    first, *later = found.proposals
    assert sum(first.count) == 2 * 20  # of the two pictures with boxes
    for row in later:
        assert (row.count, row.positives) == (first.count, first.positives)


def test_stages_that_know_the_truth(model: headway.Detector, data: DetectionData) -> None:
    """Codes of the best ground-truth box: an IoU of one after every stage, and before every stage but the first. A
    picture at a time comes in, so each is recognised by its number of calls."""
    truths = iter([torch.tensor(BOXES[0]).float()] * 6 + [torch.tensor(BOXES[1]).float()] * 6)

    def look(features, regions, number):
        truth = next(truths)
        best = truth[box_iou(regions.rois[0], truth).argmax(1)][None]
        codes = model.head.stages[number].coder.encode(regions.rois, best)
        return StageRaw(regions, torch.zeros(*best.shape[:2], 3), codes)

    model.head.look = look
    found = cascade.watch_stages(model, data)
    for line in found.localisation:
        assert line.output == pytest.approx([1.0] * 13, abs=1e-4)
        assert line.input == pytest.approx(CENTRES, abs=0.025)
    first, *later = found.proposals
    assert first.positives[0.5] < 20
    for row in later:
        assert row.count == [0] * 19 + [40]
        assert row.positives == {0.5: 20.0, 0.6: 20.0, 0.7: 20.0}


def test_stages_look_at_the_same_boxes_whatever_the_model(model: headway.Detector, data: DetectionData) -> None:
    """The input of the lines depends on picture and seed alone, not on the stage, the model or its input size."""
    other = headway.create_model(
        "faster_rcnn_r18_fpn", class_names=NAMES, channels=32, hidden=16, ious=(0.65,), input_size=(128, 192)
    )
    mine, theirs = cascade.watch_stages(model, data, seed=5), cascade.watch_stages(other, data, seed=5)
    for line in mine.localisation[1:]:
        assert line.input == mine.localisation[0].input
    assert theirs.localisation[0].input == pytest.approx(mine.localisation[0].input, abs=1e-5)
    assert list(theirs.proposals[0].positives) == [0.5, 0.6, 0.65, 0.7]
    assert not other.training


def test_histogram_edges() -> None:
    """Bins are closed below, the last one above as well; positives are per picture."""
    row = cascade._histogram(0.7, torch.tensor([0.0, 0.05, 0.5, 0.69, 0.7, 1.0]), pictures=2)
    expected = [0] * (len(PROPOSAL_EDGES) - 1)
    for bin_ in (0, 1, 10, 13, 14, 19):
        expected[bin_] += 1
    assert row.count == expected
    assert row.positives == {0.5: 2.0, 0.6: 1.5, 0.7: 1.0}


def test_ap_is_that_of_evaluate(model: headway.Detector, data: DetectionData) -> None:
    """The same numbers at 0.5 and 0.75, their mean over the thresholds, on a detector that finds something."""
    model.head.decode = lambda raw: headway.types.Candidates(
        torch.tensor([[[10.0, 12, 50, 43], [60, 20, 80, 56], [30, 30, 70, 58]]]).expand(len(raw.sizes), -1, -1),
        torch.tensor([[0.9, 0.8, 0.7]]).expand(len(raw.sizes), -1),
        torch.tensor([[0, 1, 0]]).expand(len(raw.sizes), -1),
    )
    found, metrics = cascade.ap_by_iou(model, data), evaluate_model(model, data)
    assert 0.1 < found["ap"] < 1
    assert found["ap_by_iou"][0] == found["ap50"] == metrics.ap50
    assert found["ap_by_iou"][5] == found["ap75"] == metrics.ap75
    assert found["ap"] == pytest.approx(np.mean(found["ap_by_iou"]))
    assert found["ap_by_iou"][0] > found["ap_by_iou"][9]


def test_numbers_are_json() -> None:
    line = cascade.StageLine(0.5, [0, 1], [math.nan, 0.4], [math.nan, 0.5])
    row = cascade.StageProposals(0.5, [1, 2], {0.5: 1.5})
    ap = {"ap": 0.2, "ap50": math.nan, "ap75": 0.1, "ap_by_iou": (math.nan, 0.1)}
    found = cascade.to_dict(ap, cascade.Stages([line], [row]))
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "ap": 0.2, "ap50": None, "ap75": 0.1, "ap_by_iou": [None, 0.1],
        "localisation": [{"stage": 1, "iou": 0.5, "count": [0, 1], "input": [None, 0.4], "output": [None, 0.5]}],
        "proposals": [{"stage": 1, "iou": 0.5, "count": [1, 2], "positives": {"0.5": 1.5}}],
    }  # fmt: skip
    assert cascade.to_dict(ap, None) == {"ap": 0.2, "ap50": None, "ap75": 0.1, "ap_by_iou": [None, 0.1]}


def test_refusals(data: DetectionData) -> None:
    dense = headway.create_model("atss_r18_fpn", class_names=NAMES, channels=32)
    assert not cascade.has_stages(dense)
    with pytest.raises(HeadwayError, match="atss_r18_fpn has no stages; give a Faster or Cascade R-CNN"):
        cascade.watch_stages(dense, data)
    with pytest.raises(HeadwayError, match=r"no box in any of the 1 pictures of 'val': .* need a labelled --split"):
        cascade.check_labelled(data.subset([2], "val"))
    assert [r.image_id for r in cascade.spread(data, 2).records] == [1, 2]
    assert cascade.spread(data, 9) is cascade.spread(data, None) is data


def test_one_box_over_everything_and_many_at_once(model: headway.Detector, data: DetectionData, tmp_path: Path) -> None:
    """500 boxes are 6,500 regions, more than are pooled at once; one box over everything loses those it cannot give."""
    x, y = np.meshgrid(np.arange(25) * 3.0, np.arange(20) * 3.0)
    many = np.stack([x, y, x + 12, y + 6], -1).reshape(-1, 4).astype(np.float32)
    whole = np.array([[0, 0, 96, 64]], np.float32)
    path, records = data.records[0].path, []
    for i, b in enumerate((many, whole), 1):
        labels, crowd, areas = np.zeros(len(b), np.int64), np.zeros(len(b), bool), np.full(len(b), 72, np.float32)
        records.append(Record(i, path, (64, 96), b, labels, crowd, areas))
    crowded = DetectionData("val", tmp_path, "coco", records, NAMES, (1, 2))
    found = cascade.watch_stages(model, crowded)
    assert all(500 <= n <= 501 for n in found.localisation[0].count)
    assert all(0 <= v <= 1 for line in found.localisation for v in line.output)
