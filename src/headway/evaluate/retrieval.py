"""Finding the same object again by its embedding: rank-1 and mean average precision.

Legend: Q queries, G gallery, E numbers of an embedding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 1024  # queries compared with the gallery at once


class RetrievalMetrics(NamedTuple):
    """rank1: share of the queries whose most similar gallery entry is the same object. map: mean average precision.
    queries: how many had their object in the gallery; gallery: its size. nan without queries."""

    rank1: float
    map: float
    queries: int
    gallery: int


def evaluate_retrieval(queries: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor) -> RetrievalMetrics:
    """queries: [Q, E] and gallery: [G, E], each compared with each by their cosine; ids: [Q] and [G].

    A query's average precision is the mean, over the gallery entries of its object, of the share of such entries among
    those at least as similar. Of equally similar entries the wrong ones come first, so that embeddings that are all
    the same find nothing. Queries whose object is not in the gallery are left out.
    """
    queries, gallery = (torch.nn.functional.normalize(x.double(), dim=1) for x in (queries, gallery))
    known = torch.isin(query_ids, gallery_ids)
    queries, query_ids = queries[known], query_ids[known]
    precisions: list[Tensor] = []
    firsts: list[Tensor] = []
    for start in range(0, len(queries), _CHUNK):
        # Rounded: the same vector against itself and against its copy may differ in the last bit.
        similarity = (queries[start : start + _CHUNK] @ gallery.T).mul(1e9).round()
        right = query_ids[start : start + _CHUNK, None] == gallery_ids
        order = (similarity * 2 - right.double()).argsort(1, descending=True)  # of equal ones the wrong one first
        right = right.gather(1, order).double()
        precision = right.cumsum(1) / torch.arange(1, right.shape[1] + 1)
        precisions.append((precision * right).sum(1) / right.sum(1))
        firsts.append(right[:, 0])
    if not precisions:
        return RetrievalMetrics(math.nan, math.nan, 0, len(gallery))
    every, first = torch.cat(precisions), torch.cat(firsts)
    return RetrievalMetrics(float(first.mean()), float(every.mean()), len(every), len(gallery))
