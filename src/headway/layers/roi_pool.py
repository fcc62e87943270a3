"""RoIAlign over a pyramid: every box reads the level that fits its size (FPN, arXiv 1612.03144, equation 1).

On the CPU by `roi_align_cpu`; on other devices, and while a graph is captured, by torchvision's operator, in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..vision import roi_align
from .bags import capturing
from .roi_align_cpu import sampled_roi_align


def pyramid_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    *,
    resolution: int = 7,
    sampling_ratio: int = 0,
    aligned: bool = True,
    eps_after_log: bool = False,
) -> Tensor:
    """Features [B, C, H_l, W_l] of `strides`, boxes [B, K, 4] in pixels -> [B * K, C, resolution, resolution].

    Level floor(log2(sqrt(area) / (14 * finest stride))), within the levels there are: with a finest stride of 4,
    boxes from 224 to 448 pixels read stride 16.
    sampling_ratio: samples per bin and axis; 0 takes as many as the bin is wide, in cells.
    aligned: shift by half a cell, so that bins and cells agree (mmdetection, detectron2); torchvision's detectors do
        not, and count a box as at least one cell wide.
    eps_after_log: where 1e-6 against rounding is added: torchvision after the logarithm, the others inside.
    """
    batch, count = rois.shape[:2]
    flat = rois.flatten(0, 1).float()
    size = ((flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1])).clamp(min=0).sqrt() / (14 * strides[0])
    level = torch.log2(size) + 1e-6 if eps_after_log else torch.log2(size + 1e-6)
    level = level.floor().clamp(0, len(strides) - 1)
    image = torch.arange(batch, device=rois.device, dtype=flat.dtype)[:, None].expand(-1, count).reshape(-1)
    flat = torch.cat([image[:, None], flat], dim=1)
    sampled = features[0].device.type == "cpu" and not capturing(features[0])
    shape = (batch * count, features[0].shape[1], resolution, resolution)
    dtype, layout = (features[0].dtype, torch.channels_last) if sampled else (torch.float32, torch.contiguous_format)
    pooled = torch.empty(shape, dtype=dtype, device=rois.device, memory_format=layout).zero_()
    for number, (feature, stride) in enumerate(zip(features, strides)):
        index = (level == number).nonzero().squeeze(1)
        align = sampled_roi_align if sampled else roi_align
        read = align(feature.to(dtype), flat[index], resolution, 1 / stride, sampling_ratio, aligned)
        pooled.index_copy_(0, index, read)
    return pooled
