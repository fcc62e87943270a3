"""Full attention against the dense (L S C)^2 matrix of its formula, and its cost against one counted by hand."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from headway.necks.dyhead import DyHead
from headway.necks.full_head import FullHead
from headway.profile import count_macs
from headway.types import Levels


def levels_of(channels: int, count: int) -> Levels:
    return Levels(tuple(8 * 2**i for i in range(count)), (channels,) * count)


def pyramid(levels: int, channels: int = 16, images: int = 2, size: tuple[int, int] = (7, 5), seed: int = 0):
    """Maps of size, half of it rounded up, ..."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for _ in range(levels):
        maps.append(torch.randn(images, channels, *size, generator=generator))
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return maps


def stirred(neck: FullHead, seed: int = 0) -> FullHead:
    """Everything away from its start, so that no part of the attention is near uniform or the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in neck.named_parameters():
            if name.endswith(("bias", "own", "level")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name.endswith("sharpness"):
                parameter.fill_(5.0)
    return neck


def places(sizes: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    return [(level, y, x) for level, (h, w) in enumerate(sizes) for y in range(h) for x in range(w)]


def near_kind(i: tuple[int, int, int], j: tuple[int, int, int]) -> tuple[int, int] | None:
    """(own 0, finer 1 or coarser 2; number of the cell of the 3x3, row by row) of j seen from i; None: not near."""
    (level, y, x), (other, v, u) = i, j
    if abs(other - level) > 1:
        return None
    if other == level:
        kind, center = 0, (y, x)
    elif other == level - 1:
        kind, center = 1, (2 * y, 2 * x)
    else:
        kind, center = 2, (y // 2, x // 2)
    dy, dx = v - center[0] + 1, u - center[1] + 1
    return (kind, 3 * dy + dx) if 0 <= dy < 3 and 0 <= dx < 3 else None


def reference_attention(attention, tokens: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """One image [N, C]: every head's N d x N d matrix W, built number by number, times v."""
    weights = dict(attention.named_parameters())
    where, count, h = places(sizes), len(tokens), attention.heads
    near_bias = weights["near_bias"].view(h, 3, 9) if "near_bias" in weights else None
    far_bias = weights["far_bias"].view(h, -1) if "far_bias" in weights else None
    levels = torch.tensor([level for level, _, _ in where])
    coded = tokens + weights["level"][levels]
    q, k, v = (x @ weights[f"{name}.weight"].T for x, name in ((coded, "query"), (coded, "key"), (tokens, "value")))
    d = tokens.shape[1] // h
    outputs = []
    for head in range(h):
        qh, kh, vh = (x[:, head * d : (head + 1) * d] for x in (q, k, v))
        if far_bias is not None:
            members = torch.softmax(weights["groups"][head] @ kh.T / math.sqrt(d), 1)  # R
            far_logits = qh @ (members @ kh).T / math.sqrt(d) + far_bias[head]
        else:
            members, far_logits = torch.zeros(0, count), torch.zeros(count, 0)
        space = torch.zeros(count, count)  # A
        for i in range(count):
            near = [(j, near_kind(where[i], where[j])) for j in range(count)] if near_bias is not None else []
            near = [(j, kind) for j, kind in near if kind is not None]
            logits = [qh[i] @ kh[j] / math.sqrt(d) + near_bias[head][kind] for j, kind in near]
            row = torch.softmax(torch.cat([*[z[None] for z in logits], far_logits[i]]), 0)
            for weight, (j, _) in zip(row, near):
                space[i, j] += weight
            space[i] += row[len(near) :] @ members
        torch.testing.assert_close(space.sum(1), torch.ones(count))
        channels = torch.eye(d)  # G
        if "sharpness" in weights:
            cosines = F.normalize(qh, dim=0).T @ F.normalize(kh, dim=0)
            logits = weights["sharpness"][head] * cosines + weights["own"][head] * torch.eye(d)
            channels = torch.softmax(logits, 1)
        full = torch.einsum("ij,ec->iejc", space, channels).reshape(count * d, count * d)
        outputs.append((full @ vh.reshape(-1)).view(count, d))
    return torch.cat(outputs, 1) @ weights["output.weight"].T + weights["output.bias"]


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("off", [(), ("near",), ("far",), ("channel",), ("far", "channel")])
def test_the_attention_is_the_dense_one(levels, off):
    neck = stirred(FullHead(levels_of(8, levels), blocks=1, heads=2, latents=3, **dict.fromkeys(off, False)))
    attention = neck.blocks[0].attention
    maps = pyramid(levels, 8)
    sizes = [tuple(x.shape[2:]) for x in maps]
    tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
    with torch.no_grad():
        found = attention(tokens, sizes)
        expected = torch.stack([reference_attention(attention, x, sizes) for x in tokens])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_those_of_the_forward_pass():
    """What `weights` shows, put together by hand on one level of one head, is what `forward` computes."""
    neck = stirred(FullHead(levels_of(8, 2), blocks=1, heads=1, latents=3, channel=False))
    attention = neck.blocks[0].attention
    maps = pyramid(2, 8, images=1, size=(4, 3))
    sizes = [tuple(x.shape[2:]) for x in maps]
    tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
    with torch.no_grad():
        near, far, groups, channels = attention.weights(tokens, sizes)
        assert channels is None
        assert [x.shape for x in near] == [(1, 4, 3, 1, 18), (1, 2, 2, 1, 18)]
        for a, b in zip(near, far):
            torch.testing.assert_close(a.sum(4) + b.sum(4), torch.ones(a.shape[:4]))
        torch.testing.assert_close(groups.sum(3), torch.ones(1, 1, 3))
        values = attention.value(tokens)[0]
        y = torch.cat([x.flatten(0, 3) for x in far]) @ (groups[0, 0] @ values)
        where = places(sizes)
        for i, place in enumerate(where):
            for j, other in enumerate(where):
                kind = near_kind(place, other)
                if kind is not None:
                    column = 9 * bool(kind[0]) + kind[1]  # each of two levels has one other
                    y[i] += near[place[0]][0, place[1], place[2], 0, column] * values[j]
        torch.testing.assert_close(attention.output(y)[None], attention(tokens, sizes), rtol=1e-4, atol=1e-5)


def test_at_the_start_near_keys_and_the_own_channel_lead():
    """With equal logits: three quarters near, and 0.9 of a channel from itself."""
    neck = FullHead(levels_of(64, 3), blocks=1)
    attention = neck.blocks[0].attention
    torch.nn.init.zeros_(attention.level)
    sizes = [(9, 9), (5, 5), (3, 3)]
    with torch.no_grad():
        near, far, _, channels = attention.weights(torch.zeros(1, 115, 64), sizes)
    torch.testing.assert_close(far[1][0, 2, 2].sum(1), torch.full((2,), 0.25))
    torch.testing.assert_close(near[1][0, 2, 2].sum(1), torch.full((2,), 0.75))
    torch.testing.assert_close(channels[0, 1].diagonal(), torch.full((32,), 0.9))


@pytest.mark.parametrize("size", [(13, 10), (1, 1), (2, 17)])
def test_sizes_stay_and_every_number_sees_every_other(size):
    maps = [x.requires_grad_() for x in pyramid(5, size=size, images=1)]
    neck = stirred(FullHead(levels_of(16, 5), blocks=1))
    found = neck(maps)
    assert [x.shape for x in found] == [x.shape for x in maps]
    found[0][0, 3, 0, 0].backward()
    for x in maps:
        assert x.grad.ne(0).all()


class Tower(torch.nn.Module):
    """A neck as a network of pictures: it is handed empty maps of these sizes."""

    def __init__(self, neck: torch.nn.Module, channels: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.neck, self.channels, self.sizes = neck, channels, sizes

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.neck([images.new_zeros(1, self.channels, *size) for size in self.sizes])


def test_a_block_costs_what_one_of_dynamic_head_costs():
    """P3 to P7 of 800 x 1344: 21.21 G for Dynamic Head's, and 27 keys are few beside C^2."""
    sizes = [(-(-800 // stride), -(-1344 // stride)) for stride in (8, 16, 32, 64, 128)]
    with torch.device("meta"):
        necks = FullHead(levels_of(256, 5), blocks=1), DyHead(levels_of(256, 5), blocks=1)
    full, dynamic = (count_macs(Tower(neck, 256, sizes), (64, 64)) for neck in necks)
    products = necks[0].blocks[0].attention.products(sizes)
    assert round(dynamic / 1e9, 2) == 21.21
    assert full == pytest.approx(dynamic, rel=0.005)
    n, c = 22_400, 256
    assert full - products == n * (4 * c**2 + 8 * c**2 + 36 * c)
    assert products == pytest.approx(n * (5 * 96 * c + 54 * c + 64 * c), rel=0.03)  # the formula, but for the ends


def test_cost_by_hand_and_linear_in_the_positions():
    """C = 8, d = 4, M = 3, levels of 4 x 4, 2 x 2 and 1 x 1: 21 positions; near keys 9 (2 x 16 + 3 x 4 + 2) each
    met twice by 8 channels; groups 5 x 3 x 8 x 21; channels 2 x 4 x 8 x 21."""
    neck = FullHead(levels_of(8, 3), blocks=1, heads=2, latents=3)
    sizes = [(4, 4), (2, 2), (1, 1)]
    products = 2 * 8 * 9 * (2 * 16 + 3 * 4 + 2 * 1) + 5 * 3 * 8 * 21 + 2 * 4 * 8 * 21
    layers = 21 * (4 * 8 * 8 + 2 * 8 * 32 + 9 * 32)
    assert neck.blocks[0].attention.products(sizes) == products
    assert count_macs(Tower(neck, 8, sizes), (4, 4)) == layers + products

    attention = FullHead(levels_of(64, 1), blocks=1).blocks[0].attention
    assert attention.products([(40, 40)]) == 16 * attention.products([(10, 10)])


def test_bfloat16_is_near():
    torch.manual_seed(0)
    neck, maps = FullHead(levels_of(64, 3), blocks=2), pyramid(3, 64)
    with torch.no_grad():
        exact = neck(maps)
        with torch.autocast("cpu", torch.bfloat16):
            found = neck(maps)
    for a, b in zip(exact, found):
        assert (a - b).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 0}, "at least one block, got 0"),
        ({"heads": 3}, "16 channels cannot be shared by 3 heads"),
        ({"near": False, "far": False}, "near and far cannot both be off"),
        ({"latents": 0}, "latents must be at least 1, got 0; far=False goes without groups"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FullHead(levels_of(16, 5), **arguments)


def test_wrong_maps():
    neck = FullHead(levels_of(16, 2), blocks=1)
    with pytest.raises(ValueError, match=re.escape("built for 2 level(s), got 3")):
        neck(pyramid(3))
    with pytest.raises(ValueError, match=re.escape("level 0 must be [B, 16, H, W], got (2, 8, 7, 5)")):
        neck(pyramid(2, 8))
    with pytest.raises(ValueError, match=re.escape("level 1 must be (4, 3), half of level 0 rounded up, got (3, 2)")):
        neck([torch.zeros(1, 16, 7, 5), torch.zeros(1, 16, 3, 2)])
