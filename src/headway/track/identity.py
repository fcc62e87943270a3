"""IDF1 (arXiv 1609.01775): each object of the truth is given to at most one track over the whole video, so that as many
boxes as possible agree. Numbers are those of TrackEval (MIT)."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from .pairing import Paired

LEAST = 0.5  # overlap from which on two boxes agree


class IdentitySums(NamedTuple):
    """hits, missed, wrong: boxes that agree, of the truth and found ones that do not. They add up over videos."""

    hits: float
    missed: float
    wrong: float


def identity_sums(paired: Paired) -> IdentitySums:
    """The sums of one video (and class)."""
    together = np.zeros((paired.objects, paired.tracks))
    boxes = found = 0
    for objects, tracks, overlap in paired.frames:
        together[np.ix_(objects, tracks)] += overlap >= LEAST
        boxes, found = boxes + len(objects), found + len(tracks)
    hits = float(together[linear_sum_assignment(together, maximize=True)].sum())
    return IdentitySums(hits, boxes - hits, found - hits)


def identity_scores(sums: IdentitySums) -> dict[str, float]:
    return {
        "IDF1": sums.hits / max(1.0, sums.hits + 0.5 * sums.wrong + 0.5 * sums.missed),
        "IDR": sums.hits / max(1.0, sums.hits + sums.missed),
        "IDP": sums.hits / max(1.0, sums.hits + sums.wrong),
    }
