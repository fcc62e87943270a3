"""Optimizer, schedule and weight averaging, each from torch, with a run's settings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..errors import HeadwayError
from .config import TrainConfig


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Trainable parameters in groups: backbone or not, decayed or not, and where `config.offset_lr_factor` is not 1,
    of an offset convolution (`conv_offset` of a `DeformableConv2d`) or not, and where `config.bias_lr_factor` is not 1,
    biases or not. The factors multiply.

    A parameter of at most one dimension (bias, norm, learned scale) is not decayed unless
    `config.decay_norm_and_bias`. Dynamic Head's offset convolutions are not told apart: its published weights were
    trained at one rate, and mmcv's `dcn_offset_lr_mult` does not reach them either.
    """
    groups: dict[tuple[bool, bool, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        backbone = name.startswith("backbone.")
        decayed = config.decay_norm_and_bias or parameter.ndim > 1
        offset = config.offset_lr_factor != 1.0 and "conv_offset" in name.split(".")
        bias = config.bias_lr_factor != 1.0 and name.endswith(".bias")
        factor = (config.backbone_lr_factor if backbone else 1.0) * (config.offset_lr_factor if offset else 1.0)
        factor *= config.bias_lr_factor if bias else 1.0
        group = groups.setdefault(
            (backbone, decayed, offset, bias),
            {
                "params": [],
                "lr": config.scaled_learning_rate * factor,
                "weight_decay": config.weight_decay if decayed else 0.0,
                "name": f"{'backbone' if backbone else 'head'}, {'decayed' if decayed else 'not decayed'}"
                + (", offsets" if offset else "")
                + (", biases" if bias else ""),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW or SGD over `parameter_groups`. Raises: HeadwayError when nothing can be trained."""
    groups = parameter_groups(model, config)
    if not groups:
        raise HeadwayError("the model has no trainable parameter; unfreeze something (frozen_stages, norm)")
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.scaled_learning_rate, momentum=config.momentum, fused=True)
    return AdamW(groups, lr=config.scaled_learning_rate, betas=(0.9, 0.999), fused=True)


def rate_factor(step: int, total: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`, relative to its peak.

    Warm-up: linear from `warmup_factor` at step 0 to 1 at step W, W = min(warmup_steps, total // 4).
    Cosine (arXiv 1608.03983, equation 5, no restart): from W to `total`. Multistep counts whole epochs, and is
    multiplied by the warm-up where they meet.
    """
    warmup = warmup_length(total, config)
    factor = 1.0
    if step < warmup:
        factor = config.warmup_factor + (1 - config.warmup_factor) * step / warmup
    if config.schedule == "multistep":
        return factor * config.gamma ** sum(step >= m * steps_per_epoch for m in config.milestones)
    if step < warmup:
        return factor
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_length(total: int, config: TrainConfig) -> int:
    """Steps of warm-up in a run of `total` steps: what was asked for, at most a quarter."""
    return min(config.warmup_steps, total // 4)


def make_schedule(optimizer: Optimizer, total: int, steps_per_epoch: int, config: TrainConfig) -> LambdaLR:
    """`rate_factor` as a torch scheduler; call `.step()` after every optimizer step."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, total, steps_per_epoch, config))


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A running mean of the weights and floating buffers; whole-number buffers are copied.

    The n-th update (from 1; the 0-th copies) keeps min(decay, (1 + n) / (10 + n)) of the mean, so that it forgets the
    random start (the rule of TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        if not averages[0].is_floating_point():
            for average, value in zip(averages, current):
                average.copy_(value)
            return
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averages, current, 1 - kept)

    with torch.no_grad():
        averaged = AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    return averaged.requires_grad_(False)
