"""Test-time augmentation: which views a list means, and weighted box fusion against the published steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import HeadwayError
from headway.predict.tta import check_exported, fuse_boxes, variants_of


def test_every_scale_is_mirrored_and_the_plain_view_comes_first():
    assert variants_of(None) == variants_of("") == variants_of("1") == ((1.0, False),)
    assert variants_of("flip") == ((1.0, False), (1.0, True))
    expected = tuple((scale, flip) for flip in (False, True) for scale in (1.0, 0.83, 1.17))
    assert variants_of("flip,0.83,1.17") == variants_of(["flip", 0.83, 1.17]) == variants_of("0.83, 1.17,flip,1")
    assert variants_of("flip,0.83,1.17") == expected


def test_an_exported_file_has_one_view():
    check_exported("a.onnx", "1")
    with pytest.raises(HeadwayError, match=r"a\.onnx is an exported file, .*tta needs a checkpoint"):
        check_exported("a.onnx", "flip")


@pytest.mark.parametrize("wrong", ["flop", "0", "5", "flip;0.5", "nan", [True], True, 0])
def test_other_words_are_refused(wrong):
    with pytest.raises(HeadwayError, match=r"tta is a list of 'flip' and of scales from 0\.1 to 4"):
        variants_of(wrong)


def fuse(rows, views, **options):
    rows = np.array(rows, float).reshape(-1, 6)  # x1, y1, x2, y2, score, view
    found = fuse_boxes(rows[:, :4], rows[:, 4], np.zeros(len(rows), int), rows[:, 5].astype(int), views, **options)
    return found.boxes.tolist(), found.scores.tolist(), found.index.tolist()


def test_a_cluster_is_the_weighted_mean_and_what_few_views_saw_counts_less():
    """(0.9 * 0 + 0.6 * 1) / 1.5 = 0.4; (0.9 + 0.6) / 2 = 0.75, of three views times 2 / 3."""
    boxes, scores, index = fuse([(0, 0, 10, 10, 0.9, 0), (1, 0, 11, 10, 0.6, 1)], 2)
    np.testing.assert_allclose(boxes, [[0.4, 0, 10.4, 10]])
    np.testing.assert_allclose(scores, [0.75])
    assert index == [0]
    assert fuse([(0, 0, 10, 10, 0.9, 0), (1, 0, 11, 10, 0.6, 1)], 3)[1] == pytest.approx([0.5])
    # apart by more than 0.55: two clusters of one view each
    boxes, scores, _ = fuse([(0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.6, 1)], 2)
    assert (boxes, scores) == ([[0, 0, 10, 10], [5, 0, 15, 10]], [0.45, 0.3])


def test_two_boxes_of_one_view_stay_two_where_asked():
    """Published, a cluster takes both; the score's factor is min(2, 1) / 1."""
    rows = [(0, 0, 10, 10, 0.9, 0), (1, 0, 11, 10, 0.5, 0)]
    assert fuse(rows, 1)[1] == pytest.approx([0.7])
    assert fuse(rows, 1, one_each=True) == ([[0, 0, 10, 10], [1, 0, 11, 10]], [0.9, 0.5], [0, 1])


def test_classes_are_apart_and_nothing_is_nothing():
    found = fuse_boxes(np.array([[0, 0, 9, 9.0]] * 2), np.array([0.4, 0.8]), np.array([1, 0]), np.array([0, 1]), 2)
    assert found.index.tolist() == [1, 0]
    assert fuse([], 2) == ([], [], [])


def published(boxes, scores, views, threshold=0.55):
    """Section 3 of arXiv 1910.13302, step by step, in plain Python. Step 3 leaves open which of several matching boxes
    of F a box joins; the authors' code takes the one of the largest overlap."""

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    lists, fused = [], []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        overlaps = [iou(box, boxes[i]) for box, _ in fused]
        place = max(range(len(fused)), key=lambda j: overlaps[j], default=None)
        if place is None or overlaps[place] <= threshold:
            lists.append([i])
            fused.append((boxes[i], scores[i]))
            continue
        lists[place].append(i)
        total = sum(scores[j] for j in lists[place])
        box = [sum(scores[j] * boxes[j][k] for j in lists[place]) / total for k in range(4)]
        fused[place] = (box, total / len(lists[place]))
    rescaled = [(score * min(len(members), views) / views, box) for (box, score), members in zip(fused, lists)]
    return sorted(rescaled, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 40))
def test_fusion_is_the_published_one(seed, views, count):
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 60, (5, 2))
    low = places[rng.integers(5, size=count)] + rng.normal(0, 2, (count, 2))
    boxes, scores = np.concatenate([low, low + rng.uniform(15, 25, (count, 2))], 1), rng.uniform(0.05, 1, count)
    found = fuse_boxes(boxes, scores, np.zeros(count, int), rng.integers(views, size=count), views)
    expected = published(boxes.tolist(), scores.tolist(), views)
    np.testing.assert_allclose(found.scores, [score for score, _ in expected])
    np.testing.assert_allclose(found.boxes, np.array([box for _, box in expected]).reshape(-1, 4))
