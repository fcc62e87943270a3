"""The contract of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR: shapes, losses, gradients, batches, files and export.

Thin and shallow ones run for real; the published ones run on the meta device.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.detector import Detector
from headway.layers.implicit import Implicit
from headway.select import select
from headway.types import Target

CLASSES = 3
THIN = {"num_classes": CLASSES, "depth": 0.1, "width": 0.1}
SMALL = {
    "yolov4_csp": {**THIN, "act": "mish"},
    "yolov4_csp_x": {**THIN, "stem": "haar", "form": "yaml"},
    "yolor_s": THIN,
    "yolor_csp": {**THIN, "align": "concat", "refine": "add", "implicit": "factors", "stem": "reorg"},
    "yolor_p6": THIN,
    "yolor_e6": {**THIN, "align": "mul", "refine": None, "implicit": "network"},
    "yolov4_p5": {**THIN, "act": "leaky"},
    "yolov4_p7": THIN,
}
NAMES = headway.list_models("yolo")


def make(name: str, **arguments) -> Detector:
    """Norms that fit what they read, so that the picture reaches the outputs, and predictions spread."""
    torch.manual_seed(0)
    model = headway.create_model(name, **{**SMALL[name], **arguments}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, here of one
        if isinstance(module, Implicit):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
    for prediction in model.head.predictions:
        nn.init.normal_(getattr(prediction, "conv", prediction).weight, std=0.1)
    with torch.no_grad():
        model.train()(images_of(2, 256, 256))
    return model.eval()


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> Detector:
    return make(request.param)


@pytest.fixture(scope="module")
def precise(model) -> Detector:
    """In double precision: a deep network of random weights makes much of a float's rounding."""
    return copy.deepcopy(model).double()


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


def test_every_model_is_here():
    """The others are the same network with other numbers, which their parameter counts tell apart."""
    assert set(SMALL) <= set(NAMES)
    assert set(NAMES) - set(SMALL) >= {"yolor_csp_x", "yolor_w6", "yolor_d6", "yolov4_p6"}


# --------------------------------------------------------------------------------------------------------- the shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64), (7, 9)])
def test_shapes_at_any_input_size(model, size):
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    count = model.head.anchors.shape[1]
    cells = [(-(-size[0] // s), -(-size[1] // s)) for s in model.head.strides]
    assert [x.shape for x in raw.maps] == [(2, count, h, w, 5 + CLASSES) for h, w in cells]
    kept = min(8192, sum(count * h * w for h, w in cells) * CLASSES)
    assert candidates.boxes.shape == (2, kept, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, kept)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()


@pytest.mark.parametrize(("name", "rows", "strides"), [
    ("yolor_csp", 25_200, (8, 16, 32)),
    ("yolor_p6", 102_000, (8, 16, 32, 64)),
    ("yolor_d6", 102_000, (8, 16, 32, 64)),
    ("yolov4_p7", 196_416, (8, 16, 32, 64, 128)),
])  # fmt: skip
def test_published_sizes(name, rows, strides):
    """Three anchors in 80, 40 and 20 cells squared; in 160 to 20; four in 192 to 12."""
    with torch.device("meta"):
        large = headway.create_model(name).eval()
        raw = large(torch.zeros(1, 3, *large.card.input_size))
    assert large.head.strides == strides
    assert large.head.rows(raw).shape == (1, rows, 85)
    assert large.card.pad_multiple == strides[-1]


def test_the_card_says_what_the_weights_expect():
    card = make("yolor_s").card
    assert (card.mean, card.std, card.pad) == ((0, 0, 0), (255, 255, 255), (114, 114, 114))
    assert (card.nms_iou, card.score_threshold, card.max_detections) == (0.65, 0.001, 300)
    picture = images_of(1)
    torch.testing.assert_close(make("yolor_s").normalize(picture), picture)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("yolor_s", {"depth": 0.0}, "depth must be above 0"),
        ("yolor_s", {"width": 100.0}, "width must be above 0"),
        ("yolov4_p5", {"stem": "reorg"}, "halves the picture"),
        ("yolor_s", {"anchors": (((8, 8),),)}, "anchors must be 3 levels"),
        ("yolor_s", {"anchors": (((8, 8),), ((8, 8),), ((8, 8), (9, 9)))}, "anchors must be 3 levels"),
        ("yolor_s", {"anchors": (((8, 8),), ((8, 8),), ((8, 0),))}, "positive pixels"),
        ("yolor_s", {"form": "json"}, "form"),
        ("yolor_s", {"refine": "concat"}, "refine"),
    ],
)
def test_arguments_that_cannot_be(name, arguments, message):
    with torch.device("meta"), pytest.raises(headway.errors.HeadwayError, match=message):
        headway.create_model(name, **arguments)


def test_anchors_of_any_number():
    """Two for each cell, and kept in the file."""
    anchors = (((10, 12), (20, 22)), ((40, 30), (50, 60)), ((90, 80), (100, 120)))
    small = make("yolor_s", anchors=anchors)
    with torch.no_grad():
        assert [x.shape[1] for x in small(images_of(1)).maps] == [2, 2, 2]
    assert small.head.anchors.tolist() == [[list(pair) for pair in level] for level in anchors]
    assert small.card.arguments["anchors"] == anchors
    assert "head.anchors" not in small.state_dict()


# ----------------------------------------------------------------------------------------------------------- training
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "whole image": lambda: [target([[0, 0, 160, 96]]), target([[0, 0, 160, 96]])],
    "five hundred": lambda: [
        target([[x, y, x + 12, y + 9] for x in range(0, 125, 5) for y in range(0, 80, 4)]),
        target([]),
    ],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 160, 96]], crowd=[True])],
    "no area, and beyond the border": lambda: [target([[10, 20, 10, 20]]), target([[-90, -80, 40, 50]])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_training_step_is_finite(model, case):
    targets = TARGETS[case]()
    model.train()
    losses = model.loss(model(images_of(2), targets=targets), targets)
    assert set(losses.terms) == {"box", "objectness", "class"}
    assert all(torch.isfinite(term) for term in losses.terms.values())
    if case in ("none", "crowd only"):
        assert losses.stats["positives"] == 0
        assert losses.terms["box"] == losses.terms["class"] == 0
    assert losses.terms["objectness"] > 0
    losses.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.any() for g in gradients)
    model.zero_grad()
    model.eval()


def test_every_parameter_gets_a_gradient(model):
    """Boxes of a size for every level; of the implicit values every single one."""
    side = [(int(w), int(h)) for level in model.head.anchors for w, h in level.tolist()]
    boxes = [[100 - w / 2, 70 - h / 2, 100 + w / 2, 70 + h / 2] for w, h in side]
    model.zero_grad()
    losses = model.loss(model(images_of(1, 128, 192)), [target(boxes)])
    losses.total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    for module in model.modules():
        if isinstance(module, Implicit) and module.model == "vector":
            assert (module.value.grad != 0).all()
    model.zero_grad()


@pytest.mark.parametrize("classes", [1, 20])
def test_any_number_of_classes(classes):
    small = make("yolor_s", num_classes=classes)
    raw = small(images_of(1))
    one = Target(torch.tensor([[10.0, 20.0, 60.0, 80.0]]), torch.tensor([classes - 1]))
    losses = small.loss(raw, [one])
    assert torch.isfinite(losses.total)
    assert (losses.terms["class"] == 0) == (classes == 1)
    labels = small.decode(raw).labels
    assert 0 <= labels.min() <= labels.max() < classes


def test_without_implicit_values_it_is_the_plain_network():
    """Additions of 0 and multiplications by 1."""
    implicit, plain = make("yolor_s"), make("yolor_s", align=None, refine=None)
    state = {
        k.replace(".conv.", ".", 1) if k.startswith("head.predictions") else k: v
        for k, v in implicit.state_dict().items()
    }
    plain.load_state_dict({k: v for k, v in state.items() if not k.endswith("value")})
    for prediction in implicit.head.predictions:
        nn.init.zeros_(prediction.align.value)
        nn.init.ones_(prediction.refine.value)
    with torch.no_grad():
        for ours, theirs in zip(implicit(images_of(1)).maps, plain(images_of(1)).maps):
            assert torch.equal(ours, theirs)


# -------------------------------------------------------------------------------------------------- batches and files
def test_a_batch_of_two_equals_two_batches_of_one(precise):
    images = images_of(2).double()
    with torch.no_grad():
        both = precise(images)
        single = [precise(images[i : i + 1]) for i in range(2)]
    for level, x in enumerate(both.maps):
        assert (x[0] - x[1]).abs().max() > 0.01  # the pictures matter
        for i in range(2):
            torch.testing.assert_close(x[i], single[i].maps[level][0], rtol=1e-5, atol=1e-5)


def test_detect_equals_forward_decode_and_select(precise):
    """`detect` folds norms and implicit values."""
    images = images_of(2).double()
    with torch.no_grad():
        expected = select(precise.decode(precise(images)), nms_iou=0.65, max_detections=300)
    for ours, theirs in zip(precise.detect(images, score_threshold=0.0), expected):
        assert len(ours) == len(theirs) > 0
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-6)


def test_the_mode_changes_no_return_type(model):
    training = model.train()(images_of(2))
    assert type(training) is type(model.eval()(images_of(2)))


def test_folded_equals_unfolded(precise):
    folded = headway.fuse(precise)
    assert not any(isinstance(m, Implicit) for m in folded.modules())
    images = images_of(1).double()
    with torch.no_grad():
        for ours, theirs in zip(folded(images).maps, precise(images).maps):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    with torch.no_grad():
        for ours, theirs in zip(model(images_of(1)).maps, again(images_of(1)).maps):
            assert torch.equal(ours, theirs)
    assert again.head.neighbours == model.head.neighbours


class Exportable(nn.Module):
    """Forward and decode as one graph."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        raw = self.model(images, sizes)
        candidates = self.model.decode(raw)
        return *raw.maps, candidates.boxes, candidates.scores


@pytest.mark.parametrize("name", ["yolor_s", "yolor_e6"])
@pytest.mark.parametrize("size", [(96, 160), (75, 101)])
def test_export_gives_the_same_output(name, size):
    model, sizes = make(name).double(), torch.tensor([size])
    first, other = images_of(1, *size).double(), images_of(1, *size, seed=1).double()
    with torch.no_grad():
        program = torch.export.export(Exportable(headway.fuse(model)), (first, sizes))
        exported, expected = program.module()(other, sizes), Exportable(model)(other, sizes)
    for ours, theirs in zip(exported[:-2], expected[:-2]):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exported[-1], expected[-1], rtol=1e-4, atol=1e-6)
    assert exported[-2].shape == expected[-2].shape
