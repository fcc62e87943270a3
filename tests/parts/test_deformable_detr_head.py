"""What is of Deformable DETR alone, in its four forms: queries, padding, refinement, autocast, and one graph for any
size."""

from functools import partial

import grid
import pytest
import torch
from grid import Exportable

import headway
from headway.boxes import from_cxcywh
from headway.detector import Detector
from headway.types import Frame, Target

CLASSES = grid.CLASSES
images_of = partial(grid.images_of, size=(96, 128))
SMALL = {
    "backbone": "resnet18", "norm": "batch", "channels": 64, "heads": 4, "points": 2, "encoder_layers": 1,
    "decoder_layers": 2, "feedforward": 48, "queries": 9,
}  # fmt: skip
FORMS = {
    "plain": {},
    "single scale": {"levels": 1, "backbone.strides": (32,)},
    "refined": {"refine_boxes": True, "levels": 3},
    "two stages": {"refine_boxes": True, "two_stage": True},
}


def build(form: str, **arguments) -> Detector:
    return headway.create_model("deformable_detr_r50", num_classes=CLASSES, **SMALL, **FORMS[form], **arguments)


@pytest.fixture(scope="module", params=FORMS)
def model(request) -> Detector:
    return spread(request.param)


def spread(form: str) -> Detector:
    """Everything that starts at zero is moved off it and the outputs are spread, so that no gradient vanishes and few
    scores tie; queries of the padding or of unusable cells would stand in the middle of the scores."""
    torch.manual_seed(0)
    model = build(form).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    for linear in model.head.cls:
        torch.nn.init.normal_(linear.weight, std=0.5)
    return model


def test_fewer_cells_than_queries():
    raw = build("two stages").eval()(grid.images_of(1, (8, 8)))
    assert raw.cls.shape[2] == 4


@pytest.mark.parametrize("form", ["refined", "two stages"])
def test_one_to_many_queries_take_part_in_training_alone(form):
    """The others neither see them nor change by them; the losses they share are the same."""
    torch.manual_seed(0)
    model = build(form, dropout=0.0, many=12, repeats=3).train()
    images, sizes = images_of(1), torch.tensor([[96, 128]])
    targets = [Target(torch.tensor([[5.0, 5, 40, 40], [50, 10, 90, 60]]), torch.tensor([0, 1]))]
    raw = model(images, sizes, targets)
    assert (raw.cls.shape[2], raw.many_cls.shape[2], raw.many_box.shape) == (9, 12, (2, 1, 12, 4))
    losses = model.loss(raw, targets)
    alone = model.loss(raw._replace(many_cls=None, many_box=None), targets)
    assert {name for name in losses.terms if not name.endswith("_many")} == set(alone.terms)
    assert all(torch.equal(losses.terms[name], term) for name, term in alone.terms.items())
    sum(losses.terms.values()).backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    model.head.many = 0
    torch.testing.assert_close(model(images, sizes, targets).cls, raw.cls)
    assert model.eval()(images, sizes).many_cls is None


def test_every_object_is_given_to_several_of_them():
    """Two objects, each found by two queries: nothing is left to learn of boxes where each is given to two, and two
    boxes too many where it is given to three."""
    model = build("refined", dropout=0.0, many=6, repeats=2).train()
    targets = [Target(torch.tensor([[0.0, 0, 32, 48], [64, 48, 128, 96]]), torch.tensor([0, 1]))]
    raw = model(images_of(1), torch.tensor([[96, 128]]), targets)
    one, other = [0.125, 0.25, 0.25, 0.5], [0.75, 0.75, 0.5, 0.5]
    far = [0.5, 0.1, 0.1, 0.1]
    found = torch.tensor([one, other, one, other, far, far]).expand(2, 1, 6, 4)
    logits = torch.full((2, 1, 6, CLASSES), -9.0)
    logits[:, :, [0, 2], 0] = logits[:, :, [1, 3], 1] = 9.0
    given = raw._replace(many_cls=logits, many_box=found)
    twice = model.loss(given, targets).terms
    assert twice["box_many"] == pytest.approx(0, abs=1e-6)
    assert twice["cls_many"] == pytest.approx(0, abs=1e-3)
    model.head.repeats = 3
    assert model.loss(given, targets).terms["box_many"] > 0.1


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


@pytest.mark.parametrize("form", ["single scale", "two stages"])  # `tests/export` has the plain one
def test_one_graph_for_any_batch_and_size(form):
    """It reads the maps by `grid_sample`, the model by `embedding_bag`."""
    model = spread(form)
    batch, height, width = (torch.export.Dim(name, min=least) for name, least in (("B", 1), ("H", 65), ("W", 65)))
    example = (grid.images_of(2, (97, 131)), torch.tensor([[97, 131], [80, 100]]))
    images, sizes = grid.images_of(3, (96, 190), seed=1), torch.tensor([[96, 128], [70, 190], [96, 60]])
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
