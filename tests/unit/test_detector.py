"""What the detector refuses, and that its fast path computes what `forward` does."""

import pytest
import torch

import headway
from headway.errors import HeadwayError
from headway.select import select
from headway.types import Target


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
        plain = select(model.decode(model(images)), class_threshold=model.card.score_threshold)
    for fast, slow in zip(model.detect(images), plain):
        assert len(fast) == len(slow)
        torch.testing.assert_close(fast.scores, slow.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fast.boxes, slow.boxes, atol=1e-3, rtol=1e-4)


def test_detect_follows_a_changed_weight(model):
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = model.detect(images, score_threshold=0.0)[0].scores
    with torch.no_grad():
        model.backbone.body.conv1.weight.mul_(2)
    after = model.detect(images, score_threshold=0.0)[0].scores
    with torch.no_grad():
        model.backbone.body.conv1.weight.div_(2)
    again = model.detect(images, score_threshold=0.0)[0].scores
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, again)


def test_detect_lets_hooks_see_the_backbone(model):
    seen = []
    hook = model.backbone.body.layer2.register_forward_hook(lambda *_: seen.append(1))
    model.detect(torch.rand(1, 3, 64, 64))
    hook.remove()
    assert seen == [1]


def test_detect_folds_the_norms_of_neck_and_head_unless_somebody_watches_them():
    """PAFNet-Lite has norms in all parts; with hooks on its head neck and head run as they are, and are seen."""
    torch.manual_seed(0)
    model = headway.create_model("pafnet_lite", num_classes=2).eval()
    for norm in [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    parts = model._folded_parts()
    assert parts == model._folded_parts()
    assert not [m for part in parts for m in part.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        plain, fast = model(images), model._fast_forward(images, None)
        torch.testing.assert_close(fast.heatmap, plain.heatmap, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fast.box, plain.box, atol=1e-3, rtol=1e-4)
        seen = []
        hook = model.head.heatmap.conv0.register_forward_hook(lambda *_: seen.append(1))
        watched = model._fast_forward(images, None)
        hook.remove()
        assert seen == [1]
        torch.testing.assert_close(watched.heatmap, plain.heatmap, atol=1e-4, rtol=1e-4)
        model.head.box.out.bias.add_(1)
        assert (model._fast_forward(images, None).box > fast.box).any()


def test_fuse_folds_every_norm_and_changes_nothing(model):
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    folded = headway.fuse(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images).cls, model(images).cls, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(folded(images).box, model(images).box, atol=1e-5, rtol=1e-4)
