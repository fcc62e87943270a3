# ruff: noqa: N803, E741  (sizes have the letters of the table below, constants of a kernel capitals)
"""A deformable convolution as fused Triton kernels, forward and backward, for one group of weights and of offsets.

Nothing is kept between sampling and product: a program samples a block of points tap by tap and multiplies it at once.
torchvision's operator writes all samples out, [C * K, B * h * w], and has no 16-bit arithmetic.

Never run on a GPU so far: `HEADWAY_DEFORM=triton` switches it on, and tests run it in Triton's interpreter on the CPU.

    B images, C channels in, O channels out, H x W pixels in, h x w out, kh x kw = K taps, P = B * h * w points
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _points(block, offset, mask, H, W, h, w, kernel_w, tap, stride_y, stride_x, pad_y, pad_x, dil_y, dil_x, points,
            K: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Of a block of points and one tap: (index, inside, image, y0, x0, the share of y1, of x1, mask)."""
    index = block * BLOCK + tl.arange(0, BLOCK)
    inside = index < points
    image, place = index // (h * w), index % (h * w)
    at = offset + (image * 2 * K + 2 * tap) * h * w + place
    y = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(at + h * w, mask=inside, other=0.0).to(tl.float32)
    y += (place // w) * stride_y - pad_y + (tap // kernel_w) * dil_y
    x += (place % w) * stride_x - pad_x + (tap % kernel_w) * dil_x
    inside = inside & (y > -1) & (y < H) & (x > -1) & (x < W)  # false for NaN
    y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    if MASKED:
        scale = tl.load(mask + (image * K + tap) * h * w + place, mask=index < points, other=0.0).to(tl.float32)
    y0, x0 = tl.floor(y), tl.floor(x)
    return index, inside, image, y0.to(tl.int32), x0.to(tl.int32), y - y0, x - x0, scale


@triton.jit
def _corner(image, inside, y, x, H, W):
    """(row of the table [B * H * W, C], whether it is in the picture)."""
    there = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    return (image * H + y) * W + x, there


@triton.jit
def _read(input, row, there, channel, few, C):
    at = input + row[:, None] * C + channel[None, :]
    return tl.load(at, mask=there[:, None] & few[None, :], other=0.0).to(tl.float32)


@triton.jit
def _samples(input, image, inside, y0, x0, fy, fx, channel, few, H, W, C):
    """[BLOCK, channels] values between the four neighbours."""
    r00, t00 = _corner(image, inside, y0, x0, H, W)
    r01, t01 = _corner(image, inside, y0, x0 + 1, H, W)
    r10, t10 = _corner(image, inside, y0 + 1, x0, H, W)
    r11, t11 = _corner(image, inside, y0 + 1, x0 + 1, H, W)
    above = _read(input, r00, t00, channel, few, C) * (1 - fx)[:, None]
    above += _read(input, r01, t01, channel, few, C) * fx[:, None]
    below = _read(input, r10, t10, channel, few, C) * (1 - fx)[:, None]
    below += _read(input, r11, t11, channel, few, C) * fx[:, None]
    return above * (1 - fy)[:, None] + below * fy[:, None]


@triton.jit
def _forward(input, offset, mask, weight, result, H, W, h, w, kernel_w, stride_y, stride_x, pad_y, pad_x, dil_y, dil_x,
             points, C, O, K: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr, BC: tl.constexpr,
             BO: tl.constexpr):  # fmt: skip
    """input [B, H, W, C], weight [K, C, O] -> result [P, O]."""
    block = tl.program_id(0)
    out = tl.program_id(1) * BO + tl.arange(0, BO)
    index = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BO), tl.float32)
    for tap in range(K):
        _, inside, image, y0, x0, fy, fx, scale = _points(
            block, offset, mask, H, W, h, w, kernel_w, tap, stride_y, stride_x, pad_y, pad_x, dil_y, dil_x, points, K,
            MASKED, BLOCK,
        )  # fmt: skip
        for first in range(0, C, BC):
            channel = first + tl.arange(0, BC)
            few = channel < C
            values = _samples(input, image, inside, y0, x0, fy, fx, channel, few, H, W, C) * scale[:, None]
            at = weight + (tap * C + channel)[:, None] * O + out[None, :]
            factors = tl.load(at, mask=few[:, None] & (out < O)[None, :], other=0.0)
            total += tl.dot(values.to(factors.dtype), factors, input_precision="ieee")
    at = result + index[:, None] * O + out[None, :]
    tl.store(at, total.to(result.dtype.element_ty), mask=(index < points)[:, None] & (out < O)[None, :])


@triton.jit
def _backward(input, offset, mask, weight, grad, grad_input, grad_offset, grad_mask, H, W, h, w, kernel_w, stride_y,
              stride_x, pad_y, pad_x, dil_y, dil_x, points, C, O, K: tl.constexpr, MASKED: tl.constexpr,
              BLOCK: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr):  # fmt: skip
    """grad [P, O] -> grad_input [B, H, W, C], added up in float32; grad_offset, grad_mask as offset and mask."""
    block, tap = tl.program_id(0), tl.program_id(1)
    index, inside, image, y0, x0, fy, fx, scale = _points(
        block, offset, mask, H, W, h, w, kernel_w, tap, stride_y, stride_x, pad_y, pad_x, dil_y, dil_x, points, K,
        MASKED, BLOCK,
    )  # fmt: skip
    r00, t00 = _corner(image, inside, y0, x0, H, W)
    r01, t01 = _corner(image, inside, y0, x0 + 1, H, W)
    r10, t10 = _corner(image, inside, y0 + 1, x0, H, W)
    r11, t11 = _corner(image, inside, y0 + 1, x0 + 1, H, W)
    of_y = tl.zeros((BLOCK,), tl.float32)
    of_x = tl.zeros((BLOCK,), tl.float32)
    of_mask = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, C, BC):
        channel = first + tl.arange(0, BC)
        few = channel < C
        back = tl.zeros((BLOCK, BC), tl.float32)  # the gradient of the samples
        for begin in range(0, O, BO):
            out = begin + tl.arange(0, BO)
            wide = out < O
            given = tl.load(grad + index[:, None] * O + out[None, :], mask=(index < points)[:, None] & wide[None, :],
                            other=0.0)  # fmt: skip
            at = weight + (tap * C + channel)[None, :] * O + out[:, None]
            factors = tl.load(at, mask=wide[:, None] & few[None, :], other=0.0)
            back += tl.dot(given.to(factors.dtype), factors, input_precision="ieee")
        v00, v01 = _read(input, r00, t00, channel, few, C), _read(input, r01, t01, channel, few, C)
        v10, v11 = _read(input, r10, t10, channel, few, C), _read(input, r11, t11, channel, few, C)
        above = v00 * (1 - fx)[:, None] + v01 * fx[:, None]
        below = v10 * (1 - fx)[:, None] + v11 * fx[:, None]
        of_y += tl.sum(back * (below - above), 1)
        across = (v01 - v00) * (1 - fy)[:, None] + (v11 - v10) * fy[:, None]
        of_x += tl.sum(back * across, 1)
        of_mask += tl.sum(back * (above * (1 - fy)[:, None] + below * fy[:, None]), 1)
        back = back * scale[:, None]
        some = few[None, :]
        to = grad_input + channel[None, :]
        tl.atomic_add(to + r00[:, None] * C, back * ((1 - fy) * (1 - fx))[:, None], mask=t00[:, None] & some)
        tl.atomic_add(to + r01[:, None] * C, back * ((1 - fy) * fx)[:, None], mask=t01[:, None] & some)
        tl.atomic_add(to + r10[:, None] * C, back * (fy * (1 - fx))[:, None], mask=t10[:, None] & some)
        tl.atomic_add(to + r11[:, None] * C, back * (fy * fx)[:, None], mask=t11[:, None] & some)
    image, place = index // (h * w), index % (h * w)
    at = grad_offset + (image * 2 * K + 2 * tap) * h * w + place
    tl.store(at, tl.where(inside, of_y * scale, 0.0), mask=index < points)
    tl.store(at + h * w, tl.where(inside, of_x * scale, 0.0), mask=index < points)
    if MASKED:
        tl.store(grad_mask + (image * K + tap) * h * w + place, of_mask, mask=index < points)


@triton.jit
def _backward_weight(input, offset, mask, grad, grad_weight, H, W, h, w, kernel_w, stride_y, stride_x, pad_y, pad_x,
                     dil_y, dil_x, points, C, O, K: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
                     BC: tl.constexpr, BO: tl.constexpr, PARTS: tl.constexpr):  # fmt: skip
    """grad [P, O] -> grad_weight [K, C, O], added up in float32 by PARTS programs, each with its share of points."""
    tap, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    out = tl.program_id(2) * BO + tl.arange(0, BO)
    few, wide = channel < C, out < O
    total = tl.zeros((BC, BO), tl.float32)
    for block in range(part, tl.cdiv(points, BLOCK), PARTS):
        index, inside, image, y0, x0, fy, fx, scale = _points(
            block, offset, mask, H, W, h, w, kernel_w, tap, stride_y, stride_x, pad_y, pad_x, dil_y, dil_x, points, K,
            MASKED, BLOCK,
        )  # fmt: skip
        values = _samples(input, image, inside, y0, x0, fy, fx, channel, few, H, W, C) * scale[:, None]
        given = tl.load(grad + index[:, None] * O + out[None, :], mask=(index < points)[:, None] & wide[None, :],
                        other=0.0)  # fmt: skip
        total += tl.dot(tl.trans(values.to(given.dtype)), given, input_precision="ieee")
    at = grad_weight + (tap * C + channel)[:, None] * O + out[None, :]
    tl.atomic_add(at, total, mask=few[:, None] & wide[None, :])


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: Any) -> Tensor:
        batch, channels, height, width = input.shape
        outputs, _, kernel_y, kernel_x = weight.shape
        out_y, out_x = offset.shape[2:]
        rows = input.permute(0, 2, 3, 1).contiguous()
        table = weight.permute(2, 3, 1, 0).reshape(kernel_y * kernel_x, channels, outputs).contiguous()
        offset = offset.contiguous()
        mask = None if mask is None else mask.contiguous()
        points = batch * out_y * out_x
        result = input.new_empty(points, outputs)
        sizes = (height, width, out_y, out_x, kernel_x, *geometry, points, channels, outputs)
        blocks = {"BLOCK": 64, "BC": _block(channels, 64), "BO": _block(outputs, 128)}
        fixed = {"K": kernel_y * kernel_x, "MASKED": mask is not None, **blocks}
        grid = (triton.cdiv(points, blocks["BLOCK"]), triton.cdiv(outputs, blocks["BO"]))
        given = offset if mask is None else mask
        _forward[grid](rows, offset, given, table, result, *sizes, **fixed)
        ctx.save_for_backward(rows, offset, given, table)
        ctx.sizes, ctx.fixed, ctx.shapes = sizes, fixed, (input.shape, weight.shape)
        return result.view(batch, out_y, out_x, outputs).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        rows, offset, given, table = ctx.saved_tensors
        fixed, (shape, weight_shape) = ctx.fixed, ctx.shapes
        *_, points, channels, outputs = ctx.sizes
        grad = grads[0].permute(0, 2, 3, 1).reshape(points, outputs).to(rows.dtype).contiguous()
        of_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        of_offset, of_mask = torch.empty_like(offset), torch.empty_like(given)
        of_table = torch.zeros(table.shape, dtype=torch.float32, device=rows.device)
        grid = (triton.cdiv(points, fixed["BLOCK"]), fixed["K"])
        _backward[grid](rows, offset, given, table, grad, of_rows, of_offset, of_mask, *ctx.sizes, **fixed)
        parts = max(1, min(8, triton.cdiv(points, fixed["BLOCK"])))
        grid = (fixed["K"] * parts, triton.cdiv(channels, fixed["BC"]), triton.cdiv(outputs, fixed["BO"]))
        _backward_weight[grid](rows, offset, given, grad, of_table, *ctx.sizes, **fixed, PARTS=parts)
        of_input = of_rows.to(rows.dtype).permute(0, 3, 1, 2).view(shape)
        kernel = (*weight_shape[2:], channels, outputs)
        of_weight = of_table.to(table.dtype).view(kernel).permute(3, 2, 0, 1).contiguous()
        return of_input, of_offset, of_mask if fixed["MASKED"] else None, of_weight, None


def fused_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """As `deform.deform_conv2d`, of one group of weights and one of offsets, float32 or float16; sums in float32.

    offset, mask: float32 where places are to be exact.
    """
    result = _Fused.apply(input, offset, mask, weight, (*stride, *padding, *dilation))
    return result if bias is None else result + bias.to(result.dtype)[:, None, None]  # type: ignore[no-any-return]


def _block(size: int, most: int) -> int:
    """A power of two that `tl.dot` takes, from 16 on."""
    return int(min(most, max(16, triton.next_power_of_2(size))))
