"""Losses: pure functions on tensors. Reduction is a sum or none; the head divides by its normaliser."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .boxes import aligned_giou, aligned_iou

BoxLossName = Literal["l1", "smooth_l1", "giou"]


class BoxLoss(NamedTuple):
    """function(predicted [N, 4], target [N, 4]) -> [N]; `on` codes or decoded boxes; weight in the sum."""

    function: Callable[[Tensor, Tensor], Tensor]
    on: Literal["codes", "boxes"]
    weight: float = 1.0


def box_loss(name: BoxLossName, beta: float = 1.0, weight: float = 1.0) -> BoxLoss:
    """On box codes, giou on decoded boxes; beta is of smooth_l1."""
    if name == "giou":
        return BoxLoss(giou, on="boxes", weight=weight)
    return BoxLoss(l1 if name == "l1" else partial(smooth_l1, beta=beta), on="codes", weight=weight)


def sigmoid_focal(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002, equation 5) summed over classes.

    logits: [N, C]; labels: [N] int64, a class or any negative number for background. Returns [N].
    """
    # Not in half precision, of which the plain form makes float32.
    whole = logits.dtype in (torch.float32, torch.float64)
    if whole and logits.device.type == "cpu" and logits.requires_grad and torch.is_grad_enabled():
        found: Tensor = _SigmoidFocal.apply(logits, labels, alpha, gamma)
        return found
    positive = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # -log p of the right answer is softplus of the logit against it, and 1 - p is its sigmoid.
    against = torch.where(positive, -logits, logits)
    weight = torch.where(positive, alpha, 1 - alpha) * against.sigmoid().pow(gamma)
    return (F.softplus(against) * weight).sum(1)


_CHUNK = 2**18  # values: 1 MiB in float32, which the caches of a core hold


class _SigmoidFocal(torch.autograd.Function):
    """`sigmoid_focal` on the CPU in chunks of rows, with the gradient worked out beside the value: for t = the logit
    against the right answer, s = sigmoid(t) and l = softplus(t) the loss is a s^gamma l, and its derivative by t is
    a s^gamma (gamma (1 - s) l + s). Values are those of the plain form to the bit."""

    @staticmethod
    def forward(ctx, logits, labels, alpha, gamma):  # type: ignore[no-untyped-def]
        loss, grad = logits.new_empty(logits.shape[0]), torch.empty_like(logits)
        step = max(1, _CHUNK // max(1, logits.shape[1]))
        for rows in (slice(start, start + step) for start in range(0, len(loss), step)):
            row = (labels[rows] >= 0).nonzero(as_tuple=True)[0]
            label = labels[rows][row]
            against = logits[rows].clone()
            against[row, label] = -against[row, label]
            sigmoid, each = against.sigmoid(), F.softplus(against)
            weight = sigmoid.pow(gamma)
            factor = alpha * weight[row, label]
            weight.mul_(1 - alpha)
            weight[row, label] = factor
            slope = torch.sub(1, sigmoid, out=against).mul_(each).mul_(gamma).add_(sigmoid).mul_(weight)
            slope[row, label] = -slope[row, label]
            grad[rows] = slope
            loss[rows] = each.mul_(weight).sum(1)
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return ctx.saved_tensors[0] * grad[:, None], None, None, None


def gaussian_focal(
    logits: Tensor, heatmap: Tensor, *, alpha: float = 2.0, beta: float = 4.0, clip: float = 1e-4
) -> Tensor:
    """Focal loss against a map of Gaussians (CornerNet, arXiv 1808.01244, equation 1), of the shape of `logits`.

    heatmap: target in 0..1; cells of exactly 1 are the positives, for which the loss is -(1 - p)^alpha ln p; elsewhere
        it is -(1 - heatmap)^beta p^alpha ln(1 - p). Both are to be divided by the number of positives.
    clip: p is limited to clip..1 - clip, and has no gradient beyond (CenterNet's and TTFNet's code: 1e-4;
        mmdetection: none). With every p at the limit the loss of a positive is 9.2085 and nothing can be learned.
    Always computed in float32: in half precision p near 1 is 1.
    """
    limit = math.log((1 - clip) / clip) if clip else math.inf
    x = logits.float().clamp(-limit, limit)
    positive = heatmap == 1
    against = torch.where(positive, -x, x)  # as in sigmoid_focal
    weight = torch.where(positive, 1.0, (1 - heatmap).pow(beta))
    return F.softplus(against) * against.sigmoid().pow(alpha) * weight


def giou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of xyxy pairs (arXiv 1902.09630), [N]."""
    return 1 - aligned_giou(predicted, target)


def iou_log(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """-log IoU of xyxy pairs (UnitBox, arXiv 1608.01471; the FCOS base form), [N]."""
    return -aligned_iou(predicted, target).clamp(min=eps).log()


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences over the last axis, [N]."""
    return (predicted - target).abs().sum(-1)


def smooth_l1(predicted: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Huber-like L1 (Fast R-CNN, arXiv 1504.08083), quadratic below `beta`, summed over the last axis, [N]."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(-1)


def huber_of_nonzero(predicted: Tensor, target: Tensor, delta: float = 0.1) -> Tensor:
    """Huber loss, d^2 / 2 up to `delta` and delta (|d| - delta / 2) beyond, summed over the last axis, [N]; targets of
    exactly 0 count nothing (EfficientDet as released: google/automl, efficientdet/det_model_fn.py)."""
    each = F.huber_loss(predicted, target, delta=delta, reduction="none")
    return (each * (target != 0)).sum(-1)


def multilabel_bce(logits: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy of each picture's tags, the mean over them: logits, tags (0..1) [B, T] -> [B].

    Always computed in float32.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), tags.float(), reduction="none").mean(1)


def identity_contrast(
    embeddings: Tensor, ids: Tensor, pictures: Tensor, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss (arXiv 2004.11362, equation 2) between pictures: (loss [N], paired [N] bool).

    embeddings: [N, E] of length 1; ids: [N] which object each shows; pictures: [N] which picture it was read from.
    For a row i, with s = cosine / temperature, P the rows of the same object in other pictures and A all rows of P and
    of other objects, the loss is the mean over p in P of -(s_ip - ln sum_{a in A} exp s_ia). A row without P is not
    paired and has loss 0. Always computed in float32.

    Differs: rows of the same object in the same picture are neither in P nor in A. They are neighbouring cells of one
    map, alike whatever the object looks like.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        similarity = embeddings.float() @ embeddings.float().T / temperature
    same = ids[:, None] == ids
    positive = same & (pictures[:, None] != pictures)
    against = similarity.masked_fill(same & ~positive, torch.finfo(similarity.dtype).min / 2)
    share = similarity - against.logsumexp(1, keepdim=True)
    count = positive.sum(1)
    return -torch.where(positive, share, 0.0).sum(1) / count.clamp(min=1), count > 0


_apart = ContextVar("apart", default=False)


@contextmanager
def processes_apart() -> Iterator[None]:
    """Losses inside are of this process's pictures alone, as in a validation, where each has batches of its own."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def world_size() -> int:
    """Processes of a distributed run whose losses are averaged, 1 otherwise."""
    if _apart.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a scalar over the processes of a distributed run, and the value itself otherwise.

    With it a normaliser is the same on all processes, so their averaged gradients equal those of one process that
    holds the whole batch.
    """
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()
