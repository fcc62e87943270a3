"""Deformable convolution v1 (arXiv:1703.06211) and v2 (arXiv:1811.11168), fast on the CPU without a compiler.

Same result and gradients as ``torchvision.ops.deform_conv2d``, whose CPU kernel samples one value at a time on one
thread; `deform_cpu` says how it is done here. On other devices and while a graph is captured, torchvision's operator is
called; it exports to ONNX ``DeformConv`` (opset 19 and later). With HEADWAY_DEFORM=triton in the environment CUDA has
the fused kernels of `deform_triton`.

    B images, C channels in, O channels out, H x W pixels in, h x w out, kh x kw = K taps, G offset groups

Dtypes. The result has the autocast dtype where autocast is on and the input is not float64, else the input's dtype;
weight, bias and mask follow. Sampling coordinates are float32 at least. bfloat16 on the CPU: columns and product in
bfloat16, sums over chunks in float32. float16 on the CPU, and both 16-bit types on torchvision's path: float32 inside.

Differs: torchvision's CPU operator reads outside the image, and may crash, where an offset is NaN; here NaN samples
zero, as infinity does in both. Where the input itself is not finite, a point outside the image may meet it.
Derivatives are first order only, as in torchvision.
"""

import math
import os

import torch
from torch import Tensor, nn

from ..vision import deform_conv2d as torchvision_deform_conv2d
from .bags import capturing
from .deform_cpu import sampled_convolution

__all__ = ["DeformConv2d", "DeformableConv2d", "deform_conv2d", "deform_path"]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve with every tap of the kernel displaced by its own offset, bilinearly, zeros outside the image.

    Args:
        input: [B, C, H, W]; channels-last memory saves a copy.
        offset: [B, 2 * G * K, h, w] pixels, per offset group and tap dy then dx.
        weight: [O, C / groups, kh, kw]; the number of groups follows from the shapes.
        bias: [O].
        mask: [B, G * K, h, w], factor of every sample (v2); None: ones (v1).

    Returns:
        [B, O, h, w]; in channels-last memory on the CPU path.

    Raises:
        ValueError: shapes that do not fit together.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    groups, offset_groups = _check_shapes(input, offset, weight, bias, mask, stride, padding, dilation)
    kind = input.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    autocast = autocast and input.dtype != torch.float64
    result_dtype = torch.get_autocast_dtype(kind) if autocast else input.dtype
    path = _path(input.device, capturing(input))[0]
    if path == "triton" and (groups > 1 or offset_groups > 1 or result_dtype == torch.float64):
        path = "torchvision"
    sampler = path == "embedding_bag"
    keeps_dtype = result_dtype == torch.float64 or (sampler and result_dtype == torch.bfloat16) or path == "triton"
    dtype = result_dtype if keeps_dtype else torch.float32
    points_dtype = dtype if path == "torchvision" else torch.promote_types(offset.dtype, torch.float32)
    input, offset, weight = input.to(dtype), offset.to(points_dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    mask = None if mask is None else mask.to(points_dtype)
    if sampler:
        result = sampled_convolution(
            input, offset, weight, bias, stride, padding, dilation, mask, groups, offset_groups
        )
    elif path == "triton":
        from .deform_triton import fused_deform_conv2d

        result = fused_deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    else:
        result = torchvision_deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    return result.to(result_dtype)


def deform_path(device: torch.device | str, exporting: bool = False) -> tuple[str, str]:
    """Which implementation serves `device`, and why: ("embedding_bag", "torchvision" or "triton", one sentence)."""
    return _path(torch.device(device), "the graph is exported" if exporting else None)


def _path(device: torch.device, captured: str | None) -> tuple[str, str]:
    if captured:
        return "torchvision", f"{captured}, and torchvision's operator is one node in it (ONNX: DeformConv)"
    if device.type == "cuda" and os.environ.get("HEADWAY_DEFORM") == "triton":
        return "triton", "HEADWAY_DEFORM=triton asks for the fused kernels, in place of torchvision's operator"
    if device.type != "cpu":
        return "torchvision", f"torchvision's operator has its own kernel on {device.type}"
    return "embedding_bag", "on the CPU, sampling by embedding_bag is several times faster than torchvision's operator"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _output_size(input: Tensor, kernel: tuple[int, int], stride, padding, dilation) -> tuple[int, int]:
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(input.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def _check_shapes(input, offset, weight, bias, mask, stride, padding, dilation) -> tuple[int, int]:
    """Return (weight groups, offset groups); see `deform_conv2d` for the shapes."""
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight), ("mask", mask)):
        if tensor is not None and tensor.dim() != 4:
            raise ValueError(f"deform_conv2d: {name} must have 4 dimensions, got shape {tuple(tensor.shape)}")
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ValueError(
            "deform_conv2d: stride and dilation must be at least 1 and padding at least 0, "
            f"got stride {stride}, dilation {dilation}, padding {padding}"
        )
    images, channels = input.shape[:2]
    out_channels, group_channels, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    if group_channels == 0 or channels % group_channels or out_channels % max(channels // group_channels, 1):
        raise ValueError(
            f"deform_conv2d: weight must be [O, C / groups, kh, kw] with C = {channels} of the input and O divisible "
            f"by groups, got {tuple(weight.shape)}"
        )
    offset_groups = offset.shape[1] // (2 * taps)
    if offset_groups == 0 or offset.shape[1] % (2 * taps) or channels % offset_groups:
        raise ValueError(
            f"deform_conv2d: offset must have 2 * G * {taps} channels for a {kernel[0]}x{kernel[1]} kernel, with G a "
            f"divisor of the {channels} input channels, got {offset.shape[1]}"
        )
    height, width = _output_size(input, kernel, stride, padding, dilation)
    if height < 1 or width < 1:
        raise ValueError(
            f"deform_conv2d: the output would be {height}x{width} for an input of {tuple(input.shape[2:])}; "
            "pad the input or use a smaller kernel or dilation"
        )
    for name, tensor, per_tap in (("offset", offset, 2), ("mask", mask, 1)):
        expected = (images, per_tap * offset_groups * taps, height, width)
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(
                f"deform_conv2d: {name} must be {expected}, the size of the output, got {tuple(tensor.shape)}; "
                "predict it with the stride and padding of this convolution, or crop or resize it first"
            )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f"deform_conv2d: bias must be ({out_channels},), got {tuple(bias.shape)}")
    return channels // group_channels, offset_groups


class DeformConv2d(nn.Module):
    """A deformable convolution whose offset, and mask if any, are given by the caller.

    Weights start uniform in +-1/sqrt(C / groups * kh * kw), the bias at zero, as in mmcv (ops/deform_conv.py,
    ops/modulated_deform_conv.py) and microsoft/DynamicHead.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"DeformConv2d: in_channels {in_channels} and out_channels {out_channels} must be divisible by "
                f"groups {groups}"
            )
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *_pair(kernel_size)))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], offset [B, 2 * G * K, h, w], mask [B, G * K, h, w] -> [B, O, h, w]."""
        return deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self) -> str:
        return (
            f"weight={tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        )


class DeformableConv2d(nn.Module):
    """A deformable convolution that predicts its own offsets, and from version 2 on its mask, by a plain convolution.

    That convolution starts at zero, so that the layer starts as its plain convolution (version 1) or half of it
    (version 2, whose mask is a sigmoid). Its channels: per offset group and tap dy then dx, after them the mask's
    logits.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
        version: int = 2,
        bias: bool = False,
    ):
        super().__init__()
        if version not in (1, 2):
            raise ValueError(f"DeformableConv2d: version must be 1 (offsets) or 2 (offsets and mask), got {version}")
        self.conv = DeformConv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.points = offset_groups * math.prod(_pair(kernel_size))
        self.conv_offset = nn.Conv2d(
            in_channels, (version + 1) * self.points, kernel_size, stride, padding, dilation, bias=True
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, h, w]."""
        predicted = self.conv_offset(x)
        offset, logits = predicted[:, : 2 * self.points], predicted[:, 2 * self.points :]
        return self.conv(x, offset, logits.sigmoid() if logits.shape[1] else None)
