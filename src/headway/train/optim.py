"""Optimizer, schedule and weight averaging, each from torch, with a run's settings."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..errors import HeadwayError
from ..layers.implicit import Implicit
from ..necks.dyhead import ScaleAttention, SpatialAttention
from .config import TrainConfig

_BIASES = ", biases"  # how the names of their groups end
_OFFSETS = (".conv_offset.", ".spatial.offset.", ".sampling_offsets.", ".reference_points.")
_POSITIONS = ("relative_position_bias_table", "pos_embed", "rel_pos_h", "rel_pos_w")  # Swin's and ViT's tables


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Trainable parameters in groups: backbone or not, decayed or not, and where `config.offset_lr_factor` is not 1,
    of an offset layer (`conv_offset` of a `DeformableConv2d`, `spatial.offset` of a Dynamic Head, `sampling_offsets`
    and `reference_points` of Deformable DETR) or not, where `config.attention_lr_factor` is not 1, of a transformer
    block or not, and where `config.bias_lr_factor` is not 1 or biases have a warm-up of their own, biases or not.
    With `config.layer_lr_factor` the blocks of a ViT have rates of their own, each a group. The factors multiply.

    A parameter of at most one dimension (bias, norm, learned scale) or a table of positions is not decayed unless
    `config.decay_norm_and_bias`, one of an `Implicit` never.

    Raises: HeadwayError where `config.layer_lr_factor` is asked of a backbone without blocks in a row.
    """
    own_biases = config.bias_lr_factor != 1.0 or config.bias_warmup is not None
    implicit = {id(p) for module in model.modules() if isinstance(module, Implicit) for p in module.parameters()}
    attending = tuple(_transformer_blocks(model)) if config.attention_lr_factor != 1.0 else ()
    depth = _count_blocks(model) if config.layer_lr_factor != 1.0 else 0
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        backbone = name.startswith("backbone.")
        flat = parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in _POSITIONS
        decayed = (config.decay_norm_and_bias or not flat) and id(parameter) not in implicit
        offset = config.offset_lr_factor != 1.0 and any(layer in f".{name}" for layer in _OFFSETS)
        attends = name.startswith(attending)
        bias = own_biases and name.endswith(".bias")
        behind = _blocks_behind(name, depth) if backbone and depth else 0
        factor = (config.backbone_lr_factor if backbone else 1.0) * (config.offset_lr_factor if offset else 1.0)
        factor *= (config.bias_lr_factor if bias else 1.0) * (config.attention_lr_factor if attends else 1.0)
        factor *= config.layer_lr_factor**behind
        label = (
            f"{'backbone' if backbone else 'head'}, {'decayed' if decayed else 'not decayed'}"
            + (f", {behind} from the end" if behind else "")
            + (", offsets" if offset else "")
            + (", transformer" if attends else "")
            + (_BIASES if bias else "")
        )
        group = groups.setdefault(
            label,
            {
                "params": [],
                "lr": config.scaled_learning_rate * factor,
                "weight_decay": config.scaled_weight_decay if decayed else 0.0,
                "name": label,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _transformer_blocks(model: nn.Module) -> Iterator[str]:
    """How the names of their parameters begin: of whatever holds an attention over tokens, timm's or ours. The
    attentions of a Dynamic Head are convolutions."""
    for name, module in model.named_modules():
        if "Attention" in type(module).__name__ and not isinstance(module, (SpatialAttention, ScaleAttention)):
            holder = name.rpartition(".")[0]
            alone = not holder or isinstance(model.get_submodule(holder), (nn.Sequential, nn.ModuleList))
            yield f"{name if alone else holder}."


def _count_blocks(model: nn.Module) -> int:
    blocks = getattr(getattr(model, "backbone", None), "blocks", None)
    if blocks is None:
        raise HeadwayError("layer_lr_factor needs a ViT, whose blocks lie in a row: set it to 1 for this backbone")
    return len(blocks)


def _blocks_behind(name: str, depth: int) -> int:
    """How many steps in front of the neck a parameter of the backbone lies: 1 in the last block, `depth` + 1 in front
    of the first (ViTDet; detectron2, modeling/backbone/utils.py, `get_vit_lr_decay_rate`)."""
    parts = name.split(".")
    return depth - int(parts[2]) if parts[1] == "blocks" else depth + 1


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW or SGD over `parameter_groups`. Raises: HeadwayError when nothing can be trained."""
    groups = parameter_groups(model, config)
    if not groups:
        raise HeadwayError("the model has no trainable parameter; unfreeze something (frozen_stages, norm)")
    if config.optimizer == "sgd":
        rate = config.scaled_learning_rate
        return SGD(groups, lr=rate, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    return AdamW(groups, lr=config.scaled_learning_rate, betas=(0.9, 0.999), fused=True)


def rate_factor(step: int, total: int, steps_per_epoch: int, config: TrainConfig, *, bias: bool = False) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`, relative to its peak.

    Warm-up: linear from `warmup_factor` (`bias_warmup` for biases where it is given) at step 0 to 1 at step W of
    `warmup_length`. Cosine (arXiv 1608.03983, equation 5, no restart): from W to `total`. Multistep and cosine_epochs
    count whole epochs, and are multiplied by the warm-up where they meet; the latter is half a cosine over the whole
    schedule, of which this run may be a part.
    """
    warmup = warmup_length(total, steps_per_epoch, config)
    factor = 1.0
    if step < warmup:
        start = config.bias_warmup if bias and config.bias_warmup is not None else config.warmup_factor
        factor = start + (1 - start) * step / warmup
    if config.schedule == "multistep":
        return factor * config.gamma ** sum(step >= m * steps_per_epoch for m in config.milestones)
    if config.schedule == "cosine_epochs":
        length = config.schedule_epochs or config.schedule_start + config.epochs
        return factor * _half_cosine((config.schedule_start + step // steps_per_epoch) / length, config.final_factor)
    if step < warmup:
        return factor
    return _half_cosine((step - warmup) / max(1, total - warmup), config.final_factor)


def _half_cosine(progress: float, final: float) -> float:
    """From 1 at 0 to `final` at 1."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def momentum_at(step: int, total: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """SGD's momentum at `step`: linear from `momentum_warmup` at step 0 to `momentum` at the end of the warm-up."""
    warmup = warmup_length(total, steps_per_epoch, config)
    if config.momentum_warmup is None or step >= warmup:
        return config.momentum
    return config.momentum_warmup + (config.momentum - config.momentum_warmup) * step / warmup


def warmup_length(total: int, steps_per_epoch: int, config: TrainConfig) -> int:
    """Steps of warm-up in a run of `total` steps: what was asked for, at most a quarter."""
    return min(max(config.warmup_steps, round(config.warmup_epochs * steps_per_epoch)), total // 4)


def make_schedule(optimizer: Optimizer, total: int, steps_per_epoch: int, config: TrainConfig) -> LambdaLR:
    """`rate_factor` as a torch scheduler; call `.step()` after every optimizer step. The momentum, where it has a
    warm-up, is set at the start of each optimizer step, so that it needs no state of its own."""

    def factor_of(bias: bool) -> Callable[[int], float]:
        return lambda step: rate_factor(step, total, steps_per_epoch, config, bias=bias)

    names = [group.get("name", "") for group in optimizer.param_groups]
    schedule = LambdaLR(optimizer, [factor_of(name.endswith(_BIASES)) for name in names])

    def set_momentum(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group["momentum"] = momentum_at(schedule.last_epoch, total, steps_per_epoch, config)

    if config.momentum_warmup is not None:
        optimizer.register_step_pre_hook(set_momentum)
    return schedule


def ema_decay(count: int, decay: float, warmup: int = 0) -> float:
    """How much of the mean is kept by an update after `count` others: min(decay, (1 + count) / (10 + count)), so that
    it forgets the random start (the rule of TensorFlow's ExponentialMovingAverage with `num_updates`).

    warmup: decay * (1 - exp(-n / warmup)) instead, for the n-th update counted from 1 (YOLOR's, with 2000).
    """
    if warmup:
        return decay * (1 - math.exp(-(count + 1) / warmup))
    return min(decay, (1 + count) / (10 + count))


def make_ema(model: nn.Module, decay: float, warmup: int = 0) -> AveragedModel:
    """A running mean of the weights and floating buffers by `ema_decay`; whole-number buffers are copied, and the first
    update copies everything."""

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        if not averages[0].is_floating_point():
            for average, value in zip(averages, current):
                average.copy_(value)
            return
        torch._foreach_lerp_(averages, current, 1 - ema_decay(int(count), decay, warmup))

    with torch.no_grad():
        averaged = AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    return averaged.requires_grad_(False)
