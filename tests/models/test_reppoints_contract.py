"""What every RepPoints model must do: shapes, losses, gradients, decoding, batches, checkpoints, precision and export.

The models on ResNet-18 run for real, narrowed to 32 channels; the others run on the meta device.
"""

from collections.abc import Callable

import pytest
import torch
from exportable import Exportable
from torch import Tensor

import headway
from headway.convert import from_upstream
from headway.detector import Detector
from headway.errors import CheckpointError
from headway.select import select
from headway.types import Frame, Target

STRIDES = (8, 16, 32, 64, 128)
SMALL = headway.list_models("reppoints_r18")
LARGE = sorted(set(headway.list_models("reppoints")) - set(SMALL))
CLASSES = 3


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> Detector:
    """Everything that starts at zero is moved off it, and the points are spread, so that no gradient vanishes."""
    torch.manual_seed(0)
    model = headway.create_model(request.param, num_classes=CLASSES, channels=32).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    for name, layer in model.head.named_children():
        if not name.endswith("tower"):
            torch.nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    torch.nn.init.normal_(model.head.pts_init.bias, std=2.0)
    return model


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels=None, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


# -------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64), (8, 8)])
def test_shapes_at_any_input_size(model, size):
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    cells = [-(-size[0] // s) * -(-size[1] // s) for s in STRIDES]
    assert raw.priors.level_sizes == tuple(cells)
    assert raw.cls.shape == (2, sum(cells), CLASSES)
    assert raw.pts_init.shape == raw.pts_refine.shape == (2, sum(cells), 18)
    assert raw.priors.boxes[:2].tolist() == ([[0, 0, 0, 0], [8, 0, 8, 0]] if size[1] > 8 else [[0] * 4] * 2)
    kept = sum(min(1000, c * CLASSES) for c in cells)
    assert candidates.boxes.shape == (2, kept, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, kept)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (candidates.boxes[..., 2:] >= candidates.boxes[..., :2]).all()


@pytest.mark.parametrize("name", LARGE)
def test_large_models_have_the_same_shapes(name):
    with torch.device("meta"):
        raw = headway.create_model(name).eval()(torch.zeros(1, 3, 800, 1088))
    assert raw.priors.level_sizes[0] == 100 * 136
    assert raw.cls.shape == (1, sum(raw.priors.level_sizes), 80)


@pytest.mark.parametrize(
    ("name", "arguments", "total", "trainable"),
    [
        ("reppoints_r50_fpn", {}, 36_845_494, 36_845_494),
        ("reppoints_r50_fpn", {"frozen_stages": 1}, 36_845_494, 36_620_150),
        # A norm has 2 x 256 parameters where a bias has 256: 8 convolutions of the neck and 6 of the towers.
        ("reppoints_r50_fpn", {"fpn_norm": "group", "tower_norm": True}, 36_849_078, 36_849_078),
        ("reppoints_r50_fpn", {"transform": "minmax"}, 36_845_492, 36_845_492),
        # Deformable stages: 1,286,172 more in R101, as counted for Faster R-CNN.
        ("reppoints_r101_fpn", {}, 55_837_622, 55_837_622),
        ("reppoints_r101_fpn", {"dcn": ("c3", "c4", "c5"), "dcn_version": 1}, 57_123_794, 57_123_794),
    ],
)
def test_published_parameter_counts(name, arguments, total, trainable):
    with torch.device("meta"):
        parameters = list(headway.create_model(name, **arguments).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trainable


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
    targets = TARGETS[case]()
    losses = model.loss(model(images_of(2)), targets)
    assert torch.isfinite(torch.stack(list(losses.terms.values()))).all()
    assert losses.total.requires_grad
    assert not any(value.requires_grad for value in losses.stats.values())
    if case in ("none", "crowd only"):
        assert losses.stats["positives"] == losses.stats["positives_init"] == 0
        assert losses.terms["pts_init"] == losses.terms["pts_refine"] == 0
        assert losses.terms["cls"] > 0
    else:
        assert losses.stats["positives_init"] > 0
    model.zero_grad()
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
    boxes = [[x, x, x + side, x + side] for side in (30, 100, 200, 400) for x in range(0, 640 - side + 1, 80)]
    boxes.append([-300, -300, 900, 900])
    raw = model(images_of(1, 640, 640))
    matched = model.head.init_assign(raw.priors, torch.tensor(boxes, dtype=torch.float32))
    assert set(raw.priors.stride[matched >= 0].tolist()) == set(STRIDES)
    model.zero_grad()
    model.loss(raw, [target(boxes)]).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert without == []


def test_points_that_all_lie_in_one_place_train():
    """A head whose first points are its biases, and those all equal: the standard deviation's derivative would be
    infinite there."""
    model = headway.create_model("reppoints_r18_fpn", num_classes=1, channels=32)
    for layer in (model.head.pts_init, model.head.pts_refine):
        torch.nn.init.zeros_(layer.weight)
    losses = model.loss(model(images_of(1)), [target([[10, 20, 60, 80], [0, 0, 160, 96]], [0, 0])])
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.head.pts_init.weight.grad.any()


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_a_perfect_raw_output_decodes_back_to_the_ground_truth(transform):
    """Points on the corners of the box, whose extremes are the box; for the moment a deviation of half its sides: of 9
    values, 4 at -d, 4 at d and one in the middle, the unbiased deviation is d."""
    with torch.device("meta"):
        model = headway.create_model("reppoints_r18_fpn", num_classes=CLASSES, channels=32, transform=transform)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    truth = target([[8, 6, 60, 50], [70, 20, 150, 90], [20, 60, 44, 84]])
    with torch.no_grad():
        raw = model.head(
            [torch.zeros(1, 32, -(-96 // s), -(-160 // s)) for s in STRIDES],
            Frame(torch.tensor([[96, 160]]), (96, 160)),
        )
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1], [-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]])
    points, cls = torch.zeros_like(raw.pts_init), torch.full_like(raw.cls, -20.0)
    matched = model.head.init_assign(raw.priors, truth.boxes)
    for prior in (matched >= 0).nonzero().flatten().tolist():
        x1, y1, x2, y2 = truth.boxes[matched[prior]].tolist()
        middle, half = torch.tensor([(y1 + y2) / 2, (x1 + x2) / 2]), torch.tensor([(y2 - y1) / 2, (x2 - x1) / 2])
        place = raw.priors.boxes[prior, [1, 0]]
        points[0, prior] = ((middle - place + corners * half) / raw.priors.stride[prior]).flatten()
        cls[0, prior, truth.labels[matched[prior]]] = 20.0
    perfect = raw._replace(cls=cls, pts_init=points, pts_refine=points)
    (found,) = select(model.decode(perfect), class_threshold=0.05, nms_iou=0.5)
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[order], truth.boxes, rtol=0, atol=1e-3)
    losses = model.loss(perfect, [truth])
    assert losses.stats["positives"] == losses.stats["positives_init"] == 3
    assert all(term < 1e-4 for term in losses.terms.values())


# --------------------------------------------------------------------------------------------- batches and files
def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = images_of(2)
    with torch.no_grad():
        both = model(images)
        single = [model(images[i : i + 1]) for i in range(2)]
    for i in range(2):
        for name in ("cls", "pts_init", "pts_refine"):
            torch.testing.assert_close(getattr(both, name)[i], getattr(single[i], name)[0], rtol=1e-4, atol=2e-4)


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
    found, _ = model.detect(images, score_threshold=0.0)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    training = model.train()(images)
    assert type(training) is type(model.eval()(images))


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    images = images_of(1)
    with torch.no_grad():
        ours, theirs = model(images), again(images)
    for name in ("cls", "pts_init", "pts_refine", "moment"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert again.card.to_dict() == model.card.to_dict()


def test_export_gives_the_same_candidates(model):
    """Near-ties may stand in another order, so every exported candidate must have a partner, and one may fall on the
    other side of the cut."""
    sizes = torch.tensor([[96, 160]])
    with torch.no_grad():
        program = torch.export.export(Exportable(model), (images_of(1), sizes))
        exported = program.module()(images_of(1, seed=1), sizes)
        expected = Exportable(model)(images_of(1, seed=1), sizes)
    assert any("deform_conv2d" in str(node.target) for node in program.graph.nodes)
    rows = [torch.cat([b[0], s[0, :, None] * 1000, c[0, :, None] * 1000.0], 1) for b, s, c in (exported, expected)]
    assert rows[0].shape == rows[1].shape
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values > 0.05).sum() <= 1
    assert (distance.min(0).values > 0.05).sum() <= 1


def test_bfloat16_stays_near_float32(model):
    """Points and logits come out in float32, on average within a fiftieth of their size of those of float32."""
    with torch.no_grad():
        exact = model(images_of(1))
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images_of(1))
    for name in ("cls", "pts_init", "pts_refine"):
        ours, theirs = getattr(rough, name), getattr(exact, name)
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().mean() < 0.02 * theirs.abs().mean(), name
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(images_of(1))
    model.loss(raw, [target([[10, 20, 60, 80]])]).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


# ----------------------------------------------------------------------------------------------------- converter
HEAD_NAMES = {
    "pts_init_conv": "reppoints_pts_init_conv", "pts_init": "reppoints_pts_init_out",
    "cls_conv": "reppoints_cls_conv", "cls": "reppoints_cls_out",
    "pts_refine_conv": "reppoints_pts_refine_conv", "pts_refine": "reppoints_pts_refine_out",
}  # fmt: skip


def upstream_name(key: str) -> str:
    """Our key -> mmdetection's, written out by hand."""
    parts = key.split(".")
    if parts[0] == "backbone":
        return "backbone." + ".".join(parts[2:])
    if parts[0] == "neck":
        index = int(parts[2]) + (3 if parts[1] == "extras" else 0)
        place = "lateral_convs" if parts[1] == "laterals" else "fpn_convs"
        return f"neck.{place}.{index}.{'gn' if parts[3] == 'norm' else 'conv'}.{parts[-1]}"
    if key == "head.moment":
        return "bbox_head.moment_transfer"
    if parts[1] in ("cls_tower", "box_tower"):
        tower = "cls_convs" if parts[1] == "cls_tower" else "reg_convs"
        return f"bbox_head.{tower}.{parts[2]}.{'gn' if parts[3] == 'norm' else 'conv'}.{parts[-1]}"
    return f"bbox_head.{HEAD_NAMES[parts[1]]}.{parts[2]}"


@pytest.mark.parametrize("tag", ["mmdet", "mmdet_gn"])
def test_mmdetection_names_fill_every_key_and_no_more(tag):
    torch.manual_seed(0)
    model = headway.create_model(f"reppoints_r50_fpn.{tag}", backbone="resnet18", num_classes=2, channels=32)
    ours = {key: torch.randn(value.shape) for key, value in model.state_dict().items() if value.is_floating_point()}
    upstream = {upstream_name(key): value for key, value in ours.items()}
    assert len(upstream) == len(ours)
    converted = from_upstream(upstream, "mmdet", model)
    model.load_state_dict(converted)
    assert all(torch.equal(converted[key], value) for key, value in ours.items())
    upstream["bbox_head.reppoints_cls_conv.bias"] = torch.zeros(32)
    with pytest.raises(CheckpointError, match=r"model lacks: bbox_head\.reppoints_cls_conv\.bias"):
        from_upstream(upstream, "mmdet", model)
