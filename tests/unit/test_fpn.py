"""FPN against torchvision's with the same weights."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from headway.errors import LevelsError
from headway.layers.norm import GroupNorm
from headway.necks.fpn import FPN
from headway.types import Levels

CHANNELS = (12, 20, 28)


def halving(*channels: int) -> Levels:
    """Maps of these channels, from stride 8 on."""
    return Levels(tuple(8 * 2**i for i in range(len(channels))), channels)


@pytest.fixture
def features() -> list[torch.Tensor]:
    """Three maps of odd sizes, where up-sampling by two misses the finer size."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(21, 27), (11, 14), (6, 7)]
    return [torch.randn(2, c, h, w, generator=generator) for c, (h, w) in zip(CHANNELS, sizes)]


def peer(ours: FPN, extra: nn.Module) -> FeaturePyramidNetwork:
    """torchvision's FPN holding our weights (and biases made non-zero)."""
    torch.manual_seed(1)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.1)
    theirs = FeaturePyramidNetwork(list(CHANNELS), 16, extra_blocks=extra)
    for i in range(len(CHANNELS)):
        theirs.inner_blocks[i][0].load_state_dict(ours.laterals[i].state_dict())
        theirs.layer_blocks[i][0].load_state_dict(ours.outputs[i].state_dict())
    if isinstance(extra, LastLevelP6P7):
        extra.p6.load_state_dict(ours.extras[0].state_dict())
        extra.p7.load_state_dict(ours.extras[1].state_dict())
    return theirs


CASES = {
    "max_pool": ({"levels": 4, "extra": "max_pool"}, LastLevelMaxPool),
    "on_input": (
        {"levels": 5, "extra": "on_input", "relu_before_extra": True},
        lambda: LastLevelP6P7(CHANNELS[-1], 16),
    ),
    "on_output": ({"levels": 5, "extra": "on_output", "relu_before_extra": True}, lambda: LastLevelP6P7(16, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_torchvision(case, features):
    arguments, extra = CASES[case]
    ours = FPN(halving(*CHANNELS), channels=16, **arguments)
    theirs = peer(ours, extra())
    expected = theirs({str(i): x for i, x in enumerate(features)})
    result = ours(features)
    assert len(result) == len(expected) == arguments["levels"]
    for a, b in zip(result, expected.values()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_relu_is_only_before_the_second_extra_level(features):
    """P6 does not change with the switch; P7 = conv(P6) without, conv(relu(P6)) with it."""
    plain, relu = FPN(halving(*CHANNELS), channels=16), FPN(halving(*CHANNELS), channels=16, relu_before_extra=True)
    relu.load_state_dict(plain.state_dict())
    a, b = plain(features), relu(features)
    torch.testing.assert_close(a[3], b[3])
    torch.testing.assert_close(a[4], plain.extras[1](a[3]))
    torch.testing.assert_close(b[4], plain.extras[1](a[3].relu()))
    assert not torch.allclose(a[4], b[4])


def test_as_many_levels_as_inputs_needs_no_extra_weights(features):
    fpn = FPN(halving(*CHANNELS), channels=16, levels=3)
    assert len(fpn.extras) == 0
    assert [tuple(x.shape) for x in fpn(features)] == [(2, 16, 21, 27), (2, 16, 11, 14), (2, 16, 6, 7)]


def test_one_input_is_refused():
    with pytest.raises(LevelsError, match="joins at least 2 maps"):
        FPN(halving(8), channels=16)


def test_fewer_levels_than_inputs_is_refused():
    with pytest.raises(LevelsError, match=r"gives 2 maps, got strides 8, 16, 32.*set fpn.levels=3"):
        FPN(halving(*CHANNELS), channels=16, levels=2)


def test_parameter_count_of_the_published_fpn():
    """ResNet-50, P2 to P5: four laterals (256 + 512 + 1024 + 2048) * 256 + 4 * 256, four outputs 4 * (256 * 256 * 9 +
    256): 3,344,384."""
    fpn = FPN(halving(256, 512, 1024, 2048), levels=5, extra="max_pool")
    assert sum(p.numel() for p in fpn.parameters()) == 3_344_384


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", GroupNorm)])
def test_a_norm_after_every_convolution_takes_the_place_of_its_bias(norm, kind, features):
    fpn = FPN(halving(*CHANNELS), channels=32, levels=5, extra="on_input", norm=norm)
    places = [*fpn.laterals, *fpn.outputs, *fpn.extras]
    assert [type(place.norm) for place in places] == [kind] * 8
    assert all(place.conv.bias is None for place in places)
    theirs = FeaturePyramidNetwork(list(CHANNELS), 32, norm_layer=lambda c: copy.deepcopy(fpn.laterals[0].norm))
    for i in range(3):
        theirs.inner_blocks[i].load_state_dict(
            dict(zip(theirs.inner_blocks[i].state_dict(), fpn.laterals[i].state_dict().values()))
        )
        theirs.layer_blocks[i].load_state_dict(
            dict(zip(theirs.layer_blocks[i].state_dict(), fpn.outputs[i].state_dict().values()))
        )
    expected = theirs.eval()(dict(enumerate(features)))
    for ours, wanted in zip(fpn.eval()(features)[:3], expected.values()):
        torch.testing.assert_close(ours, wanted)
