"""Centerness by hand."""

import torch

from headway.targets import centerness


def test_centerness_by_hand():
    """sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b)): (1,1,3,3): sqrt(1/3 * 1/3) = 1/3; centre: 1; (1,2,4,8): sqrt(1/4 *
    2/8) = 1/4; on the left side: sqrt(1e-6/4 * 1) = 5e-4."""
    distances = torch.tensor([[1.0, 1, 3, 3], [5, 7, 5, 7], [1, 2, 4, 8], [0, 3, 4, 3]])
    torch.testing.assert_close(centerness(distances), torch.tensor([1 / 3, 1, 1 / 4, 5e-4]))


def test_centerness_is_within_zero_and_one_and_finite():
    distances = torch.rand(100, 4, generator=torch.Generator().manual_seed(0)) * 50 - 5
    values = centerness(distances)
    assert torch.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 1


def test_centerness_of_nothing():
    assert centerness(torch.zeros(0, 4)).shape == (0,)
