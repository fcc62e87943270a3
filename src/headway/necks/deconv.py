"""CenterNet's two necks (arXiv 1904.07850, appendix A and figure 6): learned up-sampling of a ResNet's last map, and
the iterative aggregation of DLA's maps (Deep Layer Aggregation, arXiv 1707.06484, figure 4), deformable convolutions in
both.

Source of the layers and their order: xingyizhou/CenterNet, src/lib/models/networks/resnet_dcn.py and
pose_dla_dcn.py (MIT).

    B images, C_i channels of the i-th map, finest first, H_i x W_i its cells
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import LevelsError
from ..layers.deform import DeformableConv2d
from ..layers.levels import halving, several
from ..registry import register_neck
from ..types import Levels


@register_neck("deconv", wants={"backbone.strides": (32,)})
class DeconvNeck(nn.Module):
    """From one map of stride 32 up to stride 4 by transposed convolutions (CenterNet on a ResNet).

    For each of `planes` a 3x3 convolution and a transposed 4x4 one of stride 2, each with batch norm and ReLU. The map
    of a picture whose side is no multiple of 32 reaches beyond it.

    planes: channels after each doubling.
    deformable: False makes the 3x3 convolutions plain, without bias.
    deform_bias: of the deformable ones; the authors' have it, mmdetection's not.

    Differs: the authors fill the transposed kernels' first output channel with bilinear weights, by a function made for
    depthwise ones; here all start at random.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        planes: tuple[int, ...] = (256, 128, 64),
        deformable: bool = True,
        deform_bias: bool = True,
    ) -> None:
        super().__init__()
        if len(inputs.strides) != 1:
            raise LevelsError(
                f"reads one map, got {inputs}: put it right behind the backbone, or use `upsample`, which reads all"
            )
        self.levels = Levels((inputs.strides[0] // 2 ** len(planes),), planes[-1:])
        self.steps = nn.ModuleList()
        for width, plane in zip((inputs.channels[0], *planes), planes):
            conv = (
                DeformableConv2d(width, plane, bias=deform_bias)
                if deformable
                else nn.Conv2d(width, plane, 3, padding=1, bias=False)
            )
            deconv = nn.ConvTranspose2d(plane, plane, 4, stride=2, padding=1, bias=False)
            self.steps.append(
                nn.Sequential(OrderedDict(conv=_with_norm(conv, plane), deconv=_with_norm(deconv, plane)))
            )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps of which the last is [B, in_channels, H, W] at stride 32 -> [[B, channels, 8 H, 8 W]]."""
        x = features[-1]
        for step in self.steps:
            x = step(x)
        return [x]


@register_neck("dla_up", wants={"strides": (4, 8, 16, 32), "levels": 4})
class DlaUpNeck(nn.Module):
    """All maps joined onto the finest by iterative aggregation with deformable convolutions (CenterNet on DLA).

    The maps are joined from the coarsest two on, each time one finer; of what the finer ones have become, all but the
    coarsest are then joined once more.

    Differs: a finer map may have an odd number of cells, as in `UpsampleNeck`.
    """

    def __init__(self, inputs: Levels) -> None:
        super().__init__()
        several(inputs)
        halving(inputs)
        in_channels = inputs.channels
        self.levels = Levels(inputs.strides[:1], in_channels[:1])
        widths = list(in_channels)
        self.joins = nn.ModuleList()
        for i in range(len(widths) - 2, -1, -1):
            self.joins.append(IterativeUpsample(widths[i], widths[i + 1 :], [2] * (len(widths) - 1 - i)))
            widths[i + 1 :] = [widths[i]] * (len(widths) - 1 - i)
        self.last = IterativeUpsample(in_channels[0], in_channels[1:-1], [2**i for i in range(1, len(in_channels) - 1)])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, each half the one before (rounded up) -> [[B, channels, H_0, W_0]]."""
        if len(features) != len(self.joins) + 1:
            raise ValueError(f"this neck was built for {len(self.joins) + 1} maps, got {len(features)}")
        maps, joined = list(features), []
        for i, join in zip(range(len(maps) - 2, -1, -1), self.joins):
            maps[i:] = join(maps[i:])
            joined.insert(0, maps[-1])
        return [self.last(joined)[-1]]


class IterativeUpsample(nn.Module):
    """Joins maps one after the other onto the finest: project, double (or more), add, and convolve the sum.

    channels: of the finest map and of all that come out. in_channels, factors: of each of the others, and how many
    times finer the finest is.
    """

    def __init__(self, channels: int, in_channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.projects = nn.ModuleList(_deformable(width, channels) for width in in_channels)
        self.ups = nn.ModuleList(bilinear_deconv(channels, factor) for factor in factors)
        self.nodes = nn.ModuleList(_deformable(channels, channels) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps, finest first -> the finest as it is, and the sums onto it so far, all of its size."""
        sums = [maps[0]]
        height, width = maps[0].shape[-2:]
        for x, project, up, node in zip(maps[1:], self.projects, self.ups, self.nodes):
            sums.append(node(up(project(x))[:, :, :height, :width] + sums[-1]))
        return sums


def bilinear_deconv(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A depthwise transposed convolution that enlarges by `factor` and starts as bilinear interpolation."""
    side = 2 * factor
    deconv = nn.ConvTranspose2d(channels, channels, side, factor, factor // 2, groups=channels, bias=False)
    middle = (side - 1) / 2
    tent = 1 - (torch.arange(side) - middle).abs() / factor
    with torch.no_grad():
        deconv.weight.copy_(torch.outer(tent, tent).expand_as(deconv.weight))
    return deconv


def _deformable(in_channels: int, channels: int) -> nn.Sequential:
    return _with_norm(DeformableConv2d(in_channels, channels, bias=True), channels)


def _with_norm(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels), act=nn.ReLU(inplace=True)))
