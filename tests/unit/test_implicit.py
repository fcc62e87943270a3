"""Implicit values: their start, their operators, and their folding into the layer between, exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from headway.layers.implicit import Implicit, ImplicitConv2d, ImplicitLinear

MODELS = ("vector", "network", "factors")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def scattered(implicit: Implicit | None) -> None:
    """Values N(0, 0.5), far from the start at which a wrong fold would hardly show."""
    if implicit is not None:
        with torch.no_grad():
            for parameter in implicit.parameters():
                parameter.normal_(0, 0.5)


def make_pair(align: str | None, refine: str | None, model: str, conv: nn.Conv2d) -> ImplicitConv2d:
    width = conv.in_channels // (2 if align == "concat" else 1)
    first = Implicit(width, align, model) if align else None
    second = Implicit(conv.out_channels, refine, model) if refine else None
    scattered(first)
    scattered(second)
    return ImplicitConv2d(conv, first, second)


def test_an_untrained_one_is_near_neutral():
    """2,557 values of a CSP-size model: mean within 4 standard errors (0.02 / sqrt(2557) = 0.0004) of 0 or 1."""
    for operator, mean in (("add", 0.0), ("mul", 1.0), ("concat", 0.0)):
        value = Implicit(2557, operator).value
        assert value.shape == (1, 2557, 1, 1)
        assert value.requires_grad
        assert abs(value.mean().item() - mean) < 0.0016
        assert abs(value.std().item() - 0.02) < 0.002
    for model in ("network", "factors"):
        for operator, mean in (("add", 0.0), ("mul", 1.0)):
            value = Implicit(64, operator, model).vector()
            assert value.shape == (1, 64, 1, 1)
            assert (value - mean).abs().max() < 0.2


def test_parameters_by_the_papers_numbers():
    """C = 6, prior 12: a vector has 6; a network 12 + 12*6 + 6; factors 6*12 + 12 + 1."""
    counts = {m: sum(p.numel() for p in Implicit(6, "add", m).parameters()) for m in MODELS}
    assert counts == {"vector": 6, "network": 90, "factors": 85}
    assert sum(p.numel() for p in Implicit(6, "add", "network", prior=4).parameters()) == 4 + 24 + 6


def test_operators_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 1, 2)
    value = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)
    expected = {
        "add": [[11.0, 12.0], [23.0, 24.0]],
        "mul": [[10.0, 20.0], [60.0, 80.0]],
        "concat": [[10.0, 10.0], [20.0, 20.0], [1.0, 2.0], [3.0, 4.0]],
    }
    for operator, result in expected.items():
        implicit = Implicit(2, operator)
        implicit.value.data.copy_(value)
        assert implicit(x)[0, :, 0].tolist() == result
        assert implicit(x[..., 0, 0])[0].tolist() == [row[0] for row in result]


@pytest.mark.parametrize("model", ["network", "factors"])
def test_a_model_collapses_to_the_vector_it_evaluates_to(model):
    implicit, plain = Implicit(5, "mul", model), Implicit(5, "mul")
    scattered(implicit)
    weight, bias, prior = implicit.linear.weight, implicit.linear.bias, implicit.prior
    by_hand = weight @ prior[0] + bias if model == "network" else prior @ weight[0] + bias
    plain.value.data.copy_(by_hand.view(1, 5, 1, 1))
    x = torch.randn(2, 5, 3, 4)
    assert torch.allclose(implicit(x), plain(x), atol=1e-6)


def test_every_parameter_gets_a_gradient():
    for model in MODELS:
        layer = ImplicitConv2d(nn.Conv2d(4, 6, 1), Implicit(4, "add", model), Implicit(6, "mul", model))
        layer(torch.randn(2, 4, 3, 3)).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_zeros_and_ones_change_no_bit():
    conv = nn.Conv2d(8, 6, 3, padding=1)
    layer = ImplicitConv2d(copy.deepcopy(conv), Implicit(8, "add"), Implicit(6, "mul"))
    nn.init.zeros_(layer.align.value)
    nn.init.ones_(layer.refine.value)
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(layer(x), conv(x))
    assert torch.equal(layer.folded()(x), conv(x))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("align", [None, "add", "mul", "concat"])
@pytest.mark.parametrize("refine", [None, "add", "mul"])
def test_folded_equals_unfolded(align, refine, model):
    x = torch.randn(2, 8, 6, 5)
    width = 16 if align == "concat" else 8
    for options in ({}, {"bias": False}, {"padding": 1, "kernel": 3}, {"padding": 2, "kernel": 3, "dilation": 2}):
        options = dict(options)
        conv = nn.Conv2d(width, 6, options.pop("kernel", 1), **options)
        layer = make_pair(align, refine, model, conv)
        folded = layer.folded()
        assert type(folded) is nn.Conv2d
        assert folded.in_channels == 8
        assert torch.allclose(folded(x), layer(x), atol=1e-5), options


def test_groups_strides_and_uneven_padding_fold_too():
    for align in ("add", "mul"):
        conv = nn.Conv2d(8, 6, (3, 5), stride=2, padding=(1, 2), groups=2)
        layer = make_pair(align, "mul", "vector", conv)
        x = torch.randn(1, 8, 9, 7)
        assert torch.allclose(layer.folded()(x), layer(x), atol=1e-5)


def test_the_implicit_reaches_into_the_padding():
    """A 3x3 sum over zeros with alignment +1 is 9 in the corner as inside; with the zeros padded after it, 4."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    layer = ImplicitConv2d(conv, Implicit(1))
    nn.init.ones_(layer.align.value)
    assert layer(torch.zeros(1, 1, 3, 3)).unique().tolist() == [9.0]


def test_folding_leaves_the_layer_and_the_random_numbers_alone():
    layer = make_pair("add", "mul", "vector", nn.Conv2d(4, 3, 1))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    state = torch.get_rng_state()
    layer.folded()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("align", [None, "add", "mul", "concat"])
@pytest.mark.parametrize("refine", [None, "add", "mul"])
def test_a_linear_layer_folds(align, refine):
    linear = nn.Linear(16 if align == "concat" else 8, 6)
    layer = ImplicitLinear(
        linear, Implicit(8, align) if align else None, Implicit(6, refine, "factors") if refine else None
    )
    scattered(layer.align)
    scattered(layer.refine)
    x, folded = torch.randn(4, 8), layer.folded()
    assert type(folded) is nn.Linear
    assert torch.allclose(folded(x), layer(x), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Implicit(4, "plus"), "operator must be"),
        (lambda: Implicit(4, "add", "matrix"), "model must be"),
        (lambda: Implicit(4, prior=8), "has no prior"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 1), Implicit(3)), "gives 3 channels, and the layer behind it takes 4"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 1), Implicit(4, "concat")), "gives 8 channels"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 1), None, Implicit(2, "concat")), "double the predictions"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 1), None, Implicit(4)), "the layer before it gives 2"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 3, padding="same")), "number of zeros"),
        (lambda: ImplicitConv2d(nn.Conv2d(4, 2, 1, groups=2), Implicit(2, "concat")), "groups=1"),
    ],
)
def test_what_does_not_fit_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
