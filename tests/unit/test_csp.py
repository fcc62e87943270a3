"""The blocks of the YOLO networks: orders by hand, the two forms against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headway.backbones.csp_darknet import LAYOUTS, CSPDarknet, make_stem
from headway.layers.csp import CSP, CSP2, SPPCSP, ConvNormAct, DownC, HaarWavelet, SpaceToDepth, Style, repeated, scaled
from headway.necks.pan import PAN
from headway.types import Levels

CFG, YAML = Style("cfg"), Style("yaml")


def halving(*channels: int) -> Levels:
    """Maps of these channels, from stride 8 on."""
    return Levels(tuple(8 * 2**i for i in range(len(channels))), channels)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_norms(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.normal_(tensor)
    return module.eval()


def read_by(module: nn.Module, run: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `module` reads while `run` runs on x, and the result."""
    seen = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        result = run(x)
    hook.remove()
    return seen[0], result


def image(channels: int, height: int = 6, width: int = 7) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------- folds
def test_space_to_depth_by_hand():
    """Two channels of 2 x 2: rows 0 1 / 2 3 and 4 5 / 6 7. Down the first column, then down the second."""
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert SpaceToDepth()(x).flatten().tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


def test_space_to_depth_fills_odd_sizes_with_zeros():
    x = torch.ones(1, 1, 3, 5)
    y = SpaceToDepth()(x)
    assert y.shape == (1, 4, 2, 3)
    assert y.sum() == 15


def test_haar_wavelet_by_hand():
    """Of 1 2 / 3 8: mean 14 / 4; rows (3 - 11) / 4, columns (4 - 10) / 4, diagonal (9 - 5) / 4, each plus a half."""
    x = torch.tensor([[1.0, 2.0], [3.0, 8.0]]).view(1, 1, 2, 2)
    assert HaarWavelet()(x).flatten().tolist() == [3.5, -1.5, -1.0, 1.5]


# ------------------------------------------------------------------------------------------------------------ blocks
@pytest.mark.parametrize(("style", "order"), [(CFG, (13, 9, 5, 1)), (YAML, (1, 5, 9, 13))])
def test_order_of_the_pooled_maps(style, order):
    """Against one pooling of each size, also where the map is smaller than the window."""
    block = random_norms(SPPCSP(8, 4, style=style))
    x = image(8)
    pooled, _ = read_by(block.after1, block, x)
    with torch.no_grad():
        y = block.conv3(block.conv2(block.conv1(x)))
    torch.testing.assert_close(pooled, torch.cat([F.max_pool2d(y, k, 1, k // 2) for k in order], 1), rtol=0, atol=0)


@pytest.mark.parametrize("style", [CFG, YAML])
@pytest.mark.parametrize("kind", ["csp", "transition", "csp2", "spp"])
def test_the_main_branch_comes_before_the_bypass(kind, style):
    """With a bypass that gives nothing but zeros before the norm, only the second half is constant."""
    makers = {
        "csp": lambda: CSP(8, 2, transition=False, style=style),
        "transition": lambda: CSP(8, 2, transition=True, style=style),
        "csp2": lambda: CSP2(8, 4, 2, style=style),
        "spp": lambda: SPPCSP(8, 4, style=style),
    }
    block = random_norms(makers[kind]())
    bare = isinstance(block.bypass, nn.Conv2d)
    assert bare == (style is YAML)
    nn.init.zeros_((block.bypass if bare else block.bypass.conv).weight)
    merged, _ = read_by(block.merge, block, image(8))
    spread = merged.std((0, 2, 3))
    assert merged.shape[1] == 8
    assert (spread[:4] > 1e-4).all()
    assert (spread[4:] < 1e-6).all()


def into_yaml(cfg: nn.Module, yaml: nn.Module, ends: tuple[str, str]) -> nn.Module:
    """The weights of a cfg block in a yaml one: the norms of both branches' ends side by side behind them."""
    state = {}
    for key, value in cfg.state_dict().items():
        end = next((e for e in ends if key.startswith(f"{e}.")), None)
        if end is None:
            state[key] = value
        elif ".conv." in key:
            state[key.replace(".conv.", ".")] = value
    first, second = (cfg.get_submodule(e).norm.state_dict() for e in ends)
    state |= {f"norm.{k}": torch.cat([v, second[k]]) if v.dim() else v for k, v in first.items()}
    yaml.load_state_dict(state)
    return yaml.eval()


def test_with_a_transition_both_forms_are_one_function():
    cfg = random_norms(CSP(16, 2, transition=True, style=CFG))
    yaml = into_yaml(cfg, CSP(16, 2, transition=True, style=Style("yaml", norm_eps=1e-4)), ("transition", "bypass"))
    with torch.no_grad():
        torch.testing.assert_close(yaml(image(16)), cfg(image(16)), rtol=1e-4, atol=1e-5)


def test_fusion_first_normalises_the_sum_again_in_the_yaml_form():
    block = random_norms(CSP(16, 2, transition=False, style=YAML))
    x = image(16)
    merged, _ = read_by(block.merge, block, x)
    with torch.no_grad():
        both = torch.cat([block.blocks(block.cv1(x)), block.bypass(x)], 1)
        torch.testing.assert_close(merged, F.silu(block.norm(both)))


def test_eps_and_momentum_of_the_forms():
    for style, eps in ((CFG, 1e-4), (YAML, 1e-3), (Style("cfg", norm_eps=1e-5), 1e-5)):
        norms = [m for m in CSP(8, 1, transition=False, style=style).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, 0.03)}
        assert len(norms) == 5  # of both forms: four convolutions' and the bypass's or the one behind both


@pytest.mark.parametrize(("act", "of_one"), [("silu", 1 / (1 + 2.718281828**-1)), ("mish", 0.8650983), ("leaky", 1.0)])
def test_activations(act, of_one):
    """At 1: sigmoid(1); tanh(ln(1 + e)) = 0.8650983."""
    layer = Style(act=act).activation()
    assert layer(torch.ones(1)).item() == pytest.approx(of_one, rel=1e-6)
    if act == "leaky":
        assert layer(-torch.ones(1)).item() == pytest.approx(-0.1)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_down_c_rounds_up_and_puts_the_convolved_half_first(size):
    block = random_norms(DownC(6, 8, style=CFG))
    x = image(6, *size)
    with torch.no_grad():
        y = block(x)
        assert y.shape == (2, 8, -(-size[0] // 2), -(-size[1] // 2))
        torch.testing.assert_close(y[:, :4], block.conv2(block.conv1(x)))


# ---------------------------------------------------------------------------------------------------------- networks
def test_widths_and_depths():
    """E6 and P7 are their smaller forms times 1.25; a third of the CSP blocks."""
    assert scaled(LAYOUTS["w6"].widths, 1.25) == LAYOUTS["e6"].widths
    assert scaled((128, 100, 1), 0.33) == (48, 40, 8)
    assert repeated(LAYOUTS["csp"].blocks, 0.33) == (1, 3, 3, 1)
    assert repeated((1, 2), 0.1) == (1, 1)


@pytest.mark.parametrize(("kind", "widths", "size"), [
    ("conv", (4, 8), (5, 6)), ("conv", (8,), (9, 11)), ("reorg", (4, 8), (5, 6)), ("haar", (4, 8), (5, 6)),
])  # fmt: skip
def test_stems(kind, widths, size):
    assert make_stem(kind, widths, style=CFG).eval()(image(3, 9, 11)).shape == (2, 8, *size)


@pytest.mark.parametrize(("layout", "levels"), [("csp", 3), ("v4_p5", 3), ("p6", 4)])
def test_maps_begin_at_stride_8(layout, levels):
    body = CSPDarknet(layout=layout, width=0.125, depth=0.1)
    assert len(body.levels.strides) == levels
    maps = body.eval()(image(3, 64, 128))
    assert body.strides == tuple(8 * 2**i for i in range(len(maps)))
    assert body.channels == tuple(x.shape[1] for x in maps)
    assert [x.shape[2:] for x in maps] == [(64 // s, 128 // s) for s in body.strides]


@pytest.mark.parametrize("csp_down", [False, True])
def test_the_neck_reads_every_map_and_takes_odd_sizes(csp_down):
    sizes, channels = [(9, 13), (5, 7), (3, 4), (2, 2)], (8, 16, 24, 32)
    neck = random_norms(PAN(halving(*channels), widths=(8, 16, 8, 24), blocks=1, csp_down=csp_down))
    features = [torch.randn(1, c, *s, requires_grad=True) for c, s in zip(channels, sizes)]
    outputs = neck(features)
    assert [x.shape for x in outputs] == [(1, c, *s) for c, s in zip((8, 16, 8, 24), sizes)]
    outputs[0].sum().backward()  # the finest output sees the coarsest map
    assert all(x.grad.abs().sum() > 0 for x in features)


def test_the_order_of_the_necks_concatenations():
    """Down: the lateral map before the up-sampled one; up: the halved map before what waits."""
    neck = random_norms(PAN(halving(8, 16), widths=(4, 8), blocks=1))
    features = [image(8, 4, 6), image(16, 2, 3)]
    top, _ = read_by(neck.tops[0], neck, features)
    bottom, outputs = read_by(neck.bottoms[0], neck, features)
    with torch.no_grad():
        pooled = neck.spp(features[1])
        torch.testing.assert_close(top[:, :4], neck.laterals[0](features[0]))
        doubled = neck.reduces[0](pooled).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(top[:, 4:], doubled)
        torch.testing.assert_close(bottom[:, :8], neck.downs[0](outputs[0]))
        torch.testing.assert_close(bottom[:, 8:], pooled)


def test_a_neck_needs_a_width_for_every_map():
    with pytest.raises(ValueError, match="a width for each of 2 maps"):
        PAN(halving(8, 16), widths=(8,))


def test_halving_convolutions_round_up():
    assert ConvNormAct(3, 4, 3, 2, style=CFG).eval()(image(3, 5, 7)).shape == (2, 4, 3, 4)
