"""What parts ask of the maps that come in, and how they say no."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..errors import LevelsError
from ..types import Levels
from .norm import GroupNorm


def one_width(inputs: Levels) -> int:
    """The channels of all maps. Raises: LevelsError where they differ."""
    if len(set(inputs.channels)) != 1:
        raise LevelsError(
            f"reads maps of one width, got {inputs}: put `fpn` (or `bifpn`) in front of it, or behind `pan` set "
            "pan.channels"
        )
    return inputs.channels[0]


def halving(inputs: Levels) -> None:
    """Raises: LevelsError where a map is not half of the one before."""
    if any(coarse != 2 * fine for fine, coarse in pairwise(inputs.strides)):
        raise LevelsError(
            f"reads maps that halve from level to level, got {inputs}: choose such strides, "
            "as in backbone.strides=8,16,32"
        )


def several(inputs: Levels, least: int = 2) -> None:
    """Raises: LevelsError for fewer maps than `least`."""
    if len(inputs.strides) < least:
        raise LevelsError(
            f"joins at least {least} maps, got {inputs}: put `simple_pyramid` in front of it, or choose a "
            "backbone with more maps"
        )


def enough(inputs: Levels, levels: int, part: str) -> None:
    """Raises: LevelsError where fewer maps shall come out than come in."""
    if levels < len(inputs.strides):
        raise LevelsError(
            f"gives {levels} maps, got {inputs}: set {part}.levels={len(inputs.strides)}, or choose fewer maps of the "
            "backbone"
        )


def steps_up(inputs: Levels, planes: tuple[int, ...], published: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of the steps from the coarsest map to the finest: `planes`, of the published ones as many as needed.

    Raises: LevelsError where there is not one for every step, and as `several` and `halving`.
    """
    several(inputs)
    halving(inputs)
    steps = len(inputs.strides) - 1
    planes = planes[:steps] if planes == published else planes  # a shorter way up keeps the deeper widths
    if len(planes) != steps:
        raise LevelsError(f"has {len(planes)} widths {planes} on its way up, got {inputs}: set {steps} planes")
    return planes


def check_maps(
    part: str, maps: Sequence[Tensor], channels: int, levels: int | None = None, *, halved: bool = True
) -> None:
    """Raises: ValueError for other maps than `levels` (None: any number) of [B, channels, H, W], each half of the one
    before, rounded up, if `halved`."""
    if not maps or levels not in (None, len(maps)):
        raise ValueError(f"{part} was built for {levels or 'at least one'} level(s), got {len(maps)}")
    for level, x in enumerate(maps):
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"{part}: level {level} must be [B, {channels}, H, W], got {tuple(x.shape)}")
        expected = x.shape[2:] if level == 0 else tuple((size + 1) // 2 for size in maps[level - 1].shape[2:])
        if halved and tuple(x.shape[2:]) != tuple(expected):
            raise ValueError(
                f"{part}: level {level} must be {expected}, half of level {level - 1} rounded up, got "
                f"{tuple(x.shape[2:])}; use a pyramid of stride-2 steps"
            )


def extended(strides: tuple[int, ...], count: int, channels: int) -> Levels:
    """`count` maps of one width: those of `strides` and, beyond them, each half of the one before."""
    every = [*strides]
    while len(every) < count:
        every.append(2 * every[-1])
    return Levels(tuple(every), (channels,) * len(every))


def group_norm(channels: int) -> nn.GroupNorm:
    """In 32 groups, as published, or as many of them as divide the channels; a group of one channel would have nothing
    to compare on a map of one cell."""
    groups = math.gcd(channels, 32)
    return GroupNorm(max(1, groups // 2) if groups == channels else groups, channels)
