"""The contract of TTFNet and PAFNet: shapes, losses, gradients, batches, files, export, and a Dynamic Head in front.

Small ones run for real, on a ResNet-18 and a narrow neck; the published ones run on the meta device.
"""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.detector import Detector
from headway.layers.deform import DeformableConv2d
from headway.profile import count_macs
from headway.select import select
from headway.types import Target

CLASSES = 3
NARROW = {"num_classes": CLASSES, "planes": (24, 16, 16)}
SMALL = {
    "ttfnet_r18": NARROW,
    "ttfnet_r18_dyhead": {**NARROW, "channels": 32, "blocks": 1},
    "pafnet": {**NARROW, "backbone": "resnet18d"},
    "pafnet_dyhead": {**NARROW, "backbone": "resnet18d", "channels": 32, "blocks": 1},
}
LARGE = ["ttfnet_r18", "ttfnet_r34", "ttfnet_darknet53", "ttfnet_r18_dyhead", "pafnet", "pafnet_dyhead"]


def make(name: str, **arguments) -> Detector:
    """Everything that starts at zero is moved off it and the outputs are spread, so that no gradient vanishes and few
    scores tie."""
    torch.manual_seed(0)
    model = headway.create_model(name, **{**SMALL[name], **arguments}).eval()
    for key, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        if key.endswith("gate.bias"):  # a scale gate lies behind a ReLU
            nn.init.constant_(parameter, 0.1)
    for branch in (model.head.heatmap, model.head.box):
        for layer in branch.modules():
            if isinstance(getattr(layer, "weight", None), nn.Parameter):
                nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(model.head.box.out.bias, 1.0)
    return model


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> Detector:
    return make(request.param)


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


# --------------------------------------------------------------------------------------------------------- the shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64), (7, 9)])
def test_shapes_at_any_input_size(model, size):
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    assert raw.heatmap.shape == (2, CLASSES, *cells)
    assert raw.box.shape == (2, 4, *cells)
    assert raw.offset is None
    assert raw.box.min() >= 0
    kept = min(100, cells[0] * cells[1] * CLASSES)
    assert candidates.boxes.shape == (2, kept, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, kept)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()


@pytest.mark.parametrize("name", LARGE)
def test_published_sizes_have_the_same_shapes(name):
    with torch.device("meta"):
        large = headway.create_model(name)
        raw = large.eval()(torch.zeros(1, 3, 384, 512))
    assert raw.heatmap.shape == (1, 80, 96, 128)
    assert raw.box.shape == (1, 4, 96, 128)
    assert large.backbone.strides == (4, 8, 16, 32)
    assert large.card.nms_iou is None


@pytest.mark.parametrize(
    ("name", "arguments", "total", "trainable"),
    [
        ("pafnet", {}, 33_779_984, 33_779_984),
        ("pafnet", {"norm": "frozen"}, 33_779_984, 33_726_736),
        ("pafnet", {"dcn": (), "deformable_head": False}, 32_831_237, 32_831_237),
        ("pafnet", {"num_classes": 20}, 33_772_244, 33_772_244),
        ("pafnet", {"num_classes": 1}, 33_769_793, 33_769_793),
        ("ttfnet_darknet53", {}, 45_732_485, 45_732_485),
    ],
)
def test_published_parameter_counts(name, arguments, total, trainable):
    with torch.device("meta"):
        parameters = list(headway.create_model(name, **arguments).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trainable


@pytest.mark.parametrize(("name", "macs"), [("pafnet", 41.06e9), ("ttfnet_darknet53", 49.04e9)])
def test_published_multiply_adds(name, macs):
    with torch.device("meta"):
        large = headway.create_model(name)
    assert count_macs(large, (512, 512)) == pytest.approx(macs, rel=2e-4)


def test_where_pafnet_is_deformable():
    """All 13 3x3 convolutions of C3 to C5, the neck's three steps, two in each branch; none where arguments say so."""
    with torch.device("meta"):
        places = [n for n, m in headway.create_model("pafnet").named_modules() if isinstance(m, DeformableConv2d)]
        none = headway.create_model("pafnet", dcn=(), deformable=False, deformable_head=False)
    parts = [".".join(name.split(".")[:3]) for name in places]
    assert {part: parts.count(part) for part in parts} == {
        "backbone.body.layer2": 4, "backbone.body.layer3": 6, "backbone.body.layer4": 3,
        "neck.upsamples.0": 1, "neck.upsamples.1": 1, "neck.upsamples.2": 1,
        "head.heatmap.conv0": 1, "head.heatmap.conv1": 1, "head.box.conv0": 1, "head.box.conv1": 1,
    }  # fmt: skip
    assert not any(isinstance(m, DeformableConv2d) for m in none.modules())


@pytest.mark.parametrize("classes", [1, 20])
def test_any_number_of_classes(classes):
    small = make("pafnet", num_classes=classes)
    with torch.no_grad():
        raw = small(images_of(1))
        candidates = small.decode(raw)
    assert raw.heatmap.shape[1] == classes
    assert 0 <= candidates.labels.min() <= candidates.labels.max() < classes
    one = Target(torch.tensor([[10.0, 20.0, 60.0, 80.0]]), torch.tensor([classes - 1]))
    assert torch.isfinite(small.loss(raw, [one]).total)


@pytest.mark.parametrize("name", ["ttfnet_r18", "ttfnet_r34", "ttfnet_darknet53", "pafnet"])
def test_untrained_scores_are_a_hundredth_and_boxes_are_small(name):
    torch.manual_seed(0)
    untrained = headway.create_model(name).eval()
    with torch.no_grad():
        raw = untrained(images_of(1, 64, 64))
    assert raw.heatmap.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)
    assert raw.box.max() < 64


# ----------------------------------------------------------------------------------------------------------- training
def crowded(count: int) -> list[list[float]]:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([150.0, 90.0])
    return torch.cat([corner, corner + 8], 1).tolist()


TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "whole image": lambda: [target([[0, 0, 160, 96]]), target([[0, 0, 160, 96]])],
    "five hundred": lambda: [target(crowded(500)), target([[10, 20, 60, 80]])],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 160, 96]], crowd=[True])],
    "one pixel and beyond the border": lambda: [target([[10, 20, 11, 21]]), target([[-30, -20, 40, 50]])],
    "one centre": lambda: [target([[40, 30, 80, 60], [50, 35, 70, 55], [50, 35, 70, 55]]), target([])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_training_step_is_finite(model, case):
    targets = TARGETS[case]()
    model.train()
    losses = model.loss(model(images_of(2), targets=targets), targets)
    assert set(losses.terms) == {"heatmap", "box"}
    assert all(torch.isfinite(term) for term in losses.terms.values())
    if case in ("none", "crowd only"):
        assert losses.stats["positives"] == 0
        assert losses.terms["box"] == 0
        assert losses.terms["heatmap"] > 0
    losses.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.any() for g in gradients)
    model.zero_grad()
    model.eval()


def test_every_parameter_gets_a_gradient(model):
    model.zero_grad()
    raw = model(images_of(1, 128, 160))
    model.loss(raw, [target([[10, 20, 60, 80], [50, 5, 150, 120], [0, 0, 160, 128]])]).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert without == []


@pytest.mark.parametrize("name", ["ttfnet_r18", "pafnet"])
def test_a_few_steps_lower_both_losses(name):
    """From the start that users have, not the spread one: the boxes' ReLU must not be dead there. The heat map's loss
    jumps from step to step at so small a batch."""
    torch.manual_seed(0)
    fresh = headway.create_model(name, **SMALL[name]).train()
    optimizer = torch.optim.AdamW(fresh.parameters(), 3e-4)
    images, targets = images_of(2, 64, 96), [target([[8, 6, 60, 50]]), target([[20, 10, 90, 60]])]
    history = []
    for _ in range(25):
        losses = fresh.loss(fresh(images), targets)
        history.append({name: term.item() for name, term in losses.terms.items()})
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    for term in ("heatmap", "box"):
        assert min(step[term] for step in history[-10:]) < 0.7 * history[0][term], history


def test_ags_changes_the_box_loss_and_nothing_else(model):
    raw = model(images_of(1))
    boxes = [target([[10, 20, 60, 80], [50, 5, 150, 90]])]
    plain = model.loss(raw, boxes).terms
    model.head.ags = "gaussian"
    guided = model.loss(raw, boxes).terms
    model.head.ags = "off"
    assert torch.equal(plain["heatmap"], guided["heatmap"])
    assert not torch.isclose(plain["box"], guided["box"], rtol=1e-5)


# -------------------------------------------------------------------------------------------------- batches and files
def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = images_of(2)
    with torch.no_grad():
        both = model(images)
        single = [model(images[i : i + 1]) for i in range(2)]
    for i in range(2):
        torch.testing.assert_close(both.heatmap[i], single[i].heatmap[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(both.box[i], single[i].box[0], rtol=1e-3, atol=2e-2)


def test_the_mode_changes_no_return_type_and_detect_equals_forward_decode_and_select(model):
    images = images_of(2)
    with torch.no_grad():
        (expected, _) = select(model.decode(model(images)), nms_iou=None)
    found, other = model.detect(images, score_threshold=0.0)
    assert len(found) == len(expected)
    assert len(other) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-5)
    training = model.train()(images)
    assert type(training) is type(model.eval()(images))


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    images = images_of(1)
    with torch.no_grad():
        ours, theirs = model(images), again(images)
    assert torch.equal(ours.heatmap, theirs.heatmap)
    assert torch.equal(ours.box, theirs.box)
    cards = [json.dumps(m.card.to_dict()) for m in (model, again)]  # a file has lists where Python has tuples
    assert cards[0] == cards[1]


class Exportable(nn.Module):
    """Forward and decode as one graph."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        raw = self.model(images, sizes)
        candidates = self.model.decode(raw)
        return raw.heatmap, raw.box, candidates.boxes, candidates.scores, candidates.labels


@pytest.mark.parametrize("size", [(96, 160), (75, 101)])
def test_export_gives_the_same_output(model, size):
    """Maps alike to float rounding (torchvision's deformable operator is in the graph, another one outside); every
    candidate has a partner of its class within .05 px and 5e-5 of its score, but for one at the cut."""
    sizes = torch.tensor([size])
    with torch.no_grad():
        program = torch.export.export(Exportable(model), (images_of(1, *size), sizes))
        exported = program.module()(images_of(1, *size, seed=1), sizes)
        expected = Exportable(model)(images_of(1, *size, seed=1), sizes)
    torch.testing.assert_close(exported[0], expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(exported[1], expected[1], rtol=1e-3, atol=2e-2)
    rows = [
        torch.cat([b[0], s[0, :, None] * 1000, c[0, :, None] * 1000.0], 1) for _, _, b, s, c in (exported, expected)
    ]
    assert rows[0].shape == rows[1].shape
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values > 0.05).sum() <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"form": "paper"},
        {"high_offset": "resize"},
        {"scale": False, "task": False},
        {"spatial": False, "blocks": 2},
        {"deform_bias": True, "zero_init_offset": False},
    ],
)
def test_every_form_of_dyhead_fits_in_front(arguments):
    small = make("ttfnet_r18_dyhead", **arguments)
    raw = small.train()(images_of(2, 70, 90))
    assert raw.heatmap.shape == (2, CLASSES, 18, 23)
    losses = small.loss(raw, [target([[10, 20, 60, 60]]), target([])])
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.neck.dyhead.parameters())
