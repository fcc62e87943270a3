"""Set prediction: every object is matched to one query, and the loss of a query follows from its match (DETR, arXiv
2005.12872, 3.1; with the focal loss of Deformable DETR, arXiv 2010.04159, appendix A.3).

Legend: L decoder layers, B images, Q queries, C classes, M objects of one image. Boxes are cxcywh, in 0..1 of it.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..assign import NEGATIVE, hungarian
from ..boxes import aligned_giou, clip, from_cxcywh, to_cxcywh
from ..losses import l1, reduce_mean, sigmoid_focal, world_size
from ..types import Losses, Target

Scores = Literal["softmax", "sigmoid"]
_EPS = 1e-12  # of areas in parts of the image, where a pixel has about 1e-6


class SetWeights(NamedTuple):
    """Of class, box (L1) and overlap (GIoU), in the matching cost or in the loss."""

    cls: float = 1.0
    box: float = 5.0
    giou: float = 2.0


def in_pixels(box: Tensor, sizes: Tensor) -> Tensor:
    """box [B, N, 4] in parts of its image, sizes [B, 2] valid (height, width) -> xyxy in pixels, clipped."""
    return clip(from_cxcywh(box) * _whole(sizes, box.dtype)[:, None], sizes)


def _whole(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 4] width, height, width, height."""
    return sizes.flip(1).repeat(1, 2).to(dtype)


def set_cost(
    cls: Tensor, box: Tensor, labels: Tensor, truth: Tensor, weights: SetWeights, scores: Scores = "softmax"
) -> Tensor:
    """What it costs to give an object to a query: cls [..., Q, n] logits and box [..., Q, 4] of one image against
    labels [M] and truth [M, 4] -> [..., Q, M], without gradient.

    softmax: the class costs minus the probability, which, unlike its logarithm in the loss, has the size of the other
        two. sigmoid: the focal loss of a match minus that of none (alpha 0.25, gamma 2).
    The constants of L1 and 1 - GIoU that are equal for all are left out, as upstream.
    """
    cls, box = cls.detach().float(), box.detach().float()
    if scores == "softmax":
        of_class = -cls.softmax(-1)[..., labels]
    else:
        logits = cls[..., labels]
        score = logits.sigmoid()
        matched = 0.25 * (1 - score).square() * F.softplus(-logits)
        of_class = matched - 0.75 * score.square() * F.softplus(logits)
    distance = (box[..., :, None, :] - truth).abs().sum(-1)
    overlap = aligned_giou(from_cxcywh(box)[..., :, None, :], from_cxcywh(truth), _EPS)
    return weights.cls * of_class + weights.box * distance - weights.giou * overlap


def match_sets(
    cls: Tensor, box: Tensor, labels: list[Tensor], truth: list[Tensor], weights: SetWeights, scores: Scores
) -> Tensor:
    """cls [L, B, Q, n], box [L, B, Q, 4] -> [L, B, Q] int64: the object's index within its image, or NEGATIVE. Every
    layer is matched by itself."""
    costs = [set_cost(cls[:, i], box[:, i], labels[i], truth[i], weights, scores) for i in range(cls.shape[1])]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()  # one transfer, not one for each image and layer
    parts = [part.view(cost.shape) for part, cost in zip(flat.split([c.numel() for c in costs]), costs)]
    matched = torch.stack([torch.stack([hungarian(cost) for cost in part]) for part in parts], 1)
    return matched.to(cls.device)


def set_losses(
    cls: Tensor,
    box: Tensor,
    sizes: Tensor,
    targets: list[Target],
    *,
    scores: Scores = "softmax",
    cost: SetWeights = SetWeights(),  # noqa: B008  (a NamedTuple of numbers)
    weights: SetWeights = SetWeights(),  # noqa: B008
    no_object: float = 0.1,
) -> Losses:
    """Every decoder layer's loss, matched by itself.

    cls: [L, B, Q, C + 1] logits, the last for "no object" (softmax), or [L, B, Q, C] (sigmoid); box: [L, B, Q, 4];
    sizes: [B, 2] (height, width) whose parts the boxes are; targets: one per image, whose crowd regions take no part.
    no_object: weight of the queries without an object in the cross-entropy, which is the weighted mean over all
        queries (softmax). The focal loss (sigmoid), L1 and 1 - GIoU are sums, divided by the objects of the batch, at
        least one.

    Terms: `cls`, `box`, `giou` of the last layer, and `cls_0`, `box_0`, ... of those before. Stats: objects per image
    (`positives`); of the last layer's matched queries how many give another class the most (`class_error`).
    """
    targets = [target.without_crowd() for target in targets]
    labels = [target.labels for target in targets]
    truth = [to_cxcywh(target.boxes.to(box.dtype)) / size for target, size in zip(targets, _whole(sizes, box.dtype))]
    matched = match_sets(cls, box, labels, truth, cost, scores)
    positive = matched != NEGATIVE
    counts = torch.tensor([len(x) for x in labels])
    start = (counts.cumsum(0) - counts).to(matched.device)
    owner = (matched + start[:, None])[positive]  # of the objects of all images
    objects = reduce_mean(counts.sum().to(box)).clamp(min=1 / world_size())

    label = torch.full_like(matched, NEGATIVE)
    label[positive] = torch.cat(labels)[owner]
    if scores == "sigmoid":
        of_class = sigmoid_focal(cls.flatten(0, 2), label.flatten()).view_as(label).sum((1, 2)) / objects
    else:
        weight = torch.where(positive, 1.0, no_object)
        wanted = torch.where(positive, label, cls.shape[-1] - 1)
        entropy = F.cross_entropy(cls.flatten(0, 2), wanted.flatten(), reduction="none").view_as(weight)
        of_class = (entropy * weight).sum((1, 2)) / reduce_mean(weight.sum((1, 2)))
    layer = positive.nonzero()[:, 0]
    found, true = box[positive], torch.cat(truth)[owner]
    apart = 1 - aligned_giou(from_cxcywh(found), from_cxcywh(true), _EPS)
    of_box, of_overlap = (
        box.new_zeros(len(box)).index_add(0, layer, each) / objects for each in (l1(found, true), apart)
    )
    wrong = (cls[-1][positive[-1]].argmax(-1) != label[-1][positive[-1]]).float()
    stats = {"positives": counts.float().mean().to(box.device), "class_error": wrong.sum() / max(len(wrong), 1)}
    last = len(cls) - 1
    kinds = {"cls": of_class * weights.cls, "box": of_box * weights.box, "giou": of_overlap * weights.giou}
    order = [last, *range(last)]
    return Losses({kind if i == last else f"{kind}_{i}": x[i] for i in order for kind, x in kinds.items()}, stats)
