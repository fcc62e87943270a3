"""ViT as a backbone: windows, positions, the simple pyramid, and what is refused."""

import pytest
import torch
from torch import nn

import headway
from headway.backbones.vit import PatchEmbed, ViT, ViTAttention, make_vit
from headway.errors import HeadwayError, LevelsError
from headway.layers.windows import join_windows, pad_to_windows, split_windows
from headway.necks.simple_pyramid import SimplePyramid
from headway.types import Levels


def one(channels: int) -> Levels:
    """The map of a plain ViT."""
    return Levels((16,), (channels,))


def tiny(**arguments) -> ViT:
    torch.manual_seed(0)
    return ViT(PatchEmbed(3, 32, 16), channels=32, depth=4, heads=4, window=3, grid=(4, 4), **arguments).eval()


def test_windows_are_the_map_in_pieces():
    x = torch.arange(2 * 5 * 7).view(2, 5, 7, 1)
    padded = pad_to_windows(x, (2, 3))
    assert padded.shape == (2, 6, 9, 1)
    windows = split_windows(padded, (2, 3))
    assert windows.shape == (2 * 9, 6, 1)
    assert windows[1, :, 0].tolist() == [3, 4, 5, 10, 11, 12]  # the second window of the first row of windows
    assert windows[8, :, 0].tolist() == [34, 0, 0, 0, 0, 0]  # the last of the first map, mostly filled up
    assert torch.equal(join_windows(windows, (2, 3), 6, 9), padded)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (16, 40), (1, 200)])
def test_one_map_of_stride_16_at_any_size(size):
    model = tiny(relative_grid=5)
    (found,) = model(torch.rand(2, 3, *size))
    assert found.shape == (2, 32, -(-size[0] // 16), -(-size[1] // 16))
    assert torch.isfinite(found).all()


def test_a_window_sees_itself_alone():
    """Blocks with windows only: a change in one window of 3x3 tokens leaves the others as they were."""
    model = tiny(global_blocks=())
    images = torch.rand(1, 3, 96, 96)
    changed = images.clone()
    changed[..., :48, 48:] += 1
    with torch.no_grad():
        difference = (model(images)[0] - model(changed)[0]).abs().sum(1)[0] > 0
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:3, 3:] = True
    assert torch.equal(difference, expected)
    with torch.no_grad():
        everywhere = (tiny()(images)[0] - tiny()(changed)[0]).abs().sum(1)[0] > 0
    assert everywhere.all()


def test_positions_at_their_own_size_and_between():
    """Columns 0, 1, 2, 3 twice as wide: the fourth of eight lies at 1.25, where torch's cubic kernel (a = -0.75) weighs
    the four by -0.10546875, 0.87890625, 0.26171875, -0.03515625: 1.296875 in all; the fifth mirrors it."""
    model = tiny()
    model.pos_embed.data = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 32)
    assert torch.equal(model.positions(4, 4), model.pos_embed)
    wider = model.positions(4, 8)[0, 0, :, 0]
    assert wider[3:5].tolist() == pytest.approx([1.296875, 1.703125], abs=1e-6)


@pytest.mark.parametrize("relative_side", [0, 4])
def test_attention_weights_are_what_forward_uses(relative_side):
    """softmax times values through the last layer gives the output."""
    torch.manual_seed(0)
    layer = ViTAttention(32, 4, relative_side=relative_side)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 5, 32)
    weights = layer.weights(x)
    assert weights.shape == (2, 4, 15, 15)
    assert torch.allclose(weights.sum(3), torch.ones(2, 4, 15))
    value = layer.qkv(x).flatten(1, 2)[..., 64:].unflatten(2, (4, 8)).transpose(1, 2)
    by_hand = layer.proj((weights @ value).transpose(1, 2).reshape(x.shape))
    assert torch.allclose(layer(x), by_hand, atol=1e-6)


def test_hybrid_reads_a_cnn():
    model = make_vit("vit_tiny_hybrid_r18").eval()
    names = {name.split(".")[0] for name, _ in model.patch_embed.backbone.body.named_children()}
    assert "layer3" in names
    assert "layer4" not in names
    assert model.patch_embed.proj.weight.shape == (192, 256, 1, 1)
    assert model(torch.rand(1, 3, 50, 70))[0].shape == (1, 192, 4, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch61_224", "timm has no ViT 'vit_tiny_patch61_224'"),
        ("vit_small_patch32_224", "one token per 32 pixels"),
        ("deit3_small_patch16_224", "no plain ViT: blocks.0.ls1.gamma"),
    ],
)
def test_other_networks_are_refused(name, message):
    with torch.device("meta"), pytest.raises(HeadwayError, match=message):
        make_vit(name)


def test_hybrids_have_no_weights_to_load():
    with pytest.raises(HeadwayError, match="no ImageNet weights of vit_tiny_hybrid_r18"):
        make_vit("vit_tiny_hybrid_r18", weights=True)


@pytest.mark.parametrize("arguments", [{"frozen_stages": 1}, {"dcn": ("c5",)}, {"norm": "eval"}])
def test_what_only_a_cnn_has_is_refused(arguments):
    with pytest.raises(HeadwayError, match="vit_tiny_patch16/simple_pyramid/atss has no argument"):
        headway.create_model("atss_vit_tiny", **arguments)


# ------------------------------------------------------------------------------------------------- simple pyramid
def test_published_size_of_the_pyramid():
    """ViTDet-B: 768 channels to P2 to P5 of 256 (computed by hand in the sheet of facts: 5,560,000)."""
    with torch.device("meta"):
        assert (
            sum(p.numel() for p in SimplePyramid(one(768), strides=(4, 8, 16, 32), extra="max_pool").parameters())
            == 5_560_000
        )


@pytest.mark.parametrize(
    ("strides", "extra", "sizes"),
    [
        ((4, 8, 16, 32), "max_pool", [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]),
        ((8, 16, 32), "on_output", [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1)]),
    ],
)
def test_levels_of_the_pyramid(strides, extra, sizes):
    neck = SimplePyramid(one(32), channels=16, strides=strides, extra=extra)
    maps = neck([torch.randn(2, 32, 5, 7)])
    assert [tuple(x.shape) for x in maps] == [(2, 16, *size) for size in sizes]
    if extra == "max_pool":
        assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def test_every_level_comes_from_the_map_itself():
    """No path from one level to another: without the first stage the other levels are the same."""
    torch.manual_seed(0)
    neck = SimplePyramid(one(32), channels=16).eval()
    x = torch.randn(1, 32, 4, 4)
    before = neck([x])
    nn.init.normal_(neck.stages[0].up0.weight)
    after = neck([x])
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:]))


def test_the_pyramid_refuses_several_maps_and_strides_out_of_reach():
    with pytest.raises(LevelsError, match="from one map, got strides 16, 32"):
        SimplePyramid(Levels((16, 32), (32, 32)))
    with pytest.raises(LevelsError, match="makes strides 4 to 32 from stride 16"):
        SimplePyramid(one(32), strides=(64,), levels=1)
