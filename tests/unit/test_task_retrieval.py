"""Rank-1 and mean average precision of retrieval, worked out by hand."""

import math

import pytest
import torch

from headway.heads import task_metrics as retrieval
from headway.heads.task_metrics import evaluate_retrieval


def unit(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_by_hand():
    """Gallery at 0 (id 1), 40 (id 2) and 90 degrees (id 3). A query of 1 at 10 degrees finds it first: 1. One of 2 at
    70 degrees sees 3 (20 away) before 2 (30 away): 1/2. One of 3 at 15 degrees sees 1, 2, 3: 1/3."""
    ids = torch.tensor([1, 2, 3])
    found = evaluate_retrieval(unit(10, 70, 15), ids, unit(0, 40, 90), ids)
    assert found.rank1 == pytest.approx(1 / 3)
    assert found.map == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (found.queries, found.gallery) == (3, 3)


def test_an_object_that_is_twice_in_the_gallery():
    """Right at ranks 1 and 3: (1/1 + 2/3) / 2 = 5/6."""
    found = evaluate_retrieval(unit(0), torch.tensor([5]), unit(30, 10, 20), torch.tensor([5, 5, 6]))
    assert found.map == pytest.approx((1 + 2 / 3) / 2)
    assert found.rank1 == 1


def test_embeddings_that_are_all_the_same_find_nothing():
    """The right entry of four comes behind its three equals: rank 4."""
    ids = torch.arange(4)
    found = evaluate_retrieval(torch.ones(4, 8), ids, torch.ones(4, 8) * 3, ids)
    assert found.rank1 == 0
    assert found.map == pytest.approx(1 / 4)


def test_queries_without_their_object_in_the_gallery_are_left_out():
    found = evaluate_retrieval(unit(0, 50), torch.tensor([1, 9]), unit(0, 90), torch.tensor([1, 2]))
    assert (found.rank1, found.queries, found.gallery) == (1.0, 1, 2)


def test_no_queries_and_no_gallery():
    none, no_ids = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    found = evaluate_retrieval(none, no_ids, none, no_ids)
    assert math.isnan(found.rank1)
    assert math.isnan(found.map)
    assert evaluate_retrieval(unit(0), torch.tensor([1]), torch.zeros(0, 2), no_ids).queries == 0


def test_chunks_give_what_one_comparison_gives(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(2, 20, 6, generator=generator)
    ids = torch.arange(20) % 7
    whole = evaluate_retrieval(queries, ids, gallery, ids)
    monkeypatch.setattr(retrieval, "_CHUNK", 3)
    assert evaluate_retrieval(queries, ids, gallery, ids) == pytest.approx(whole)
