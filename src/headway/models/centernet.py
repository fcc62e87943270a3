"""CenterNet (arXiv 1904.07850): a heat map of centres with size and sub-cell offset, learned at the centre cell alone;
on ResNets with learned up-sampling and on DLA-34, as in xingyizhou/CenterNet (MIT), and as arguments what mmdetection
3.3.0 (Apache-2.0) does differently."""

from __future__ import annotations

from torch import nn

from ..backbones.dcn import DcnVersion
from ..backbones.timm import NormMode, TimmBackbone
from ..detector import Detector
from ..heads.heatmap import HeatmapHead, set_prior
from ..necks.deconv import DeconvNeck, DlaUpNeck
from ..registry import register, register_variant
from .parts import make_card
from .ttfnet import make_branch


def _detector(
    backbone: TimmBackbone,
    neck: DeconvNeck | DlaUpNeck,
    num_classes: int,
    input_size: tuple[int, int],
    *,
    head_width: int,
    min_overlap: float,
    score_clip: float,
    clip_boxes: bool,
) -> Detector:
    """Three branches on the neck's map; scores start at 0.1."""
    heatmap, box, offset = (
        make_branch(neck.channels, head_width, outputs, 1, deformable=False) for outputs in (num_classes, 2, 2)
    )
    set_prior(heatmap, 0.1)
    head = HeatmapHead(
        heatmap, box, offset, num_classes=num_classes, style="center", min_overlap=min_overlap, score_clip=score_clip,
        clip_boxes=clip_boxes,
    )  # fmt: skip
    return Detector(backbone, neck, head, make_card(num_classes, nms_iou=None, input_size=input_size))


@register
def centernet_r18(
    *,
    num_classes: int = 80,
    backbone: str = "resnet18",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    planes: tuple[int, int, int] = (256, 128, 64),
    deformable: bool = True,
    deform_bias: bool = True,
    head_width: int = 64,
    min_overlap: float = 0.3,
    score_clip: float = 1e-4,
    clip_boxes: bool = True,
    input_size: tuple[int, int] = (512, 512),
) -> Detector:
    """CenterNet on a ResNet with (deformable and) transposed convolutions.

    planes, deformable, deform_bias: of the neck, see `DeconvNeck`. head_width: of the branches' 3x3 convolution.
    min_overlap: see `overlap_radius`, which also says what the authors' 0.7 is here; score_clip: see `gaussian_focal`.
    clip_boxes: to the picture; the published checkpoints do not.

    Differs: upstream warps every picture to the input size and tests at the picture's own; here it is resized into
    `input_size`, as with all other models.
    """
    trunk = TimmBackbone(
        backbone, strides=(32,), weights=backbone_weights, norm=norm, frozen_stages=frozen_stages,
        dcn=dcn, dcn_version=dcn_version, dcn_groups=dcn_groups,
    )  # fmt: skip
    neck = DeconvNeck(trunk.channels[-1], planes, deformable=deformable, deform_bias=deform_bias)
    return _detector(
        trunk, neck, num_classes, input_size,
        head_width=head_width, min_overlap=min_overlap, score_clip=score_clip, clip_boxes=clip_boxes,
    )  # fmt: skip


@register
def centernet_dla34(
    *,
    num_classes: int = 80,
    backbone: str = "dla34",
    backbone_weights: bool = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    head_width: int = 256,
    min_overlap: float = 0.3,
    score_clip: float = 1e-4,
    clip_boxes: bool = True,
    input_size: tuple[int, int] = (512, 512),
) -> Detector:
    """CenterNet on DLA-34 with its deformable up-sampling, see `DlaUpNeck`; the others are `centernet_r18`'s."""
    trunk = TimmBackbone(
        backbone, strides=(4, 8, 16, 32), weights=backbone_weights, norm=norm, frozen_stages=frozen_stages
    )
    for module in trunk.modules():
        if isinstance(module, nn.MaxPool2d) and module.kernel_size == module.stride == 2:
            module.ceil_mode = True  # DLA adds pooled maps to convolved ones, whose odd sizes are rounded up
    return _detector(
        trunk, DlaUpNeck(trunk.channels), num_classes, input_size,
        head_width=head_width, min_overlap=min_overlap, score_clip=score_clip, clip_boxes=clip_boxes,
    )  # fmt: skip


register_variant("centernet_r101", centernet_r18, backbone="resnet101")
