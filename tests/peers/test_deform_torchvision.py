"""Deformable convolution against torchvision's operator: values, every gradient, awkward shapes."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from headway.layers.deform import deform_conv2d

# images, input channels, output channels, groups, offset groups, kernel, stride, padding, dilation, size, mask
CASES = {
    "plain": (1, 8, 6, 1, 1, (3, 3), 1, 1, 1, (9, 11), True),
    "batch": (3, 8, 6, 1, 1, (3, 3), 1, 1, 1, (9, 11), True),
    "no_mask": (2, 8, 6, 1, 1, (3, 3), 1, 1, 1, (8, 8), False),
    "stride": (2, 8, 6, 1, 1, (3, 3), 2, 1, 1, (9, 12), True),
    "dilation": (2, 8, 6, 1, 1, (3, 3), 1, 2, 2, (9, 12), True),
    "groups": (2, 8, 6, 2, 1, (3, 3), 1, 1, 1, (9, 11), True),
    "depthwise": (1, 6, 6, 6, 1, (3, 3), 1, 1, 1, (9, 11), True),
    "offset_groups": (2, 8, 6, 1, 4, (3, 3), 1, 1, 1, (9, 11), True),
    "both_groups": (2, 12, 6, 3, 2, (3, 3), 1, 1, 1, (9, 11), True),
    "one_by_one": (2, 8, 6, 1, 2, (1, 1), 1, 0, 1, (7, 8), False),
    "uneven": (2, 4, 3, 1, 1, (3, 5), (2, 1), (1, 2), (1, 2), (11, 13), True),
    "one_row": (1, 4, 4, 1, 1, (3, 3), 1, 1, 1, (1, 6), True),
    "one_column": (2, 4, 4, 1, 2, (3, 3), 1, 1, 1, (5, 1), True),
    "one_pixel": (1, 4, 4, 1, 1, (1, 1), 1, 0, 1, (1, 1), True),
    "wide_padding": (1, 4, 4, 1, 1, (3, 3), 1, 4, 1, (5, 5), False),
}


def make(case, dtype):
    images, channels, out_channels, groups, offset_groups, kernel, stride, padding, dilation, size, masked = CASES[case]
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x, weight = randn(images, channels, *size), randn(out_channels, channels // groups, *kernel)
    height, width = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    points = offset_groups * kernel[0] * kernel[1]
    offset = 6 * randn(images, 2 * points, height, width)
    offset[:, :, ::2] = offset[:, :, ::2].round()  # whole coordinates sit on the kinks
    mask = randn(images, points, height, width).sigmoid() if masked else None
    tensors = [x, offset, weight, randn(out_channels), mask]
    return tensors, (stride, padding, dilation), randn(images, out_channels, height, width)


def run(function, tensors, geometry, direction):
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
    result = function(*leaves[:4], *geometry, leaves[4])
    (result * direction).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_in_double(case):
    tensors, geometry, direction = make(case, torch.float64)
    ours = run(deform_conv2d, tensors, geometry, direction)
    theirs = run(torchvision_deform_conv2d, tensors, geometry, direction)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_values_in_float32(case):
    tensors, geometry, _ = make(case, torch.float32)
    mine = deform_conv2d(*tensors[:4], *geometry, tensors[4])
    torch.testing.assert_close(mine, torchvision_deform_conv2d(*tensors[:4], *geometry, tensors[4]), rtol=0, atol=1e-5)


def test_values_in_float32_at_working_size():
    """256 channels in several chunks, weights of a started layer (1 / sqrt(fan in))."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 256, 34, 45, generator=generator), torch.rand(256, 256, 3, 3, generator=generator)
    weight = (2 * weight - 1) / 48
    offset, mask = 6 * torch.randn(1, 18, 34, 45, generator=generator), torch.rand(1, 9, 34, 45, generator=generator)
    mine = deform_conv2d(x, offset, weight, padding=1, mask=mask)
    expected = torchvision_deform_conv2d(x, offset, weight, padding=1, mask=mask)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_infinite_offsets():
    x, weight = torch.randn(1, 4, 5, 6), torch.randn(3, 4, 3, 3)
    for value in (torch.inf, -torch.inf, 1e30):
        offset = torch.zeros(1, 18, 5, 6)
        offset[:, ::3] = value
        expected = torchvision_deform_conv2d(x, offset, weight, padding=1)
        torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cuda_autocast(dtype):
    tensors, geometry, _ = make("both_groups", torch.float32)
    tensors = [tensor.cuda() for tensor in tensors]
    expected = torchvision_deform_conv2d(*tensors[:4], *geometry, tensors[4])
    with torch.autocast("cuda", dtype=dtype):
        result = deform_conv2d(*tensors[:4], *geometry, tensors[4])
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() < 0.02 * expected.abs().max()
