"""Pasted rectangles and their boxes: painted objects are looked for in the mixed picture."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from headway.data.augment import cutmix
from headway.data.augment.cutmix import cut_mix, visible_outside


def flat(value, boxes, height=40, width=60, first_id=0):
    """A picture of one grey in channel 0; its objects are painted into channels 1 (by id + 1) so that each is found."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = value
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[1, y1:y2, x1:x2] = first_id + number + 1
    count = len(boxes)
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(count),
        "crowd": torch.zeros(count, dtype=torch.bool),
        "ids": torch.arange(count) + first_id,
    }
    return tv_tensors.Image(image), target


def painted(image, identity):
    """The box around all pixels of an object, and how many there are."""
    where = (image[1] == identity + 1).nonzero()
    if not len(where):
        return None, 0
    low, high = where.amin(0), where.amax(0) + 1
    return [low[1].item(), low[0].item(), high[1].item(), high[0].item()], len(where)


# Objects that do not touch each other, so that painting hides nothing.
FIRST = [[2, 2, 20, 14], [30, 1, 58, 30], [3, 20, 6, 38], [10, 33, 50, 36]]
SECOND = [[0, 0, 10, 10], [20, 5, 40, 35], [45, 20, 60, 40], [12, 15, 17, 18]]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_surround_what_can_be_seen(seed):
    """Two pictures of one size: where channel 0 has the second's grey is the rectangle, each object's box is the one
    around its own pixels, and it is there when these are 30% of the object or more (exactly 30%: as rounding will)."""
    torch.manual_seed(seed)
    first, second = flat(10, FIRST), flat(20, SECOND, first_id=100)
    image, target = cut_mix(first, second, (40, 60))
    pasted = image[0] == 20
    rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
    if len(rows):
        assert pasted.sum() == len(rows) * len(columns)  # one rectangle, and its pixels are at their own place
        assert torch.equal(image[:, pasted], second[0][:, pasted])
    assert torch.equal(image[:, ~pasted], first[0][:, ~pasted])
    found = dict(zip(target["ids"].tolist(), target["boxes"].tolist()))
    for identity, box in [*enumerate(FIRST), *((100 + i, box) for i, box in enumerate(SECOND))]:
        seen, count = painted(image, identity)
        share = count / math.prod((box[2] - box[0], box[3] - box[1]))
        assert (identity in found) == (share >= 0.3) or share == 0.3
        if identity in found:
            assert found[identity] == seen
    assert target["boxes"].canvas_size == (40, 60)
    assert len(target["labels"]) == len(target["crowd"]) == len(found)


def test_boxes_of_the_first_by_hand():
    """Window 10..20 x 10..20. By row: a left end hidden (cut to 20), a middle part of the height only (stays), a band
    across the middle (stays), three quarters hidden (left out), all hidden, nothing hidden, no area."""
    boxes = [[15, 12, 30, 18], [15, 5, 30, 18], [5, 12, 25, 15], [12, 10, 16, 24], [11, 11, 19, 19], [30, 30, 40, 40],
             [5, 5, 5, 9]]  # fmt: skip
    seen, kept = visible_outside(torch.tensor(boxes).float(), torch.tensor([10.0, 10, 20, 20]), 0.3)
    assert kept.tolist() == [True, True, True, False, False, True, False]
    assert seen[kept].tolist() == [[20, 12, 30, 18], [15, 5, 30, 18], [5, 12, 25, 15], [30, 30, 40, 40]]


def test_the_rectangle_has_the_papers_area(monkeypatch):
    """Share 0.75: sides sqrt(0.25) = half of 40 and 60, whole when the centre is far enough from the border."""

    class Fixed:
        def __init__(self, a, b):
            assert (a, b) == (1.5, 1.5)

        def sample(self):
            return torch.tensor(0.75)

    monkeypatch.setattr(torch.distributions, "Beta", Fixed)
    sizes = []
    for seed in range(30):
        torch.manual_seed(seed)
        pasted = cut_mix(flat(10, []), flat(20, []), (40, 60))[0][0] == 20
        sizes.append((int(pasted.any(1).sum()), int(pasted.any(0).sum())))
    assert max(sizes) == (20, 30)
    assert len(set(sizes)) > 5  # cut by the border elsewhere


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
@settings(deadline=None, max_examples=150)
def test_pictures_of_any_two_sizes(height, width, other_height, other_width, seed):
    torch.manual_seed(seed)
    whole, other = [0, 0, width, height], [0, 0, other_width, other_height]
    first = flat(10, [whole], height, width)
    image, target = cut_mix(first, flat(20, [other], other_height, other_width, 100), (32, 48))
    boxes = target["boxes"].as_subclass(torch.Tensor)
    assert image.shape == (3, height, width)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    for identity, box in zip(target["ids"].tolist(), boxes.tolist()):
        assert box == painted(image, identity)[0]
    assert torch.equal(first[0][0], torch.full((height, width), 10, dtype=torch.uint8))  # the input stays as it was


def test_the_second_keeps_its_own_scale(monkeypatch):
    """40x60 and 80x120 both fit (40, 60) at different factors, 1 and 0.5: the second's 40 px object is 20 px there."""
    monkeypatch.setattr(cutmix, "_stretch", lambda length, share, limits: limits)  # the whole second picture
    image, target = cut_mix(flat(10, []), flat(20, [[40, 20, 80, 60]], 80, 120, 100), (40, 60))
    assert (image[0] == 20).all()
    assert target["boxes"].tolist() == [[20, 10, 40, 30]]


def test_without_boxes_there_are_none():
    torch.manual_seed(0)
    image, target = cut_mix(flat(10, []), flat(20, []), (40, 60))
    assert (image[0] == 20).any()
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].dtype == torch.int64
    assert target["crowd"].dtype == torch.bool
