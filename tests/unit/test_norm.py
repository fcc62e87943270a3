"""Group norms and depthwise convolutions that go other ways than torch's on the CPU: the same values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from headway.layers.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, with_fast_depthwise
from headway.layers.norm import GroupNorm


def spread(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return module


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("channels", [16, 32, 64])  # 2, 4 and 8 channels a group
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_group_norm_is_that_of_torch(dtype, close, channels, layout):
    """Against float64, on a map that is not centred; the output keeps the layout."""
    norm = spread(GroupNorm(8, channels))
    x = (torch.randn(2, channels, 5, 7) * 3 + 2).to(dtype).to(memory_format=layout).requires_grad_()
    grad = torch.randn(2, channels, 5, 7).to(dtype).to(memory_format=layout)
    y = norm(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    found = torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)
    exact = F.group_norm(x.double(), 8, norm.weight.double(), norm.bias.double(), norm.eps)
    expected = torch.autograd.grad(exact, (x, norm.weight, norm.bias), grad.double())
    torch.testing.assert_close(y.double(), exact, rtol=close, atol=close)
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).abs().max() <= close * theirs.abs().max()


def test_group_norm_in_evaluation_is_that_of_torch_to_the_bit():
    norm, x = spread(GroupNorm(8, 64)), torch.randn(2, 64, 5, 7).to(memory_format=torch.channels_last)
    assert torch.equal(norm(x), F.group_norm(x, 8, norm.weight, norm.bias, norm.eps))


@pytest.mark.parametrize(
    ("conv", "kind"),
    [
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), DepthwiseConv2d),
        (nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False), DepthwiseConv2d),
        (Conv2dSame(6, 6, 5, 2, groups=6, bias=False), DepthwiseConv2dSame),
        (nn.Conv2d(6, 6, 7, padding=3, groups=6), DepthwiseConv2d),
        (nn.Conv2d(6, 6, (2, 5), (3, 2), (1, 0), groups=6), DepthwiseConv2d),
    ],
)
def test_a_depthwise_convolution_has_the_gradients_of_float64(conv, kind):
    spread(conv)
    plain = nn.Sequential(conv)
    x = torch.randn(2, 6, 9, 12, requires_grad=True)
    expected = plain(x)
    assert type(with_fast_depthwise(plain)[0]) is kind
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        y = plain(x)
    assert y.dtype == torch.bfloat16
    grad = torch.randn_like(y)
    parameters = tuple(plain.parameters())
    found = torch.autograd.grad(y, (x, *parameters), grad)
    exact = torch.autograd.grad(plain.double()(x.double()), (x, *plain.parameters()), grad.double())
    for ours, theirs in zip(found, exact):
        assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()


def test_only_what_is_slow_is_changed():
    """Neither a small kernel at stride 1, nor groups of several channels, nor a padding that is not zeros or wider than
    the kernel, nor a kernel with holes."""
    model = nn.Sequential(
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 5, groups=3), nn.Conv2d(6, 12, 5, groups=6),
        nn.Conv2d(6, 6, 5, padding=2, groups=6, padding_mode="reflect"), nn.Conv2d(1, 1, 5),
        nn.Conv2d(6, 6, 3, 2, 3, groups=6), nn.Conv2d(6, 6, 5, dilation=2, groups=6),
    )  # fmt: skip
    assert {type(layer) for layer in with_fast_depthwise(model)} == {nn.Conv2d}


def test_without_weights_in_bfloat16():
    x = torch.randn(2, 32, 40, 40).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    GroupNorm(1, 32, affine=False).bfloat16()(x).sum().backward()
    assert x.grad.abs().max() < 0.05  # the sum of what has mean 0 depends on nothing


@pytest.mark.parametrize("groups", [8, 16, 32])
def test_small_maps_in_bfloat16_are_those_of_torch(groups):
    x = torch.randn(2, 64, 12, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    ours, theirs = GroupNorm(groups, 64), nn.GroupNorm(groups, 64)
    inputs = [x.clone().requires_grad_(), x.float().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(inputs[0])
    expected = theirs(inputs[1])
    torch.testing.assert_close(result.float(), expected, atol=0.03, rtol=0.02)
    weight = torch.randn_like(expected)
    (result * weight.bfloat16()).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad.float(), inputs[1].grad, atol=0.06, rtol=0.05)
