"""Dynamic Head (arXiv 2106.08322): scale-, spatial- and task-aware attention over a pyramid, in front of any head.

The released code is not what the paper's equations say, so there are two forms of one module. This file holds the
released form, which published weights need; `dyhead_paper.py` holds the equations.

Source: microsoft/DynamicHead at 9c7cd66, dyhead/dyhead.py and dyrelu.py (MIT); mmdetection 3.3.0,
mmdet/models/necks/dyhead.py (Apache-2.0). The switches follow the same authors' microsoft/GLIP (MIT).

    B images, C channels, L levels finest first, H x W of one level, h x w of the next coarser one
"""

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.deform import DeformConv2d
from ..layers.dyrelu import DyReLU
from ..layers.levels import check_maps, halving, one_width
from ..layers.norm import GroupNorm
from ..registry import register_neck
from ..types import Levels
from .dyhead_options import CommonSize, DyHeadForm, DyHeadOptions, DyHeadStart, HighOffset
from .dyhead_paper import PaperBlock, common_map, resize

_TAPS = 9  # of the 3x3 kernels
_GROUPS = 16  # of every GroupNorm
_FAINT = 0.1  # scale of a neighbour's norm where a block begins with the level itself


@register_neck("dyhead", wants={"pan.channels": 256, "head.tower_depth": 0})
class DyHead(nn.Module):
    """Tower of scale-, spatial- and task-aware attention over a pyramid (Dynamic Head): list of L maps in, list of L
    maps out, at the same sizes.

    blocks: of the tower, each with all attentions.

    The released form, built for several levels, takes any number of them; the weights of the paper's are per level.

    What `high_offset` is for: in the released form each level predicts offsets and masks at its own size H x W, but
    uses them for the coarser neighbour as well, whose convolution has h x w outputs, about half as many each way.
    - "flat": the first 18*h*w (9*h*w) numbers of an image's map, read as [18, h, w] ([9, h, w]). This has no meaning in
      the plane. It is what the CUDA and C++ kernels of microsoft/DynamicHead and mmcv do when they are handed maps of
      the wrong size, so all published weights were trained with it and need it.
    - "crop": the top left h x w corner of each map.
    - "resize": bilinear, corners aligned; the offsets stay in pixels of the coarser map.
    - "upsample_first": the coarser map is brought to H x W before the convolution, as the paper's text has it; costs
      46% more operations in all.
    They agree where the offset convolution is zero, "upsample_first" up to the order of resizing.

    Attributes: blocks, each a module from list of maps to list of maps.
    Raises: ValueError for arguments or maps that do not fit.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        blocks: int = 6,
        options: DyHeadOptions = DyHeadOptions(),  # noqa: B008  (immutable)
    ) -> None:
        super().__init__()
        halving(inputs)
        channels, levels = one_width(inputs), len(inputs.strides)
        kinds = (
            ("form", DyHeadForm), ("high_offset", HighOffset), ("start", DyHeadStart), ("common_size", CommonSize),
        )  # fmt: skip
        for name, choices in ((name, get_args(kind)) for name, kind in kinds):
            if (value := getattr(options, name)) not in choices:
                raise ValueError(f"DyHead: {name} must be one of {', '.join(choices)}, got {value!r}")
        if blocks < 1:
            raise ValueError(f"DyHead needs at least one block, got {blocks}")
        if channels < 1 or channels % _GROUPS:
            raise ValueError(
                f"DyHead: channels must be a multiple of {_GROUPS}, the groups of its normalisation, got {channels}; "
                f"take {max(round(channels / _GROUPS), 1) * _GROUPS}"
            )
        self.levels, self.form, self.common_size = inputs, options.form, options.common_size
        self.blocks = nn.ModuleList(
            PaperBlock(channels, channels, levels, options)
            if self.form == "paper"
            else DyHeadBlock(channels, channels, options, alone=levels == 1)
            for _ in range(blocks)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """L maps [B, C, H_l, W_l], finest first, each half the one before (rounded up) -> the same shapes."""
        released = self.form == "released"
        count = len(self.levels.strides)
        count = None if released and count > 1 else count
        check_maps("DyHead", features, self.levels.channels[0], count, halved=released)
        # The layout that the CPU's sampling reads; all later maps keep it.
        if features[0].device.type == "cpu" and not torch.compiler.is_exporting():
            features = [x.contiguous(memory_format=torch.channels_last) for x in features]
        if released:
            for block in self.blocks:
                features = block(features)
            return features
        size = common_map(features, self.common_size).shape[2:]
        maps = [resize(x, size) for x in features]
        for block in self.blocks:
            maps = block(maps)
        return [resize(x, own.shape[2:]) for x, own in zip(maps, features)]


class DyHeadBlock(nn.Module):
    """One block of the released form. All outputs come from the block's inputs, so levels more than one apart do not
    meet in it. Order: deformable sampling, scale gate, mean over the neighbours, dynamic activation.

    alone: for a single level, without the convolutions of neighbours.
    """

    def __init__(self, in_channels: int, channels: int, options: DyHeadOptions, *, alone: bool = False) -> None:
        super().__init__()
        self.spatial = SpatialAttention(in_channels, channels, options, alone=alone)
        self.scale = ScaleAttention(channels) if options.scale else LevelMean()
        self.task = DyReLU(channels, small_init=not options.deform_bias) if options.task else nn.ReLU()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """L maps [B, C_in, H_l, W_l] -> L maps [B, C, H_l, W_l]."""
        around = [None, *features, None]
        return [
            self.task(self.scale(self.spatial(x, finer, coarser)))
            for finer, x, coarser in zip(around, features, around[2:])
        ]


class SpatialAttention(nn.Module):
    """The level itself and its two neighbours, each sampled by a deformable convolution (v2, arXiv 1811.11168) with the
    offsets and masks that the level itself predicts, then normalised. Without `options.spatial` by plain ones."""

    def __init__(self, in_channels: int, channels: int, options: DyHeadOptions, *, alone: bool = False) -> None:
        super().__init__()
        self.high_offset = options.high_offset
        self.offset = nn.Conv2d(in_channels, 3 * _TAPS, 3, padding=1) if options.spatial else None
        self.high, self.mid, self.low = (
            NormedConv(in_channels, channels, stride, options.spatial, options.deform_bias) for stride in (1, 1, 2)
        )
        if options.start == "level":
            _begin_with_level(self.mid, self.high, self.low, alone=alone, gated=options.scale)
        if alone:
            del self.high, self.low
        if self.offset is not None and options.zero_init_offset:
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)
        elif self.offset is not None and not options.deform_bias:
            nn.init.normal_(self.offset.weight, std=0.01)
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor, finer: Tensor | None, coarser: Tensor | None) -> list[Tensor]:
        """x [B, C_in, H, W]; finer [B, C_in, 2H or 2H - 1, ...]; coarser [B, C_in, h, w] -> 1 to 3 of [B, C, H, W]."""
        offset = mask = None
        if self.offset is not None:
            predicted = self.offset(x)  # per tap dy, dx; then the masks
            offset, mask = predicted[:, : 2 * _TAPS], predicted[:, 2 * _TAPS :].sigmoid()
        maps = [self.mid(x, offset, mask)]
        if finer is not None:
            maps.append(self.low(finer, offset, mask))
        if coarser is not None:
            maps.append(self._from_coarser(coarser, offset, mask, x.shape[2:]))
        return maps

    def _from_coarser(self, coarser: Tensor, offset: Tensor | None, mask: Tensor | None, size: torch.Size) -> Tensor:
        if self.high_offset == "upsample_first":
            return self.high(_resize(coarser, size), offset, mask)
        if offset is not None and mask is not None:
            offset = fit_to_coarser(offset, coarser.shape[2:], self.high_offset)
            mask = fit_to_coarser(mask, coarser.shape[2:], self.high_offset)
        return _resize(self.high(coarser, offset, mask), size)


def fit_to_coarser(points: Tensor, size: torch.Size, mode: HighOffset) -> Tensor:
    """Offsets or masks [B, N, H, W] for a convolution of h x w outputs -> [B, N, h, w]; `DyHead` has the modes."""
    if mode == "crop":
        return points[:, :, : size[0], : size[1]]
    if mode == "resize":
        return _resize(points, size)
    images, count = points.shape[:2]
    return points.flatten(1)[:, : count * size[0] * size[1]].view(images, count, size[0], size[1])


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _begin_with_level(mid: "NormedConv", high: "NormedConv", low: "NormedConv", *, alone: bool, gated: bool) -> None:
    """Norms by which the mean of the three maps, each times its gate, has the deviation 1 of the level's own. The
    neighbours' are small, not zero, so that their convolutions learn from the first step on."""
    nn.init.constant_(mid.norm.weight, (1 if alone else 3) * (2 if gated else 1))  # a gate begins at a half
    for neighbour in (high, low):
        nn.init.constant_(neighbour.norm.weight, _FAINT)


class NormedConv(nn.Module):
    """A 3x3 convolution, deformable or plain, and GroupNorm, which the plain one keeps too (as in GLIP)."""

    def __init__(self, in_channels: int, channels: int, stride: int, deform: bool, deform_bias: bool) -> None:
        super().__init__()
        if deform:
            self.conv: nn.Module = DeformConv2d(in_channels, channels, 3, stride, padding=1, bias=deform_bias)
        else:
            self.conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
            nn.init.normal_(self.conv.weight, std=0.01)
            nn.init.zeros_(self.conv.bias)
        self.norm = GroupNorm(_GROUPS, channels)

    def forward(self, x: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        """x [B, C_in, H, W], offset [B, 18, h, w], mask [B, 9, h, w], or None for a plain one -> [B, C, h, w]."""
        return self.norm(self.conv(x) if offset is None else self.conv(x, offset, mask))


class LevelMean(nn.Module):
    """The mean of maps of one size: what is left of the scale attention without its gates."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: n of [B, C, H, W] -> [B, C, H, W]."""
        return sum(maps[1:], start=maps[0]) / len(maps)


class ScaleAttention(nn.Module):
    """The mean of the maps, each times one gate per image: hard sigmoid relu6(z + 3) / 6 of a ReLU of a linear function
    of the map's mean over the plane. The ReLU keeps every gate in [0.5, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, 1, 1)
        nn.init.normal_(self.gate.weight, std=0.01)
        nn.init.zeros_(self.gate.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: n of [B, C, H, W] -> [B, C, H, W]."""
        factors = [self.gates(x) / len(maps) for x in maps]
        result = maps[0] * factors[0]
        for x, factor in zip(maps[1:], factors[1:]):
            result = torch.addcmul(result, x, factor)
        return result

    def gates(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 1, 1, 1] in [0.5, 1]."""
        return F.hardsigmoid(F.relu(self.gate(x.mean((2, 3), keepdim=True))))
