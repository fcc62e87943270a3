"""PAFNet-Lite's layers, neck and backbone."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from headway.backbones.mobilenet import ExpandedMobileNetV3, LinearGate, _released_gate, _with_expansion
from headway.layers.lite import LiteConv, LiteUpsample
from headway.necks.lite_upsample import LiteUpsampleNeck
from headway.types import Levels


def halving(*channels: int) -> Levels:
    """Maps of these channels, from stride 4 on."""
    return Levels(tuple(4 * 2**i for i in range(len(channels))), channels)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------- layers
def test_a_lite_convolution_is_four_convolutions():
    """Depthwise 5x5 over 6 channels, 6 to 4, 4 to 4, depthwise over 4, without biases; two numbers a norm and channel:
    25 * 6 + 6 * 4 + 4 * 4 + 25 * 4 + 2 * (6 + 4 + 4 + 4)."""
    layer = LiteConv(6, 4)
    assert sum(p.numel() for p in layer.parameters()) == 25 * 6 + 24 + 16 + 25 * 4 + 36
    assert layer(noise(2, 6, 7, 9)).shape == (2, 4, 7, 9)


def test_only_without_its_last_activation_is_the_output_negative_or_above_six():
    x = noise(2, 6, 16, 16) * 100
    with_act, without = LiteConv(6, 4).eval()(x), LiteConv(6, 4, act=False).eval()(x)
    assert with_act.min() >= 0
    assert with_act.max() <= 6
    assert without.min() < 0
    names = [name for name, m in LiteConv(6, 4, act=False).named_modules() if isinstance(m, nn.ReLU6)]
    assert names == ["depthwise1.act", "pointwise2.act"]


def test_the_upsampling_doubles_and_sums_its_two_halves():
    layer = LiteUpsample(6, 4).eval()
    x = noise(1, 6, 5, 7)
    expected = layer.deconv(x) + F.interpolate(layer.conv(x), (10, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == (1, 4, 10, 14)


# ---------------------------------------------------------------------------------------------------------- neck
@pytest.mark.parametrize("size", [(64, 96), (97, 131), (33, 40)])
def test_the_neck_joins_both_halves_at_the_finest_size(size):
    maps = [noise(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip((3, 4, 5, 6), (4, 8, 16, 32))]
    neck = LiteUpsampleNeck(halving(3, 4, 5, 6), planes=(8, 4, 2))
    (x,) = neck(maps)
    assert x.shape == (2, neck.levels.channels[0], *maps[0].shape[-2:])
    assert neck.levels.channels[0] == 4
    assert [len(s) for s in neck.shortcuts] == [1, 2, 2]
    torch.testing.assert_close(neck.eval()(maps)[0][:, 2:], neck.shortcuts[2](maps[0]))


def test_a_wrong_number_of_maps_or_planes_is_refused():
    with pytest.raises(ValueError, match=r"2 widths .* set 3 planes"):
        LiteUpsampleNeck(halving(3, 4, 5, 6), planes=(8, 4))
    with pytest.raises(ValueError, match="built for 4 maps, got 3"):
        LiteUpsampleNeck(halving(3, 4, 5, 6), planes=(8, 4, 2))([noise(1, 3, 8, 8)] * 3)


# ------------------------------------------------------------------------------------------------------ backbone
@pytest.mark.parametrize("size", [(64, 96), (97, 131)])
def test_the_expanded_maps(size):
    backbone = ExpandedMobileNetV3().eval()
    assert backbone.channels == (72, 240, 672, 960)
    with torch.no_grad():
        maps = backbone(noise(1, 3, *size))
    expected = [(c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(backbone.channels, backbone.strides)]
    assert [tuple(x.shape[1:]) for x in maps] == expected
    assert maps[0].min() >= 0  # a ReLU stands there, in the others a Hardswish
    assert -0.375 <= maps[1].min() < 0


def test_timms_form_is_timms_network():
    """The last map is that of timm's features; the others go through timm's blocks to its next maps."""
    torch.manual_seed(0)
    backbone = ExpandedMobileNetV3(form="timm").eval()
    peer = timm.create_model("mobilenetv3_large_100", features_only=True).eval()
    peer.load_state_dict(backbone.body.state_dict())
    x = noise(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = backbone(x), peer(x)
    torch.testing.assert_close(ours[-1], theirs[-1])
    block = backbone.body.blocks[2][0]
    with torch.no_grad():
        left = block.bn3(block.conv_pwl(block.se(block.bn2(block.conv_dw(ours[0])))))
        for rest in backbone.body.blocks[2][1:]:
            left = rest(left)
    torch.testing.assert_close(left, theirs[2])


def test_the_gate_is_paddles():
    """0.2 * 1 + 0.5 = 0.7, where torch's Hardsigmoid gives 1/6 + 0.5 = 0.6667; 0 from -2.5 and 1 from 2.5 on."""
    found = LinearGate()(torch.tensor([-3.0, -2.5, 0.0, 1.0, 2.5, 3.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.7, 1.0, 1.0]))


def test_carried_over_weights_keep_the_function():
    """The released gate on timm's weights gives timm's values where no squeezed channel is lost, and nearly where the
    lost ones are weak; the new expansion of the first block passes what is positive."""
    torch.manual_seed(0)
    se = SqueezeExcite(16, rd_channels=4, gate_layer=nn.Hardsigmoid)
    x = noise(2, 16, 5, 5)
    torch.testing.assert_close(_released_gate(se)(x), se(x))
    wide = SqueezeExcite(16, rd_channels=6, gate_layer=nn.Hardsigmoid)
    with torch.no_grad():
        wide.conv_expand.weight[:, [1, 4]] = 0
    torch.testing.assert_close(_released_gate(wide)(x), wide(x))
    block = timm.create_model("mobilenetv3_large_100").blocks[0][0].eval()
    x = noise(1, 16, 8, 8).abs()
    torch.testing.assert_close(_with_expansion(block, identity=True).eval()(x), block(x), rtol=1e-4, atol=1e-4)
