"""Losses against torchvision's and against values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from headway import losses


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Background, any negative number, has no one."""
    return F.one_hot(labels.clamp(min=-1) + 1, classes + 1)[:, 1:].float()


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.5), (0.5, 1.0)])
def test_focal_equals_torchvision_with_its_gradient(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator) * 4
    labels = torch.randint(-2, 7, (50,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = losses.sigmoid_focal(ours, labels, alpha=alpha, gamma=gamma)
    reference = sigmoid_focal_loss(theirs, one_hot(labels, 7), alpha=alpha, gamma=gamma).sum(1)
    torch.testing.assert_close(loss, reference)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_focal_by_hand():
    """At p = 1/2 every entry is weight * (1/2)^2 * log 2: 1/4 for the right class and 3/4 for the two others, so
    7/4 * log 2 / 4; background has three others, 9/4 * log 2 / 4."""
    loss = losses.sigmoid_focal(torch.zeros(3, 3), torch.tensor([1, -1, -2]))
    expected = [7 / 16 * math.log(2), 9 / 16 * math.log(2), 9 / 16 * math.log(2)]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_focal_of_extreme_logits_is_finite_with_finite_gradient():
    """A sure and wrong answer at logit +-200 costs 200 * its weight, a sure and right one nothing."""
    logits = torch.tensor([[200.0], [-200.0], [200.0], [-200.0]], requires_grad=True)
    loss = losses.sigmoid_focal(logits, torch.tensor([0, 0, -1, -1]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 50.0, 150.0, 0.0]))
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_giou_equals_torchvision_with_its_gradient():
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(60, 2, generator=generator) * 40
    target = torch.cat([corner, corner + 5 + torch.rand(60, 2, generator=generator) * 40], 1)
    predicted = target + torch.rand(60, 4, generator=generator) * 8 - 4
    ours, theirs = predicted.clone().requires_grad_(), predicted.clone().requires_grad_()
    loss, reference = losses.giou(ours, target), generalized_box_iou_loss(theirs, target)
    torch.testing.assert_close(loss, reference)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_iou_log_by_hand():
    """(0,0,2,2) in (0,0,4,4) overlaps by 4/16, so log 4; equal boxes cost 0; disjoint ones -log 1e-6 = 13.8155."""
    predicted = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 1, 1]])
    target = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3], [5, 5, 6, 6]])
    torch.testing.assert_close(losses.iou_log(predicted, target), torch.tensor([math.log(4), 0.0, 13.815511]))


def test_l1_and_smooth_l1_by_hand():
    """Differences (1, -2, .5, 0): L1 3.5; smooth at beta 1: .5 + 1.5 + .125 + 0; at beta 2: .25 + 1 + .0625 + 0."""
    predicted, target = torch.tensor([[1.0, -2, 0.5, 0]]), torch.zeros(1, 4)
    assert losses.l1(predicted, target).tolist() == [3.5]
    assert losses.smooth_l1(predicted, target).tolist() == [2.125]
    assert losses.smooth_l1(predicted, target, beta=2).tolist() == [1.3125]


@pytest.mark.parametrize("loss", [losses.giou, losses.iou_log, losses.l1, losses.smooth_l1])
def test_box_losses_of_nothing(loss):
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_reduce_mean_in_one_process_is_the_value_itself():
    value = torch.tensor(3.0)
    assert losses.reduce_mean(value) is value


def test_multilabel_bce_by_hand():
    """At p = 1/2 every tag costs log 2, whatever it should be; at p = 3/4 (logit log 3) the right answer costs
    log 4/3 and the wrong one log 4: the mean of both is (log 4/3 + log 4) / 2."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])
    loss = losses.multilabel_bce(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), (math.log(4 / 3) + math.log(4)) / 2]))
    assert losses.multilabel_bce(logits[:, :1], torch.ones(2, 1)).shape == (2,)


def test_identity_contrast_by_hand():
    """Two objects, each in two pictures, at right angles to each other, temperature 1: for every row the positive has
    s = 1 and each of the other object's two rows s = 0, so the loss is -(1 - log(e + 2))."""
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    ids, pictures = torch.tensor([7, 9, 7, 9]), torch.tensor([0, 0, 1, 1])
    loss, paired = losses.identity_contrast(embeddings, ids, pictures, temperature=1.0)
    torch.testing.assert_close(loss, torch.full((4,), math.log(math.e + 2) - 1))
    assert paired.all()


def test_identity_contrast_leaves_out_the_same_object_in_the_same_picture():
    """A second cell of object 7 in picture 0 changes nothing for the first, and is one more positive for picture 1's:
    there two positives of s = 1 and two negatives of s = 0 give log(2e + 2) - 1."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    ids, pictures = torch.tensor([7, 7, 9, 7, 9]), torch.tensor([0, 0, 0, 1, 1])
    loss, _ = losses.identity_contrast(embeddings, ids, pictures, temperature=1.0)
    torch.testing.assert_close(loss[:2], torch.full((2,), math.log(math.e + 2) - 1))
    torch.testing.assert_close(loss[3], torch.tensor(math.log(2 * math.e + 2) - 1))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_identity_contrast_without_pairs_is_zero_with_a_gradient_of_zero(count):
    embeddings = torch.randn(count, 4, requires_grad=True)
    same = torch.zeros(count, dtype=torch.int64)
    loss, paired = losses.identity_contrast(embeddings, same, same, temperature=0.01)
    assert not paired.any()
    assert (loss == 0).all()
    loss.sum().backward()
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize(("rows", "classes"), [(5001, 80), (7, 1), (0, 5)])
@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.0])
def test_focal_loss_in_chunks_is_that_of_the_plain_form(rows, classes, gamma):
    """Values to the bit, over more than one chunk; the gradient to rounding."""
    torch.manual_seed(0)
    logits = (torch.randn(rows, classes) * 4).requires_grad_()
    labels = torch.randint(-2, classes, (rows,))
    found = losses.sigmoid_focal(logits, labels, gamma=gamma)
    against = torch.where(labels[:, None] == torch.arange(classes), -logits, logits)
    weight = torch.where(labels[:, None] == torch.arange(classes), 0.25, 0.75) * against.sigmoid().pow(gamma)
    expected = (F.softplus(against) * weight).sum(1)
    assert torch.equal(found, expected)
    without_gradient = losses.sigmoid_focal(logits.detach(), labels, gamma=gamma)
    assert torch.equal(without_gradient, expected)
    scale = torch.rand(rows)
    ours, theirs = (torch.autograd.grad((loss * scale).sum(), logits)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_focal_loss_of_half_precision_is_the_same_with_and_without_gradient():
    """Failed before: the sum over classes was rounded to bfloat16 where a gradient was asked for."""
    torch.manual_seed(0)
    logits, labels = (torch.randn(100, 80) * 4).bfloat16(), torch.randint(-2, 80, (100,))
    found = losses.sigmoid_focal(logits.requires_grad_(), labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, losses.sigmoid_focal(logits.detach(), labels))


def test_focal_loss_has_the_gradient_of_differences():
    torch.manual_seed(0)
    logits = (torch.randn(6, 4, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.tensor([0, -1, 3, -2, 1, 2])
    assert torch.autograd.gradcheck(lambda x: losses.sigmoid_focal(x, labels, gamma=1.5), logits)
