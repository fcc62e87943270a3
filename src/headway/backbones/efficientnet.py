"""EfficientNet of any width and depth (arXiv 1905.11946): B0 scaled. The layers are timm's, padded as TensorFlow's.

timm knows the published sizes by name (`tf_efficientnet_b0` to `tf_efficientnet_b8`), with weights; this knows those in
between and below, without.
"""

from functools import partial

from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from ..errors import HeadwayError
from ..registry import register_backbone
from ..types import Levels
from .timm import chosen_strides, drop_unread_stages

# The seven stages of B0 (table 1): kind, repeats, kernel, stride, expansion, channels, squeeze and excitation.
_B0 = (
    ("ds_r1_k3_s1_e1_c16_se0.25",),
    ("ir_r2_k3_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_k3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_s1_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_r1_k3_s1_e6_c320_se0.25",),
)
_STRIDES = (2, 4, 8, 16, 32)  # of timm's maps
_FACTORS = (0.1, 8.0)


@register_backbone("efficientnet")
class EfficientNetBackbone(nn.Module):
    """Maps of an EfficientNet of any width and depth.

    strides: of the maps that come out, finest first. Stages behind the coarsest are not built.
    width: factor of B0's channels, which are rounded to multiples of 8 and not below 90% of what was asked.
    depth: factor of its repeats, rounded up.
    drop_path: rate of stochastic depth in the last block.

    channels, strides: of the maps that `forward` returns. Raises: HeadwayError for factors that build no network.
    """

    def __init__(
        self,
        *,
        strides: tuple[int, ...] = (8, 16, 32),
        width: float = 1.0,
        depth: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        low, high = _FACTORS
        if not (low <= width <= high and low <= depth <= high):
            raise HeadwayError(f"width and depth must be from {low:g} to {high:g}, got {width:g} and {depth:g}")
        self.body = EfficientNetFeatures(
            decode_arch_def([list(stage) for stage in _B0], depth),
            out_indices=tuple(_STRIDES.index(s) for s in chosen_strides("efficientnet", strides, _STRIDES)),
            round_chs_fn=partial(round_channels, multiplier=width),
            act_layer=nn.SiLU,
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
            pad_type="same",
            drop_path_rate=drop_path,
        )
        drop_unread_stages(self.body)
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        self.levels = Levels(self.strides, self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        return list(self.body(images))
