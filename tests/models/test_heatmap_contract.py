"""What every heat-map model must do: shapes, losses, gradients, decoding, batches, checkpoints and export."""

import json
from collections.abc import Callable

import pytest
import torch
from exportable import Exportable
from torch import Tensor

import headway
from headway.detector import Detector
from headway.heads.heatmap import HeatmapRaw
from headway.profile import count_macs, count_parameters
from headway.select import select
from headway.types import Target

SMALL = {
    "centernet_r18": {"planes": (32, 16, 16), "head_width": 16},
    "centernet_dla34": {"head_width": 16},
    "pafnet_lite": {},
}
CLASSES = 3


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> Detector:
    """Everything that starts at zero is moved off it, the norms have seen pictures and the outputs are spread, so that
    no gradient vanishes and few scores tie. Distances come out positive, about 24 pixels."""
    torch.manual_seed(0)
    model = headway.create_model(request.param, num_classes=CLASSES, **SMALL[request.param]).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01 if "conv_offset" in name else 0.1)
    for branch in (model.head.heatmap, model.head.box):
        torch.nn.init.normal_(branch.out.weight, std=0.2)
    torch.nn.init.constant_(model.head.box.out.bias, 1.5)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
    with torch.no_grad():
        model.train()(images_of(4))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels=None, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


# -------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64), (8, 8)])
def test_shapes_at_any_input_size(model, size):
    """The map has a cell for every four pixels begun; CenterNet's on a ResNet for every 32, eight of them."""
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    step = 32 if model.card.model == "centernet_r18" else 4
    height, width = (-(-side // step) * step // 4 for side in size)
    assert raw.heatmap.shape == (2, CLASSES, height, width)
    assert raw.box.shape == (2, 2 if raw.offset is not None else 4, height, width)
    kept = min(100, CLASSES * height * width)
    assert candidates.boxes.shape == (2, kept, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, kept)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (candidates.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("pafnet_lite", {}, 3_401_242),
        ("pafnet_lite", {"num_classes": 20}, 3_398_302),
        ("pafnet_lite", {"num_classes": 1}, 3_397_371),
        ("centernet_r18", {"deformable": False}, 14_219_092),
        # A bias and 27 * (9 * inputs + 1) of the offsets for each of the three 3x3 convolutions.
        ("centernet_r18", {}, 14_219_092 + 256 + 128 + 64 + 27 * (9 * (512 + 256 + 128) + 3)),
    ],
)
def test_parameter_counts(name, arguments, parameters):
    with torch.device("meta"):
        model = headway.create_model(name, **arguments)
    assert count_parameters(model) == parameters


def test_multiply_adds_of_pafnet_lite():
    with torch.device("meta"):
        model = headway.create_model("pafnet_lite")
    assert count_macs(model, (320, 320)) == pytest.approx(0.780e9, rel=0.01)


# ------------------------------------------------------------------------------------------------------ training
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "500": lambda: [target([[i % 40, i % 30, i % 40 + 12.5, i % 30 + 9 + i / 10] for i in range(500)]), target([])],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 160, 96]], crowd=[True])],
    "tiny, empty and whole": lambda: [target([[10, 20, 10.5, 20.5], [9, 9, 9, 9]]), target([[0, 0, 160, 96]])],
    "the same box twice": lambda: [target([[10, 20, 60, 80]] * 2), target([[-90, -90, 300, 300]])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_losses_and_gradients_are_finite(model, case):
    """Without boxes the heat map still learns; with one every parameter does."""
    targets = TARGETS[case]()
    model.zero_grad()
    losses = model.loss(model(images_of(2)), targets)
    losses.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(torch.isfinite(term) and term >= 0 for term in losses.terms.values())
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert model.head.heatmap.out.weight.grad.any()
    learned = [losses.terms[name] > 0 for name in losses.terms if name != "heatmap"]
    assert any(learned) == (case not in ("none", "crowd only"))
    if case == "one":
        assert all(learned)
        assert [name for name, g in gradients.items() if not g.any()] == []


def test_crowd_regions_change_nothing(model):
    with torch.no_grad():
        raw = model(images_of(1))
        plain = model.loss(raw, [target([[10, 20, 60, 80]], [1])])
        crowded = model.loss(raw, [target([[10, 20, 60, 80], [70, 5, 150, 90]], [1, 0], [False, True])])
    assert {k: v.item() for k, v in plain.terms.items()} == {k: v.item() for k, v in crowded.terms.items()}


def test_one_class(model):
    name = model.card.model
    single = headway.create_model(name, num_classes=1, **SMALL[name])
    raw = single(images_of(1))
    losses = single.loss(raw, [target([[10, 20, 60, 80]], [0])])
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert not single.decode(raw).labels.any()


def test_a_training_step_lowers_the_loss(model):
    """Of the picture and boxes that were stepped on, with batch norms in training mode."""
    torch.manual_seed(0)
    name = model.card.model
    fresh = headway.create_model(name, num_classes=CLASSES, **SMALL[name]).train()
    images, targets = images_of(2), [target([[10, 20, 60, 80]]), target([[30, 10, 150, 90]])]
    optimizer = torch.optim.SGD(fresh.parameters(), lr=1e-4)
    before = fresh.loss(fresh(images), targets).total
    before.backward()
    optimizer.step()
    assert fresh.loss(fresh(images), targets).total < before


# ------------------------------------------------------------------------------------------------------ decoding
def test_a_perfect_output_decodes_to_the_ground_truth(model):
    """Three boxes whose centres lie in different cells, in the map of a model that knows them."""
    truth = target([[12, 20, 60, 84], [100, 8, 124, 32], [90, 40, 158, 88]])
    with torch.no_grad():
        raw = model(images_of(1))
    centres = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    column, row = (centres / 4).long().unbind(1)
    heatmap = torch.full_like(raw.heatmap, -20)
    heatmap[0, truth.labels, row, column] = 8.0
    box, offset = raw.box.clone(), raw.offset
    if raw.offset is None:
        points = torch.stack([column, row], 1) * 4
        box[0, :, row, column] = torch.cat([points - truth.boxes[:, :2], truth.boxes[:, 2:] - points], 1).T
    else:
        offset = raw.offset.clone()
        box[0, :, row, column] = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T / 4
        offset[0, :, row, column] = (centres / 4).frac().T
    perfect = HeatmapRaw(heatmap, box, offset, raw.sizes)
    (found,) = select(model.decode(perfect), class_threshold=0.05, nms_iou=None)
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[order], truth.boxes, rtol=0, atol=1e-4)
    losses = model.loss(perfect, [truth])
    assert losses.terms["size" if offset is not None else "heatmap"] < 0.1
    if offset is not None:
        assert losses.terms["size"] + losses.terms["offset"] < 1e-5


def test_boxes_are_clipped_to_the_valid_part_of_each_image(model):
    with torch.no_grad():
        candidates = model.decode(model(images_of(2), torch.tensor([[96, 160], [64, 100]])))
    assert candidates.boxes[0, :, 2].max() > 100
    assert candidates.boxes[1, :, 2].max() <= 100
    assert candidates.boxes[1, :, 3].max() <= 64


# --------------------------------------------------------------------------------------------- batches and files
def maps(raw: HeatmapRaw) -> list[Tensor]:
    return [x for x in (raw.heatmap, raw.box, raw.offset) if x is not None]


def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = images_of(2)
    with torch.no_grad():
        both = maps(model(images))
        single = [maps(model(images[i : i + 1])) for i in range(2)]
    for i in range(2):
        for ours, alone in zip(both, single[i], strict=True):
            torch.testing.assert_close(ours[i], alone[0], rtol=1e-4, atol=1e-3)


def test_the_mode_changes_no_return_type_and_detect_equals_forward_decode_and_select(model):
    images = images_of(2)
    with torch.no_grad():
        (expected, _) = select(model.decode(model(images)), nms_iou=model.card.nms_iou)
    found, _ = model.detect(images, score_threshold=0.0)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    training = model.train()(images)
    assert type(training) is type(model.eval()(images))


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    images = images_of(1)
    with torch.no_grad():
        ours, theirs = maps(model(images)), maps(again(images))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert json.dumps(again.card.to_dict()) == json.dumps(model.card.to_dict())  # a file makes lists of tuples


def test_export_gives_the_same_candidates(model):
    """Near-ties may stand in another order, so every exported candidate must have a partner, and one may fall on the
    other side of the cut."""
    sizes = torch.tensor([[96, 160]])
    with torch.no_grad():
        program = torch.export.export(Exportable(model), (images_of(1), sizes))
        exported = program.module()(images_of(1, seed=1), sizes)
        expected = Exportable(model)(images_of(1, seed=1), sizes)
    rows = [torch.cat([b[0], s[0, :, None] * 1000, c[0, :, None] * 1000.0], 1) for b, s, c in (exported, expected)]
    assert rows[0].shape == rows[1].shape
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values > 0.05).sum() <= 1
    assert (distance.min(0).values > 0.05).sum() <= 1
