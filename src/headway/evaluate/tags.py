"""Average precision of picture tags (multi-label classification).

Legend: N pictures, T tags.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class TagMetrics(NamedTuple):
    """map: mean of `ap` over the tags where it is defined, nan without any. ap, counts: by tag, the average precision
    (nan where undefined) and the pictures that have it. images: pictures."""

    map: float
    ap: tuple[float, ...]
    counts: tuple[int, ...]
    images: int


def average_precision(scores: Tensor, wanted: Tensor) -> float:
    """Area under the steps of precision over recall, sum_k (R_k - R_{k-1}) P_k over the distinct scores, highest first.

    scores: [N]; wanted: [N] bool. Equal scores are one step, so their order does not matter.
    nan where all pictures are wanted (any order is right) or none.
    """
    positives = int(wanted.sum())
    if not 0 < positives < len(wanted):
        return math.nan
    order = scores.argsort(descending=True)
    scores, hits = scores[order].double(), wanted[order].double().cumsum(0)
    ends = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    hits, seen = hits[ends], torch.arange(1, len(scores) + 1)[ends]
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((gained * hits / seen).sum() / positives)


def evaluate_tags(scores: Tensor, wanted: Tensor) -> TagMetrics:
    """scores: [N, T]; wanted: [N, T], 1 where the picture has the tag. Both on the CPU.

    Tags that every picture has, or none, say nothing about a model and are left out of the mean.

    Raises: ValueError where the shapes differ.
    """
    if scores.shape != wanted.shape or scores.dim() != 2:
        raise ValueError(f"scores and wanted must both be [N, T], got {tuple(scores.shape)} and {tuple(wanted.shape)}")
    wanted = wanted > 0.5
    ap = tuple(average_precision(scores[:, tag], wanted[:, tag]) for tag in range(scores.shape[1]))
    defined = [value for value in ap if not math.isnan(value)]
    mean = sum(defined) / len(defined) if defined else math.nan
    return TagMetrics(mean, ap, tuple(wanted.sum(0).tolist()), len(scores))
