"""Dynamic Head: the released form against torchvision's operator and hand-worked values, the paper's form against loops
written from its equations."""

import math
import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

import headway
from headway.convert.dyhead_keys import MMDET_DYHEAD, OFFICIAL_DYHEAD
from headway.necks.dyhead import DyHead, DyHeadBlock, DyHeadOptions, DyReLU, LevelMean, ScaleAttention
from headway.necks.dyhead_paper import PaperBlock, PaperScale, PaperSpatial, PaperTask
from headway.types import Levels

MODES = ("flat", "crop", "resize", "upsample_first")


def pyramid(levels: int, channels: int = 16, images: int = 2, size: tuple[int, int] = (13, 10), seed: int = 0):
    """Maps of size, half of it rounded up, ..."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for _ in range(levels):
        maps.append(torch.randn(images, channels, *size, generator=generator))
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return maps


def tower(channels: int, blocks: int = 1, *, in_channels: int | None = None, levels: int = 5, **options) -> DyHead:
    """in_channels: of the maps that the first block reads."""
    strides, chosen = tuple(8 * 2**i for i in range(levels)), DyHeadOptions(**{"start": "all"} | options)
    neck = DyHead(Levels(strides, (channels,) * levels), blocks=blocks, options=chosen)
    if in_channels is not None:
        neck.levels = Levels(strides, (in_channels,) * levels)
        paper = chosen.form == "paper"
        first = (
            PaperBlock(in_channels, channels, levels, chosen) if paper else DyHeadBlock(in_channels, channels, chosen)
        )
        neck.blocks[0] = first
    return neck


def stirred(neck: DyHead, seed: int = 0) -> DyHead:
    """Offsets of about a pixel, and attentions away from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in neck.named_parameters():
            if ".offset." in name or ".task." in name or ".scale." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return neck


def relu6_gate(z: torch.Tensor) -> torch.Tensor:
    return F.relu6(z + 3) / 6


def reference_level(block: DyHeadBlock, maps: list[torch.Tensor], level: int, mode: str) -> torch.Tensor:
    """One level of a released block, step by step, with torchvision's operator and no call into the block."""
    weights = dict(block.named_parameters())

    def branch(path: str, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, stride: int) -> torch.Tensor:
        weight = weights[f"spatial.{path}.conv.weight"]
        y = torchvision_deform_conv2d(x, offset, weight, None, stride, 1, 1, mask)
        return F.group_norm(y, 16, weights[f"spatial.{path}.norm.weight"], weights[f"spatial.{path}.norm.bias"], 1e-5)

    x = maps[level]
    predicted = F.conv2d(x, weights["spatial.offset.weight"], weights["spatial.offset.bias"], padding=1)
    offset, mask = predicted[:, :18].contiguous(), torch.sigmoid(predicted[:, 18:]).contiguous()
    found = [branch("mid", x, offset, mask, 1)]
    if level > 0:
        found.append(branch("low", maps[level - 1], offset, mask, 2))
    if level + 1 < len(maps):
        coarser, size = maps[level + 1], x.shape[2:]
        h, w = coarser.shape[2:]
        if mode == "upsample_first":
            coarser = F.interpolate(coarser, size, mode="bilinear", align_corners=True)
        elif mode == "flat":
            offset = torch.stack([o.reshape(-1)[: 18 * h * w].view(18, h, w) for o in offset])
            mask = torch.stack([m.reshape(-1)[: 9 * h * w].view(9, h, w) for m in mask])
        elif mode == "crop":
            offset, mask = offset[..., :h, :w].contiguous(), mask[..., :h, :w].contiguous()
        else:
            offset = F.interpolate(offset, (h, w), mode="bilinear", align_corners=True)
            mask = F.interpolate(mask, (h, w), mode="bilinear", align_corners=True)
        found.append(F.interpolate(branch("high", coarser, offset, mask, 1), size, mode="bilinear", align_corners=True))
    gated = []
    for y in found:
        z = F.conv2d(F.adaptive_avg_pool2d(y, 1), weights["scale.gate.weight"], weights["scale.gate.bias"])
        gated.append(relu6_gate(F.relu(z)) * y)
    mean = torch.stack(gated).mean(0)
    z = F.conv2d(F.adaptive_avg_pool2d(mean, 1), weights["task.reduce.weight"], weights["task.reduce.bias"])
    theta = relu6_gate(F.conv2d(F.relu(z), weights["task.expand.weight"], weights["task.expand.bias"]))
    a1, b1, a2, b2 = theta.split(mean.shape[1], dim=1)
    return torch.max(mean * ((a1 - 0.5) * 2 + 1) + (b1 - 0.5), mean * (a2 - 0.5) * 2 + (b2 - 0.5))


# ------------------------------------------------------------------------------------------------- released form
@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_block_equals_the_steps_written_out(levels, mode):
    maps = pyramid(levels, channels=32)
    neck = stirred(tower(48, 1, in_channels=32, high_offset=mode))
    for level, got in enumerate(neck(maps)):
        expected = reference_level(neck.blocks[0], maps, level, mode)
        assert got.shape == (2, 48, *maps[level].shape[2:])
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_high_offset_modes_agree_only_without_offsets():
    maps = pyramid(3)
    still = {mode: tower(16, 1, high_offset=mode) for mode in MODES}
    for neck in still.values():
        neck.load_state_dict(still["flat"].state_dict())
    for mode in ("crop", "resize"):
        for a, b in zip(still["flat"](maps), still[mode](maps)):
            assert torch.equal(a, b)
    moved = {mode: stirred(neck)(maps) for mode, neck in still.items()}
    for a, b in (("flat", "crop"), ("flat", "resize"), ("crop", "resize"), ("resize", "upsample_first")):
        assert (moved[a][0] - moved[b][0]).abs().max() > 0.01
        assert torch.equal(moved[a][2], moved[b][2])  # the coarsest level has no coarser neighbour


def test_zero_offsets_make_it_a_plain_convolution():
    """The mask is sigmoid(0) = 1/2, which GroupNorm takes out again up to its eps of 1e-5."""
    x = pyramid(1)[0]
    neck = tower(16, 1)
    block = neck.blocks[0]
    normed = F.group_norm(F.conv2d(x, block.spatial.mid.conv.weight, padding=1), 16)
    expected = block.task(block.scale([normed]))
    torch.testing.assert_close(neck([x])[0], expected, rtol=2e-3, atol=1e-4)


def test_blocks_reach_one_level_each():
    maps = [x.requires_grad_() for x in pyramid(5)]
    neck = stirred(tower(16, 2))
    neck.blocks[0](maps)[0].square().sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in maps] == [True, True, False, False, False]
    for x in maps:
        x.grad = None
    neck(maps)[0].square().sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in maps] == [True, True, True, False, False]


def test_images_of_a_batch_do_not_mix():
    maps = pyramid(3, images=3)
    neck = stirred(tower(16, 2))
    together = neck(maps)
    order = [2, 0, 1]
    for a, b in zip(neck([x[order] for x in maps]), together):
        torch.testing.assert_close(a, b[order])
    for a, b in zip(neck([x[1:2] for x in maps]), together):
        torch.testing.assert_close(a, b[1:2], rtol=1e-4, atol=1e-5)


def test_neighbours_of_each_level():
    spatial = tower(16, 1).blocks[0].spatial
    maps = pyramid(3)
    around = [None, *maps, None]
    found = [spatial(maps[i], around[i], around[i + 2]) for i in range(3)]
    assert [len(x) for x in found] == [2, 3, 2]
    assert all(y.shape == maps[i].shape for i in range(3) for y in found[i])
    assert len(spatial(maps[0], None, None)) == 1


def test_upsampling_keeps_the_corners():
    """align_corners=True: the corner pixels of the up-sampled map are those of the coarse one."""
    spatial = tower(16, 1).blocks[0].spatial
    maps = pyramid(2)
    corners = ([0, 0, -1, -1], [0, -1, 0, -1])
    offset, mask = torch.zeros(2, 18, 7, 5), torch.full((2, 9, 7, 5), 0.5)
    coarse = spatial.high(maps[1], offset, mask)
    fine = spatial(maps[0], None, maps[1])[1]
    torch.testing.assert_close(fine[:, :, corners[0], corners[1]], coarse[:, :, corners[0], corners[1]])


def test_scale_gates():
    """Zero weights: gate relu6(0 + 3) / 6 = 1/2, so n maps of ones give 1/2 whatever n. Else within [1/2, 1]."""
    scale = ScaleAttention(16)
    torch.nn.init.zeros_(scale.gate.weight)
    for n in (1, 2, 3):
        assert torch.equal(scale([torch.ones(2, 16, 3, 4)] * n), torch.full((2, 16, 3, 4), 0.5))
        assert torch.equal(LevelMean()([torch.ones(2, 16, 3, 4)] * n), torch.ones(2, 16, 3, 4))
    torch.nn.init.normal_(scale.gate.weight, std=5)
    gates = scale.gates(torch.randn(500, 16, 2, 2))
    assert gates.shape == (500, 1, 1, 1)
    assert gates.min() == 0.5
    assert gates.max() == 1


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        (0.0, lambda x: x.clamp(min=0)),  # theta 1/2: a1 = 1, b1 = a2 = b2 = 0
        (3.0, lambda x: torch.maximum(2 * x + 0.5, x + 0.5)),  # theta 1
        (-3.0, lambda x: torch.maximum(torch.tensor(-0.5), -x - 0.5)),  # theta 0
    ],
)
def test_dynamic_relu_by_hand(bias, expected):
    relu = DyReLU(8)
    torch.nn.init.zeros_(relu.expand.weight)
    torch.nn.init.constant_(relu.expand.bias, bias)
    x = torch.randn(2, 8, 5, 4)
    torch.testing.assert_close(relu(x), expected(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "without_bias", "with_bias"),
    [
        (64, 132_012, 132_204),
        (96, 284_788, 285_076),
        (128, 495_420, 495_804),
        (192, 1_090_252, 1_090_828),
        (256, 1_916_508, 1_917_276),
    ],
)
def test_parameter_counts(channels, without_bias, with_bias):
    """256: 3 * 256 * 256 * 9 sampling + 3 * 512 norms + (256 * 9 + 1) * 27 offsets + 257 gate + 83,008 task."""
    with torch.device("meta"):
        for bias, count in ((False, without_bias), (True, with_bias)):
            assert sum(p.numel() for p in tower(channels, 1, deform_bias=bias).parameters()) == count
            assert sum(p.numel() for p in tower(channels, 6, deform_bias=bias).parameters()) == 6 * count


def test_start_as_published():
    """mmdetection's by default; microsoft/DynamicHead's with a bias and without zeroed offsets."""
    torch.manual_seed(0)
    ours, authors = tower(64, 1).blocks[0], tower(64, 1, deform_bias=True, zero_init_offset=False).blocks[0]
    drawn = tower(64, 1, zero_init_offset=False).blocks[0]
    assert not ours.spatial.offset.weight.any()
    assert not ours.spatial.offset.bias.any()
    assert drawn.spatial.offset.weight.std().item() == pytest.approx(0.01, rel=0.05)
    bound = 1 / math.sqrt(64 * 9)  # torch's default is uniform within this
    assert authors.spatial.offset.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert authors.spatial.offset.bias.any()
    assert ours.spatial.mid.conv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert ours.task.expand.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert authors.task.expand.weight.abs().max().item() == pytest.approx(1 / math.sqrt(16), rel=0.01)
    assert not authors.spatial.low.conv.bias.any()


@pytest.mark.parametrize("form", ["released", "paper"])
def test_switches(form):
    maps = pyramid(3)
    options = {"form": form, "levels": 3}
    full = {name for name, _ in tower(16, 1, **options).named_parameters()}
    for switch in ("scale", "task"):
        neck = tower(16, 1, **options, **{switch: False})
        assert full - {n for n, _ in neck.named_parameters()} == {n for n in full if f".{switch}." in n}
        assert all(y.shape == x.shape for x, y in zip(maps, neck(maps)))
    plain = tower(16, 1, **options, spatial=False)
    names = {n for n, _ in plain.named_parameters()}
    assert not any(".offset." in n for n in names)
    assert any(re.search(r"spatial.*conv.*\.bias", n) for n in names - full)
    assert {type(m) for n, m in plain.named_modules() if re.fullmatch(r".*(\.conv|convs\.\d)", n)} == {torch.nn.Conv2d}
    bare = tower(16, 1, **options, scale=False, spatial=False, task=False)
    assert all(y.shape == x.shape and y.min() >= 0 for x, y in zip(maps, bare(maps)))


def test_switched_off_block_by_hand():
    """Plain convolution, GroupNorm, mean of two, ReLU."""
    maps = pyramid(2)
    neck = tower(16, 1, scale=False, spatial=False, task=False)
    mid, low = neck.blocks[0].spatial.mid.conv, neck.blocks[0].spatial.low.conv
    expected = F.group_norm(F.conv2d(maps[1], mid.weight, mid.bias, padding=1), 16)
    expected = expected + F.group_norm(F.conv2d(maps[0], low.weight, low.bias, stride=2, padding=1), 16)
    torch.testing.assert_close(neck(maps)[1], F.relu(expected / 2), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ both forms
@pytest.mark.parametrize(("form", "mode"), [("paper", "flat"), *(("released", mode) for mode in MODES)])
def test_export(form, mode):
    maps = pyramid(3)
    neck = stirred(tower(16, 2, form=form, high_offset=mode, levels=3)).eval()
    program = torch.export.export(neck, (maps,))
    for a, b in zip(program.module()(maps), neck(maps)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_bfloat16_autocast_is_close(form):
    maps = [x.requires_grad_() for x in pyramid(3, channels=32)]
    neck = stirred(tower(32, 2, form=form, levels=3))
    with torch.autocast("cpu", torch.bfloat16):
        half = neck(maps)
    sum(y.float().square().mean() for y in half).backward()
    assert all(torch.isfinite(p.grad).all() for p in neck.parameters())
    for a, b in zip(half, neck(maps)):
        assert (a.float() - b).norm() < 0.03 * b.norm()


@pytest.mark.parametrize("form", ["released", "paper"])
def test_every_parameter_and_input_gets_a_gradient(form):
    maps = [x.requires_grad_() for x in pyramid(3)]
    neck = stirred(tower(16, 2, form=form, levels=3))
    for block in neck.blocks:
        torch.nn.init.constant_(block.scale.gate.bias, 0.5)  # the ReLU before the released form's gate is open
    sum((i + 1) * y.square().sum() for i, y in enumerate(neck(maps))).backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())
    assert all(x.grad.any() for x in maps)


def test_channels_last_is_kept():
    maps = [x.to(memory_format=torch.channels_last) for x in pyramid(3)]
    outputs = stirred(tower(16, 2))(maps)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs[:2])


def upstream_names(blocks: int) -> dict[str, list[str]]:
    """The tensors of `blocks` blocks as the two upstreams name them."""
    mmdet, official = [], []
    for i in range(blocks):
        theirs, tower = f"dyhead_blocks.{i}.", f"dyhead_tower.{i}."
        for kind in ("weight", "bias"):
            mmdet += [theirs + f"spatial_conv_{path}.norm.{kind}" for path in ("high", "mid", "low")]
            mmdet += [theirs + f"spatial_conv_offset.{kind}", theirs + f"scale_attn_module.1.{kind}"]
            mmdet += [theirs + f"task_attn_module.conv{n}.conv.{kind}" for n in (1, 2)]
            official += [tower + f"DyConv.{n}.{part}.{kind}" for n in range(3) for part in ("conv", "bn")]
            official += [tower + f"{part}.{kind}" for part in ("offset", "AttnConv.1", "relu.fc.0", "relu.fc.2")]
        mmdet += [theirs + f"spatial_conv_{path}.conv.weight" for path in ("high", "mid", "low")]
    return {"mmdet": mmdet, "official": official}


@pytest.mark.parametrize(("source", "table"), [("mmdet", MMDET_DYHEAD), ("official", OFFICIAL_DYHEAD)])
def test_upstream_names_map_one_to_one(source, table):
    ours = []
    for key in upstream_names(2)[source]:
        targets = [m.expand(target) for pattern, target in table if (m := re.fullmatch(pattern, key))]
        assert len(targets) == 1, key
        ours += targets
    assert sorted(ours) == sorted(tower(16, 2, deform_bias=source == "official").state_dict())


def test_official_paths_are_high_mid_low():
    """DyConv.0 runs on the coarser level, 1 on the level, 2 with stride 2 on the finer (microsoft/DynamicHead)."""
    for number, path in ((0, "high"), (1, "mid"), (2, "low")):
        key = f"dyhead_tower.3.DyConv.{number}.conv.weight"
        targets = [m.expand(target) for pattern, target in OFFICIAL_DYHEAD if (m := re.fullmatch(pattern, key))]
        assert targets == [f"blocks.3.spatial.{path}.conv.weight"]


@pytest.mark.parametrize(
    ("build", "maps", "message"),
    [
        ({"channels": 40}, None, "multiple of 16.*got 40.*take"),
        ({"channels": 16, "blocks": 0}, None, "at least one block"),
        ({"channels": 16, "form": "eq"}, None, "form must be one of released, paper, got 'eq'"),
        ({"channels": 16, "high_offset": "top"}, None, "high_offset must be one of flat, crop"),
        ({"channels": 16}, [], r"at least one level\(s\)"),
        ({"channels": 16, "form": "paper"}, pyramid(3), r"5 level\(s\), got 3"),
        ({"channels": 32}, pyramid(2), "level 0 must be .B, 32, H, W"),
        ({"channels": 16}, [torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 3, 4)], r"level 1 must be \(4, 4\).*\(3, 4\)"),
    ],
)
def test_errors_say_what_to_do(build, maps, message):
    with pytest.raises(ValueError, match=message):
        tower(**build)(maps)


# ------------------------------------------------------------------------------------------------------ paper form
def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """image [C, H, W] at a point, zero outside: the sum over all pixels of max(0, 1 - |dy|) max(0, 1 - |dx|)."""
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            total += max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column)) * image[:, row, column]
    return total


def equations(block: PaperBlock, maps: list[torch.Tensor], y: int, x: int, guide: int) -> torch.Tensor:
    """Equations 3 and 4 for the first image at one position, by loops: [L, C]. Eq. 5 needs all positions.

    guide: the level that the offsets come from."""
    levels = [m[0] for m in maps]
    means = torch.stack([m.mean() for m in levels])
    gate_weight, gate_bias = block.scale.gate.weight[:, :, 0], block.scale.gate.bias
    gated = [
        max(0.0, min(1.0, (float(gate_weight[i] @ means + gate_bias[i]) + 1) / 2)) * m for i, m in enumerate(levels)
    ]
    points = block.spatial.offset
    predicted = F.conv2d(gated[guide][None], points.weight, points.bias, padding=1)[0, :, y, x]
    sampled = []
    for i, m in enumerate(gated):
        total = torch.zeros(block.spatial.convs[i].weight.shape[0], dtype=m.dtype)
        for k in range(9):
            dy, dx = (float(v) for v in predicted[2 * k : 2 * k + 2])
            point = bilinear(m, y + k // 3 - 1 + dy, x + k % 3 - 1 + dx)
            total += block.spatial.convs[i].weight[:, :, k // 3, k % 3] @ point * predicted[18 + k].sigmoid()
        sampled.append(total)
    aggregated = sum(sampled) / len(sampled)  # Eq. 4
    return torch.stack([(s + aggregated) / 2 for s in sampled])


@pytest.mark.parametrize(("levels", "size", "guide"), [(1, "median", 0), (2, "median", 0), (3, "median", 1),
                                                      (4, "median", 1), (3, "finest", 0)])  # fmt: skip
@torch.no_grad()
def test_paper_block_equals_the_equations(levels, size, guide):
    neck = stirred(tower(32, 1, in_channels=16, form="paper", levels=levels, common_size=size)).double()
    block = neck.blocks[0]
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 16, 4, 5, generator=generator, dtype=torch.double) for _ in range(levels)]
    positions = [(y, x) for y in range(4) for x in range(5)]
    space = torch.stack([equations(block, maps, y, x, guide) for y, x in positions])  # [S, L, C]
    # Eq. 5: pooled over L and S, two layers, LayerNorm, 2 sigmoid - 1, added to [1, 0, 0, 0].
    task = block.task
    hidden = torch.relu(task.reduce.weight @ space.mean((0, 1)) + task.reduce.bias)
    z = task.expand.weight @ hidden + task.expand.bias
    z = (z - z.mean()) / (z.var(unbiased=False) + 1e-5).sqrt() * task.norm.weight + task.norm.bias
    a1, a2, b1, b2 = (2 / (1 + torch.exp(-z)) - 1).view(4, 32)
    expected = torch.maximum((1 + a1) * space + b1, a2 * space + b2)
    got = torch.stack([m[0].flatten(1).T for m in block(maps)], dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_paper_mean_over_levels_is_equation_4():
    """With a delta kernel, no offsets and mask 1/2, D_l = F_l / 2: the mean stays 1/L sum_l F_l / 2 and level l is
    (F_l / 2 + mean) / 2."""
    spatial = PaperSpatial(4, 4, 3, DyHeadOptions(scale=False))
    for conv in spatial.convs:
        torch.nn.init.dirac_(conv.weight)
    maps = list(torch.randn(3, 2, 4, 5, 6))
    got = spatial(maps)
    mean = sum(maps) / 6
    torch.testing.assert_close(sum(got) / 3, mean)
    torch.testing.assert_close(got[1], (maps[1] / 2 + mean) / 2)


def test_paper_gate_ranges():
    scale = PaperScale(3)
    torch.nn.init.normal_(scale.gate.weight, std=3)
    gates = scale.gates([torch.randn(300, 2, 1, 1) for _ in range(3)])
    assert gates.shape == (300, 3)
    assert gates.min() == 0
    assert gates.max() == 1
    torch.nn.init.zeros_(scale.gate.weight)
    assert torch.equal(scale.gates([torch.ones(1, 2, 1, 1)] * 3), torch.full((1, 3), 0.5))
    task = PaperTask(16)
    maps = [torch.randn(2, 16, 3, 4)] * 2
    assert torch.equal(task.theta(maps), torch.zeros(2, 64))  # hence [1, 0, 0, 0]: ReLU
    assert torch.equal(task(maps)[0], maps[0].clamp(min=0))
    torch.nn.init.constant_(task.norm.weight, 20)
    theta = task.theta(maps)
    assert -1 <= theta.min() < -0.99
    assert 0.99 < theta.max() <= 1


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_paper_form_keeps_sizes_and_levels_apart(levels):
    """Every level sees every other, whatever the sizes; six blocks neither fade, explode nor make the levels equal."""
    torch.manual_seed(0)
    maps = [x.requires_grad_() for x in pyramid(levels, channels=64, size=(29, 18))]
    neck = tower(32, 6, in_channels=64, form="paper", levels=levels)
    kept = []
    neck.blocks[-1].register_forward_hook(lambda module, inputs, output: kept.extend(output))
    outputs = neck(maps)
    assert [y.shape for y in outputs] == [(2, 32, *x.shape[2:]) for x in maps]
    assert all(0.05 < y.square().mean().sqrt() < 5 for y in outputs)
    assert all((a - b).norm() > 0.1 * a.norm() for a, b in pairwise(kept))
    outputs[0].square().sum().backward()
    assert all(x.grad.any() for x in maps)


@pytest.mark.parametrize(("size", "kept"), [("median", False), ("finest", True)])
@torch.no_grad()
def test_only_the_finest_common_size_keeps_details(size, kept):
    """What changes from pixel to pixel of the finest level comes through only where the levels meet at its size."""
    torch.manual_seed(0)
    neck = tower(16, 1, in_channels=16, form="paper", levels=3, common_size=size, task=False)
    for block in neck.blocks:
        for conv in block.spatial.convs:
            torch.nn.init.dirac_(conv.weight)
    checks = torch.ones(16, 16)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    finest = neck([checks.expand(1, 16, 16, 16), torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 4, 4)])[0]
    assert bool(finest.std() > 0.05) == kept


def test_paper_parameter_count():
    """Per block at 64 channels, 3 levels: 3 * 64 * 64 * 9 sampling + (64 * 9 + 1) * 27 offsets + (3 * 3 + 3) gates
    + (64 * 16 + 16) + (16 * 256 + 256) layers + 2 * 256 norm = 110,592 + 15,579 + 12 + 1,040 + 4,352 + 512."""
    assert sum(p.numel() for p in tower(64, 1, form="paper", levels=3).parameters()) == 132_087


@pytest.mark.parametrize(("scale", "levels"), [(True, 3), (False, 3), (True, 1)])
def test_a_block_begins_as_a_convolution_of_its_own_level(scale, levels):
    """Of the strength of a tower's: conv, GroupNorm, ReLU of the level alone has the deviation 0.58. As published it is
    a quarter, and the neighbours weigh as much as the level."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 32, 64 // 2**i, 64 // 2**i) for i in range(levels)]
    strides = tuple(8 * 2**i for i in range(levels))
    ours, published = (
        DyHead(Levels(strides, (32,) * levels), blocks=1, options=DyHeadOptions(scale=scale, start=start))
        for start in ("level", "all")
    )
    middle = levels // 2
    after = ours(maps)[middle]
    assert after.std().item() == pytest.approx(0.58, rel=0.1)
    spatial = ours.blocks[0].spatial
    offset = torch.zeros(2, 18, *maps[middle].shape[2:])
    alone = F.group_norm(spatial.mid.conv(maps[middle], offset, torch.full_like(offset[:, :9], 0.5)), 16)
    assert torch.corrcoef(torch.stack([after.flatten(), alone.relu().flatten()]))[0, 1] > 0.99
    if levels > 1:
        assert published(maps)[middle].std() < 0.62 * after.std()
        assert spatial.low.norm.weight.unique().tolist() == pytest.approx([0.1])


def test_published_networks_begin_as_their_authors_do():
    for name, expected in (("atss_r50_fpn_dyhead", 1.0), ("faster_rcnn_r50_fpn_dyhead_roi", 1.0),
                           ("atss_swin_l_fpn_dyhead", 1.0), ("atss_r18_fpn_dyhead", 6.0),
                           ("resnet50/fpn/dyhead/atss", 6.0)):  # fmt: skip
        model = headway.create_model(name, num_classes=2)
        neck = next(module for module in model.modules() if isinstance(module, DyHead))
        assert neck.blocks[0].spatial.mid.norm.weight.unique().tolist() == [expected], name
