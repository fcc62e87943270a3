"""From scored candidates to final detections: threshold, NMS per class, best first; and the same with static shapes,
for a graph that is exported."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .boxes import pairwise_iou, survivors
from .types import Candidates, Detections
from .vision import nms

SoftNMS = Literal["linear", "gaussian"]


def select(
    candidates: Candidates,
    *,
    score_threshold: float = 0.0,
    class_threshold: float = 0.0,
    nms_iou: float | None = 0.6,
    max_detections: int = 100,
    drop_empty: bool = True,
    soft_nms: SoftNMS | None = None,
    names: tuple[str, ...] = (),
) -> list[Detections]:
    """Candidates of B images -> B Detections.

    score_threshold: on the final score; class_threshold: on the class score alone. Both are exclusive, and a score
        of zero never passes, so heads may mark padding with it.
    drop_empty: leave out boxes without area.
    nms_iou: a box is dropped when it overlaps a better one of its class by more than this; None for no NMS.
    soft_nms: lower the scores of overlapping boxes instead of dropping them, see `soft_nms_per_class`.
    """
    results = []
    for i in range(candidates.boxes.shape[0]):
        scores = candidates.scores[i].float()
        keep = scores > max(score_threshold, 0.0)
        if candidates.class_scores is not None:
            keep &= candidates.class_scores[i].float() > class_threshold
        else:
            keep &= scores > class_threshold
        boxes = candidates.boxes[i].float()
        if drop_empty:
            keep &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        index = keep.nonzero().squeeze(1)
        boxes, scores, labels = boxes[index], scores[index], candidates.labels[i][index]
        if soft_nms is None or nms_iou is None:
            order = nms_per_class(boxes, scores, labels, nms_iou)[:max_detections]
        else:
            order, scores = soft_nms_per_class(boxes, scores, labels, nms_iou, soft_nms)
            order = order[:max_detections]
        extras = {k: v[i][index][order] for k, v in candidates.extras.items()}
        tags = None if candidates.tags is None else candidates.tags[i].float()
        results.append(Detections(boxes[order], scores[order], labels[order], names, extras, tags))
    return results


def nms_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float | None) -> Tensor:
    """Indices kept, best first (equal scores in their given order).

    Each class runs by itself: shifting the classes apart by coordinate offsets, as batched NMS usually does, loses
    precision for large coordinates.
    """
    if iou is None or boxes.shape[0] == 0:
        return scores.argsort(descending=True, stable=True)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for label in torch.unique(labels):
        index = (labels == label).nonzero().squeeze(1)
        keep[index[nms(boxes[index], scores[index], iou)]] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].argsort(descending=True, stable=True)]


def soft_nms_per_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, method: SoftNMS, *, sigma: float = 0.5, low: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (arXiv 1704.04503): from the best box on, the others of its class lose score by their overlap with it.

    method: "linear" multiplies by 1 - overlap from `iou` on, "gaussian" by exp(-overlap^2 / sigma) always.
    low: boxes whose score falls below it are dropped. Returns the indices kept, best first, and all new scores [N].
    """
    scores = scores.clone()
    keep = []
    for label in torch.unique(labels):
        index = (labels == label).nonzero().squeeze(1)
        overlap = pairwise_iou(boxes[index], boxes[index])
        left = scores[index]  # of the boxes not yet taken
        for _ in range(len(index)):
            best = int(left.argmax())
            if left[best] < low:
                break
            keep.append(index[best])
            scores[index[best]] = left[best]
            over = overlap[best]
            factor = (-over.square() / sigma).exp() if method == "gaussian" else torch.where(over >= iou, 1 - over, 1.0)
            left = left * factor
            left[best] = -1
    kept = torch.stack(keep) if keep else labels.new_zeros(0)
    return kept[scores[kept].argsort(descending=True, stable=True)], scores


class PaddedDetections(NamedTuple):
    """boxes [B, D, 4], scores [B, D], labels [B, D], best first; entries of score 0 are padding."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def select_padded(
    candidates: Candidates,
    *,
    score_threshold: float = 0.0,
    class_threshold: float = 0.0,
    nms_iou: float = 0.6,
    max_detections: int = 100,
    pre_nms: int = 4096,
) -> PaddedDetections:
    """`select` as one graph without shapes that depend on the data, so that `torch.export` takes the whole detector.

    pre_nms: candidates of an image that suppression looks at, best first; `select` looks at all.
    """
    rows = []
    for i in range(candidates.boxes.shape[0]):
        boxes, scores, labels = candidates.boxes[i].float(), candidates.scores[i].float(), candidates.labels[i]
        by_class = scores if candidates.class_scores is None else candidates.class_scores[i].float()
        passed = (scores > score_threshold) & (by_class > class_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        scores, index = torch.where(passed, scores, 0.0).topk(min(pre_nms, scores.shape[0]))
        boxes, labels = boxes[index], labels[index]
        # Classes are shifted apart in double precision, where no coordinate loses anything.
        apart = boxes.double() + labels[:, None] * (boxes.max().double() + 1)
        kept = survivors(apart, scores.double(), nms_iou)
        scores, index = torch.where(kept, scores, 0.0).topk(min(max_detections, scores.shape[0]))
        rows.append((boxes[index], scores, labels[index]))
    return PaddedDetections(*(torch.stack(column) for column in zip(*rows)))
