"""Label mistakes: what the runs agree on against the labels of a picture.

lacking   a box that the runs agree on, at IoU 0.5 and in one class, and no label of any class is there
unfound   a label that no run finds
class     a label that no run finds; the runs agree on another class at its place
place     a label that no run finds; the runs agree on a box of its class that overlaps it by IoU 0.1 to 0.5

Only detections from the threshold of their run on count. Several runs agree when `agree` of them say the same. Where
`agree` is 1, one run is enough from a higher score on, `sure` of the run.

Legend: M labels of a picture, N detections of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from faster_coco_eval.core.mask import iou as coco_iou

from ..data.dataset import Record
from ..evaluate.matching import WRONG, Floats, Matched, take_best

KINDS = ("lacking", "unfound", "class", "place")
NEAR = 0.1  # IoU from which a box may be about a label


@dataclass(frozen=True, slots=True)
class Suspect:
    """One label that may be a mistake, or one that may be missing.

    box: xyxy pixels; of the runs for lacking and place, else the label's. label: the class as annotated, or as the runs
    say where nothing is annotated. other: the class that the runs say instead, or -1. truth: the place of the label
    in its record, or -1. runs: those that agree.
    score: how sure it is, 0..1: the mean score of the runs; of an unfound label 1 minus the best score, below the
    thresholds, of a detection that would find it.
    """

    kind: str
    box: tuple[float, float, float, float]
    label: int
    score: float
    runs: tuple[int, ...] = ()
    other: int = -1
    truth: int = -1


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one run says of a picture. every: all its detections; kept: those from its threshold on; sure: the score
    from which it is enough by itself."""

    every: Matched
    kept: Matched
    sure: float


@dataclass(frozen=True, slots=True)
class _Vote:
    """A detection that found no label. place: the label of another class that is there, or -1."""

    run: int
    box: Floats
    label: int
    score: float
    place: int


def find_suspects(record: Record, opinions: Mapping[int, Opinion], agree: int) -> list[Suspect]:
    """The label mistakes of one picture, surest first.

    opinions: by the number of the run, of the runs that looked at this picture. agree: so many of them must say the
    same, or all where they are fewer.
    """
    if not opinions:
        return []
    needed = min(agree, len(opinions))
    sure = {run: opinion.sure for run, opinion in opinions.items()}
    unfound = np.logical_and.reduce([opinion.kept.missed for opinion in opinions.values()])
    votes = [vote for run, opinion in opinions.items() for vote in _votes(run, opinion.kept)]
    found: list[Suspect] = []
    for truth in unfound.nonzero()[0].tolist():
        groups = _groups([vote for vote in votes if vote.place == truth], needed, sure)
        if groups:
            label, box = int(record.labels[truth]), tuple(record.boxes[truth].tolist())
            best = max(groups, key=lambda group: (len(group.runs), group.score))
            found.append(replace(best, kind="class", box=box, label=label, other=best.label, truth=truth))
            unfound[truth] = False
    for group in _groups([vote for vote in votes if vote.place < 0], needed, sure):
        truth = _near(group, record, unfound)
        found.append(group if truth < 0 else replace(group, kind="place", truth=truth))
        if truth >= 0:
            unfound[truth] = False
    found += _unfound(record, unfound, opinions)
    return sorted(found, key=lambda suspect: -suspect.score)


def _votes(run: int, kept: Matched) -> Iterator[_Vote]:
    """The detections that found no label, best first, but not those over a label of their own class or a crowd."""
    overlaps, record = kept.overlaps(), kept.record
    for d in (kept.truth == WRONG).nonzero()[0].tolist():
        over = (overlaps[d] >= kept.iou).nonzero()[0]
        if record.crowd[over].any() or (record.labels[over] == kept.labels[d]).any():
            continue
        place = int(over[overlaps[d, over].argmax()]) if len(over) else -1
        yield _Vote(run, kept.boxes[d], int(kept.labels[d]), float(kept.scores[d]), place)


def _groups(votes: Sequence[_Vote], needed: int, sure: Mapping[int, float]) -> list[Suspect]:
    """Votes of one class that overlap the best of them, one of each run; those groups that agree."""
    left = sorted(votes, key=lambda vote: -vote.score)
    found = []
    while left:
        first = left[0]
        overlaps = iou_of(first.box[None], np.stack([vote.box for vote in left]))[0]
        same = [v for v, overlap in zip(left, overlaps) if v is first or (v.label == first.label and overlap >= 0.5)]
        left = [vote for vote in left if not any(vote is other for other in same)]
        best = {vote.run: vote for vote in reversed(same)}
        runs = tuple(sorted(best))
        alone = needed == 1 and not any(vote.score >= sure[vote.run] for vote in best.values())
        if len(runs) >= needed and not alone:
            score = sum(vote.score for vote in best.values()) / len(best)
            found.append(Suspect("lacking", _plain(first.box), first.label, score, runs))
    return found


def _near(group: Suspect, record: Record, unfound: np.ndarray) -> int:
    """The label of the group's class that nothing found and that its box overlaps most, or -1."""
    of_class = (unfound & (record.labels == group.label)).nonzero()[0]
    if not len(of_class):
        return -1
    overlaps = iou_of(np.asarray([group.box]), record.boxes[of_class])[0]
    return int(of_class[overlaps.argmax()]) if overlaps.max() >= NEAR else -1


def _unfound(record: Record, unfound: np.ndarray, opinions: Mapping[int, Opinion]) -> Iterator[Suspect]:
    """The labels that are left."""
    places = unfound.nonzero()[0].tolist()
    best = np.zeros(len(record.boxes))
    for opinion in opinions.values() if places else ():
        every = opinion.every
        overlaps = np.where(every.labels[:, None] == record.labels[None], every.overlaps(), 0)
        best = np.maximum(best, np.where(overlaps >= every.iou, every.scores[:, None], 0).max(0, initial=0))
    for truth in places:
        score = min(max(1 - float(best[truth]), 0.0), 1.0)
        yield Suspect("unfound", _plain(record.boxes[truth]), int(record.labels[truth]), score, truth=truth)


def cost_of(kept: Matched) -> float:
    """How wrong a run is in a picture: missed labels and the scores of wrong detections, as in the report of eval."""
    return int(kept.missed.sum()) + float(kept.scores[kept.truth == WRONG].sum())


def disagreement(kept: Sequence[Matched]) -> float:
    """The scores of the detections of one run that another run does not have in the same class at IoU 0.5; the mean
    over all pairs of runs, 0 for one run."""
    pairs = [_differ(one, other) for one, other in combinations(kept, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _differ(one: Matched, other: Matched) -> float:
    overlaps = np.where(one.labels[:, None] == other.labels[None], iou_of(one.boxes, other.boxes), 0)
    pairs = take_best(overlaps, np.arange(len(one.boxes)), np.ones(len(other.boxes), bool), one.iou)
    alone = np.ones(len(other.boxes), bool)
    alone[pairs[pairs >= 0]] = False
    return float(one.scores[pairs < 0].sum() + other.scores[alone].sum())


def iou_of(one: Floats, other: Floats) -> Floats:
    """[N, M] IoU of xyxy boxes."""
    sides = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1).astype(np.float64) for b in (one, other)]
    return np.reshape(coco_iou(*sides, [False] * len(other)), (len(one), len(other)))


def _plain(box: Floats) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
