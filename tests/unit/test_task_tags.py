"""Average precision of tags, worked out by hand."""

import math

import pytest
import torch

from headway.heads.task_metrics import average_precision, evaluate_tags


def test_average_precision_by_hand():
    """Of four pictures the 1st and 3rd by score have the tag: recall 1/2 at precision 1 and 1 at precision 2/3, so
    (1 + 2/3) / 2 = 5/6. (scikit-learn's documentation has the same example with 0.83.)"""
    scores, wanted = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert average_precision(scores, wanted) == pytest.approx(5 / 6)


def test_equal_scores_are_one_step():
    """All equal: the precision is the share of pictures that have the tag, 1/4, whatever their order."""
    for place in range(4):
        wanted = torch.arange(4) == place
        assert average_precision(torch.full((4,), 0.3), wanted) == pytest.approx(1 / 4)


def test_two_equal_scores_behind_a_right_one():
    """0.9 right, then 0.5 right and 0.5 wrong as one step: (1 / 2) * 1 + (1 / 2) * 2/3 = 5/6."""
    scores = torch.tensor([0.5, 0.9, 0.5])
    assert average_precision(scores, torch.tensor([True, True, False])) == pytest.approx(5 / 6)


def test_tags_that_all_or_none_have_are_left_out_of_the_mean():
    """Tag 0: perfect, 1. Tag 1: the worst order of two, 1/2. Tag 2: all have it; tag 3: none."""
    scores = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]])
    wanted = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    metrics = evaluate_tags(scores, wanted)
    assert metrics.ap[:2] == (1.0, 0.5)
    assert all(math.isnan(value) for value in metrics.ap[2:])
    assert metrics.map == 0.75
    assert metrics.counts == (1, 1, 2, 0)
    assert metrics.images == 2


def test_no_picture_and_one_picture_have_no_mean():
    for count in (0, 1):
        assert math.isnan(evaluate_tags(torch.zeros(count, 3), torch.ones(count, 3)).map)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\[N, T\], got \(2, 3\) and \(2, 4\)"):
        evaluate_tags(torch.zeros(2, 3), torch.zeros(2, 4))
