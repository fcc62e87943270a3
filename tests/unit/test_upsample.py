"""TTFNet's upsampling neck: the doubling, the shortcuts, odd sizes, and a Dynamic Head in front."""

import pytest
import torch
from torch import Tensor, nn

from headway.layers.deform import DeformableConv2d
from headway.necks.upsample import DyHeadUpsampleNeck, Upsample, UpsampleNeck
from headway.types import Levels


def halving(*channels: int) -> Levels:
    """Maps of these channels, from stride 4 on."""
    return Levels(tuple(4 * 2**i for i in range(len(channels))), channels)


def maps_of(channels: tuple[int, ...], height: int, width: int, batch: int = 1) -> list[Tensor]:
    """One map per number of channels, each half the one before, rounded up."""
    generator, maps = torch.Generator().manual_seed(0), []
    for count in channels:
        maps.append(torch.randn(batch, count, height, width, generator=generator))
        height, width = -(-height // 2), -(-width // 2)
    return maps


def passing(align_corners: bool = False) -> Upsample:
    """A step that only doubles: the convolution hands on its centre, and the norm is exact."""
    step = Upsample(1, 1, deformable=False, align_corners=align_corners).eval()
    with torch.no_grad():
        step.conv.weight.zero_()
        step.conv.weight[0, 0, 1, 1] = (1 + step.norm.eps) ** 0.5
        step.conv.bias.zero_()
    return step


@pytest.mark.parametrize(("aligned", "row"), [(False, [0, 0.25, 0.75, 1]), (True, [0, 1 / 3, 2 / 3, 1])])
def test_doubling_of_an_edge(aligned, row):
    """[0, 1]: cell centres at -1/4, 1/4, 3/4, 5/4 of the old ones, kept inside; or the corners on each other."""
    with torch.no_grad():
        found = passing(aligned)(torch.tensor([[[[0.0, 1.0]]]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([row, row]))


def test_a_deformable_step_starts_as_half_of_a_plain_one():
    """Zero offsets, and a mask of sigmoid(0); the bias is whole."""
    torch.manual_seed(0)
    deformable = Upsample(4, 3, deformable=True, align_corners=False).eval()
    plain = Upsample(4, 3, deformable=False, align_corners=False).eval()
    nn.init.normal_(deformable.conv.conv.bias)
    plain.conv.weight.data = deformable.conv.conv.weight.data / 2
    plain.conv.bias.data = deformable.conv.conv.bias.data
    x = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(deformable(x), plain(x), rtol=1e-4, atol=1e-5)


def test_channels_convolutions_and_activations_as_published():
    """Deep to shallow 256, 128, 64 channels and 1, 2, 3 convolutions, with no activation after the last."""
    with torch.device("meta"):
        neck = UpsampleNeck(halving(256, 512, 1024, 2048))
    assert neck.levels.channels == (64,)
    kinds = [[type(m).__name__ for m in shortcut] for shortcut in neck.shortcuts]
    assert kinds == [["Conv2d"], ["Conv2d", "ReLU", "Conv2d"], ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]]
    assert [(s[0].in_channels, s[-1].out_channels) for s in neck.shortcuts] == [(1024, 256), (512, 128), (256, 64)]
    convs = [step.conv.conv for step in neck.upsamples]
    assert [tuple(c.weight.shape) for c in convs] == [(256, 2048, 3, 3), (128, 256, 3, 3), (64, 128, 3, 3)]
    assert all(c.bias is not None for c in convs)
    assert sum(p.numel() for p in neck.upsamples.parameters()) == 5_679_633
    assert sum(p.numel() for p in neck.shortcuts.parameters()) == 3_318_464


@pytest.mark.parametrize("deformable", [True, False])
@pytest.mark.parametrize("size", [(16, 24), (13, 19), (9, 8), (1, 1), (2, 5)])
def test_the_finest_map_decides_the_size(size, deformable):
    torch.manual_seed(0)
    neck = UpsampleNeck(halving(8, 12, 16, 20), planes=(12, 8, 6), deformable=deformable).eval()
    assert any(isinstance(m, DeformableConv2d) for m in neck.modules()) == deformable
    with torch.no_grad():
        (found,) = neck(maps_of((8, 12, 16, 20), *size, batch=2))
    assert found.shape == (2, 6, *size)


def test_with_odd_sizes_every_cell_stays_over_its_pixels():
    """A plane that rises with the position on the coarsest map, passed up through maps of 5, 9 and 17 cells: cell i of
    the finest lies at (i + 0.5) / 4 - 0.5 of the coarsest, whatever was cut off."""
    neck = UpsampleNeck(halving(1, 1, 1), planes=(1, 1), deformable=False).eval()
    neck.upsamples = nn.ModuleList([passing(), passing()])
    for parameter in neck.shortcuts.parameters():
        nn.init.zeros_(parameter)
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    with torch.no_grad():
        (found,) = neck([torch.zeros(1, 1, 17, 17), torch.zeros(1, 1, 9, 9), ramp])
    inside = slice(4, 15)  # away from the borders, where bilinear doubling holds the edge
    expected = (torch.arange(17.0) + 0.5) / 4 - 0.5
    torch.testing.assert_close(found[0, 0, 8, inside], expected[inside])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"1 widths .* set 2 planes"):
        UpsampleNeck(halving(8, 8, 8), planes=(8,))
    with pytest.raises(ValueError, match="built for 4 maps, got 3"):
        UpsampleNeck(halving(8, 8, 8, 8))(maps_of((8, 8, 8), 8, 8))


def test_dyhead_gets_the_maps_of_strides_8_to_32_and_the_finest_enters_as_it_is():
    torch.manual_seed(0)
    neck = DyHeadUpsampleNeck(halving(8, 12, 16, 20), channels=32, blocks=1, planes=(12, 8, 6)).eval()
    seen: dict[str, list[Tensor]] = {}
    neck.dyhead.register_forward_pre_hook(lambda _, x: seen.update(dyhead=x[0]))
    neck.upsample.register_forward_pre_hook(lambda _, x: seen.update(upsample=x[0]))
    maps = maps_of((8, 12, 16, 20), 15, 22)
    with torch.no_grad():
        (found,) = neck(maps)
    assert found.shape == (1, neck.levels.channels[0], 15, 22)
    sizes = [(8, 11), (4, 6), (2, 3)]
    assert [tuple(x.shape) for x in seen["dyhead"]] == [(1, 32, *size) for size in sizes]
    assert seen["upsample"][0] is maps[0]
    assert [tuple(x.shape) for x in seen["upsample"][1:]] == [(1, 32, *size) for size in sizes]
