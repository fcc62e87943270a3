"""Depthwise convolutions with their own gradients where torch's in bfloat16 are slow, on the CPU.

oneDNN has fast kernels for the weights of 3x3 windows, and for gradients of the input at stride 1. Larger kernels are
put together of such windows, larger strides of a map with zeros between.
Measured with torch 2.14, one thread of a Zen 4, 8 pictures: the gradient of the weight of 1152 x 6 x 8 and a 5x5 kernel
takes 36 ms in bfloat16, 5 in float32, 1.4 here; that of the input of 96 x 97 x 129 and 3x3 at stride 2: 48, 10, 4.3 ms.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import pad_same
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from .bags import capturing


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `nn.Conv2d`, to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, self.padding)


class DepthwiseConv2dSame(Conv2dSame):
    """timm's that pads by the size of the map, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, pad_same(x, self.kernel_size, self.stride, self.dilation), (0, 0))


_FAST = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def with_fast_depthwise(model: nn.Module) -> nn.Module:
    """Change the class of the depthwise convolutions of `model` where it pays, in place; names and weights stay."""
    for module in model.modules():
        if type(module) in _FAST and module.groups == module.in_channels == module.out_channels > 1 and _pays(module):
            module.__class__ = _FAST[type(module)]
    return model


def _pays(conv: nn.Module) -> bool:
    """Whether torch's gradients are slow, and the ones below can be had."""
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or set(conv.dilation) != {1}:
        return False
    inside = all(padding < side for padding, side in zip(conv.padding, conv.kernel_size))
    return inside and (max(conv.kernel_size) > 3 or max(conv.stride) > 1)


def _convolve(conv: nn.Conv2d, x: Tensor, padding: Any) -> Tensor:
    reduced = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type != "cpu" or not reduced or not torch.is_grad_enabled() or capturing(x):
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, 1, conv.groups)
    result: Tensor = _Depthwise.apply(x, conv.weight, conv.bias, conv.stride, padding)
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.options = (stride, padding)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _of_input(grad, weight.to(grad.dtype), x.shape[2:], *ctx.options).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(grad, x.to(grad.dtype), weight, *ctx.options)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
        return of_x, of_weight, of_bias, None, None


def _of_input(grad: Tensor, weight: Tensor, size: Any, stride: Any, padding: Any) -> Tensor:
    """The gradient, spread over the places of the input, under the kernel turned round."""
    kernel, channels = weight.shape[2:], len(weight)
    first = [k - 1 - p for k, p in zip(kernel, padding)]
    if tuple(stride) == (1, 1):
        return F.conv2d(grad, weight.flip(2, 3), None, 1, first, 1, channels)
    spread = grad.new_zeros(len(grad), *(side + k - 1 for side, k in zip(size, kernel)), channels).permute(0, 3, 1, 2)
    reach = [s * (count - 1) for s, count in zip(stride, grad.shape[2:])]
    rows, columns = (slice(start, start + far + 1, s) for start, far, s in zip(first, reach, stride))
    spread[:, :, rows, columns] = grad
    return F.conv2d(spread, weight.flip(2, 3), None, 1, 0, 1, channels)


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
    """Window by window of at most 3x3 of the kernel; what two windows share is the same in both."""
    result, reach = torch.empty_like(weight), [s * (count - 1) for s, count in zip(stride, grad.shape[2:])]
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    options = (stride, (0, 0), (1, 1), False, (0, 0), len(weight), [False, True, False])
    for top, bottom in _windows(weight.shape[2]):
        for left, right in _windows(weight.shape[3]):
            part = x[:, :, top : bottom + reach[0], left : right + reach[1]]
            part = part.contiguous(memory_format=torch.channels_last)
            window = weight[:, :, top:bottom, left:right].to(grad.dtype)
            found = torch.ops.aten.convolution_backward(grad, part, window, None, *options)
            result[:, :, top:bottom, left:right] = found[1]
    return result


def _windows(side: int) -> list[tuple[int, int]]:
    """Stretches of at most 3 that cover 0 to `side`; the last ends with it.

    >>> _windows(5), _windows(7), _windows(2)
    ([(0, 3), (2, 5)], [(0, 3), (3, 6), (4, 7)], [(0, 2)])
    """
    width = min(side, 3)
    starts = dict.fromkeys(min(start, side - width) for start in range(0, side, width))
    return [(start, start + width) for start in starts]
