"""The head of docs/own_head.py: by name, as plain modules, and held to what every head is held to."""

import importlib.util
import sys
from pathlib import Path

import grid
import pytest
import torch
from grid import candidates_of, images_of, leaves, target

import headway
from headway.errors import CheckpointError, HeadwayError
from headway.necks.dyhead import DyHead
from headway.necks.fpn import FPN

EXAMPLE = Path(__file__).parents[2] / "docs" / "own_head.py"


@pytest.fixture(scope="module")
def example():
    """The module as a user imports it; the registered head is taken away again, so that no other test meets it."""
    from headway import registry

    spec = importlib.util.spec_from_file_location("own_head", EXAMPLE)
    module = sys.modules["own_head"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["own_head"], registry._PARTS["head", "points"]


def test_the_example_learns_and_comes_back(example, tmp_path, capsys):
    losses, again = example.main(tmp_path, epochs=2)
    assert losses[1] < 0.9 * losses[0]
    assert again.card.model == "resnet18/fpn/dyhead/points"
    assert again.card.class_names == ("RBC", "WBC", "Platelets")
    assert again.card.nms_iou == 0.5
    assert "AP" in capsys.readouterr().out
    assert headway.list_parts("head", "points") == ["points"]


def test_what_it_wants_is_asked_of_the_parts_in_front(example):
    model = headway.compose("resnet18/fpn/dyhead/points", num_classes=3)
    assert model.head.strides == (8, 16, 32)
    assert len(model.neck[1].blocks) == 2


def test_it_learns_two_boxes_and_finds_them(example):
    """A raw output that is right at every point that answers for a box, found by the example's own assignment."""
    model = grid.compose(grid.small("toy/fpn/points"))
    truth = target([[4, 6, 38, 40], [50, 4, 94, 44]])
    with torch.no_grad():
        raw = model(images_of(1))
        x, y = raw.points.boxes[:, 0], raw.points.boxes[:, 1]
        cls, box = torch.full_like(raw.cls, -20.0), raw.box.clone()
        for (x1, y1, x2, y2), label in zip(truth.boxes, truth.labels):
            inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
            cls[0, inside, label] = 20.0
            box[0, inside] = torch.stack([x - x1, y - y1, x2 - x, y2 - y], 1)[inside]
        losses = model.loss(raw._replace(cls=cls, box=box), [truth])
        candidates = model.decode(raw._replace(cls=cls, box=box))
    assert losses.stats["positives"] > 0
    assert losses.terms["box"] < 1e-5
    sure = candidates.scores[0] > 0.99
    rows = {(int(label), *box) for box, label in zip(candidates.boxes[0, sure].tolist(), candidates.labels[0, sure])}
    assert rows == {(0, 4.0, 6.0, 38.0, 40.0), (1, 50.0, 4.0, 94.0, 44.0)}


def test_as_plain_modules_it_trains_and_comes_back_into_the_same_network(example, tmp_path):
    """Without a name: the file needs the network it is for."""

    def build() -> headway.Detector:
        backbone = grid.Toy()
        levels = headway.Levels(backbone.levels.strides, (32,) * 3)
        neck = torch.nn.Sequential(FPN(backbone.levels, channels=32, levels=3), DyHead(levels, blocks=1))
        head = example.Points(levels, num_classes=2)
        return headway.Detector(backbone, neck, head, class_names=["cell", "platelet"])

    torch.manual_seed(0)
    model = build().train()
    boxes = target([[10, 20, 60, 50]])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    model.loss(model(images_of(2)), [boxes, target([])]).total.backward()
    optimizer.step()
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if k.startswith("head"))
    model.eval()
    path = headway.save(model, tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match=r"put together by hand: .* load\(path, model="):
        headway.load(path)
    again = headway.load(path, model=build())
    with torch.no_grad():
        for a, b in zip(leaves(again(images_of(1))), leaves(model(images_of(1))), strict=True):
            assert torch.equal(a, b)
    assert again.card.class_names == ("cell", "platelet")
    assert again.card.nms_iou == 0.5
    assert candidates_of(again, images_of(1)).boxes.shape == (1, 8 * 12 + 4 * 6 + 2 * 3, 4)
    with pytest.raises(HeadwayError, match="class_names"):
        headway.Detector(model.backbone, model.neck, model.head)
