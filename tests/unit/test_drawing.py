"""Drawn boxes, by the pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from headway.drawing import class_colour, draw_boxes

NAMES = ("cat", "dog")
GREY = (128, 128, 128)


def pixels(picture):
    return np.asarray(picture).astype(int)


def blank(width=200, height=160):
    return Image.new("RGB", (width, height), GREY)


def in_colour(picture, label):
    return (pixels(picture) == class_colour(label)).all(-1)


def test_frame_lies_on_the_box():
    drawn = draw_boxes(blank(), [[40, 60, 120, 140]], [1], NAMES)
    frame = in_colour(drawn, 1)
    assert frame[60, 60:120].all()
    assert frame[139, 40:120].all()
    assert frame[60:140, 40].all()
    assert frame[60:140, 119].all()
    assert (pixels(drawn)[80:130, 50:110] == GREY).all(), "the inside is left alone"


@pytest.mark.parametrize("kind", ["tensor", "array", "list"])
def test_every_kind_of_input_gives_the_same(kind):
    boxes, labels, scores = [[10.4, 30.0, 80.0, 90.6], [20, 20, 60, 60]], [0, 1], [0.9, 0.25]
    convert = {"tensor": torch.tensor, "array": np.array, "list": list}[kind]
    image = torch.full((3, 160, 200), 128, dtype=torch.uint8) if kind == "tensor" else blank()
    drawn = draw_boxes(image, convert(boxes), convert(labels), NAMES, convert(scores), convert([[5.0, 5, 50, 50]]))
    expected = draw_boxes(blank(), boxes, labels, NAMES, scores, [[5.0, 5, 50, 50]])
    np.testing.assert_array_equal(pixels(drawn), pixels(expected))


def test_the_picture_given_is_not_drawn_on():
    picture = blank()
    draw_boxes(picture, [[10, 10, 50, 50]], [0], NAMES)
    assert (pixels(picture) == GREY).all()


def test_no_boxes_gives_the_picture():
    drawn = draw_boxes(torch.full((3, 20, 30), 7, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long(), NAMES)
    assert (pixels(drawn) == 7).all()
    assert drawn.size == (30, 20)


def test_small_boxes_are_drawn_over_large_ones():
    large, small = [0, 0, 200, 160], [0, 60, 30, 90]
    for boxes, labels in (([large, small], [0, 1]), ([small, large], [1, 0])):
        assert in_colour(draw_boxes(blank(), boxes, labels, NAMES), 1)[62:88, 0].all()


@pytest.mark.parametrize(
    "box", [[-30, -20, 40, 40], [180, 150, 400, 300], [0, 0, 200, 160], [90, 0, 91, 1], [5, 5, 5, 5]]
)
def test_label_stays_inside_the_picture(box):
    """The label is a filled ground in the class's colour, more than the frame alone could give."""
    for scores in (None, [0.5]):
        filled = in_colour(draw_boxes(blank(), [box], [0], NAMES, scores), 0)
        rows = filled.sum(1)
        assert (rows >= 15).sum() >= 5


def test_labels_avoid_each_other():
    """Two boxes with one top left corner: the grounds of both labels must show, undiminished."""
    boxes = [[40, 50, 160, 150], [40, 50, 150, 145]]
    alone = in_colour(draw_boxes(blank(), boxes[:1], [0], NAMES), 0).sum()
    both = draw_boxes(blank(), boxes, [0, 1], NAMES)
    assert in_colour(both, 0).sum() > 0.6 * alone
    text = [draw_boxes(blank(), [box], [label], NAMES) for box, label in zip(boxes, (0, 1))]
    assert in_colour(both, 1).sum() >= 0.9 * in_colour(text[1], 1).sum()


def test_scores_and_unknown_labels_are_written():
    plain = draw_boxes(blank(), [[40, 60, 120, 140]], [0], NAMES)
    scored = draw_boxes(blank(), [[40, 60, 120, 140]], [0], NAMES, scores=[0.5])
    assert in_colour(scored, 0).sum() > in_colour(plain, 0).sum(), "a longer text has a wider ground"
    draw_boxes(blank(), [[40, 60, 120, 140]], [17], NAMES)


def test_truth_is_dashed_white():
    drawn = pixels(draw_boxes(blank(), [], [], NAMES, truth=[[40, 60, 120, 140]]))
    top = (drawn[60, 40:120] == 255).all(-1)
    assert 20 < top.sum() < 60
    assert (drawn[0:50] == GREY).all()


def test_colours_of_neighbouring_classes_differ():
    colours = np.array([class_colour(label) for label in range(8)])
    for i in range(8):
        for j in range(i):
            assert np.abs(colours[i] - colours[j]).max() > 60


def test_wrong_input_says_what_was_expected():
    with pytest.raises(ValueError, match="one length"):
        draw_boxes(blank(), [[0, 0, 1, 1]], [0, 1], NAMES)
    with pytest.raises(ValueError, match=r"\[3, H, W\] uint8"):
        draw_boxes(torch.zeros(3, 4, 4), [], [], NAMES)
    with pytest.raises(ValueError, match=r"\[3, H, W\] uint8"):
        draw_boxes(np.zeros((4, 4, 3), np.uint8), [], [], NAMES)


def test_other_modes_become_rgb():
    assert draw_boxes(Image.new("L", (9, 9)), [], [], NAMES).mode == "RGB"


def test_a_box_far_outside_is_drawn_at_once():
    """Failed before: a dashed frame of a billion pixels took minutes, and more did not fit a C integer."""
    far, near = [-1e18, 20, 1e18, 90], [-30, 20, 230, 90]
    assert (pixels(draw_boxes(blank(), [far], [0], NAMES)) == pixels(draw_boxes(blank(), [near], [0], NAMES))).all()
    assert pixels(draw_boxes(blank(), [], [], NAMES, truth=[far])).max() == 255
