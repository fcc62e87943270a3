"""HOTA (arXiv 2009.07736): detection and association in one figure, over 19 overlaps from which on a pair counts.

Numbers are those of TrackEval (github.com/JonathonLuiten/TrackEval, MIT), the authors' program; `tests/golden` holds
both against each other.

Legend: G objects of the truth, T tracks that were found.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .pairing import Paired

Array = NDArray[Any]

ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPS = np.finfo(float).eps


class HotaSums(NamedTuple):
    """Sums [19] that add up over videos and classes. hits, missed, wrong: pairs, boxes of the truth and boxes found
    without one; association, its recall and precision, and overlap: summed over the pairs."""

    hits: Array
    missed: Array
    wrong: Array
    association: Array
    recall: Array
    precision: Array
    overlap: Array


def hota_sums(paired: Paired) -> HotaSums:
    """The sums of one video (and class)."""
    shape = (paired.objects, paired.tracks)
    together, object_count, track_count = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[1])
    for objects, tracks, overlap in paired.frames:
        union = overlap.sum(0)[None] + overlap.sum(1)[:, None] - overlap
        share = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > _EPS)
        together[np.ix_(objects, tracks)] += share
        object_count[objects] += 1
        track_count[tracks] += 1
    each = object_count[:, None] + track_count[None]
    alignment = together / np.maximum(each - together, _EPS)

    pairs = []
    for objects, tracks, overlap in paired.frames:
        rows, columns = linear_sum_assignment(alignment[np.ix_(objects, tracks)] * overlap, maximize=True)
        pairs.append(np.stack([objects[rows] * shape[1] + tracks[columns], overlap[rows, columns]]))
    keys, overlaps = np.concatenate([np.zeros((2, 0)), *pairs], 1)
    columns = []
    for alpha in ALPHAS:
        made = overlaps >= alpha - _EPS
        key, matches = np.unique(keys[made].astype(np.int64), return_counts=True)
        counts = object_count[key // max(1, shape[1])], track_count[key % max(1, shape[1])]
        shares = [(matches**2 / of).sum() for of in (sum(counts) - matches, *counts)]
        columns.append([made.sum(), *shares, overlaps[made].sum()])
    hits, association, recall, precision, summed = np.array(columns, float).T
    boxes, found = object_count.sum(), track_count.sum()
    return HotaSums(hits, boxes - hits, found - hits, association, recall, precision, summed)


def hota_scores(sums: HotaSums) -> dict[str, Array]:
    """By name, [19] each; the headline is the mean of HOTA."""
    one = np.maximum(1, sums.hits)
    found, true = sums.hits + sums.wrong, sums.hits + sums.missed
    detection = sums.hits / np.maximum(1, found + sums.missed)
    association = sums.association / one
    return {
        "HOTA": np.sqrt(detection * association),
        "DetA": detection,
        "AssA": association,
        "DetRe": sums.hits / np.maximum(1, true),
        "DetPr": sums.hits / np.maximum(1, found),
        "AssRe": sums.recall / one,
        "AssPr": sums.precision / one,
        "LocA": np.maximum(1e-10, sums.overlap) / np.maximum(1e-10, sums.hits),
    }
