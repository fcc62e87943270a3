"""What the detector refuses, what `detect` runs, and that `headway.fuse` computes the same."""

import pytest
import torch

import headway
from headway.detector import Detector
from headway.errors import HeadwayError
from headway.select import select
from headway.types import Frame, Target


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = headway.create_model("atss_r18_fpn_dyhead", num_classes=3, channels=32, blocks=1).eval()
    for module in model.modules():  # batch norms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 64, 64), r"\[B, 3, H, W\], got \(3, 64, 64\)"),
        (torch.rand(1, 1, 64, 64), r"got \(1, 1, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide 8-bit pixels by 255"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "detect"])
def test_refuses_images(model, call, images, message):
    with pytest.raises(HeadwayError, match=message):
        getattr(model, call)(images)


def test_refuses_sizes(model):
    with pytest.raises(HeadwayError, match=r"sizes must be \[2, 2\] \(height, width\), got \(1, 2\)"):
        model(torch.rand(2, 3, 64, 64), torch.tensor([[64, 64]]))


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([1.0, 2.0, 3.0, 4.0], [0], r"boxes must be \[M, 4\] xyxy, got \(4,\)"),
        ([[1.0, 2.0, 3.0, 4.0]], [0, 1], "1 boxes need as many labels"),
        ([[1.0, 2.0, 3.0, 4.0]], [3], r"labels must be 0..2, got 3..3"),
        ([[1.0, 2.0, 3.0, 4.0]], [-1], r"labels must be 0..2, got -1..-1"),
        ([[1.0, float("nan"), 3.0, 4.0]], [0], "box 0 is .*nan"),
        ([[9.0, 2.0, 3.0, 4.0]], [0], r"box 0 is \[9.0, 2.0, 3.0, 4.0\]"),
    ],
)
def test_refuses_targets(model, boxes, labels, message):
    raw = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(HeadwayError, match=message):
        model.loss(raw, [Target(torch.tensor(boxes), torch.tensor(labels))])


def test_detect_equals_forward_decode_select(model):
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = select(
            model.decode(model(images)), class_threshold=model.card.score_threshold, nms_iou=model.card.nms_iou,
            max_detections=model.card.max_detections,
        )  # fmt: skip
    for found, expected in zip(model.detect(images), plain):
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)


def test_a_frame_or_its_sizes_alone(model):
    """The valid part of a padded batch, in both forms; boxes stay inside."""
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[96, 128], [40, 60]])
    alone, framed = (
        model.detect(images, sizes, threshold=0.0),
        model.detect(images, Frame(sizes, (96, 128)), threshold=0.0),
    )
    for a, b in zip(alone, framed):
        assert torch.equal(a.boxes, b.boxes)
    assert alone[1].boxes[:, 2].max() <= 60
    assert alone[1].boxes[:, 3].max() <= 40
    assert alone[0].boxes[:, 2].max() > 60


def test_thresholds_and_suppression_by_name(model):
    """`threshold` is on the final score; `score_threshold` is its old name. Suppression has three states."""
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    every = model.detect(images, threshold=0.0, nms_iou=None, max_detections=10_000)[0]
    default = model.detect(images, threshold=0.0, max_detections=10_000)[0]
    assert len(every) > len(default)
    assert model.card.nms_iou == 0.6
    for same in ("card", 0.6):
        assert torch.equal(
            model.detect(images, threshold=0.0, nms_iou=same, max_detections=10_000)[0].boxes, default.boxes
        )
    assert len(model.detect(images, threshold=0.0, nms_iou=0.1, max_detections=10_000)[0]) < len(default)
    candidates = model.decode(model(images))
    assert len(every) <= candidates.scores.shape[1]
    middle = float(default.scores.median())
    above = model.detect(images, threshold=middle)[0]
    assert above.scores.min() >= middle
    assert torch.equal(model.detect(images, score_threshold=middle)[0].boxes, above.boxes)
    assert len(model.detect(images, threshold=0.0, max_detections=3)[0]) == 3


def test_detect_sees_weights_changed_in_any_way(model):
    """In place, or through `.data`, of which no version counter tells: detections were once made with stale copies."""
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weight = model.backbone.body.conv1.weight
    kept = weight.detach().clone()
    before = model.detect(images, threshold=0.0)[0].scores
    with torch.no_grad():
        weight.mul_(2)
    after = model.detect(images, threshold=0.0)[0].scores
    assert not torch.equal(before, after)
    weight.data = kept.clone()
    torch.testing.assert_close(model.detect(images, threshold=0.0)[0].scores, before)
    weight.data.zero_()
    zeroed = model.detect(images, threshold=0.0)[0].scores
    assert not torch.allclose(zeroed[:10], before[:10])
    with torch.no_grad():
        expected = select(model.decode(model(images)), score_threshold=0.0, nms_iou=model.card.nms_iou)[0].scores
    torch.testing.assert_close(zeroed, expected)
    weight.data.copy_(kept)


def test_a_model_built_in_inference_mode_detects():
    """Its tensors have no version counters."""
    torch.manual_seed(0)
    with torch.inference_mode():
        model = headway.create_model("resnet18/fpn/fcos", num_classes=2, channels=16, tower_depth=1).eval()
        inside = model.detect(torch.full((1, 3, 160, 160), 0.3), threshold=0.0)[0]
    outside = model.detect(torch.full((1, 3, 160, 160), 0.3), threshold=0.0)[0]
    assert len(inside) > 0
    assert torch.equal(inside.boxes, outside.boxes)


def test_detect_lets_hooks_see_every_part(model):
    seen = []
    modules = [model.backbone.body.layer2, model.neck[1], model.head.cls]
    hooks = [m.register_forward_hook(lambda m, *_: seen.append(m)) for m in modules]
    model.detect(torch.rand(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(modules)


def test_detect_leaves_the_mode_and_grad_alone(model):
    model.train()
    found = model.detect(torch.rand(1, 3, 64, 64))[0]
    assert model.training
    assert not found.scores.requires_grad
    model.eval()


# ------------------------------------------------------------------------------------------------- hand-made detectors
def test_a_detector_from_modules_alone(model):
    own = Detector(model.backbone, model.neck, model.head, class_names=["a", "b", "c"])
    assert own.card.class_names == ("a", "b", "c")
    assert own.card.nms_iou == 0.6, "the head's"
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, expected = own.eval().detect(images, threshold=0.0)[0], model.detect(images, threshold=0.0)[0]
    assert torch.equal(found.boxes, expected.boxes)
    assert found.names == ("a", "b", "c")
    assert isinstance(Detector(model.backbone, None, model.head, class_names=["a"]).neck, torch.nn.Identity)
    with pytest.raises(HeadwayError, match=r"needs to know its classes: give class_names=\[\.\.\.\] or a card"):
        Detector(model.backbone, model.neck, model.head)


# -------------------------------------------------------------------------------------------------------------- folding
def test_fuse_folds_the_norms_of_all_parts():
    """PAFNet-Lite has norms in backbone, neck and head."""
    torch.manual_seed(0)
    model = headway.create_model("pafnet_lite", num_classes=2).eval()
    for norm in [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    folded = headway.fuse(model)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        plain, fast = model(images), folded(images)
        torch.testing.assert_close(fast.heatmap, plain.heatmap, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fast.box, plain.box, atol=1e-3, rtol=1e-4)


def test_fuse_folds_every_norm_and_changes_nothing(model):
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    folded = headway.fuse(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images).cls, model(images).cls, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(folded(images).box, model(images).box, atol=1e-5, rtol=1e-4)


def test_detection_refuses_8_bit_values_as_floats():
    """Failed before: no detections, without a word."""
    model = headway.create_model("retinanet_r18_fpn", num_classes=2, channels=32).eval()
    images = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    with pytest.raises(HeadwayError, match=r"images must be float in 0\.\.1, got values up to 255; divide 8-bit"):
        model.detect(images * 255)
    model.detect(images * 1.2 - 0.1)  # as a bicubic resize may overshoot


def test_a_batch_norm_that_sees_one_value_says_what_to_do():
    """EfficientDet's coarsest map of a 128-pixel picture is one cell."""
    model = headway.create_model("efficientdet_d0", num_classes=2).train()
    with pytest.raises(
        HeadwayError, match=r"1 picture of 128 x 128, whose coarsest map is one cell: take a batch of 2"
    ):
        model(torch.rand(1, 3, 128, 128))
