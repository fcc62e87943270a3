"""Attention-guided sampling of the box loss: its formula, what it moves, and what it leaves alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.heads.heatmap import HeatmapHead, HeatmapRaw, attention
from headway.types import Target

CLASSES = 3


def head(ags: Any) -> HeatmapHead:
    """Branches of one convolution on 8 channels."""
    torch.manual_seed(0)
    return HeatmapHead(nn.Conv2d(8, CLASSES, 3, padding=1), nn.Conv2d(8, 4, 1), num_classes=CLASSES, ags=ags)


def test_attention_is_a_softmax_over_each_object():
    """q s = softmax(ln q + score) over the cells of one object, with torch's softmax; the mean of s by q is 1."""
    score, weight = torch.rand(9, generator=torch.Generator().manual_seed(0)), torch.arange(1.0, 10)
    owner = torch.tensor([2, 0, 0, 2, 2, 0, 2, 2, 4])
    factors = attention(score, owner, weight, 5, "gaussian")
    for row in (0, 2, 4):
        mine = owner == row
        share = weight[mine] / weight[mine].sum()
        torch.testing.assert_close(share * factors[mine], (share.log() + score[mine]).softmax(0))
        assert (share * factors[mine]).sum().item() == pytest.approx(1)
    assert factors[8].item() == pytest.approx(1)  # alone in its window


def test_attention_has_the_released_form():
    """sum of weight (1 - 0.1 GIoU - 0.9 GIoU s) over an object equals that of weight (1 - GIoU) (0.1 + 0.9 s)."""
    generator = torch.Generator().manual_seed(3)
    score, weight, giou = (torch.rand(20, generator=generator) for _ in range(3))
    factors = attention(score, torch.zeros(20, dtype=torch.long), weight, 1, "gaussian")
    released = (weight * (1 - 0.1 * giou - 0.9 * giou * factors)).sum()
    torch.testing.assert_close((weight * (1 - giou) * (0.1 + 0.9 * factors)).sum(), released)


def box_gradient(ags: Any, heat: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The box loss of one box in the middle, its gradient by cell [h, w], and that of the heat map."""
    heat = heat.clone().requires_grad_()
    box = torch.full((1, 4, 13, 20), 20.0).requires_grad_()
    raw = HeatmapRaw(heat, box, None, torch.tensor([[52, 80]]))
    one = Target(torch.tensor([[10.0, 6, 70, 46]]), torch.tensor([1]))
    loss = head(ags).loss(raw, [one]).terms["box"]
    gradients = torch.autograd.grad(loss, [box, heat], allow_unused=True)
    return loss.detach(), gradients[0][0].abs().sum(0), gradients[1]


def test_attention_of_a_map_that_tells_nothing_changes_nothing():
    flat = torch.full((1, CLASSES, 13, 20), -1.3)
    off, gaussian = box_gradient("off", flat), box_gradient("gaussian", flat)
    torch.testing.assert_close(gaussian[0], off[0])
    torch.testing.assert_close(gaussian[1], off[1])


def test_attention_moves_weight_to_where_the_map_is_sure():
    """A cell left of the centre, inside the window, with score 1 in a map of score 0 (in any class): its share rises,
    all others of the object fall by one factor, and by the formula."""
    heat = torch.full((1, CLASSES, 13, 20), -30.0)
    heat[0, 2, 6, 8] = 30.0
    off, gaussian, paddle = (box_gradient(ags, heat) for ags in ("off", "gaussian", "paddle"))
    inside = off[1] > 0
    ratio = gaussian[1][inside] / off[1][inside]
    sure = torch.zeros(13, 20, dtype=torch.bool).index_put((torch.tensor(6), torch.tensor(8)), torch.tensor(True))[
        inside
    ]
    assert inside[6, 8]
    assert ratio[sure] > 2
    assert ratio[~sure].max() < 1
    assert ratio[~sure].max() - ratio[~sure].min() < 1e-3
    raised, lowered = (ratio[sure].item() - 0.1) / 0.9, (ratio[~sure].mean().item() - 0.1) / 0.9
    assert raised / lowered == pytest.approx(math.e, rel=1e-3)
    assert torch.equal(paddle[0], off[0])
    assert torch.equal(paddle[1], off[1])


@pytest.mark.parametrize("ags", ["off", "paddle", "gaussian"])
def test_attention_does_not_train_the_map(ags):
    gradient = box_gradient(ags, torch.randn(1, CLASSES, 13, 20))[2]
    assert gradient is None or not gradient.any()


def test_attention_costs_nothing_in_inference():
    """No parameter and no other output."""
    plain, guided = head("off"), head("gaussian")
    assert plain.state_dict().keys() == guided.state_dict().keys()
    x, sizes = torch.randn(2, 8, 13, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([[52, 80]] * 2)
    first, second = plain([x], sizes), guided([x], sizes)
    assert torch.equal(first.heatmap, second.heatmap)
    for one, other in zip(plain.decode(first)[:3], guided.decode(second)[:3]):
        assert torch.equal(one, other)
