"""One contract for every dense model: shapes, losses, gradients, decoding, batches, checkpoints and export.

Models on ResNet-18 run for real, narrowed to 32 channels; the others run on the meta device, for shapes and sizes.
"""

from collections.abc import Callable

import pytest
import torch
from exportable import Exportable
from torch import Tensor

import headway
from headway.detector import Detector
from headway.select import select
from headway.types import Target

STRIDES = (8, 16, 32, 64, 128)
DENSE = [
    name
    for name in headway.list_models()
    if name.startswith(("atss", "fcos", "retinanet")) and not ("swin" in name or "vit" in name)
]  # the transformers have a contract of their own
SMALL = [name for name in DENSE if "r18" in name]
LARGE = sorted(set(DENSE) - set(SMALL))
CLASSES = 3


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> Detector:
    """Everything that starts at zero (last norms of blocks, offsets) is moved off it, and class scores are spread, so
    that no gradient vanishes and few scores tie."""
    torch.manual_seed(0)
    model = headway.create_model(request.param, num_classes=CLASSES, channels=32).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.head.cls.weight, std=0.1)
    return model


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels=None, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


def priors_per_cell(model: Detector) -> int:
    return model.head.box.out_channels // 4


# -------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64)])
def test_shapes_at_any_input_size(model, size):
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    cells = [-(-size[0] // s) * -(-size[1] // s) for s in STRIDES]
    per_cell = priors_per_cell(model)
    count = sum(cells) * per_cell
    assert raw.priors.level_sizes == tuple(c * per_cell for c in cells)
    assert raw.priors.boxes.shape == (count, 4)
    assert raw.cls.shape == (2, count, CLASSES)
    assert raw.box.shape == (2, count, 4)
    assert raw.quality is None or raw.quality.shape == (2, count)
    kept = sum(min(1000, c * per_cell * CLASSES) for c in cells)
    assert candidates.boxes.shape == (2, kept, 4)
    assert candidates.scores.shape == candidates.labels.shape == candidates.class_scores.shape == (2, kept)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert candidates.labels.min() >= 0
    assert candidates.labels.max() < CLASSES


@pytest.mark.parametrize("name", LARGE)
def test_large_models_have_the_same_shapes(name):
    with torch.device("meta"):
        large = headway.create_model(name)
        raw = large.eval()(torch.zeros(1, 3, 800, 1088))
    assert len(raw.priors.level_sizes) == 5
    assert raw.cls.shape == (1, sum(raw.priors.level_sizes), 80)
    assert raw.priors.level_sizes[0] == 100 * 136 * priors_per_cell(large)


@pytest.mark.parametrize(
    ("name", "arguments", "total", "trainable"),
    [
        ("atss_r50_fpn_dyhead", {}, 39_071_682, 39_071_682),
        ("atss_r50_fpn_dyhead", {"frozen_stages": 1}, 39_071_682, 38_846_338),
        ("atss_r50_fpn_dyhead", {"kernel": 1}, 38_897_602, 38_897_602),
        ("atss_r50_fpn", {"frozen_stages": 1}, 32_295_322, 32_069_978),
        ("retinanet_r50_fpn", {}, 37_968_692, 37_968_692),
        ("fcos_r50_fpn", {}, 32_297_370, 32_297_370),
        ("fcos_r50_fpn", {"improved": False, "norm": "frozen", "frozen_stages": 1}, 32_295_322, 32_019_802),
    ],
)
def test_published_parameter_counts(name, arguments, total, trainable):
    with torch.device("meta"):
        parameters = list(headway.create_model(name, **arguments).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trainable


# ------------------------------------------------------------------------------------------------------ training
ONE_PER_LEVEL = [[2, 4, 26, 30], [40, 10, 90, 58], [5, 20, 110, 95], [0, 0, 150, 90], [1, 2, 159, 94]]
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "many": lambda: [target(ONE_PER_LEVEL * 8), target([[i, i, i + 12.5, i + 9] for i in range(60)])],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 160, 96]], crowd=[True])],
    "tiny and whole": lambda: [target([[10, 20, 10.5, 20.5]]), target([[0, 0, 160, 96]])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_losses_are_finite(model, case):
    targets = TARGETS[case]()
    losses = model.loss(model(images_of(2)), targets)
    assert torch.isfinite(torch.stack(list(losses.terms.values()))).all()
    assert losses.total.requires_grad
    assert not any(value.requires_grad for value in losses.stats.values())
    if case in ("none", "crowd only"):
        assert losses.stats["positives"] == 0
        assert losses.terms["box"] == 0
        assert losses.terms["cls"] > 0
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_crowd_regions_change_nothing(model):
    with torch.no_grad():
        raw = model(images_of(1))
        plain = model.loss(raw, [target([[10, 20, 60, 80]])])
        crowded = model.loss(raw, [target([[10, 20, 60, 80], [50, 0, 150, 90]], crowd=[False, True])])
    for name, value in plain.terms.items():
        assert torch.equal(value, crowded.terms[name])


def test_every_parameter_gets_a_gradient(model):
    """With boxes on all levels; the coarsest needs one that reaches beyond the picture."""
    boxes = [[x, x, x + side, x + side] for side in (30, 100, 200, 400) for x in range(0, 640 - side + 1, 80)]
    boxes.append([-300, -300, 900, 900])
    raw = model(images_of(1, 640, 640))
    matched = model.head.assign(raw.priors, torch.tensor(boxes, dtype=torch.float32))
    assert set(raw.priors.stride[matched >= 0].tolist()) == set(STRIDES)
    model.zero_grad()
    model.loss(raw, [target(boxes)]).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert without == []


def test_a_perfect_raw_output_decodes_back_to_the_ground_truth(model):
    """Write the answer over the raw output: at every assigned prior its box's code, its class and full quality."""
    truth = target([[8, 6, 60, 50], [70, 20, 150, 90], [20, 60, 44, 84]])
    with torch.no_grad():
        raw = model(images_of(1))
        matched = model.head.assign(raw.priors, truth.boxes)
        positive = matched >= 0
        cls, box = torch.full_like(raw.cls, -20.0), raw.box.clone()
        cls[0, positive, truth.labels[matched[positive]]] = 20.0
        box[0, positive] = model.head.coder.encode(raw.priors.boxes[positive], truth.boxes[matched[positive]])
        quality = None if raw.quality is None else torch.full_like(raw.quality, 20.0)
        perfect = raw._replace(cls=cls, box=box, quality=quality)
        candidates = model.decode(perfect)
    (found,) = select(candidates, class_threshold=0.05, nms_iou=0.5)
    owned = sorted(set(matched[positive].tolist()))
    assert len(owned) >= 2
    order = found.labels.argsort()
    expected = truth.boxes[owned]
    assert found.labels[order].tolist() == truth.labels[owned].tolist()
    torch.testing.assert_close(found.boxes[order], expected, rtol=0, atol=1e-3)
    assert found.scores.min() > 0.999
    losses = model.loss(perfect, [truth])
    assert losses.terms["cls"] < 1e-4
    assert losses.terms["box"] < 1e-3


# --------------------------------------------------------------------------------------------- batches and files
def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = images_of(2)
    with torch.no_grad():
        both = model(images)
        single = [model(images[i : i + 1]) for i in range(2)]
    for i in range(2):
        torch.testing.assert_close(both.cls[i], single[i].cls[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both.box[i], single[i].box[0], rtol=1e-4, atol=1e-4)


def test_boxes_are_clipped_to_the_valid_part_of_each_image(model):
    with torch.no_grad():
        candidates = model.decode(model(images_of(2), torch.tensor([[96, 160], [64, 100]])))
    assert candidates.boxes[0, :, 2].max() > 100
    assert candidates.boxes[1, :, 2].max() <= 100
    assert candidates.boxes[1, :, 3].max() <= 64


def test_the_mode_changes_no_return_type_and_detect_equals_forward_decode_and_select(model):
    images = images_of(2)
    with torch.no_grad():
        (expected, _) = select(model.decode(model(images)), nms_iou=model.card.nms_iou)
    found, other = model.detect(images, score_threshold=0.0)
    assert len(found) == len(expected) == len(other) == 100
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-5)
    training = model.train()(images)
    assert type(training) is type(model.eval()(images))
    model.train().detect(images)
    model.eval()


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    images = images_of(1)
    with torch.no_grad():
        ours, theirs = model(images), again(images)
    assert torch.equal(ours.cls, theirs.cls)
    assert torch.equal(ours.box, theirs.box)
    assert again.card.to_dict() == model.card.to_dict()


def test_export_gives_the_same_candidates(model):
    """Every exported candidate has a partner of the same class, within .05 px and 5e-5 of its score; near-ties may
    stand in another order, and one may fall on the other side of the cut."""
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
