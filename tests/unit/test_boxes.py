"""Box arithmetic: hand values, torchvision as the peer, and round trips over random boxes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou, clip_boxes_to_image, generalized_box_iou

from headway import boxes as B

PUBLISHED_STDS = [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]

coordinate = st.floats(-2000, 2000, width=32)
side = st.floats(1, 60, width=32)
box_lists = st.lists(st.tuples(coordinate, coordinate, side, side), min_size=1, max_size=6)


def boxes_of(rows) -> torch.Tensor:
    """(x, y, w, h) rows -> xyxy in float64."""
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rows], dtype=torch.float64)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 80], 1)


def test_conversions_equal_torchvision_and_invert():
    boxes = random_boxes(20, 0)
    there = B.to_cxcywh(boxes)
    torch.testing.assert_close(there, box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(B.from_cxcywh(there), boxes)


def test_conversions_by_hand():
    """A box from (1, 2) to (5, 10) is 4 wide and 8 high around (3, 6)."""
    box = torch.tensor([1.0, 2, 5, 10])
    assert B.to_cxcywh(box).tolist() == [3, 6, 4, 8]


@pytest.mark.parametrize("function", [B.to_cxcywh, B.from_cxcywh])
def test_conversions_take_any_leading_shape_and_none(function):
    boxes = random_boxes(6, 1)
    assert torch.equal(function(boxes.view(2, 3, 4)).view(6, 4), function(boxes))
    assert function(torch.zeros(0, 4)).shape == (0, 4)


def test_clip_equals_torchvision_per_image():
    boxes = torch.stack([random_boxes(9, 2), random_boxes(9, 3)]) * 2 - 40
    clipped = B.clip(boxes, torch.tensor([[70, 50], [33, 90]]))
    torch.testing.assert_close(clipped[0], clip_boxes_to_image(boxes[0], (70, 50)))
    torch.testing.assert_close(clipped[1], clip_boxes_to_image(boxes[1], (33, 90)))


def test_area_of_an_inverted_box_is_zero():
    """(0,0,3,4): 12; (3,0,0,4) and (3,4,0,0) are inverted, and must not count as -12 or +12."""
    assert B.area(torch.tensor([[0.0, 0, 3, 4], [3, 0, 0, 4], [3, 4, 0, 0]])).tolist() == [12, 0, 0]


def test_iou_by_hand():
    """(0,0,2,2) and (1,1,3,3) share 1 of 4 + 4 - 1 = 7; the hull is 3 x 3 = 9, so GIoU = 1/7 - 2/9 = -5/63.
    (0,0,1,1) and (2,0,3,1) share nothing of 2; the hull is 3, so GIoU = -1/3."""
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[1.0, 1, 3, 3], [2, 0, 3, 1]])
    torch.testing.assert_close(B.aligned_iou(a, b), torch.tensor([1 / 7, 0.0]))
    torch.testing.assert_close(B.aligned_giou(a, b), torch.tensor([-5 / 63, -1 / 3]))


def test_overlaps_equal_torchvision():
    a, b = random_boxes(40, 4), random_boxes(30, 5)
    torch.testing.assert_close(B.pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(B.aligned_iou(a[:30], b), box_iou(a[:30], b).diagonal())
    torch.testing.assert_close(B.aligned_giou(a[:30], b), generalized_box_iou(a[:30], b).diagonal())


def test_overlaps_of_points_are_zero_not_nan():
    """torchvision divides 0 by 0 here."""
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert B.pairwise_iou(point, point).item() == 0
    assert B.aligned_iou(point, point).item() == 0
    assert torch.isfinite(B.aligned_giou(point, point)).all()


def test_overlaps_with_no_boxes():
    assert B.pairwise_iou(random_boxes(3, 0), torch.zeros(0, 4)).shape == (3, 0)
    assert B.aligned_giou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@settings(deadline=None, derandomize=True)
@given(box_lists, st.integers(0, 3))
def test_delta_round_trip(rows, which):
    """Sides of 1..60 keep every size ratio under the limit of 1000/16 = 62.5."""
    boxes = boxes_of(rows)
    priors, stds = boxes.flip(0), PUBLISHED_STDS[which]
    decoded = B.decode_delta(priors, B.encode_delta(priors, boxes, stds), stds)
    torch.testing.assert_close(decoded, boxes, rtol=0, atol=1e-6)


@settings(deadline=None, derandomize=True)
@given(box_lists)
def test_ltrb_round_trip(rows):
    boxes = boxes_of(rows)
    centre = boxes.flip(0)[:, :2]
    points = torch.cat([centre, centre], 1)
    torch.testing.assert_close(B.decode_ltrb(points, B.encode_ltrb(points, boxes)), boxes, rtol=0, atol=1e-9)


def test_encode_delta_by_hand():
    """Prior: centre (5, 5), 10 x 10. Box: centre (7, 4), 20 x 5. dx = 2/10, dy = -1/10, log 2, log 1/2; over stds
    (.1, .1, .2, .2): 2, -1, 5 log 2, -5 log 2."""
    deltas = B.encode_delta(torch.tensor([0.0, 0, 10, 10]), torch.tensor([-3.0, 1.5, 17, 6.5]), (0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(deltas, torch.tensor([2, -1, 5 * math.log(2), -5 * math.log(2)]))


def test_decode_delta_by_hand():
    """A unit box at the origin has its centre at .5. Deltas of 1 move it to 1.5 with a side of e: 1.5 -+ e / 2. Deltas
    (0, 0, 2, -1): .5 -+ e^2 / 2 across and .5 -+ 1 / 2e down, then clipped to the image of 32 x 32."""
    unit = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    decoded = B.clip(B.decode_delta(unit, torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, -1]])), torch.tensor([32, 32]))
    expected = torch.tensor([[0.1409, 0.1409, 2.8591, 2.8591], [0, 0.3161, 4.1945, 0.6839]])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=5e-5)


def test_log_sizes_are_limited():
    """|log(16 / 1000)| = 4.135166556742356: a side grows or shrinks by at most 62.5."""
    assert pytest.approx(4.135166556742356, abs=1e-15) == B.MAX_LOG_SCALE
    prior, wild = torch.tensor([0.0, 0, 10, 10]), torch.tensor([0.0, 0, 100, -100])
    width, height = B.to_cxcywh(B.decode_delta(prior, wild))[2:].tolist()
    assert (width, height) == pytest.approx((625, 0.16), rel=1e-4)
    free = B.to_cxcywh(B.decode_delta(prior, wild, clip_shrink=False))[2:].tolist()
    assert free == pytest.approx((625, 0), abs=1e-3)


def test_ltrb_by_hand_is_negative_outside():
    """From (10, 20) the box (4, 18, 13, 19) lies 6 left, 2 up, 3 right, and its bottom 1 above the point."""
    distances = B.encode_ltrb(torch.tensor([10.0, 20, 10, 20]), torch.tensor([4.0, 18, 13, 19]))
    assert distances.tolist() == [6, 2, 3, -1]


class Survivors(torch.nn.Module):
    def forward(self, boxes, scores, groups=None):
        return B.survivors(boxes, scores, groups, 0.5)


def test_survivors_are_those_of_nms_also_where_an_exported_graph_keeps_one_or_none():
    """IoU of the first two is 8 / 12, so they fall together in one group only; the third has no area, and -inf is not
    kept. Then ten boxes in one place, of which the best stays; the graph is made with two images and runs with one."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [2, 0, 12, 1], [5, 5, 5, 9], [20, 0, 30, 1]]).expand(2, -1, -1)
    scores = torch.tensor([[0.5, 0.6, 0.1, -torch.inf], [0.6, 0.5, 0.1, 0.2]])
    assert B.survivors(boxes, scores, None, 0.5).tolist() == [[False, True, True, False], [True, False, True, True]]
    groups = torch.tensor([[0, 1, 0, 0], [2, 2, 2, 2]])
    assert B.survivors(boxes, scores, groups, 0.5).tolist() == [[True, True, True, False], [True, False, True, True]]
    assert B.survivors(boxes[:, :0], scores[:, :0], None, 0.5).shape == (2, 0)
    free = {0: torch.export.Dim("batch")}
    inputs = torch.rand(2, 10, 4).cumsum(2), torch.rand(2, 10)
    exported = torch.export.export(Survivors(), inputs, dynamic_shapes=(free, free)).module()
    place, order = torch.tensor([[[1.0, 2, 3, 4]]]).repeat(1, 10, 1), torch.arange(10.0)[None]
    assert exported(place, order).tolist() == [[False] * 9 + [True]]
