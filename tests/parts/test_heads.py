"""What every registered head must do, behind the neck of its paper and in its further forms: shapes, losses, gradients,
decoding, batches, files, folding and export."""

import json
from collections.abc import Callable

import grid
import pytest
import torch
from grid import CLASSES, SIZE, candidates_of, images_of, leaves, loss_of, prepared, small, strangers, target
from perfect import perfect

import headway
from headway.detector import Detector
from headway.select import select
from headway.types import Target

FULL = {head: small(grid.natural(head)) for head in grid.heads()}
FULL |= {form: small(path, **arguments) for form, (path, arguments) in grid.FORMS.items()}
HEIGHT, WIDTH = SIZE
WHOLE = [0, 0, WIDTH, HEIGHT]


@pytest.fixture(scope="module", params=FULL)
def model(request) -> Detector:
    return prepared(FULL[request.param])


# -------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("size", [SIZE, (97, 131), (64, 64), (33, 64), (9, 7)], ids=str)
def test_any_input_size_gives_a_static_number_of_boxes_inside_it(model, size):
    first, other = candidates_of(model, images_of(1, size)), candidates_of(model, images_of(2, size, seed=1))
    count = first.boxes.shape[1]
    assert 0 < count == other.boxes.shape[1]
    assert other.boxes.shape == (2, count, 4)
    assert other.scores.shape == other.labels.shape == (2, count)
    assert other.class_scores is None or other.class_scores.shape == (2, count)
    assert torch.isfinite(other.boxes).all()
    assert other.boxes.min() >= 0
    assert (other.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert 0 <= other.scores.min() <= other.scores.max() <= 1
    assert 0 <= other.labels.min() <= other.labels.max() < CLASSES


def test_boxes_are_clipped_to_the_valid_part_of_each_image(model):
    candidates = candidates_of(model, images_of(2), torch.tensor([SIZE, [40, 60]]))
    assert candidates.boxes[0, :, 2].max() > 60
    assert (candidates.boxes[1] <= torch.tensor([60.0, 40, 60, 40])).all()


# ------------------------------------------------------------------------------------------------------ training
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 40, 50]]), target([])],
    "many": lambda: [target([[i, i / 2, i + 12.5, i / 2 + 9] for i in range(60)]), target([WHOLE] * 2)],
    "crowd only": lambda: [target([[10, 20, 40, 50]], crowd=[True]), target([WHOLE], crowd=[True])],
    "tiny, empty, beyond": lambda: [target([[10, 20, 10.5, 20.5], [9, 9, 9, 9]]), target([[-90, -80, 200, 150]])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_losses_and_gradients_are_finite_in_training(model, case):
    targets = TARGETS[case]()
    losses = loss_of(model.train(), images_of(2), targets)
    losses.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    finite = all(torch.isfinite(g).all() for g in gradients) and any(g.any() for g in gradients)
    model.zero_grad()
    model.eval()
    assert finite
    assert all(torch.isfinite(term) and term >= 0 for term in losses.terms.values())
    assert losses.total > 0, "also without an object there is background to learn"
    assert not any(value.requires_grad for value in losses.stats.values())


def test_crowd_regions_change_nothing(model):
    pairs = [
        ([target([[10, 20, 40, 50]])], [target([[10, 20, 40, 50], [30, 5, 90, 60]], crowd=[False, True])]),
        ([target([])], [target([WHOLE], crowd=[True])]),
    ]
    with torch.no_grad():
        for plain, crowded in pairs:
            expected, found = (loss_of(model, images_of(1), targets).terms for targets in (plain, crowded))
            assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in expected.items()}


def test_every_parameter_gets_a_gradient(model):
    model.zero_grad()
    loss_of(model, images_of(2), [target(grid.EVERYWHERE), target(grid.EVERYWHERE[::2])]).total.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    model.zero_grad()
    assert without <= {"head.decoder.0.self_attention.value.weight"}, "DETR's queries start with the content 0"


def test_a_perfect_raw_output_decodes_back_to_the_ground_truth(model):
    truth = target([[4, 6, 38, 40], [50, 4, 94, 44], [20, 40, 46, 62]])
    with torch.no_grad():
        torch.manual_seed(0)
        raw, vanishing = perfect(model.head, model(images_of(1), None, [truth]), truth)
        (found,) = select(model.decode(raw), score_threshold=0.5, nms_iou=0.5)
        losses = model.loss(raw, [truth])
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[order], truth.boxes, rtol=0, atol=1e-3)
    assert {name: losses.terms[name].item() for name in vanishing if losses.terms[name] > 1e-3} == {}


# --------------------------------------------------------------------------------------------- batches and modes
def test_pictures_of_a_batch_do_not_meet(model):
    """Each gives what it gives alone, however far its batch is padded."""
    images, sizes = images_of(2), torch.tensor([SIZE, [41, 70]])
    images[1, :, 41:], images[1, :, :, 70:] = 0, 0
    both = candidates_of(model, images, sizes)
    for i in range(2):
        alone = candidates_of(model, images[i : i + 1], sizes[i : i + 1])
        assert strangers(both, alone, image=i) <= 1
    assert strangers(both, both, 0, 1) > both.boxes.shape[1] / 2  # the pictures matter


def test_the_mode_changes_no_type_and_detect_is_forward_decode_and_select(model):
    images = images_of(2)
    raw = model(images)
    assert type(model.train()(images)) is type(raw)
    model.eval()
    expected = select(model.decode(raw), score_threshold=0.1, nms_iou=model.card.nms_iou,
                      max_detections=model.card.max_detections)  # fmt: skip
    for found, other in zip(model.detect(images, score_threshold=0.1), expected):
        assert abs(len(found) - len(other)) <= 1
        count = min(len(found), len(other), 20)
        torch.testing.assert_close(found.scores[:count], other.scores[:count], rtol=1e-3, atol=1e-4)


# ----------------------------------------------------------------------------------------- files, folding, export
def test_a_checkpoint_comes_back_to_the_bit(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    with torch.no_grad():
        ours, theirs = leaves(model(images_of(1))), leaves(again(images_of(1)))
    assert len(ours) == len(theirs) >= 3
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert json.dumps(again.card.to_dict()) == json.dumps(model.card.to_dict())  # a file makes lists of tuples


def test_a_folded_network_gives_the_same_candidates(model):
    folded = headway.fuse(model)
    assert not any(hasattr(m, "folded") for m in folded.modules())
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) for network in (model, folded)]
    assert norms[1] < norms[0]  # EfficientDet's, of which several read one convolution, stay
    assert strangers(candidates_of(folded, images_of(1)), candidates_of(model, images_of(1))) <= 1


def test_an_exported_graph_gives_the_same_candidates(model):
    """On another picture and another valid size than it was exported with."""
    other, sizes = images_of(1, seed=1), torch.tensor([[64, 80]])
    with torch.no_grad():
        program = torch.export.export(grid.Exportable(model), (images_of(1), torch.tensor([[50, 96]])))
        boxes, scores, labels = program.module()(other, sizes)
    expected = candidates_of(model, other, sizes)
    assert strangers(expected._replace(boxes=boxes, scores=scores, labels=labels), expected, far=0.2) <= 1


def test_one_class(model):
    """The only class is 0, and what is learned stays finite."""
    single = headway.compose(model.card.model, _without_classes(model), num_classes=1)
    targets = [target([[10, 20, 40, 50]])]
    assert torch.isfinite(loss_of(single.eval(), images_of(1), targets).total)
    assert not candidates_of(single, images_of(1)).labels.any()


def _without_classes(model: Detector) -> dict:
    return {k: v for k, v in model.card.arguments.items() if k != "num_classes"}


def test_bfloat16_stays_near(model):
    """The best scores are near those of float32, whichever box has them; what is decoded and learned is float32."""
    images, targets = images_of(1), [target([[10, 20, 40, 50]])]
    full = candidates_of(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        half = candidates_of(model, images)
        raw = model(images, None, targets)
    assert half.boxes.dtype == half.scores.dtype == torch.float32
    torch.testing.assert_close(half.scores.amax(1), full.scores.amax(1), rtol=0.1, atol=0.03)
    losses = model.loss(raw, targets)
    losses.total.backward()
    finite = all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    assert finite
    assert losses.total.dtype == torch.float32


def test_losses_are_divided_by_the_positives_of_the_batch_plus_one():
    model = prepared(small("toy/bifpn/efficientdet"))
    with torch.no_grad():
        raw = model(images_of(1))
        alone = model.loss(raw, [target([[10, 20, 60, 60]])])
        twice = model.loss(
            raw._replace(cls=raw.cls.repeat(2, 1, 1), box=raw.box.repeat(2, 1, 1)), [target([[10, 20, 60, 60]])] * 2
        )
    positives = alone.stats["positives"]
    for name, value in alone.terms.items():
        torch.testing.assert_close(twice.terms[name], 2 * value * (positives + 1) / (2 * positives + 1))
