"""Swin at any size: windows and their shifts by hand, what a shift may not mix, and the backbone's contract."""

import copy

import pytest
import torch
from torch import nn

from headway.backbones.swin import SwinBlock
from headway.backbones.timm import SMALL, TimmBackbone, timm_backbone
from headway.errors import HeadwayError
from headway.layers.windows import shift_mask

NAME = "swin_nano_patch4_window7"


@pytest.fixture(scope="module")
def backbone() -> TimmBackbone:
    torch.manual_seed(0)
    model = timm_backbone(NAME, strides=(4, 8, 16, 32)).eval()
    for name, parameter in model.named_parameters():
        if "relative_position" in name or "qkv" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def block_of(backbone: TimmBackbone, number: int, form: str = "official") -> SwinBlock:
    block = copy.deepcopy(backbone.body.layers_0.blocks[number])
    block.form = form
    return block


def test_mask_of_a_shift_by_hand():
    """A map of one window of 4, shifted by 2: rows and columns 0, 1 were neighbours, 2, 3 came from the other end."""
    mask = shift_mask(4, 4, (4, 4), (2, 2), torch.zeros(()))
    assert mask.shape == (1, 16, 16)
    part = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    flat = [p for row in part for p in row]
    expected = torch.tensor([[0.0 if a == b else -100.0 for b in flat] for a in flat])
    assert torch.equal(mask[0], expected)
    rows_only = shift_mask(4, 4, (4, 4), (2, 0), torch.zeros(()))[0]
    assert torch.equal(rows_only, torch.tensor([[0.0 if a // 2 == b // 2 else -100.0 for b in flat] for a in flat]))


def test_mask_of_two_windows_across():
    """Of a row of windows the first is whole, the last made of two."""
    mask = shift_mask(4, 8, (4, 4), (0, 2), torch.zeros(()))
    assert mask.shape == (2, 16, 16)
    assert not mask[0].any()
    assert mask[1, 0].tolist() == [0.0, 0.0, -100.0, -100.0] * 4


def test_a_window_of_the_whole_map_is_plain_attention(backbone):
    """An unshifted block on 7x7 gives what its attention gives for the 49 positions in a row."""
    block = block_of(backbone, 0)
    x = torch.randn(2, 7, 7, 48)
    with torch.no_grad():
        row = block.norm1(x).flatten(1, 2)
        expected = x + block.attn(row).unflatten(1, (7, 7))
        expected = expected + block.mlp(block.norm2(expected))
        assert torch.allclose(block(x), expected, atol=1e-6)


def test_detectors_shift_a_map_of_one_window_too(backbone):
    """Rows and columns in the order 3, 4, 5, 6, 0, 1, 2, where only places on the same side of the cut, in both axes,
    see one another: what the authors' detectors and mmdetection do to small maps, Swin-L's last for one."""
    block, x = block_of(backbone, 1), torch.randn(1, 7, 7, 48)
    order = torch.tensor([3, 4, 5, 6, 0, 1, 2])
    side = (order < 3)[:, None] * 2 + (order < 3)[None, :] * 1
    mask = torch.where(side.flatten()[:, None] == side.flatten(), 0.0, -100.0)[None]
    with torch.no_grad():
        row = block.norm1(x)[:, order][:, :, order].flatten(1, 2)
        attended = block.attn(row, mask=mask).unflatten(1, (7, 7))
        back = order.argsort()
        expected = x + attended[:, back][:, :, back]
        expected = expected + block.mlp(block.norm2(expected))
        assert torch.allclose(block(x), expected, atol=1e-6)
        assert not torch.allclose(block_of(backbone, 1, "torchvision")(x), expected, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_windows_do_not_mix(backbone, number):
    """A change at one position reaches its window alone: of the plain grid, or of the grid moved by 3 in the shifted
    block, where those at the border end there instead of going on at the other side."""
    block = block_of(backbone, number)
    x = torch.randn(1, 14, 21, 48)
    changed = x.clone()
    changed[:, 0, 0] = torch.randn(48)
    changed[:, 13, 12] = torch.randn(48)
    with torch.no_grad():
        reached = (block(x) - block(changed)).abs().sum(3)[0] > 0
    expected = torch.zeros(14, 21, dtype=torch.bool)
    if number == 0:
        expected[:7, :7] = True
        expected[7:, 7:14] = True
    else:
        expected[:3, :3] = True  # what is left of the first window
        expected[10:, 10:17] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize(
    ("form", "size", "shifts"),
    [
        ("official", (7, 7), (3, 3)),
        ("official", (14, 7), (3, 3)),
        ("torchvision", (7, 7), (0, 0)),
        ("torchvision", (14, 7), (3, 0)),
        ("torchvision", (14, 21), (3, 3)),
    ],
)
def test_when_a_map_is_shifted(backbone, form, size, shifts):
    assert block_of(backbone, 1, form).shifts(*size) == shifts
    assert block_of(backbone, 0, form).shifts(*size) == (0, 0)


@pytest.mark.parametrize("size", [(33, 64), (97, 131), (224, 224), (1, 1)])
def test_maps_of_any_size(backbone, size):
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, *size))
    assert backbone.channels == (48, 96, 192, 384)
    assert [tuple(x.shape) for x in maps] == [
        (2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(backbone.channels, (4, 8, 16, 32))
    ]


def test_swin_v2_takes_any_size_too():
    with torch.device("meta"):
        maps = timm_backbone("swinv2_tiny_window8_256")(torch.rand(1, 3, 97, 131))
    assert [tuple(x.shape) for x in maps] == [(1, 192, 13, 17), (1, 384, 7, 9), (1, 768, 4, 5)]


def test_every_map_has_a_norm_of_its_own(backbone):
    maps = backbone(torch.rand(1, 3, 64, 96))
    for x in maps:
        assert torch.allclose(x.mean(1), torch.zeros(()), atol=1e-5)
        assert torch.allclose(x.std(1, correction=0), torch.ones(()), atol=1e-2)
    assert timm_backbone(NAME, map_norms=False).norms is None
    assert len(timm_backbone("resnet18", map_norms=True).norms) == 3
    assert timm_backbone("resnet18").norms is None


def test_stages_can_be_frozen():
    model = timm_backbone(NAME, frozen_stages=2)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed", "layers_0", "layers_1"}


def test_stochastic_depth_rises_to_the_rate():
    blocks = [m for m in timm_backbone(NAME, drop_path=0.3).modules() if isinstance(m, SwinBlock)]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.3 * i / 9 for i in range(10)])
    assert not any("DropPath" in type(m).__name__ for m in timm_backbone(NAME).modules())


def test_small_ones_have_no_weights():
    assert set(SMALL) == {NAME}
    with pytest.raises(HeadwayError, match=f"no ImageNet weights of {NAME}"):
        timm_backbone(NAME, weights=True)
