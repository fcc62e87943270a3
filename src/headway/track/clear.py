"""MOTA and its parts (CLEAR, Bernardin and Stiefelhagen 2008): frame by frame, pairs of the frame before are kept while
they overlap. Numbers are those of TrackEval (MIT)."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from .pairing import Paired

LEAST = 0.5  # overlap from which on a pair counts
_EPS = np.finfo(float).eps
_STAY = 1000  # a pair of the frame before is worth more than any overlap


class ClearSums(NamedTuple):
    """They add up over videos. hits, missed, wrong: pairs, boxes of the truth and boxes found without one; switches: of
    the identity of an object; overlap: of the pairs; tracked, partly, lost: objects that were found in more than 80 %,
    in between, and in less than 20 % of their frames; fragments: times that an object was found again."""

    hits: float
    missed: float
    wrong: float
    switches: float
    overlap: float
    tracked: float
    partly: float
    lost: float
    fragments: float


def clear_sums(paired: Paired) -> ClearSums:
    """The sums of one video (and class)."""
    hits = boxes = found = switches = 0
    summed = 0.0
    last = np.full(paired.objects, -1)  # track of an object when it was last found
    before = np.full(paired.objects, -1)  # and in the frame before, of those with both boxes and tracks
    seen, covered, begun = (np.zeros(paired.objects) for _ in range(3))
    for objects, tracks, overlap in paired.frames:
        boxes, found = boxes + len(objects), found + len(tracks)
        seen[objects] += 1
        if not overlap.size:
            continue
        value = np.where(overlap >= LEAST - _EPS, overlap + _STAY * (before[objects][:, None] == tracks[None]), 0)
        rows, columns = linear_sum_assignment(value, maximize=True)
        made = value[rows, columns] > _EPS
        rows, columns = rows[made], columns[made]
        whose, track = objects[rows], tracks[columns]
        switches += int(((last[whose] >= 0) & (last[whose] != track)).sum())
        covered[whose] += 1
        begun[whose] += before[whose] < 0
        last[whose] = track
        before[:] = -1
        before[whose] = track
        hits += len(rows)
        summed += float(overlap[rows, columns].sum())
    share = covered[seen > 0] / seen[seen > 0]
    tracked, most = int((share > 0.8).sum()), int((share >= 0.2).sum())
    fragments = int((begun[begun > 0] - 1).sum())
    return ClearSums(
        hits, boxes - hits, found - hits, switches, summed, tracked, most - tracked, paired.objects - most, fragments
    )


def clear_scores(sums: ClearSums) -> dict[str, float]:
    boxes = sums.hits + sums.missed
    return {
        "MOTA": (sums.hits - sums.wrong - sums.switches) / boxes if boxes else 0.0,
        "MOTP": sums.overlap / max(1.0, sums.hits),
        "IDSW": sums.switches,
        "Frag": sums.fragments,
        "MT": sums.tracked,
        "PT": sums.partly,
        "ML": sums.lost,
        "FP": sums.wrong,
        "FN": sums.missed,
    }
