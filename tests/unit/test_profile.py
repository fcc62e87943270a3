"""Multiply-adds against hand counts and published figures; timing by part."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import headway
from headway import profile
from headway.backbones.timm import timm_backbone
from headway.backbones.vit import ViTAttention, make_vit
from headway.layers.attention import MultiHeadAttention
from headway.layers.deform import DeformConv2d


class Deformed(nn.Module):
    """A deformable convolution with zero offsets of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DeformConv2d(3, 6, 3, padding=1, groups=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x, x.new_zeros(x.shape[0], 18, *x.shape[2:]))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        # 8 channels x 4 x 4 positions, each 3 x 3 x 3 products
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 16 * 27),
        # three groups: each value sees one input channel
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 64 * 9),
        # every one of 3 x 8 x 8 inputs meets 5 channels x 2 x 2 taps
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 3 * 64 * 5 * 4),
        # a linear layer over the last axis: 3 x 8 rows of 8 inputs and 4 outputs
        (nn.Linear(8, 4), 3 * 8 * 4 * 8),
        # as its plain convolution
        (Deformed(), 6 * 64 * 9),
        # norms and activations are free
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), 2 * 64 * 3),
    ],
)
def test_counts_by_hand(module: nn.Module, expected: int) -> None:
    """One picture of 8 x 8 pixels."""
    assert profile.count_macs(module, (8, 8)) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        # two per product, and the bias of 2 x 64 values twice
        (nn.Conv2d(3, 2, 1), 2 * (2 * 64 * 3) + 2 * (2 * 64)),
        (nn.Conv2d(3, 2, 1, bias=False), 2 * (2 * 64 * 3)),
        # the norm four per value, the activation nothing
        (nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.SiLU()), 2 * (2 * 64 * 3) + 4 * (2 * 64)),
    ],
)
def test_operations_by_hand(module: nn.Module, expected: int) -> None:
    """One picture of 8 x 8 pixels."""
    assert profile.count_flops(module, (8, 8)) == expected


class Ones(nn.Module):
    """A head of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, features: torch.Tensor, *_: object) -> torch.Tensor:
        return self.conv(features)


class Flat(nn.Module):
    """One picture of 3 x 8 x 8 as 64 queries of 3 channels, and 16 keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x, x[:, :16], x[:, :16])


def test_products_of_attention_by_hand() -> None:
    """Each of 64 queries meets 16 keys and 16 values of 3 channels; the layers are 3 x 3, two of them on queries and
    two on keys."""
    assert profile.count_macs(Flat(), (8, 8)) == 2 * 64 * 16 * 3 + 2 * 64 * 9 + 2 * 16 * 9


@pytest.mark.parametrize(
    ("make", "side", "gmac"),
    [
        (lambda: timm_backbone("swin_tiny_patch4_window7_224"), 224, 4.49),
        (lambda: timm_backbone("swin_small_patch4_window7_224"), 224, 8.74),
        (lambda: make_vit("vit_tiny_patch16_224"), 224, 1.25),
    ],
)
def test_published_figures_of_transformers(make, side: int, gmac: float) -> None:
    """Those of the classifiers (arXiv 2103.14030; timm's table), whose class token and last layer cost next to nothing;
    the windows of 14 of a ViT are the whole map of 224 pixels."""
    with torch.device("meta"):
        model = make()
    assert profile.count_macs(model, (side, side)) / 1e9 == pytest.approx(gmac, rel=0.01)


def test_a_shared_layer_is_counted_each_time() -> None:
    conv = nn.Conv2d(3, 3, 1)
    assert profile.macs_by_module(nn.Sequential(conv, conv), (8, 8)) == {"": 2 * 64 * 9, "0": 2 * 64 * 9}


def test_a_module_contains_what_it_calls() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1))
    counts = profile.macs_by_module(nn.Sequential(inner, nn.Conv2d(4, 1, 1)), (8, 8))
    assert counts == {"": 64 * (6 + 8 + 4), "0": 64 * (6 + 8), "0.0": 64 * 6, "0.2": 64 * 8, "1": 64 * 4}


class Bare(nn.Module):
    """Attention written with torch's own function, in no class that this library knows; queries wider than values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)[:, None]
        return nn.functional.scaled_dot_product_attention(x, x[:, :, :16], x[:, :, :16, :2])


def test_attention_of_any_class_is_counted() -> None:
    """64 queries meet 16 keys of 3 channels and 16 values of 2."""
    assert profile.count_macs(Bare(), (8, 8)) == 64 * 16 * (3 + 2)


def test_relative_positions_are_products_too() -> None:
    """64 tokens of 3 channels: layers of 3 x 9 and 3 x 3, two products with 64 tokens each, and each query with the
    vectors of 8 rows and of 8 columns."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = ViTAttention(3, 1, relative_side=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x.permute(0, 2, 3, 1))

    assert profile.count_macs(Tokens(), (8, 8)) == 64 * (27 + 9) + 2 * 64 * 64 * 3 + 64 * (8 + 8) * 3


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("atss_r18_fpn_dyhead", ["backbone", "neck.0", "neck.1", "head"]),
        ("atss_r18_fpn", ["backbone", "neck", "head"]),
        ("faster_rcnn_r18_fpn", ["backbone", "neck", "head"]),
    ],
)
def test_parts_make_up_the_detector(name: str, parts: list[str]) -> None:
    with torch.device("meta"):
        model = headway.create_model(name)
    counts = profile.count_parts(model, (96, 128))
    assert list(counts) == parts
    parameters, macs = zip(*counts.values())
    assert sum(macs) == profile.count_macs(model, (96, 128))
    assert sum(parameters) == profile.count_parameters(model)
    assert all(macs)


def test_parts_by_hand() -> None:
    """On 8 x 8 pixels; the second neck does nothing."""
    necks = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Identity())
    card = headway.types.ModelCard(class_names=("a",))
    model = headway.Detector(nn.Conv2d(3, 2, 1, stride=2), necks, Ones(), card)
    parts = {"backbone": (6 + 2, 16 * 6), "neck.0": (8, 16 * 8), "neck.1": (0, 0), "head": (8 + 2, 16 * 8)}
    assert profile.count_parts(model, (8, 8)) == parts


def test_counting_leaves_the_model_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    profile.count_macs(module, (8, 8))
    assert module.training
    assert not any(m._forward_hooks for m in module.modules())
    assert int(module[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("name", "gmac", "parameters"),
    [
        ("atss_r50_fpn_dyhead", 225.0, 39_071_682),
        ("atss_r50_fpn", 204.5, 32_295_322),
        ("retinanet_r50_fpn", 238.5, 37_968_692),
        ("faster_rcnn_r50_fpn", 206.3, 41_753_056),
        ("cascade_rcnn_r50_fpn", 234.0, 69_394_766),
    ],
)
def test_published_figures(name: str, gmac: float, parameters: int) -> None:
    """At 800 x 1280: what mmdetection's models have, counted with the deformable convolutions (arXiv 2106.08322)."""
    with torch.device("meta"):
        model = headway.create_model(name)
    assert profile.count_macs(model, (800, 1280)) / 1e9 == pytest.approx(gmac, rel=0.002)
    assert profile.count_parameters(model) == parameters


@pytest.fixture(scope="module")
def small() -> headway.Detector:
    torch.manual_seed(0)
    model = headway.create_model("atss_r18_fpn_dyhead", num_classes=2, blocks=1, channels=32, input_size=(64, 64))
    return model.eval()


def test_parts_make_up_the_call(small: headway.Detector) -> None:
    timing = profile.time_detect(small, torch.rand(2, 3, 64, 64), repeats=3)
    assert tuple(timing.parts) == profile.PARTS
    assert len(timing.seconds) == 3
    assert all(seconds > 0 for seconds in timing.parts.values())
    assert 0 < timing.deform < timing.parts["neck"]


def test_timing_leaves_the_model_as_it_was(small: headway.Detector) -> None:
    images = torch.rand(1, 3, 64, 64)
    before = small.detect(images)[0]
    profile.time_detect(small, images, precision="bf16", repeats=1, warmup=0)
    after = small.detect(images)[0]
    torch.testing.assert_close(before.boxes, after.boxes, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())
    assert "decode" not in vars(small)


def test_quantiles() -> None:
    timing = profile.Timing([0.4, 0.1, 0.2, 0.3, 0.5], {}, 0.0)
    assert (timing.quantile(0.5), timing.quantile(0.9), timing.quantile(0.0)) == (0.3, 0.5, 0.1)


def test_peak_memory_sees_an_allocation() -> None:
    """In a process of its own: in this one, memory freed by earlier tests would be used again."""
    code = (
        "import torch; from headway import profile; device = torch.device('cpu'); profile.reset_peak_memory(device); "
        "before = profile.peak_memory(device); block = torch.ones(64 * 2**20 // 4); "
        "print(profile.peak_memory(device) - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 60 * 2**20 < grown < 100 * 2**20


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="fp32, bf16, fp16, got 'fp8'"):
        profile.autocast(torch.device("cpu"), "fp8")
