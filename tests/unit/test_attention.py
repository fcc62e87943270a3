"""Attention against torch's own module with the same weights, positions against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from headway.layers.attention import MultiHeadAttention, sine_positions


def pair(channels: int = 16, heads: int = 4) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(channels, heads), nn.MultiheadAttention(channels, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in (ours.query, ours.key, ours.value)]))
        for layer in (ours.query, ours.key, ours.value, ours.output):
            layer.bias.normal_()
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in (ours.query, ours.key, ours.value)]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("masking", ["none", "keys", "bias"])
def test_equals_torch(masking):
    ours, theirs = pair()
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    mask, arguments = None, {}
    if masking == "keys":
        mask = torch.arange(7) < torch.tensor([[7], [3]])
        arguments = {"key_padding_mask": ~mask}
    elif masking == "bias":
        mask = torch.randn(2, 4, 5, 7)
        arguments = {"attn_mask": mask.flatten(0, 1)}
    expected, weights = theirs(query, key, value, average_attn_weights=False, **arguments)
    torch.testing.assert_close(ours(query, key, value, mask), expected)
    torch.testing.assert_close(ours.weights(query, key, mask), weights)


def test_starts_as_torch_does():
    """Uniform with the bound sqrt(6 / (C + 3C)) of one [3C, C] matrix, and sqrt(6 / 2C) for the output."""
    ours = MultiHeadAttention(64, 4)
    for layer, bound in ((ours.query, math.sqrt(6 / 256)), (ours.output, math.sqrt(6 / 128))):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias.abs().max() == 0


def test_masked_keys_do_not_matter():
    ours, _ = pair()
    query, key = torch.randn(1, 3, 16), torch.randn(1, 6, 16)
    mask = torch.tensor([[True, True, False, True, False, False]])
    other = torch.where(mask[..., None], key, 100.0)
    torch.testing.assert_close(ours(query, other, other, mask), ours(query, key, key, mask))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not torch.equal(layer(x, x, x), layer(x, x, x))
    layer.eval()
    assert torch.equal(layer(x, x, x), layer(x, x, x))


def test_bfloat16_is_near_float32():
    ours, _ = pair()
    x, mask = torch.randn(2, 9, 16), torch.arange(9) < torch.tensor([[9], [4]])
    exact = ours(x, x, x, mask)
    half = ours.bfloat16()(*[x.bfloat16()] * 3, mask)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.05 * exact.std()


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="16 channels cannot be shared by 3 heads"):
        MultiHeadAttention(16, 3)


def test_positions_by_hand():
    """A picture of 2 x 3 cells on a 3 x 4 map, 8 channels: y at wave lengths 1, 1, 100, 100, then x. The cell in row 0
    and column 1 lies at y = 1 / 2 and x = 2 / 3 of a turn."""
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, :2, :3] = True
    place = sine_positions(mask, 8, eps=1e-12)[0].view(3, 4, 8)[0, 1]
    y, x = math.pi, 4 * math.pi / 3
    expected = [f(v / n) for v in (y, x) for n in (1, 100) for f in (math.sin, math.cos)]
    assert place.tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_do_not_depend_on_padding():
    small = sine_positions(torch.ones(1, 3, 5, dtype=torch.bool), 12).view(3, 5, 12)
    mask = torch.zeros(1, 6, 7, dtype=torch.bool)
    mask[0, :3, :5] = True
    assert torch.equal(sine_positions(mask, 12).view(6, 7, 12)[:3, :5], small)


def test_offset_counts_from_the_centre_of_a_cell():
    """One cell: at the whole turn without, at half a turn with the offset."""
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    assert sine_positions(mask, 4)[0, 0].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-5)
    assert sine_positions(mask, 4, offset=-0.5)[0, 0].tolist() == pytest.approx([0, -1, 0, -1], abs=1e-5)
