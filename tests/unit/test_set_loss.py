"""The matching against all permutations, costs and losses of set prediction against values worked out by hand."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from headway.assign import NEGATIVE, hungarian
from headway.heads.set_loss import SetWeights, match_sets, set_cost, set_losses
from headway.types import Target


# ------------------------------------------------------------------------------------------------------ matching
@pytest.mark.parametrize(("queries", "objects"), [(5, 3), (3, 5), (4, 4), (1, 1)])
def test_no_permutation_costs_less(queries, objects):
    cost = torch.randn(queries, objects, generator=torch.Generator().manual_seed(queries * 7 + objects))
    matched = hungarian(cost)
    used = matched[matched != NEGATIVE].tolist()
    assert len(used) == len(set(used)) == min(queries, objects)
    total = sum(cost[q, m].item() for q, m in enumerate(matched.tolist()) if m != NEGATIVE)
    many, few = (cost, False) if queries >= objects else (cost.T, True)
    assert few == (queries < objects)
    every = (
        sum(many[row, column].item() for column, row in enumerate(rows))
        for rows in itertools.permutations(range(many.shape[0]), many.shape[1])
    )
    assert total == pytest.approx(min(every), abs=1e-5)


def test_without_objects_nothing_is_matched():
    assert hungarian(torch.zeros(4, 0)).tolist() == [NEGATIVE] * 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cost_must_be_finite(value):
    cost = torch.zeros(3, 2)
    cost[1, 0] = value
    with pytest.raises(ValueError, match=r"\(3, 2\) \(queries, objects\) must be finite, but 1 entries"):
        hungarian(cost)


def test_every_layer_is_matched_by_itself():
    """Two queries, two objects of class 0; the boxes of the second layer are those of the first exchanged."""
    truth = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]])
    box = torch.stack([truth, truth.flip(0)])[:, None]
    labels = [torch.tensor([0, 0])]
    matched = match_sets(torch.zeros(2, 1, 2, 2), box, labels, [truth], SetWeights(), "softmax")
    assert matched.tolist() == [[[0, 1]], [[1, 0]]]


# ---------------------------------------------------------------------------------------------------------- cost
def test_cost_by_hand():
    """Probabilities 1/4 and 3/4; boxes of equal size side by side: L1 0.2, IoU 0, hull 0.4 x 0.2 and union the same, so
    GIoU 0. Costs 1, 5 and 2: -3/4 + 5 * 0.2 - 0."""
    logits = torch.tensor([[0.0, math.log(3.0)]])
    box, truth = torch.tensor([[0.3, 0.5, 0.2, 0.2]]), torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert set_cost(logits, box, torch.tensor([1]), truth, SetWeights()).item() == pytest.approx(-0.75 + 1.0, abs=1e-6)


def test_focal_cost_by_hand():
    """At logit 0: 0.25 * (1/2)^2 ln 2 - 0.75 * (1/2)^2 ln 2 = -ln 2 / 8, times 2."""
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    cost = set_cost(torch.zeros(1, 3), box, torch.tensor([2]), box, SetWeights(2.0, 5.0, 0.0), "sigmoid")
    assert cost.item() == pytest.approx(-math.log(2) / 4)


def test_overlap_of_boxes_of_a_pixel_counts():
    """Equal boxes of a millionth of the image have GIoU 1, which is -2 of the cost."""
    box = torch.tensor([[0.5, 0.5, 1e-3, 1e-3]])
    cost = set_cost(torch.zeros(1, 1), box, torch.tensor([0]), box, SetWeights(0.0, 5.0, 2.0))
    assert cost.item() == pytest.approx(-2.0, abs=1e-4)


# -------------------------------------------------------------------------------------------------------- losses
def target(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None) -> Target:
    return Target(
        torch.tensor(boxes).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        None if crowd is None else torch.tensor(crowd),
    )


def outputs(layers: int = 2, images: int = 2, queries: int = 3, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cls = torch.randn(layers, images, queries, width, generator=generator)
    return cls.requires_grad_(), torch.rand(layers, images, queries, 4, generator=generator).requires_grad_()


SIZES = torch.tensor([[100, 200], [100, 100]])


def test_losses_by_hand():
    """One image of 100 x 200, one query right on the object but for a shift by 20 pixels, one without object; all
    logits 0 over two classes and "no object". Cross-entropy ln 3 for both, so their weighted mean is ln 3. L1 is
    20 / 200 times 5. The boxes are 40 wide: they share half, IoU 1 / 3, and the hull is the union: GIoU 1 / 3."""
    box = torch.tensor([[0.3, 0.5, 0.2, 0.4], [0.9, 0.9, 0.1, 0.1]])[None, None]
    losses = set_losses(torch.zeros(1, 1, 2, 3), box, SIZES[:1], [target([[60, 30, 100, 70]], [1])])
    assert set(losses.terms) == {"cls", "box", "giou"}
    assert losses.terms["cls"].item() == pytest.approx(math.log(3))
    assert losses.terms["box"].item() == pytest.approx(5 * 0.1, rel=1e-5)
    assert losses.terms["giou"].item() == pytest.approx(2 * (1 - 1 / 3), rel=1e-5)
    assert losses.stats["positives"] == 1
    assert losses.stats["class_error"] == 1  # class 0 comes first among equals


def test_no_object_weighs_less():
    """Cross-entropies ln 2 of the match and ln 4 of the other query: (ln 2 + 0.1 ln 4) / 1.1."""
    cls = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))[None, None]
    box = torch.tensor([[0.4, 0.5, 0.2, 0.4], [0.9, 0.9, 0.1, 0.1]])[None, None]
    losses = set_losses(cls, box, SIZES[:1], [target([[60, 30, 100, 70]], [0])])
    assert losses.terms["cls"].item() == pytest.approx((math.log(2) + 0.1 * math.log(4)) / 1.1, rel=1e-5)
    assert losses.stats["class_error"] == 0


def test_focal_is_divided_by_the_objects():
    """Logits 0: of the two classes the right one has 0.25 / 4 ln 2, the other and both of the query without object
    0.75 / 4 ln 2 each; one object, weight 2."""
    box = torch.tensor([[0.4, 0.5, 0.2, 0.4], [0.9, 0.9, 0.1, 0.1]])[None, None]
    one = [target([[60, 30, 100, 70]], [0])]
    losses = set_losses(torch.zeros(1, 1, 2, 2), box, SIZES[:1], one, scores="sigmoid", weights=SetWeights(2.0))
    assert losses.terms["cls"].item() == pytest.approx(2 * (0.25 + 3 * 0.75) / 4 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("objects", ["none", "crowd", "one image", "more than queries"])
def test_finite_with_any_number_of_objects(scores, objects):
    cls, box = outputs()
    empty = target([], [])
    many = target([[i, i, i + 20.0, i + 10] for i in range(5)], [i % 2 for i in range(5)])
    targets = {
        "none": [empty, empty],
        "crowd": [target([[0, 0, 10, 10]], [0], [True]), empty],
        "one image": [empty, target([[5, 5, 5, 5], [0, 0, 100, 100]], [1, 0])],  # one without area
        "more than queries": [many, empty],
    }[objects]
    losses = set_losses(cls, box, SIZES, targets, scores=scores)
    assert list(losses.terms) == ["cls", "box", "giou", "cls_0", "box_0", "giou_0"]
    losses.total.backward()
    assert losses.total.isfinite()
    assert cls.grad.isfinite().all()
    assert box.grad.isfinite().all()
    found = {"none": 0, "crowd": 0, "one image": 2, "more than queries": 3}[objects]
    assert int((box.grad[-1].abs().sum(-1) > 0).sum()) == found
    assert losses.stats["positives"] == (0, 2.5, 1)[("more" in objects) + 2 * (objects == "one image")]


def test_a_layer_does_not_see_the_others():
    """The terms of a layer among others are those of the layer alone."""
    cls, box = outputs()
    targets = [target([[10, 20, 60, 80], [100, 10, 180, 90]], [0, 1]), target([[5, 5, 50, 60]], [1])]
    both = set_losses(cls, box, SIZES, targets).terms
    first = set_losses(cls[:1], box[:1], SIZES, targets).terms
    for kind in ("cls", "box", "giou"):
        torch.testing.assert_close(both[f"{kind}_0"], first[kind])
