"""Assigners against loops that follow the papers' text one box and one prior at a time, and boundary cases by hand."""

import math

import pytest
import torch

from headway.assign import IGNORE, NEGATIVE, atss, fcos_points, max_iou
from headway.priors import anchor_grid, point_grid
from headway.types import Priors

CPU = torch.device("cpu")
STRIDES = (8, 16, 32, 64, 128)
MAPS = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))


def random_boxes(count: int, seed: int, low: float = 3, high: float = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([110.0, 80.0])
    return torch.cat([corner, corner + low + torch.rand(count, 2, generator=generator) * (high - low)], 1)


def priors_of(boxes, level_sizes=None, stride: float = 8.0) -> Priors:
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return Priors(boxes, torch.full((len(boxes),), stride), level_sizes or (len(boxes),))


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


# ------------------------------------------------------------------------------------------------------- max_iou
def max_iou_loop(priors, boxes, positive, negative, minimum, rescue) -> list[int]:
    overlap = [[iou(p, b) for b in boxes] for p in priors]
    result = []
    for row in overlap:
        best = max(row)
        result.append(row.index(best) if best >= positive else NEGATIVE if best < negative else IGNORE)
    if rescue:
        for j in range(len(boxes)):
            best = max(row[j] for row in overlap)
            for i, row in enumerate(overlap):
                if best >= minimum and best > 0 and row[j] == best:
                    result[i] = j
    return result


@pytest.mark.parametrize("rescue", [True, False])
@pytest.mark.parametrize(("positive", "negative", "minimum"), [(0.5, 0.4, 0.0), (0.7, 0.3, 0.3), (0.5, 0.5, 0.5)])
def test_max_iou_equals_the_loop(positive, negative, minimum, rescue):
    """Whole coordinates, so that overlaps tie exactly."""
    priors = anchor_grid(MAPS, STRIDES, CPU, scales=(2.0, 4.0), ratios=(1.0,))
    seen = set()
    for seed in range(5):
        boxes = random_boxes(6, seed).round()
        matched = max_iou(
            priors, boxes, positive_iou=positive, negative_iou=negative, min_positive_iou=minimum, rescue=rescue
        )
        expected = max_iou_loop(priors.boxes.tolist(), boxes.tolist(), positive, negative, minimum, rescue)
        assert matched.tolist() == expected
        seen |= {max(value, -2) if value < 0 else 0 for value in expected}
    assert seen >= {0, NEGATIVE}
    assert (IGNORE in seen) == (positive > negative)


def test_max_iou_boundaries():
    """Against (0,0,10,10), anchors 10 wide and 5, 4, 3.9 high inside it have IoU .5, .4, .39: at the positive
    threshold is positive, at the negative one is ignored, below is background."""
    anchors = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 3.9]]
    matched = max_iou(priors_of(anchors), torch.tensor([[0.0, 0, 10, 10]]))
    assert matched.tolist() == [0, 0, IGNORE, NEGATIVE]


def test_max_iou_rescues_every_tie_and_only_from_the_minimum_on():
    """Both anchors overlap the box by 10 of 10 + 100 - 10, 0.1: below the negative threshold, but its best."""
    priors = priors_of([[0, 0, 10, 10], [9, 0, 19, 10], [50, 50, 60, 60]])
    box = torch.tensor([[9.0, 0, 10, 10]])
    assert max_iou(priors, box).tolist() == [0, 0, NEGATIVE]
    assert max_iou(priors, box, min_positive_iou=0.2).tolist() == [NEGATIVE] * 3
    assert max_iou(priors, box, rescue=False).tolist() == [NEGATIVE] * 3


def test_max_iou_rescue_of_a_later_box_overrides_an_earlier_one():
    """One anchor, the best of two boxes; it overlaps the first more, and the second takes it."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    assert max_iou(priors_of([[0, 0, 10, 10]]), boxes).tolist() == [1]
    assert max_iou(priors_of([[0, 0, 10, 10]]), boxes.flip(0)).tolist() == [1]
    assert max_iou(priors_of([[0, 0, 10, 10]]), boxes, rescue=False).tolist() == [0]


def test_max_iou_does_not_rescue_a_box_that_overlaps_no_anchor():
    """Its best overlap, 0, is tied by every anchor; taking them all would drown the image in false positives."""
    priors = priors_of([[0, 0, 10, 10], [20, 0, 30, 10]])
    outside, empty = [100.0, 100, 110, 110], [5.0, 5, 5, 9]
    assert max_iou(priors, torch.tensor([outside, empty])).tolist() == [NEGATIVE, NEGATIVE]


# ---------------------------------------------------------------------------------------------------------- atss
def atss_loop(priors: Priors, boxes: list[list[float]], top_k: int) -> list[int]:
    anchors = priors.boxes.tolist()
    claims: list[dict[int, float]] = [{} for _ in anchors]
    for j, box in enumerate(boxes):
        candidates, start = [], 0
        for size in priors.level_sizes:

            def distance(i, box=box):
                a = anchors[i]
                return math.hypot((a[0] + a[2] - box[0] - box[2]) / 2, (a[1] + a[3] - box[1] - box[3]) / 2)

            candidates += sorted(range(start, start + size), key=distance)[:top_k]
            start += size
        overlaps = [iou(anchors[i], box) for i in candidates]
        mean = sum(overlaps) / len(overlaps)
        variance = sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)
        for i, overlap in zip(candidates, overlaps):
            x, y = (anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= mean + math.sqrt(variance) and inside:
                claims[i][j] = overlap
    return [max(c, key=c.get) if c else NEGATIVE for c in claims]


@pytest.mark.parametrize("top_k", [9, 4])
def test_atss_equals_the_loop(top_k):
    priors = anchor_grid(MAPS, STRIDES, CPU, scales=(8.0,), ratios=(1.0,), center_offset=0.5)
    positives = conflicts = 0
    for seed in range(12):
        boxes = random_boxes(9, seed)
        matched = atss(priors, boxes, top_k=top_k).tolist()
        assert matched == atss_loop(priors, boxes.tolist(), top_k)
        alone = sum((atss(priors, box[None], top_k=top_k) >= 0).long() for box in boxes)
        positives += sum(m >= 0 for m in matched)
        conflicts += int((alone > 1).sum())
    assert positives > 100
    assert conflicts > 5


def test_atss_threshold_uses_the_unbiased_deviation():
    """Five anchors, all candidates, overlap the box by 1, .86, .2, 0 and 0: mean .412, squared deviations .931. Divided
    by 4 the deviation is .4825 and the threshold .8945, so .86 fails; divided by 5, .4315 and .8435, it would pass."""
    anchors = [[0, 0, 10, 10], [0, 0, 10, 8.6], [0, 0, 10, 2], [40, 0, 50, 10], [60, 0, 70, 10]]
    assert atss(priors_of(anchors), torch.tensor([[0.0, 0, 10, 10]])).tolist() == [0, *[NEGATIVE] * 4]


def test_atss_wants_centres_inside_by_a_hundredth_of_a_pixel():
    """The best anchor's centre, (5, 5), lies on the box's left side; .0099 further in fails, .02 passes."""
    far = [[200.0 + 20 * i, 0, 210 + 20 * i, 10] for i in range(8)]
    for shift, expected in ((0.0, NEGATIVE), (0.0099, NEGATIVE), (0.02, 0)):
        box = torch.tensor([[5.0 - shift, 0, 15 - shift, 10]])
        assert atss(priors_of([[0, 0, 10, 10], *far]), box)[0] == expected


def test_atss_gives_a_contested_anchor_to_the_larger_overlap():
    """The anchor overlaps the first box by .6 and the second by .8."""
    far = [[200.0 + 20 * i, 0, 210 + 20 * i, 10] for i in range(8)]
    boxes = torch.tensor([[0.0, 0, 10, 6], [0, 0, 10, 8]])
    assert atss(priors_of([[0, 0, 10, 10], *far]), boxes).tolist() == [1, *[NEGATIVE] * 8]
    assert atss(priors_of([[0, 0, 10, 10], *far]), boxes.flip(0)).tolist() == [0, *[NEGATIVE] * 8]


def test_atss_box_between_all_centres_has_no_positive():
    priors = anchor_grid(MAPS, STRIDES, CPU, scales=(8.0,), ratios=(1.0,))
    assert (atss(priors, torch.tensor([[1.0, 1, 6, 6]])) == NEGATIVE).all()


# --------------------------------------------------------------------------------------------------- fcos_points
def fcos_loop(priors: Priors, boxes: list[list[float]], radius: float | None) -> list[int]:
    level = [i for i, size in enumerate(priors.level_sizes) for _ in range(size)]
    result = []
    for i, (x, y, *_) in enumerate(priors.boxes.tolist()):
        best, owner = math.inf, NEGATIVE
        for j, (x1, y1, x2, y2) in enumerate(boxes):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            low, high = RANGES[level[i]]
            inside = min(sides) > 0
            if radius is not None:
                reach = radius * float(priors.stride[i])
                inside &= abs(x - (x1 + x2) / 2) < reach and abs(y - (y1 + y2) / 2) < reach
            size = (x2 - x1) * (y2 - y1)
            if inside and low <= max(sides) <= high and size < best:
                best, owner = size, j
        result.append(owner)
    return result


@pytest.mark.parametrize("radius", [None, 1.5])
def test_fcos_points_equal_the_loop(radius):
    priors = point_grid(MAPS, STRIDES, CPU)
    levels = set()
    for seed in range(10):
        boxes = random_boxes(8, seed, high=400)
        matched = fcos_points(priors, boxes, center_radius=radius)
        assert matched.tolist() == fcos_loop(priors, boxes.tolist(), radius)
        levels |= set(priors.stride[matched >= 0].tolist())
    assert levels >= {8, 16, 32}


def test_fcos_range_ends_belong_to_both_levels():
    """One point per level at (64, 64), each inside by 64 at most: exactly the end of the first and start of the second
    range. 64.5 is only in the second."""
    priors = Priors(torch.full((2, 4), 64.0), torch.tensor([8.0, 16.0]), (1, 1))
    ranges = ((-1, 64), (64, 128))
    assert fcos_points(priors, torch.tensor([[0.0, 0, 128, 128]]), ranges=ranges).tolist() == [0, 0]
    assert fcos_points(priors, torch.tensor([[-0.5, 0, 128, 128]]), ranges=ranges).tolist() == [NEGATIVE, 0]


def test_fcos_strict_ranges_leave_their_ends_to_no_level():
    priors = Priors(torch.full((2, 4), 64.0), torch.tensor([8.0, 16.0]), (1, 1))
    for reach, expected in ((63.5, [0, NEGATIVE]), (64.0, [NEGATIVE, NEGATIVE]), (64.5, [NEGATIVE, 0])):
        box = torch.tensor([[64 - reach, 64 - reach, 64 + reach, 64 + reach]])
        assert fcos_points(priors, box, ranges=((-1, 64), (64, 128)), inclusive=False).tolist() == expected


def test_fcos_point_on_a_side_is_outside_and_the_smaller_box_wins():
    priors = Priors(torch.tensor([[10.0] * 4]), torch.tensor([8.0]), (1,))
    ranges = ((-1, 64),)
    on_side, large, small = [10.0, 0, 20, 20], [0.0, 0, 30, 30], [2.0, 2, 14, 14]
    assert fcos_points(priors, torch.tensor([on_side, large, small]), ranges=ranges).tolist() == [2]
    assert fcos_points(priors, torch.tensor([on_side]), ranges=ranges).tolist() == [NEGATIVE]


def test_fcos_center_radius_is_in_strides_and_stops_at_the_box():
    """Stride 8, radius 1.5: 12 px around the centre (50, 50) of a large box. A box 4 px wide keeps its own sides."""
    points = torch.tensor([[50.0, 50], [61.9, 50], [62.1, 50], [50, 38.1], [50, 37.9]])
    priors = Priors(torch.cat([points, points], 1), torch.full((5,), 8.0), (5,))
    large, narrow = torch.tensor([[10.0, 10, 90, 90]]), torch.tensor([[48.0, 10, 52, 90]])
    ranges = ((-1, 64),)
    assert fcos_points(priors, large, ranges=ranges, center_radius=1.5).tolist() == [0, 0, -1, 0, -1]
    assert fcos_points(priors, narrow, ranges=ranges, center_radius=1.5).tolist() == [0, -1, -1, 0, -1]


def test_fcos_wants_a_range_for_every_level():
    priors = point_grid(MAPS[:2], STRIDES[:2], CPU)
    with pytest.raises(ValueError, match="2 levels need as many regression ranges, got 5"):
        fcos_points(priors, torch.tensor([[0.0, 0, 9, 9]]))


@pytest.mark.parametrize("assign", [max_iou, atss, fcos_points])
def test_no_boxes_is_all_background(assign):
    priors = anchor_grid(MAPS, STRIDES, CPU, scales=(4.0,), ratios=(1.0,))
    matched = assign(priors, torch.zeros(0, 4))
    assert matched.dtype == torch.int64
    assert matched.shape == (priors.boxes.shape[0],)
    assert (matched == NEGATIVE).all()
