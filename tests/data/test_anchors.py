"""Anchors against numbers by hand, scipy's k-means, and boxes drawn around known sizes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.anchors import anchor_fit, box_sides, by_level, cluster_anchors, flat
from headway.data.dataset import DetectionData, Record
from headway.errors import DataError


def data(*pictures):
    """(height, width, boxes, crowd) of each picture."""
    records = []
    for number, (height, width, boxes, crowd) in enumerate(pictures):
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        count = len(boxes)
        records.append(
            Record(number, Path("a.jpg"), (height, width), boxes, np.zeros(count, np.int64), np.array(crowd, bool),
                   np.ones(count, np.float32))
        )  # fmt: skip
    return DetectionData("train", Path("."), "coco", records, ("a",), (1,))


def test_fit_by_hand():
    """Anchors 10x10 and 40x40. Ratios: 10x10 is 1 and 1/4, and a quarter is not above a quarter; 20x20 a half of both;
    20x5 a half and 1/8; 200x200 1/5 of the better; 80x10 1/8 and 1/4. Best: 1, 1/2, 1/2, 1/5, 1/4."""
    fit = anchor_fit(
        np.array([[10, 10], [20, 20], [20, 5], [200, 200], [80, 10]], float), flat([[[10, 10]], [[40, 40]]])
    )
    assert fit.recall == pytest.approx(3 / 5)
    assert fit.best_ratio == pytest.approx((1 + 0.5 + 0.5 + 0.2 + 0.25) / 5)
    assert fit.matches == pytest.approx((1 + 2 + 1) / 5)
    assert fit.fitness == pytest.approx((1 + 0.5 + 0.5) / 5)


def test_sides_are_those_of_the_input():
    """100x200 fits (50, 60) at 0.3, 50x50 at 1; crowds and boxes without area do not count."""
    found = box_sides(
        data((100, 200, [[0, 0, 20, 10], [5, 5, 5, 50]], [0, 0]), (50, 50, [[1, 2, 4, 6], [0, 0, 9, 9]], [0, 1])),
        (50, 60),
    )
    assert found.tolist() == [[pytest.approx(6), pytest.approx(3)], [3, 4]]
    assert box_sides(data((10, 10, [], [])), (32, 32)).shape == (0, 2)


def test_known_sizes_are_found_again():
    """Nine sizes with 3% of noise, the largest the rarest: each is found within 2%."""
    sizes = np.array(
        [[8, 8], [12, 30], [30, 18], [35, 52], [70, 70], [80, 176], [150, 75], [200, 220], [400, 320]], float
    )
    generator = np.random.default_rng(1)
    sides = np.concatenate(
        [s * np.exp(0.03 * generator.standard_normal((300 - 30 * i, 2))) for i, s in enumerate(sizes)]
    )
    found = cluster_anchors(sides, 9)
    expected = sizes[np.argsort(sizes.prod(1))]
    assert np.abs(np.log(found / expected)).max() < 0.02
    assert anchor_fit(sides, found).fitness > 0.95
    assert (np.diff(found.prod(1)) > 0).all()
    assert np.array_equal(found, cluster_anchors(sides, 9))


def test_a_whole_coco_is_sampled():
    """More boxes than are clustered: still both sizes, one 50 times as frequent as the other."""
    sides = np.concatenate([np.full((25_000, 2), 10.0), np.full((500, 2), 300.0)])
    assert cluster_anchors(sides + np.arange(len(sides))[:, None] * 1e-6, 2) == pytest.approx(
        np.array([[10, 10], [300, 300]]), rel=0.01
    )


@given(st.lists(st.tuples(st.floats(1, 2000), st.floats(1, 2000)), min_size=1, max_size=30), st.integers(1, 9))
@settings(deadline=None, max_examples=80)
def test_any_boxes(pairs, count):
    sides = np.array(pairs)
    if len(np.unique(sides, axis=0)) < count:
        with pytest.raises(DataError, match=f"{count} anchors need as many boxes of different sizes"):
            cluster_anchors(sides, count)
        return
    found = cluster_anchors(sides, count, restarts=2)
    assert found.shape == (count, 2)
    assert np.isfinite(found).all()
    assert (found >= sides.min() * 0.999).all()
    assert (found <= sides.max() * 1.001).all()
    fit = anchor_fit(sides, found)
    assert 0 <= fit.fitness <= fit.best_ratio <= 1
    if len(np.unique(sides, axis=0)) == count == len(sides):
        assert fit.recall == 1


def test_by_level_is_the_models_argument():
    anchors = np.array([[1.04, 2], [3, 4], [5, 6], [7, 8.26], [9, 10], [11, 12]])
    assert by_level(anchors, 3) == [[[1.0, 2.0], [3, 4]], [[5, 6], [7, 8.3]], [[9, 10], [11, 12]]]
    assert flat(by_level(anchors, 2)).shape == (6, 2)


def test_without_boxes():
    with pytest.raises(DataError, match="no box to compare"):
        anchor_fit(np.zeros((0, 2)), np.ones((3, 2)))
