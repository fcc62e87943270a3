"""From scored candidates to final detections: threshold, NMS per class, best first; and the same with static shapes,
for a graph that is exported."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .boxes import pairwise_iou, survivors
from .types import Candidates, Detections

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
    """Indices kept, best first (equal scores in their given order)."""
    if iou is None or boxes.shape[0] == 0:
        return scores.argsort(descending=True, stable=True)
    kept = survivors(boxes[None], scores[None], labels[None], iou)[0].nonzero().squeeze(1)
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
    nms_iou: float | None = 0.6,
    max_detections: int = 100,
    drop_empty: bool = True,
    pre_nms: int = 4096,
) -> PaddedDetections:
    """`select` as one graph without shapes that depend on the data, for any number of images, so that `torch.export`
    takes the whole detector.

    pre_nms: candidates of an image that suppression looks at, best first; `select` looks at all.
    """
    boxes, scores = candidates.boxes.float(), candidates.scores.float()
    by_class = scores if candidates.class_scores is None else candidates.class_scores.float()
    passed = (scores > max(score_threshold, 0.0)) & (by_class > class_threshold)
    if drop_empty:
        passed &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
    found = PaddedDetections(boxes, torch.where(passed, scores, -torch.inf), candidates.labels)
    if nms_iou is not None:
        found = _best(found, pre_nms)
        kept = survivors(found.boxes, found.scores, found.labels, nms_iou)
        found = found._replace(scores=torch.where(kept, found.scores, -torch.inf))
    found = _best(found, max_detections)
    return found._replace(scores=found.scores.clamp(min=0))


def _best(found: PaddedDetections, count: int) -> PaddedDetections:
    scores, index = found.scores.topk(min(count, found.scores.shape[1]), dim=1)
    boxes = found.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return PaddedDetections(boxes, scores, found.labels.gather(1, index))
