"""RoIAlign (Mask R-CNN, arXiv 1703.06870, 3) on the CPU in plain PyTorch, with torchvision's rules.

A bin is the mean of its samples, each a bilinear mix of four pixels. Rows and columns are mixed apart from each other,
so a bin is a weighted sum of the pixels where its few rows meet its few columns: one bag of `embedding_bag`.

    K regions, r x r bins, n samples a bin and axis, m pixels a bin and axis, C channels
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bags import COLUMN_BYTES, hat, keep_pages, scatter_add_ragged

_SCATTERED = 2**18  # entries of bags, at least, that are scattered at once


def sampled_roi_align(
    features: Tensor, rois: Tensor, resolution: int | tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """`torchvision.ops.roi_align`: features [B, C, H, W], rois [K, 5] (image, xyxy) -> [K, C, r, r], channels last in
    memory. No gradient for the rois."""
    bins = (resolution, resolution) if isinstance(resolution, int) else resolution
    table = features.permute(0, 2, 3, 1).contiguous()
    pooled = _RoIAlign.apply(table, rois.detach(), bins, scale, sampling_ratio, aligned)
    return pooled.permute(0, 3, 1, 2)


class _RoIAlign(torch.autograd.Function):
    """table [B, H, W, C] and the arguments of `sampled_roi_align` -> [K, r, r, C]."""

    @staticmethod
    def forward(ctx, table, rois, bins, scale, sampling_ratio, aligned):
        keep_pages()
        ctx.save_for_backward(table, rois)
        ctx.arguments = bins, scale, sampling_ratio, aligned
        pixels = table.view(-1, table.shape[3])
        pooled = table.new_zeros(rois.shape[0], *bins, table.shape[3])
        with torch.autocast("cpu", enabled=False):
            for index, pixel, factor in _bags(table, rois, *ctx.arguments):
                sampled = F.embedding_bag(pixel, pixels, mode="sum", per_sample_weights=factor)
                pooled[index] = sampled.view(-1, *bins, table.shape[3])
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        table, rois = ctx.saved_tensors
        exact = torch.promote_types(table.dtype, torch.float32)  # of sums over regions
        grad_pixels = torch.zeros(table.shape, dtype=exact).view(-1, table.shape[3])
        with torch.autocast("cpu", enabled=False):
            for part in _gathered(_bags(table, rois, *ctx.arguments), _SCATTERED):
                index, pixel, factor, bag = (torch.cat(column) for column in zip(*part))
                scatter_add_ragged(grad_pixels, pixel, factor, bag, grad[index].reshape(-1, table.shape[3]))
        return grad_pixels.view(table.shape).to(table.dtype), None, None, None, None, None


def _bags(
    table: Tensor, rois: Tensor, bins: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """In chunks of regions with equally many samples: their numbers [k], and of each of their bins the pixels, as rows
    of the table, and factors: two of [k * r * r, m * m]."""
    _, height, width, channels = table.shape
    corners = rois[:, 1:].to(torch.promote_types(table.dtype, torch.float32)) * scale - (0.5 if aligned else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    step = size / size.new_tensor([bins[1], bins[0]])
    if sampling_ratio > 0:
        samples = torch.full_like(step, sampling_ratio, dtype=torch.int64)
    else:
        samples = step.ceil().clamp(min=0).long()
    chunk = max(1, COLUMN_BYTES // (bins[0] * bins[1] * channels * table.element_size()))
    for across, down in torch.unique(samples, dim=0).tolist():
        if across == 0 or down == 0:  # an empty region has no samples
            continue
        for index in ((samples[:, 0] == across) & (samples[:, 1] == down)).nonzero().squeeze(1).split(chunk):
            contiguous = sampling_ratio <= 0
            row, row_factor = _mix(start[index, 1], step[index, 1], height, bins[0], down, contiguous)
            column, column_factor = _mix(start[index, 0], step[index, 0], width, bins[1], across, contiguous)
            row = row + rois[index, 0].to(row.dtype).view(-1, 1, 1) * height
            pixel = row[:, :, None, :, None] * width + column[:, None, :, None, :]
            factor = row_factor[:, :, None, :, None] * column_factor[:, None, :, None, :]
            count = math.prod(pixel.shape[3:])
            yield index, pixel.reshape(-1, count), factor.reshape(-1, count).to(table.dtype)


def _gathered(bags: Iterator[tuple[Tensor, Tensor, Tensor]], enough: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Lists of what `_bags` yields, until one has `enough` entries: (regions, pixel, factor, number of the bag in the
    list), each but the first flat. Every scatter passes over the whole map, so a few large ones are cheaper."""
    part: list[tuple[Tensor, ...]] = []
    entries = first = 0
    for index, pixel, factor in bags:
        bag = first + torch.arange(pixel.numel()) // pixel.shape[1]
        part.append((index, pixel.flatten(), factor.flatten(), bag))
        entries, first = entries + pixel.numel(), first + len(pixel)
        if entries >= enough:
            yield part
            part, entries, first = [], 0, 0
    if part:
        yield part


def _mix(start: Tensor, step: Tensor, size: int, bins: int, samples: int, contiguous: bool) -> tuple[Tensor, Tensor]:
    """Along one axis: the pixels that each bin's samples lie between, and how much of each is in their mean: two of
    [k, bins, m].

    contiguous: the samples lie at most one pixel apart, so that their pixels are `samples` + 1 in a row; otherwise two
    per sample are listed. A sample further than one pixel outside counts as zero; others are moved to the border.
    """
    of_bin = torch.arange(bins, dtype=start.dtype)[:, None]
    in_bin = (torch.arange(samples, dtype=start.dtype) + 0.5) / samples
    place = start[:, None, None] + step[:, None, None] * (of_bin + in_bin)
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.floor()
    if contiguous:
        pixel = low[..., :1] + torch.arange(samples + 1, dtype=start.dtype)
        factor = (hat(place[..., None] - pixel[..., None, :]) * inside[..., None]).sum(-2)
    else:
        pixel = torch.stack([low, low + 1], -1)
        factor = (hat(place[..., None] - pixel) * inside[..., None]).flatten(-2)
        pixel = pixel.flatten(-2)
    return pixel.clamp_(max=size - 1).long(), factor / samples
