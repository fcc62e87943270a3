"""What is of TTFNet and PAFNet alone: how they start, attention-guided sampling, and a Dynamic Head in front."""

from functools import partial

import grid
import pytest
import torch
from grid import target
from torch import nn

import headway
from headway.detector import Detector
from headway.types import Target

CLASSES = grid.CLASSES
images_of = partial(grid.images_of, size=(96, 160))
NARROW = {"num_classes": CLASSES, "planes": (24, 16, 16)}
SMALL = {
    "ttfnet_r18": NARROW,
    "ttfnet_r18_dyhead": {**NARROW, "channels": 32, "blocks": 1},
    "pafnet": {**NARROW, "backbone": "resnet18d"},
    "pafnet_dyhead": {**NARROW, "backbone": "resnet18d", "channels": 32, "blocks": 1},
}


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


# --------------------------------------------------------------------------------------------------------- the shapes


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
        raw = untrained(grid.images_of(1, (64, 64)))
    assert raw.heatmap.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)
    assert raw.box.max() < 64


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["ttfnet_r18", "pafnet"])
def test_a_few_steps_lower_both_losses(name):
    """From the start that users have, not the spread one: the boxes' ReLU must not be dead there. The heat map's loss
    jumps from step to step at so small a batch."""
    torch.manual_seed(0)
    fresh = headway.create_model(name, **SMALL[name]).train()
    optimizer = torch.optim.AdamW(fresh.parameters(), 3e-4)
    images, targets = grid.images_of(2, (64, 96)), [target([[8, 6, 60, 50]]), target([[20, 10, 90, 60]])]
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
    assert plain["box"] != guided["box"]


# -------------------------------------------------------------------------------------------------- batches and files


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
    raw = small.train()(grid.images_of(2, (70, 90)))
    assert raw.heatmap.shape == (2, CLASSES, 18, 23)
    losses = small.loss(raw, [target([[10, 20, 60, 60]]), target([])])
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.neck.dyhead.parameters())
