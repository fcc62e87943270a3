"""RoIAlign by bags against torchvision's operator, and the choice of pyramid levels against MultiScaleRoIAlign."""

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from headway.layers import roi_align_cpu
from headway.layers.roi_align_cpu import sampled_roi_align
from headway.layers.roi_pool import pyramid_roi_align

SHAPES = [(2, 6, 20, 24), (1, 3, 1, 1), (2, 4, 1, 9), (3, 5, 7, 3)]
SCALE = 0.125


def regions(images: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """[K, 5]: inside, across every border, far outside, much larger than the map, empty, inverted, on whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(50, 2, generator=generator, dtype=dtype) * 260 - 30
    size = torch.rand(50, 2, generator=generator, dtype=dtype) * torch.linspace(1, 150, 50, dtype=dtype)[:, None]
    special = [
        [30, 30, 30, 30], [50, 50, 20, 20], [-100, -100, -50, -50], [0, 0, 2000, 2000], [-40, -40, 400, 400],
        [0, 0, 56, 56], [8, 16, 64, 72], [100, -20, 100, 300],
    ]  # fmt: skip
    boxes = torch.cat([torch.cat([low, low + size], 1), torch.tensor(special, dtype=dtype)])
    image = torch.randint(images, (len(boxes), 1), generator=generator).to(dtype)
    return torch.cat([image, boxes], 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_torchvisions(shape, aligned, ratio, dtype):
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    rois = regions(shape[0], dtype)
    tolerance = 5e-5 if dtype == torch.float32 else 1e-10
    for resolution in (7, (2, 3)):
        found = sampled_roi_align(ours, rois, resolution, SCALE, ratio, aligned)
        expected = roi_align(theirs, rois, resolution, SCALE, ratio, aligned)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        direction = torch.randn(expected.shape, generator=generator, dtype=dtype)
        gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y, x in ((found, ours), (expected, theirs))]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=tolerance)


def test_chunks_change_nothing(monkeypatch):
    features, rois = torch.randn(2, 6, 20, 24), regions(2, torch.float32)
    whole = sampled_roi_align(features, rois, 7, SCALE, 0, True)
    monkeypatch.setattr(roi_align_cpu, "COLUMN_BYTES", 1)
    assert torch.equal(sampled_roi_align(features, rois, 7, SCALE, 0, True), whole)


def test_bfloat16_maps_stay_near_float32():
    features, rois = torch.randn(2, 6, 20, 24), regions(2, torch.float32)
    found = sampled_roi_align(features.bfloat16(), rois, 7, SCALE, 0, True)
    assert found.dtype == torch.bfloat16
    expected = roi_align(features.bfloat16().float(), rois, 7, SCALE, 0, True)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.03)


def test_no_region_at_all():
    features = torch.randn(1, 3, 8, 8, requires_grad=True)
    found = sampled_roi_align(features, torch.zeros(0, 5), 7, SCALE, 0, True)
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert not features.grad.any()


# -------------------------------------------------------------------------------------------------------- levels
STRIDES = (4, 8, 16, 32)


def level_of(side: float, **arguments) -> int:
    """Which level a square of `side` reads: each level's map holds its own number."""
    maps = [torch.full((1, 1, 1024 // s, 1024 // s), float(i)) for i, s in enumerate(STRIDES)]
    pooled = pyramid_roi_align(maps, torch.tensor([[[0.0, 0.0, side, side]]]), STRIDES, **arguments)
    torch.testing.assert_close(pooled, pooled.round(), rtol=0, atol=1e-5)
    return int(pooled[0, 0, 0, 0].round())


@pytest.mark.parametrize("arguments", [{}, {"eps_after_log": True}], ids=str)
def test_levels_change_at_112_224_and_448_pixels(arguments):
    found = [level_of(side, **arguments) for side in (20, 111.9, 112, 223.9, 224, 447.9, 448, 700)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_two_places_of_the_epsilon_differ_just_below_a_border():
    """log2(2 (1 - 6e-7)) misses 1 by 8.7e-7: 1e-6 after the logarithm makes up for it, 5e-7 of the size do not."""
    below = 112 * (1 - 6e-7)
    assert (level_of(below), level_of(below, eps_after_log=True)) == (0, 1)


def test_a_pyramid_is_read_as_torchvisions_detectors_read_it():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 5, 256 // s, 320 // s, generator=generator) for s in STRIDES]
    rois = torch.rand(2, 40, 4, generator=generator) * 150
    rois[..., 2:] += rois[..., :2] + 8
    rois = rois.minimum(torch.tensor([320.0, 256.0] * 2))
    names = {str(i): x for i, x in enumerate(maps)}
    expected = MultiScaleRoIAlign(list(names), 7, 2)(names, list(rois), [(256, 320)] * 2)
    found = pyramid_roi_align(maps, rois, STRIDES, sampling_ratio=2, aligned=False, eps_after_log=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


def test_other_devices_and_graphs_use_torchvisions_operator(monkeypatch):
    def refuse(*_):
        raise AssertionError("the CPU's path was taken")

    class Pool(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor, rois: Tensor) -> Tensor:
            return pyramid_roi_align([a, b], rois, (8, 16))

    maps = [torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8)]
    rois = torch.tensor([[[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 125.0, 125.0]]])
    expected = pyramid_roi_align(maps, rois, (8, 16))
    monkeypatch.setattr("headway.layers.roi_pool.sampled_roi_align", refuse)
    with pytest.raises(AssertionError, match="CPU's path"):
        pyramid_roi_align(maps, rois, (8, 16))
    program = torch.export.export(Pool(), (*maps, rois))
    torch.testing.assert_close(program.module()(*maps, rois), expected, rtol=0, atol=1e-5)


def test_every_combination_of_samples_is_met():
    """The regions above have bins of many different widths and heights in cells."""
    size = (regions(1, torch.float64)[:, 3:] - regions(1, torch.float64)[:, 1:3]) * SCALE / 7
    samples = size.ceil().clamp(min=0).int().tolist()
    assert {tuple(row) for row in itertools.product((1, 2), repeat=2)} <= {tuple(row) for row in samples}
    assert max(map(max, samples)) > 4
