"""Deformable attention against numbers worked out by hand, and its two ways of reading against each other."""

import math

import pytest
import torch

from headway.layers.deform_attention import (
    DeformableAttention,
    Points,
    _read_by_bags,
    _read_by_grid,
    read_points,
)

SHAPES = [(4, 6), (2, 3), (1, 1)]
CELLS = 24 + 6 + 1


def some_points(batch=2, queries=7, heads=2, count=3, *, seed=0, dtype=torch.float64) -> Points:
    """In the maps, at their borders and up to half a map beyond."""
    generator = torch.Generator().manual_seed(seed)
    form = (batch, queries, heads, len(SHAPES), count)
    places = torch.rand(*form, 2, generator=generator, dtype=dtype) * 2 - 0.5
    shares = torch.randn(*form, generator=generator, dtype=dtype).flatten(3).softmax(3).view(form)
    return Points(places, shares)


def test_a_point_between_four_cells():
    """One map of 2 x 2 cells with the values 1 2 / 3 4, whose centres lie at 0.25 and 0.75 in x and y.

    In the middle each counts a quarter: 2.5. On the centre of the last it is 4. At (1, 0.75) half of the weight lies
    beyond the map: 2. Shares .5, .25, .25 make 1.25 + 1 + 0.5 = 2.75.
    """
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    places = torch.tensor([[0.5, 0.5], [0.75, 0.75], [1.0, 0.75]]).view(1, 1, 1, 1, 3, 2)
    shares = torch.tensor([0.5, 0.25, 0.25]).view(1, 1, 1, 1, 3)
    assert read_points(values, [(2, 2)], Points(places, shares)).item() == pytest.approx(2.75)
    for place, value in zip(places.unbind(4), (2.5, 4.0, 2.0)):
        one = Points(place[:, :, :, :, None], torch.ones(1, 1, 1, 1, 1))
        assert read_points(values, [(2, 2)], one).item() == pytest.approx(value)


def test_both_ways_of_reading_agree_with_their_gradients():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, CELLS, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    points = some_points()
    places, shares = points.places.requires_grad_(), points.shares.requires_grad_()
    results = [read(values, SHAPES, Points(places, shares)) for read in (_read_by_bags, _read_by_grid)]
    assert results[0].shape == (2, 7, 10)
    torch.testing.assert_close(*results)
    seen = torch.randn(results[0].shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((result * seen).sum(), (values, places, shares)) for result in results]
    for mine, other in zip(*gradients):
        assert mine.any()
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("far", [1e30, -1e30, math.inf, -math.inf])
def test_nothing_is_read_far_outside(far):
    points = some_points()
    places = torch.full_like(points.places, far).requires_grad_()
    values = torch.ones(2, CELLS, 2, 5, dtype=torch.float64)
    result = read_points(values, SHAPES, Points(places, points.shares))
    assert not result.any()
    if math.isfinite(far):
        assert not torch.autograd.grad(result.sum(), places)[0].any()


def test_starts_in_the_directions_of_a_circle():
    """With 8 heads the directions are the sides and corners of a square, and the point k of head 1 lies k cells right
    and k down; all 12 shares are alike, of whatever query."""
    layer = DeformableAttention(16, heads=8, levels=3, points=4)
    points = layer.read(torch.randn(1, 2, 16), torch.full((1, 2, 3, 2), 0.5), SHAPES)
    size = torch.tensor([(6.0, 4), (3, 2), (1, 1)])[:, None]
    offset = (points.places[0, 1] - 0.5) * size  # [8, 3, 4, 2]
    square = torch.tensor([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
    for k in range(4):
        torch.testing.assert_close(offset[:, :, k], ((k + 1) * square)[:, None].expand(8, 3, 2).float())
    torch.testing.assert_close(points.shares, torch.full((1, 2, 8, 3, 4), 1 / 12))


def test_offsets_from_a_box_count_in_its_half_sides():
    """Of 4 points the last of head 0 starts at the right border: cx + 4 / 4 * w / 2."""
    layer = DeformableAttention(16, heads=4, levels=3, points=4)
    box = torch.tensor([0.5, 0.4, 0.2, 0.1]).expand(1, 1, 3, 4)
    places = layer.read(torch.zeros(1, 1, 16), box, SHAPES).places
    torch.testing.assert_close(places[0, 0, 0, :, 3], torch.tensor([0.6, 0.4]).expand(3, 2))
    torch.testing.assert_close(places[0, 0, 1, :, 1], torch.tensor([0.5, 0.425]).expand(3, 2))


def test_weights_are_what_each_cell_counts():
    """The output is the last linear layer of the weighted sum of all values, and rows within the maps sum to one."""
    torch.manual_seed(0)
    layer = DeformableAttention(12, heads=2, levels=3, points=2).double()
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.scores.weight)
    query, memory = torch.randn(2, 5, 12).double(), torch.randn(2, CELLS, 12).double()
    reference = torch.rand(2, 5, 3, 2).double()
    mask = torch.rand(2, CELLS) < 0.8
    weights = layer.weights(query, reference, memory, SHAPES, mask)
    assert weights.shape == (2, 2, 5, CELLS)
    values = layer.value(memory).unflatten(2, (2, -1)).transpose(1, 2)  # [B, n, P, C / n]
    expected = layer.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(query, reference, memory, SHAPES, mask), expected)
    torch.nn.init.zeros_(layer.sampling_offsets.weight)
    torch.nn.init.zeros_(layer.sampling_offsets.bias)
    whole = layer.weights(query, torch.full_like(reference, 0.5), memory, SHAPES)
    torch.testing.assert_close(whole.sum(3), torch.ones(2, 2, 5).double())


def test_autocast_keeps_the_places_exact():
    """In bfloat16 a place near 1 could not be told from one 0.004 beside it: the results would differ by much more."""
    torch.manual_seed(0)
    layer = DeformableAttention(16, heads=2, levels=1, points=1)
    shapes, memory = [(1, 4096)], torch.arange(4096.0)[None, :, None].expand(1, 4096, 16) / 4096
    reference = torch.linspace(0.9, 0.99, 50).view(1, 50, 1, 1) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 0.5])
    with torch.autocast("cpu", torch.bfloat16):
        places = layer.read(torch.zeros(1, 50, 16), reference, shapes).places
        result = layer(torch.zeros(1, 50, 16), reference, memory, shapes)
    assert places.dtype == torch.float32
    assert places[0, :, 0, 0, 0, 0].diff().min() > 0
    assert result.dtype == torch.bfloat16


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="16 channels cannot be shared by 3 heads"):
        DeformableAttention(16, heads=3)
    with pytest.raises(ValueError, match="got 30 rows and the shapes"):
        DeformableAttention(16, levels=3)(
            torch.zeros(1, 2, 16), torch.zeros(1, 2, 3, 2), torch.zeros(1, 30, 16), SHAPES
        )


@pytest.mark.parametrize(("batch", "queries"), [(2, 0), (0, 3)])
def test_no_query_and_no_picture_have_gradients_too(batch, queries):
    layer, shapes = DeformableAttention(8, 2, 2, 2), [(4, 5), (2, 3)]
    memory = torch.randn(batch, 26, 8, requires_grad=True)
    result = layer(torch.randn(batch, queries, 8), torch.rand(batch, queries, 2, 4), memory, shapes)
    assert result.shape == (batch, queries, 8)
    result.sum().backward()
    assert memory.grad.shape == memory.shape
    assert not memory.grad.any()


def test_a_place_that_is_not_finite_reads_nothing():
    values = torch.rand(1, 6, 1, 4, requires_grad=True)
    places = torch.tensor([math.nan, math.inf, -math.inf]).view(1, 3, 1, 1, 1, 1).expand(-1, -1, -1, -1, -1, 2)
    read = read_points(values, [(2, 3)], Points(places, torch.ones(1, 3, 1, 1, 1)))
    read.sum().backward()
    assert not read.any()
    assert not values.grad.any()
