"""Depthwise convolutions whose gradients are computed in float32 where torch's in bfloat16 are slow, on the CPU.

Measured with torch 2.14, one thread, 8 x 1152 x 6 x 8 and a 5x5 kernel: the gradient of the weight takes 50 ms in
bfloat16 and 5 ms in float32; 8 x 144 x 51 x 67 at stride 2: that of the input 29 and 2.5 ms. The forward pass stays in
bfloat16.
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
        if type(module) in _FAST and module.groups == module.in_channels == module.out_channels > 1:
            pays = max(module.kernel_size) > 3 or max(module.stride) > 1
            if pays and not isinstance(module.padding, str) and module.padding_mode == "zeros":
                module.__class__ = _FAST[type(module)]
    return model


def _convolve(conv: nn.Conv2d, x: Tensor, padding: Any) -> Tensor:
    options = (conv.stride, padding, conv.dilation, conv.groups)
    reduced = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type != "cpu" or not reduced or not torch.is_grad_enabled() or capturing(x):
        return F.conv2d(x, conv.weight, conv.bias, *options)
    result: Tensor = _Depthwise.apply(x, conv.weight, conv.bias, *options)
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.options = (stride, padding, dilation, False, (0, 0), groups)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
        sizes = [weight.shape[0]] if ctx.has_bias else None
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight.float(), sizes, *ctx.options, wanted
        )
        return None if of_x is None else of_x.to(x.dtype), of_weight, of_bias, None, None, None, None
