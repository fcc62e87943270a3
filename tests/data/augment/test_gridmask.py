"""Squares taken out of a picture, and how often."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.augment.gridmask import grid_mask, rising


def test_the_mask_by_hand(monkeypatch):
    """Period 4, 2 of them kept, offsets 1 (rows) and 3 (columns): hidden are rows 1, 2, 5, 6 and columns 0, 3, 4, 7."""
    draws = iter([4, 1, 3])
    monkeypatch.setattr(torch, "randint", lambda *a: torch.tensor(next(draws)))
    image = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    masked = grid_mask(image, (100, 110, 120))
    rows, columns = torch.zeros(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)
    rows[[1, 2, 5, 6]] = True
    columns[[0, 3, 4, 7]] = True
    hidden = rows[:, None] & columns
    assert masked[:, hidden].unique(dim=1).flatten().tolist() == [100, 110, 120]
    assert (masked[:, ~hidden] == 9).all()


def test_a_quarter_is_hidden_whatever_the_picture():
    """(d - l)^2 / d^2 is 1/4 for even d and less for odd ones, down to 1/9 for 3: the mean over d in 2..199 is near 1/4
    but for what the border cuts."""
    torch.manual_seed(0)
    image = torch.full((3, 200, 300), 9, dtype=torch.uint8)
    shares = [(grid_mask(image) != 9).any(0).float().mean().item() for _ in range(300)]
    assert 0.2 < sum(shares) / 300 < 0.27
    periods = {round(share, 3) for share in shares}
    assert len(periods) > 50


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_any_size_is_masked_at_most_in_part(height, width, seed):
    torch.manual_seed(seed)
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    masked = grid_mask(image)
    assert masked.shape == image.shape
    assert masked.dtype == torch.uint8
    if min(height, width) >= 2:
        assert (masked == 9).any()
    assert (image == 9).all()


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.05), (4, 0.45), (9, 0.95), (20, 1.0)])
def test_probability_rises_with_the_epochs(epoch, expected):
    """Ten epochs, up to 1: the mean of a line over epoch e is (e + 0.5) / 10."""
    assert rising(1.0, epoch, 10) == pytest.approx(expected)
    assert rising(0.5, epoch, 10) == pytest.approx(expected / 2)
