"""What Deformable DETR must do in its four forms: shapes, losses, gradients, decoding, batches, files, autocast and
export."""

import pytest
import torch
from exportable import Exportable
from torch import Tensor

import headway
from headway.boxes import from_cxcywh, to_cxcywh
from headway.detector import Detector
from headway.layers.implicit import Implicit
from headway.select import select
from headway.types import Frame, Target

CLASSES = 3
SMALL = {
    "backbone": "resnet18", "norm": "batch", "channels": 64, "heads": 4, "points": 2, "encoder_layers": 1,
    "decoder_layers": 2, "feedforward": 48, "queries": 9,
}  # fmt: skip
FORMS = {
    "plain": {},
    "single scale": {"levels": 1},
    "refined": {"refine_boxes": True, "levels": 3},
    "two stages": {"refine_boxes": True, "two_stage": True},
}


def build(form: str, **arguments) -> Detector:
    return headway.create_model("deformable_detr_r50", num_classes=CLASSES, **SMALL, **FORMS[form], **arguments)


@pytest.fixture(scope="module", params=FORMS)
def model(request) -> Detector:
    """Everything that starts at zero is moved off it and the outputs are spread, so that no gradient vanishes and few
    scores tie; queries of the padding or of unusable cells would stand in the middle of the scores."""
    torch.manual_seed(0)
    model = build(request.param).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    for linear in model.head.cls:
        torch.nn.init.normal_(linear.weight, std=0.5)
    return model


def images_of(count: int, height: int = 96, width: int = 128, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels=None, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (33, 8)])
def test_shapes_at_any_input_size(model, size):
    """Two stages have at most as many queries as cells: (5 x 1) + (3 x 1) + (2 x 1) + 1 = 11 at 33 x 8."""
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    assert raw.cls.shape == (2, 2, 9, CLASSES)
    assert raw.box.shape == (2, 2, 9, 4)
    assert candidates.boxes.shape == (2, 27, 4)
    assert (candidates.scores.diff(dim=1) <= 0).all()
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    if model.head.two_stage and size == (33, 8):
        assert raw.proposal_cls.shape == (2, 11, CLASSES)


def test_fewer_cells_than_queries():
    raw = build("two stages").eval()(images_of(1, 8, 8))
    assert raw.cls.shape[2] == 4


TARGETS = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "more than queries": lambda: [target([[i, i, i + 20.5, i + 30] for i in range(40)]), target([])],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 128, 96]], crowd=[True])],
    "empty, whole, twice": lambda: [target([[9, 9, 9, 9], [0, 0, 128, 96]]), target([[10, 20, 60, 80]] * 2)],
}


@pytest.mark.parametrize("case", TARGETS)
def test_losses_and_gradients_are_finite(model, case):
    """Without objects the classes still learn; with one every parameter does."""
    model.zero_grad()
    losses = model.loss(model(images_of(2)), TARGETS[case]())
    losses.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    layers = ["", "_0", *(["_proposal"] if model.head.two_stage else [])]
    assert set(losses.terms) == {name + layer for name in ("cls", "box", "giou") for layer in layers}
    assert all(torch.isfinite(term) and term >= 0 for term in losses.terms.values())
    assert all(
        (losses.terms[name + x] > 0) == (case not in ("none", "crowd only")) for name in ("box", "giou") for x in layers
    )
    assert all(losses.terms["cls" + layer] > 0 for layer in layers)
    unused = {name for name, g in gradients.items() if g is None}
    assert all(name.startswith("head.box") for name in unused), unused  # without objects no box learns
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    if case == "one":
        assert [name for name, g in gradients.items() if g is None or not g.any()] == []


def test_crowd_regions_change_nothing(model):
    with torch.no_grad():
        raw = model(images_of(1))
        plain = model.loss(raw, [target([[10, 20, 60, 80]], [1])])
        crowded = model.loss(raw, [target([[10, 20, 60, 80], [70, 5, 120, 90]], [1, 0], [False, True])])
    assert {k: v.item() for k, v in plain.terms.items()} == {k: v.item() for k, v in crowded.terms.items()}


def test_a_perfect_output_decodes_to_the_ground_truth(model):
    truth = target([[12, 20, 60, 84], [100, 8, 124, 32], [90, 40, 120, 88]])
    with torch.no_grad():
        raw = model(images_of(1), torch.tensor([[90, 125]]))
    whole = torch.tensor([125.0, 90, 125, 90])
    cls = torch.full_like(raw.cls, -20)
    cls[:, 0, [4, 2, 7], truth.labels] = 12.0
    box = raw.box.clone()
    box[:, 0, [4, 2, 7]] = to_cxcywh(truth.boxes) / whole
    perfect = raw._replace(cls=cls, box=box, proposal_cls=None, proposal_box=None)
    (found,) = select(model.decode(perfect), class_threshold=0.5, nms_iou=None)
    order = found.labels.argsort()
    torch.testing.assert_close(found.boxes[order], truth.boxes, rtol=0, atol=1e-4)
    assert model.loss(perfect, [truth]).total < 1e-3


def test_the_head_sees_no_padding(model):
    """Maps of a picture of 64 x 96 in a batch of 128 x 192 with anything beyond it, and the same maps cut to it."""
    generator = torch.Generator().manual_seed(0)
    strides = {1: (32,), 3: (8, 16, 32), 4: (8, 16, 32, 64)}[len(model.head.level)]
    padded = [torch.randn(1, 64, 128 // s, 192 // s, generator=generator) for s in strides]
    cut = [x[:, :, : 64 // s, : -(-96 // s)] for x, s in zip(padded, strides)]
    sizes = torch.tensor([[64, 96]])
    with torch.no_grad():
        beside = model.head([*padded], Frame(sizes, (128, 192)))
        alone = model.head([*cut], Frame(sizes, (64, 96)))
    torch.testing.assert_close(beside.cls, alone.cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beside.box, alone.box, rtol=1e-4, atol=1e-5)
    assert beside.cls.std() > 0.1


def test_queries_are_a_set(model):
    """Another order of the queries is another order of the answers."""
    if model.head.two_stage:
        pytest.skip("its queries are the encoder's cells")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    weight = model.head.queries.weight
    with torch.no_grad():
        before = model(images_of(1))
        weight.copy_(weight[order])
        after = model(images_of(1))
        weight.copy_(weight[order.argsort()])
    torch.testing.assert_close(after.box, before.box[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.cls, before.cls[:, :, order], rtol=1e-4, atol=1e-4)


def test_refinement_starts_from_the_box_before(model):
    """With the last layer's correction set to nothing its boxes are those of the layer before; without refinement the
    boxes lie around the same reference points."""
    last = model.head.box[-2 if model.head.two_stage else -1][-1]
    kept = last.weight.detach().clone(), last.bias.detach().clone()
    with torch.no_grad():
        last.weight.zero_(), last.bias.zero_()
        raw = model(images_of(1))
        last.weight.copy_(kept[0]), last.bias.copy_(kept[1])
    if model.head.refine:
        torch.testing.assert_close(raw.box[1], raw.box[0], rtol=0, atol=1e-4)
        assert raw.box[0].std() > 0.01
    else:
        torch.testing.assert_close(raw.box[..., 2:], torch.full_like(raw.box[..., 2:], 0.5))


def test_implicit_values_surround_the_predictions():
    model = build("refined", align="add", refine="mul").eval()
    assert len([m for m in model.modules() if isinstance(m, Implicit)]) == 2 * (2 + 2)
    assert model(images_of(1)).cls.shape == (2, 1, 9, CLASSES)


def test_checkpoint_round_trip_and_detect(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    images = images_of(1)
    with torch.no_grad():
        raw, copy = model(images), again(images)
    assert torch.equal(raw.cls, copy.cls)
    assert torch.equal(raw.box, copy.box)
    (found,) = model.detect(images, score_threshold=0.0)
    (expected,) = select(model.decode(raw), nms_iou=None)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-3)


def test_bfloat16_stays_near(model):
    """Coordinates are float32 there too. Queries of two stages may be others, so the best cells are compared."""
    with torch.no_grad():
        raw = model(images_of(1))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images_of(1))
    assert half.box.dtype == half.cls.dtype == torch.float32
    if model.head.two_stage:
        torch.testing.assert_close(half.proposal_box, raw.proposal_box, rtol=0, atol=0.05)
    else:
        torch.testing.assert_close(half.box, raw.box, rtol=0, atol=0.05)


def test_arguments_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="two_stage needs refine"):
        build("plain", two_stage=True)
    with pytest.raises(ValueError, match="set levels=1, got 4"):
        build("plain", dc5=True)


def test_one_graph_for_any_batch_and_size(model):
    """It reads the maps by `grid_sample`, the model by `embedding_bag`."""
    batch, height, width = (torch.export.Dim(name, min=least) for name, least in (("B", 1), ("H", 65), ("W", 65)))
    example = (images_of(2, 97, 131), torch.tensor([[97, 131], [80, 100]]))
    images, sizes = images_of(3, 96, 190, seed=1), torch.tensor([[96, 128], [70, 190], [96, 60]])
    with torch.no_grad():
        program = torch.export.export(
            Exportable(model), example, dynamic_shapes=({0: batch, 2: height, 3: width}, {0: batch})
        )
        exported = program.module()(images, sizes)
        expected = Exportable(model)(images, sizes)
    torch.testing.assert_close(exported[1], expected[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(exported[0], expected[0], rtol=0, atol=0.05)
    assert torch.equal(exported[2], expected[2])


def test_decoded_boxes_are_of_the_valid_picture():
    """The whole picture is the box (0.5, 0.5, 1, 1), however far it is padded."""
    model = build("plain").eval()
    with torch.no_grad():
        raw = model(images_of(1), torch.tensor([[60, 100]]))
    raw.box[:] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    boxes = model.decode(raw).boxes
    assert torch.equal(boxes, torch.tensor([0.0, 0, 100, 60]).expand_as(boxes))
    assert torch.equal(from_cxcywh(raw.box[0, 0, 0]), torch.tensor([0.0, 0, 1, 1]))
