"""Losses: pure functions on tensors. Reduction is a sum or none; the head divides by its normaliser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .boxes import aligned_giou, aligned_iou


class BoxLoss(NamedTuple):
    """function(predicted [N, 4], target [N, 4]) -> [N]; `on` codes or decoded boxes; weight in the sum."""

    function: Callable[[Tensor, Tensor], Tensor]
    on: Literal["codes", "boxes"]
    weight: float = 1.0


def sigmoid_focal(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002, equation 5) summed over classes.

    logits: [N, C]; labels: [N] int64, a class or any negative number for background. Returns [N].
    """
    positive = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # -log p of the right answer is softplus of the logit against it, and 1 - p is its sigmoid.
    against = torch.where(positive, -logits, logits)
    weight = torch.where(positive, alpha, 1 - alpha) * against.sigmoid().pow(gamma)
    return (F.softplus(against) * weight).sum(1)


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


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a scalar over the processes of a distributed run, and the value itself otherwise.

    With it a normaliser is the same on all processes, so their averaged gradients equal those of one process that
    holds the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
