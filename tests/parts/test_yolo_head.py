"""What is of YOLOv4 and YOLOR alone: the card, anchors, arguments that exclude each other, classes, implicit values."""

from functools import partial

import grid
import pytest
import torch
from torch import nn

import headway
from headway.detector import Detector
from headway.layers.implicit import Implicit
from headway.types import Target

CLASSES = grid.CLASSES
images_of = partial(grid.images_of, size=(96, 160))
THIN = {"num_classes": CLASSES, "depth": 0.1, "width": 0.1}
SMALL = {"yolor_s": THIN, "yolov4_p5": THIN}


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
        model.train()(grid.images_of(2, (256, 256)))
    return model.eval()


# --------------------------------------------------------------------------------------------------------- the shapes


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
