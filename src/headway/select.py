"""From scored candidates to final detections: threshold, NMS per class, best first."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from .types import Candidates, Detections


def select(
    candidates: Candidates,
    *,
    score_threshold: float = 0.0,
    class_threshold: float = 0.0,
    nms_iou: float | None = 0.6,
    max_detections: int = 100,
    drop_empty: bool = True,
    names: tuple[str, ...] = (),
) -> list[Detections]:
    """Candidates of B images -> B Detections.

    score_threshold: on the final score; class_threshold: on the class score alone. Both are exclusive, and a score
        of zero never passes, so heads may mark padding with it.
    drop_empty: leave out boxes without area.
    nms_iou: a box is dropped when it overlaps a better one of its class by more than this; None for no NMS.
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
        order = nms_per_class(boxes, scores, labels, nms_iou)[:max_detections]
        extras = {k: v[i][index][order] for k, v in candidates.extras.items()}
        results.append(Detections(boxes[order], scores[order], labels[order], names, extras))
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
