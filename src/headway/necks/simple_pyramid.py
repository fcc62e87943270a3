"""The pyramid that needs one map only (ViTDet, arXiv 2203.16527, section 3 and figure 2c)."""

from collections import OrderedDict

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..errors import LevelsError
from ..layers.levels import extended
from ..registry import register_neck
from ..types import Levels
from .fpn import ExtraLevels


@register_neck("simple_pyramid", wants={"backbone.strides": (16,)})
class SimplePyramid(nn.Module):
    """Every level made from one map by itself, for plain ViTs (ViTDet).

    Four times finer by two transposed convolutions, twice finer by one, as it is, or twice coarser by max-pooling; then
    a 1x1 and a 3x3 convolution, each with a LayerNorm.

    channels: of every map that comes out.
    strides: of the levels made from the map, 1/4 to 2 times its own; those beyond are `extra`.
    levels: maps that come out.
    extra: "max_pool" every second position of the level before (ViTDet's P6), "on_output" a stride-2 3x3 convolution.
        "on_input" is taken as "on_output", for there is no coarser map to begin from.
    relu_before_extra: ReLU in front of every extra convolution but the first.
    """

    def __init__(
        self,
        inputs: Levels,
        *,
        channels: int = 256,
        strides: tuple[int, ...] = (8, 16, 32),
        levels: int = 5,
        extra: ExtraLevels = "on_output",
        relu_before_extra: bool = False,
    ) -> None:
        super().__init__()
        if len(inputs.strides) != 1:
            raise LevelsError(
                f"makes every level from one map, got {inputs}: use `fpn` for several, or backbone.strides=16"
            )
        own = inputs.strides[0]
        strides = tuple(s for s in strides if s in (own // 4, own // 2, own, 2 * own))
        if not strides:
            raise LevelsError(f"makes strides {own // 4} to {2 * own} from stride {own}; set its strides")
        if levels < len(strides):
            raise ValueError(f"a pyramid needs at least as many levels as strides ({len(strides)}), got {levels}")
        self.levels = extended(strides, levels, channels)
        self.num_levels, self.relu_before_extra = levels, relu_before_extra
        self.stages = nn.ModuleList(_stage(inputs.channels[0], channels, own / s) for s in strides)
        more = 0 if extra == "max_pool" else levels - len(strides)
        self.extras = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(more))
        for conv in self.extras:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[x [B, in_channels, H, W]] -> `levels` maps, finest first; coarser ones round up, finer ones are exactly 4 or
        2 times as large as x."""
        outputs = [stage(features[0]) for stage in self.stages]
        for i, conv in enumerate(self.extras):
            outputs.append(conv(F.relu(outputs[-1]) if i > 0 and self.relu_before_extra else outputs[-1]))
        while len(outputs) < self.num_levels:
            outputs.append(outputs[-1][:, :, ::2, ::2])
        return outputs


def _stage(in_channels: int, channels: int, scale: float) -> nn.Sequential:
    layers: dict[str, nn.Module] = {}
    width = in_channels
    if scale == 4:
        layers["up0"] = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        layers["norm0"], layers["act0"] = LayerNorm2d(width // 2, eps=1e-6), nn.GELU()
        layers["up1"] = nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)
        width //= 4
    elif scale == 2:
        layers["up0"] = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        width //= 2
    elif scale == 0.5:
        layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    layers["lateral"] = nn.Conv2d(width, channels, 1, bias=False)
    layers["lateral_norm"] = LayerNorm2d(channels, eps=1e-6)
    layers["output"] = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    layers["output_norm"] = LayerNorm2d(channels, eps=1e-6)
    return nn.Sequential(OrderedDict(layers))
