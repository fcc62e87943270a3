"""Sampling on the CPU by `embedding_bag`: a feature map is a table with one row of channels per pixel, and every sample
is a bag, a weighted sum, of some of its rows. What deformable convolution and RoIAlign share of it."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Columns per chunk. Above 32 MiB the allocator maps fresh pages on every call; far below, the product's own overhead
# (reordering the weight) is paid too often.
COLUMN_BYTES = 16 * 2**20

_WIDE = 128  # channels up to which torch's gradient for the factors is slower in bfloat16 than in float32


@functools.cache
def keep_pages() -> None:
    """Have glibc keep the pages of freed chunks for the next ones: the largest mapped block ever freed, up to 32 MiB,
    becomes its threshold for mapping blocks afresh (mallopt(3), M_MMAP_THRESHOLD). The block is never touched."""
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def hat(distance: Tensor) -> Tensor:
    """Bilinear weight of a pixel at that distance: max(0, 1 - |distance|), zero for any point outside."""
    return distance.abs().neg_().add_(1).clamp_(min=0)


def factor_grad(pixels: Tensor, index: Tensor, grad_sampled: Tensor) -> Tensor:
    """Gradient for the factors of bags: the product of each pixel in a bag with the bag's gradient.

    pixels [pixels, C]; index [bags, n]; grad_sampled [bags, C] -> [bags, n].
    """
    if pixels.dtype == torch.bfloat16 and pixels.shape[1] < _WIDE:
        return factor_grad(pixels.float(), index, grad_sampled.float()).to(pixels.dtype)
    bag = torch.arange(index.shape[0], dtype=index.dtype)
    first, bag_of_entry = bag * index.shape[1], bag.repeat_interleave(index.shape[1])
    sum_mode = 0
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_sampled, pixels, index.flatten(), first, bag_of_entry, sum_mode
    ).view(index.shape)


def scatter_add(grad_pixels: Tensor, index: Tensor, factor: Tensor, grad_sampled: Tensor) -> None:
    """Add each bag's gradient to the pixels in it: the transposed bags, one per pixel.

    grad_pixels [pixels, C], changed in place; index, factor [bags, n]; grad_sampled [bags, C].
    """
    bag = torch.arange(index.numel()) // index.shape[1]
    scatter_add_ragged(grad_pixels, index.flatten(), factor.flatten(), bag, grad_sampled)


def scatter_add_ragged(grad_pixels: Tensor, index: Tensor, factor: Tensor, bag: Tensor, grad_sampled: Tensor) -> None:
    """`scatter_add` for bags of unequal size: index, factor and bag [entries], bag a row of grad_sampled [bags, C]."""
    if not index.numel():
        return
    first, last = (int(bound) for bound in index.aminmax())
    pixel = index - first
    counts = torch.bincount(pixel)
    # numpy sorts 16-bit integers by radix, about ten times as fast as torch sorts a chunk.
    keys = pixel.to(torch.uint16) if last - first < 2**16 else pixel
    order = torch.from_numpy(keys.numpy().argsort(kind="stable"))
    grad_pixels[first : last + 1] += F.embedding_bag(
        bag[order],
        grad_sampled,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=factor[order],
    )


def capturing(input: Tensor) -> str | None:
    """Say by what the call is recorded instead of run, if by anything."""
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return "the graph is exported"
    if torch.compiler.is_compiling():
        return "the graph is compiled"
    if torch.jit.is_tracing() or torch.jit.is_scripting():
        return "the graph is traced"
    if type(input) not in (Tensor, nn.Parameter):  # fake tensors, and others that only some operators know
        return f"the input is a {type(input).__name__}"
    return None
