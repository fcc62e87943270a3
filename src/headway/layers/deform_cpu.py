"""Deformable convolution on the CPU in plain PyTorch: sample by `embedding_bag`, multiply, recompute in the backward.

The feature map is a table with one row of channels per pixel, and every sampling point is a bag of its four corner
rows: one `embedding_bag` per chunk gives the columns of the matrix product, already in its layout, and a channels-last
1x1 convolution does the product. The backward pass computes the columns again, so that only the inputs are kept.

    B images, C channels in, O channels out, H x W pixels in, h x w out, kh x kw = K taps, G offset groups,
    P = B * h * w output positions, N positions in a chunk, S = P * K * G sampling points
"""

import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bags import COLUMN_BYTES, factor_grad, hat, keep_pages, scatter_add


def sampled_convolution(input, offset, weight, bias, stride, padding, dilation, mask, groups, offset_groups) -> Tensor:
    """Bring everything into the layout of `_SampledConvolution`, where autograd undoes it for the gradients."""
    kernel, (height, width) = weight.shape[2:], offset.shape[2:]
    # [B, h * w, G, K, (dy, dx)] -> two of [B, h * w, K, G]
    offset = offset.permute(0, 2, 3, 1).reshape(-1, height * width, offset_groups, kernel[0] * kernel[1], 2)
    offset = offset.transpose(2, 3)
    arange = functools.partial(torch.arange, dtype=offset.dtype, device=offset.device)
    places = [
        arange(size)[:, None] * s - p + arange(k) * d
        for size, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
    ]
    grid = (height, width, *kernel)
    rows = places[0][:, None, :, None].expand(grid).reshape(height * width, -1, 1) + offset[..., 0]
    columns = places[1][None, :, None, :].expand(grid).reshape(height * width, -1, 1) + offset[..., 1]
    if mask is not None:
        mask = mask.permute(0, 2, 3, 1).reshape(-1, height * width, offset_groups, kernel[0] * kernel[1])
        mask = mask.transpose(2, 3).contiguous()
    table = input.permute(0, 2, 3, 1)
    if min(input.shape[2:]) < 2:  # a point has two rows and two columns of corners
        table = F.pad(table, (0, 0, 0, int(input.shape[3] < 2), 0, int(input.shape[2] < 2)))
    weight = weight.permute(0, 2, 3, 1).reshape(groups, weight.shape[0] // groups, -1)
    result = _SampledConvolution.apply(
        table.contiguous(), rows.contiguous(), columns.contiguous(), mask, weight.contiguous(), bias
    )
    return result.view(input.shape[0], height, width, result.shape[1]).permute(0, 3, 1, 2)


class _SampledConvolution(torch.autograd.Function):
    """table [B, H, W, C]; rows, columns, mask [B, h * w, K, G]; weight [groups, O / groups, K * C / groups];
    bias [O] -> [P, O]."""

    @staticmethod
    def forward(ctx, table, rows, columns, mask, weight, bias):
        keep_pages()
        ctx.save_for_backward(table, rows, columns, mask, weight)
        taps, offset_groups = rows.shape[2:]
        pixels = table.view(-1, table.shape[3] // offset_groups)
        index, factor = _corners(table, rows, columns, mask)
        result = table.new_empty(rows.shape[0] * rows.shape[1], weight.shape[0] * weight.shape[1])
        with torch.autocast("cpu", enabled=False):
            for positions, points in _chunks(result.shape[0], taps, offset_groups, pixels):
                sampled = F.embedding_bag(index[points], pixels, mode="sum", per_sample_weights=factor[points])
                result[positions] = _product(sampled.view(-1, taps, table.shape[3]), weight, bias)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        table, rows, columns, mask, weight = ctx.saved_tensors
        needs_table, needs_rows, needs_columns, needs_mask, needs_weight, needs_bias = ctx.needs_input_grad
        needs_points = needs_rows or needs_columns or needs_mask
        taps, offset_groups = rows.shape[2:]
        pixels = table.view(-1, table.shape[3] // offset_groups)
        index, factor = _corners(table, rows, columns, mask)
        grad = grad.contiguous()
        exact = torch.promote_types(table.dtype, torch.float32)  # of sums over chunks
        grad_pixels = torch.zeros_like(pixels, dtype=exact) if needs_table else None
        grad_factor = torch.empty_like(factor) if needs_points else None
        grad_weight = None
        with torch.autocast("cpu", enabled=False):
            for positions, points in _chunks(grad.shape[0], taps, offset_groups, pixels):
                chunk = grad[positions]
                if needs_weight:
                    sampled = F.embedding_bag(index[points], pixels, mode="sum", per_sample_weights=factor[points])
                    part = _product_grad_weight(sampled.view(-1, taps, table.shape[3]), chunk, weight)
                    grad_weight = part if grad_weight is None else grad_weight.to(exact).add_(part)
                if needs_table or needs_points:
                    grad_sampled = _product_grad_columns(chunk, weight, taps).reshape(-1, pixels.shape[1])
                if needs_points:
                    grad_factor[points] = factor_grad(pixels, index[points], grad_sampled)
                if needs_table:
                    scatter_add(grad_pixels, index[points], factor[points], grad_sampled)
        if needs_weight and grad_weight is None:  # there is no position
            grad_weight = torch.zeros_like(weight)
        grad_points = _corners_grad(table, rows, columns, mask, grad_factor) if needs_points else (None, None, None)
        return (
            grad_pixels.view(table.shape).to(table.dtype) if needs_table else None,
            *grad_points,
            grad_weight.to(weight.dtype) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def _chunks(positions: int, taps: int, offset_groups: int, pixels: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut the positions into even chunks of about COLUMN_BYTES; yield each as positions and as sampling points."""
    points = taps * offset_groups
    position_bytes = points * pixels.shape[1] * pixels.element_size()
    chunks = math.ceil(positions * position_bytes / COLUMN_BYTES)
    size = math.ceil(positions / max(chunks, 1))
    for start in range(0, positions, max(size, 1)):
        stop = min(start + size, positions)
        yield slice(start, stop), slice(start * points, stop * points)


def _nearest_low(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The lower of the two pixels that `position` lies between, or nearest to: its index (a whole float, 0 to size - 2)
    and the signed distance from it to the position."""
    position = position.nan_to_num(nan=-2.0)  # a place outside
    low = position.floor().clamp_(0, size - 2)
    return low, position.sub_(low)


def _hat_slope(distance: Tensor) -> Tensor:
    """Derivative of `hat` in the cell [floor, floor + 1) that the point is in: 1 on [-1, 0), -1 on [0, 1), else 0.

    At a whole coordinate this is the slope towards the next pixel, torchvision's choice and mmcv's.
    """
    inside = (distance >= -1) & (distance < 1)
    return torch.where(distance < 0, 1.0, -1.0).to(distance.dtype).mul_(inside)


def _corners(table: Tensor, rows: Tensor, columns: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Corner pixels of every sampling point as rows of the table, and the factor of each: two of [S, 4]."""
    images, height, width, _ = table.shape
    offset_groups = rows.shape[3]
    row, row_distance = _nearest_low(rows, height)
    column, column_distance = _nearest_low(columns, width)
    index_dtype = torch.int32 if table.numel() < 2**31 else torch.int64
    image = torch.arange(images, dtype=index_dtype, device=table.device).view(-1, 1, 1, 1)
    group = torch.arange(offset_groups, dtype=index_dtype, device=table.device)
    pixel = row.to(index_dtype).add_(image, alpha=height).mul_(width).add_(column.to(index_dtype))
    pixel = pixel.mul_(offset_groups).add_(group)
    index = table.new_empty((*rows.shape, 4), dtype=index_dtype)
    factor = table.new_empty((*rows.shape, 4))
    column_weights = hat(column_distance), hat(column_distance.sub_(1))
    for y in range(2):
        row_weight = hat(row_distance.sub_(y))
        if mask is not None:
            row_weight.mul_(mask)
        for x in range(2):
            torch.add(pixel, (y * width + x) * offset_groups, out=index[..., 2 * y + x])
            torch.mul(row_weight, column_weights[x], out=factor[..., 2 * y + x])
    return index.view(-1, 4), factor.view(-1, 4)


def _corners_grad(table, rows, columns, mask, grad_factor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients for rows, columns and mask from those of the corners' factors [S, 4]."""
    row_distance = _nearest_low(rows, table.shape[1])[1]
    column_distance = _nearest_low(columns, table.shape[2])[1]
    upper_left, upper_right, lower_left, lower_right = grad_factor.view(*rows.shape, 4).to(rows.dtype).unbind(-1)
    left, right = hat(column_distance), hat(column_distance - 1)
    upper, lower = upper_left * left + upper_right * right, lower_left * left + lower_right * right
    grad_rows = _hat_slope(row_distance) * upper + _hat_slope(row_distance - 1) * lower
    top, bottom = hat(row_distance), hat(row_distance - 1)
    grad_columns = _hat_slope(column_distance) * (top * upper_left + bottom * lower_left)
    grad_columns += _hat_slope(column_distance - 1) * (top * upper_right + bottom * lower_right)
    if mask is None:
        return grad_rows, grad_columns, None
    return grad_rows * mask, grad_columns * mask, top * upper + bottom * lower


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """[N, K, C] -> [groups, N, K * C / groups]."""
    return columns.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).flatten(2)


def _product(columns: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, K, C] times [groups, O / groups, K * C / groups] -> [N, O].

    Written as a channels-last 1x1 convolution, which oneDNN computes: MKL's product in float32 is up to twice as slow
    on AMD. In bfloat16 oneDNN computes both.
    """
    if weight.shape[0] == 1:
        return _matmul(columns.flatten(1), weight[0], bias)
    product = torch.bmm(_by_group(columns, weight.shape[0]), weight.mT).transpose(0, 1).flatten(1)
    return product if bias is None else product.add_(bias)


def _product_grad_columns(grad: Tensor, weight: Tensor, taps: int) -> Tensor:
    """[N, O] times the weight [groups, O / groups, K * C / groups] -> gradient for the columns, [N, K, C]."""
    groups = weight.shape[0]
    if groups > 1:
        product = torch.bmm(grad.unflatten(1, (groups, -1)).transpose(0, 1), weight)
        return product.unflatten(2, (taps, -1)).permute(1, 2, 0, 3).flatten(2)
    if grad.dtype == torch.bfloat16:
        return torch.mm(grad, weight[0]).unflatten(1, (taps, -1))
    return _matmul(grad, weight[0].mT).unflatten(1, (taps, -1))


def _product_grad_weight(columns: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """[N, K, C] and [N, O] -> gradient for the weight, [groups, O / groups, K * C / groups]."""
    groups = weight.shape[0]
    if groups > 1:
        return torch.bmm(grad.unflatten(1, (groups, -1)).permute(1, 2, 0), _by_group(columns, groups))
    if grad.dtype == torch.bfloat16:
        return torch.mm(grad.t(), columns.flatten(1))[None]
    positions = columns.shape[0]  # as the channels of a 1x1 convolution over the columns
    return F.conv2d(columns.view(1, positions, -1, 1), grad.t().reshape(-1, positions, 1, 1)).view(weight.shape)


def _matmul(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, I] times [O, I] -> [N, O], as a channels-last 1x1 convolution of an image of N pixels."""
    image, kernel = left.view(1, left.shape[0], 1, -1).permute(0, 3, 1, 2), right[:, :, None, None]
    if left.dtype == torch.float32 and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        # On one thread `conv2d` takes MKL again.
        result = torch.ops.aten.mkldnn_convolution(image, kernel, bias, (0, 0), (1, 1), (1, 1), 1)
    else:
        result = F.conv2d(image, kernel, bias)
    return result.permute(0, 2, 3, 1).view(left.shape[0], -1)
