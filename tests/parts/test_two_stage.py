"""What is of two-stage heads alone: padded proposals, sampling, and the stages of a cascade."""

from functools import partial

import grid
import pytest
import torch
from grid import target
from torch import nn

import headway
from headway.assign import IGNORE, NEGATIVE
from headway.boxes import pairwise_iou
from headway.detector import Detector
from headway.heads.two_stage import Regions

CLASSES = grid.CLASSES
STRIDES = (8, 16, 32)
images_of = partial(grid.images_of, size=(96, 160))
SMALL = {"num_classes": CLASSES, "channels": 32, "hidden": 48}


def make(name: str, **arguments) -> Detector:
    """Everything that starts at zero is moved off it and the outputs are spread, so that no gradient vanishes and few
    scores tie."""
    torch.manual_seed(0)
    model = headway.create_model(name, **{**SMALL, **arguments}).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        if name.endswith("gate.bias"):  # a scale gate lies behind a ReLU
            nn.init.constant_(parameter, 0.1)
    for layer in (model.head.rpn.cls, *(head.cls for head in model.head.heads)):
        nn.init.normal_(layer.weight, std=0.3)
    for layer in (model.head.rpn.box, *(head.box for head in model.head.heads)):
        nn.init.normal_(layer.weight, std=0.05)
        nn.init.normal_(layer.bias, std=0.05)
    return model


@pytest.fixture(scope="module", params=["faster_rcnn_r18_fpn", "cascade_rcnn_r18_fpn"])
def model(request) -> Detector:
    return make(request.param)


@pytest.fixture(scope="module")
def cascade() -> Detector:
    return make("cascade_rcnn_r18_fpn", rpn_samples=None, roi_samples=None)


# -------------------------------------------------------------------------------------------------------- shapes


def test_padding_is_no_detection(model):
    """Where suppression leaves fewer proposals than there is room for."""
    rpn = model.head.rpn
    with torch.no_grad():
        features = model.neck(model.backbone(model.normalize(images_of(1))))
        sizes = model.full_sizes(images_of(1))
        raw = rpn(features, sizes)
        same = raw._replace(box=torch.zeros_like(raw.box), cls=raw.cls)
        boxes = raw.priors.boxes.clone()
        boxes[:] = torch.tensor([10.0, 10.0, 60.0, 60.0])
        proposals = rpn.propose(same._replace(priors=raw.priors._replace(boxes=boxes)), training=False)
        assert proposals.valid.sum() == len(raw.priors.level_sizes)  # one a level, since levels do not suppress
        stages = model.head.refine(features, proposals.boxes, proposals.valid, sizes)
        candidates = model.decode(type(model(images_of(1)))(raw, stages, sizes))
    scores = candidates.scores.view(1, -1, CLASSES)
    assert (scores[~proposals.valid] == 0).all()
    assert (scores[proposals.valid] > 0).any()


# ------------------------------------------------------------------------------------------------------ training
MANY = [[i % 150, i % 90, i % 150 + 5 + i % 40, i % 90 + 4 + i % 30] for i in range(500)]


def test_a_loss_without_targets_in_forward_says_what_to_do(model):
    with pytest.raises(ValueError, match="call the model with targets"):
        model.loss(model(images_of(1)), [target([[10, 20, 60, 80]])])


def test_sampling_is_bounded_balanced_and_repeats_under_a_seed():
    model = make("faster_rcnn_r18_fpn", rpn_samples=64, roi_samples=32)
    truth = [target(MANY[:60]), target([])]
    torch.manual_seed(1)
    first = model(images_of(2), targets=truth)
    torch.manual_seed(1)
    again = model(images_of(2), targets=truth)
    other = model(images_of(2), targets=truth)
    assert torch.equal(first.rpn.matched, again.rpn.matched)
    assert torch.equal(first.stages[0].regions.rois, again.stages[0].regions.rois)
    assert not torch.equal(first.rpn.matched, other.rpn.matched)
    rpn, regions = first.rpn.matched, first.stages[0].regions
    assert (rpn != IGNORE).sum(1).tolist() == [64, 64]
    there_are = int((model.head.rpn.assign(first.rpn.priors, truth[0].boxes) >= 0).sum())
    assert int((rpn[0] >= 0).sum()) == min(32, there_are) > 16
    assert int((rpn[1] >= 0).sum()) == 0
    assert regions.valid.sum(1).tolist() == [32, 32]
    assert int((regions.matched[0] >= 0).sum()) == 8
    assert int((regions.matched[1] == NEGATIVE).sum()) == 32


def test_regions_and_their_ground_truth_agree(model):
    """Every positive region overlaps its box at its stage's threshold, every negative one overlaps none so much."""
    truth = target([[8, 6, 60, 50], [70, 20, 150, 90], [20, 60, 44, 84]])
    raw = model(images_of(1), targets=[truth])
    for stage, number in zip(raw.stages, model.head.stages):
        overlap = pairwise_iou(stage.regions.rois[0], truth.boxes)
        matched = stage.regions.matched[0]
        positive = matched >= 0
        assert positive.sum() >= 3  # the ground truths themselves
        assert (overlap[positive].gather(1, matched[positive, None]) >= number.positive_iou - 1e-6).all()
        assert (overlap[matched == NEGATIVE].amax(1) < number.positive_iou).all()


# -------------------------------------------------------------------------------------------------------- stages
def test_a_cascade_of_one_stage_is_faster_rcnn():
    """Built from Cascade R-CNN's own arguments; that Faster R-CNN is what it should be, the recordings show."""
    faster = make("faster_rcnn_r18_fpn", rpn_samples=None, roi_samples=None)
    cascade = headway.create_model(
        "cascade_rcnn_r18_fpn", **SMALL, ious=(0.5,), stds=((0.1, 0.1, 0.2, 0.2),), stage_weights=(1.0,),
        class_agnostic=False, box_loss="l1", rpn_beta=0.0, rpn_border=None, proposals=(300, 300),
        rpn_samples=None, roi_samples=None,
    ).eval()  # fmt: skip
    cascade.load_state_dict(faster.state_dict())
    truth = [target([[8, 6, 60, 50], [70, 20, 150, 90]])]
    ours, theirs = (m.loss(m(images_of(1), targets=truth), truth) for m in (faster, cascade))
    assert ours.terms.keys() == theirs.terms.keys() == {"rpn_cls", "rpn_box", "cls", "box"}
    assert all(torch.equal(value, theirs.terms[name]) for name, value in ours.terms.items())
    (a,), (b,) = faster.detect(images_of(1)), cascade.detect(images_of(1))
    assert len(a) > 10
    assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(a.scores, b.scores)


def test_zero_codes_leave_the_boxes_where_they_are(cascade):
    model = make("cascade_rcnn_r18_fpn")
    for head in model.head.heads:
        nn.init.zeros_(head.box.weight)
        nn.init.zeros_(head.box.bias)
    with torch.no_grad():
        raw = model(images_of(1))
    for stage in raw.stages[1:]:
        torch.testing.assert_close(stage.regions.rois, raw.stages[0].regions.rois, rtol=0, atol=1e-4)


def test_a_stage_takes_the_detached_boxes_of_the_one_before(cascade):
    raw = cascade(images_of(1))
    for number, (stage, after) in enumerate(zip(raw.stages, raw.stages[1:])):
        coder = cascade.head.stages[number].coder
        boxes = coder.decode(stage.regions.rois, stage.box).clamp(min=0).minimum(torch.tensor([160.0, 96.0] * 2))
        assert boxes.requires_grad
        torch.testing.assert_close(after.regions.rois, boxes)
        assert not after.regions.rois.requires_grad


def test_the_mean_is_of_logits_or_of_probabilities(cascade):
    with torch.no_grad():
        raw = cascade(images_of(1))
        logits = torch.stack([stage.cls[0] for stage in raw.stages])
        valid = raw.stages[-1].regions.valid[0]
        for averaging, expected in (
            ("logits", logits.mean(0).softmax(-1)),
            ("probabilities", logits.softmax(-1).mean(0)),
        ):
            cascade.head.options = cascade.head.options._replace(averaging=averaging)
            scores = cascade.decode(raw).scores.view(-1, CLASSES)
            solid = valid & (scores > 0).any(1)
            torch.testing.assert_close(scores[solid], expected[solid, :CLASSES])
    cascade.head.options = cascade.head.options._replace(averaging="logits")


def test_boxes_per_class_are_refined_by_the_class_of_the_region():
    """The class that scores best, and for a region with a ground truth, that one's."""
    model = make("cascade_rcnn_r18_fpn", class_agnostic=False)
    truth = [target([[10, 20, 60, 80]], labels=[1])]
    rois = torch.tensor([[[12.0, 22.0, 58.0, 79.0], [100.0, 10.0, 150.0, 40.0]]])
    with torch.no_grad():
        features = model.neck(model.backbone(model.normalize(images_of(1))))
        sizes = torch.tensor([[96, 160]])
        raw = model.head.look(features, Regions(rois, torch.ones(1, 2, dtype=torch.bool)), 0)
        box = torch.zeros_like(raw.box).unflatten(-1, (CLASSES, 4))
        box[0, :, :, 0] = torch.tensor([0.0, 1.0, 2.0])  # class k moves by k tenths of the width
        cls = torch.zeros_like(raw.cls)
        cls[..., 2] = 5
        raw = raw._replace(box=box.flatten(2), cls=cls)
        free = model.head.advance(raw, 0, sizes).rois[0]
        torch.testing.assert_close(free[:, 0] - rois[0, :, 0], torch.tensor([0.2 * 46, 0.2 * 50]))
        matched = torch.tensor([[0, NEGATIVE]])
        known = raw._replace(regions=raw.regions._replace(matched=matched, truth=torch.zeros(1, 2, dtype=torch.bool)))
        taught = model.head.advance(known, 0, sizes, truth).rois[0]
        torch.testing.assert_close(taught[:, 0] - rois[0, :, 0], torch.tensor([0.1 * 46, 0.2 * 50]))


def test_stages_without_resampling_keep_their_regions():
    """detectron2's way: the first stage's sample goes through all stages, without new ground truths."""
    model = make("cascade_rcnn_r18_fpn", resample=False, roi_samples=24)
    truth = [target([[8, 6, 60, 50], [70, 20, 150, 90]])]
    raw = model(images_of(1), targets=truth)
    assert [stage.regions.rois.shape[1] for stage in raw.stages] == [24, 24, 24]
    assert [bool(stage.regions.truth.any()) for stage in raw.stages] == [True, False, False]
    refined = model.head.advance(raw.stages[0], 0, raw.sizes, truth)
    torch.testing.assert_close(raw.stages[1].regions.rois, refined.rois)
    assert torch.isfinite(model.loss(raw, truth).total)


def test_the_gradient_from_the_stages_to_the_pyramid_can_be_scaled():
    truth = [target([[8, 6, 60, 50]])]
    norms = []
    for factor in (1.0, 0.25):
        model = make("cascade_rcnn_r18_fpn", rpn_samples=None, roi_samples=None, pool_gradient=factor)
        raw = model(images_of(1), targets=truth)
        losses = model.loss(raw, truth)
        sum(v for k, v in losses.terms.items() if "rpn" not in k).backward()
        norms.append(
            (model.neck.outputs[0].weight.grad.norm().item(), model.head.heads[0].cls.weight.grad.norm().item())
        )
    assert norms[1][0] == pytest.approx(0.25 * norms[0][0], rel=1e-4)
    assert norms[1][1] == pytest.approx(norms[0][1], rel=1e-5)


@pytest.mark.parametrize("arguments", [{"ious": (0.5, 0.6)}, {"ious": (0.5, 0.6, 1.0)}, {"stage_weights": ()}])
def test_stages_that_do_not_fit_together_are_refused(arguments):
    with pytest.raises(headway.errors.HeadwayError, match=r"one entry per stage|between 0 and 1"):
        headway.create_model("cascade_rcnn_r18_fpn", **arguments)


def test_any_number_of_stages():
    five = {
        "ious": (0.4, 0.5, 0.6, 0.7, 0.8),
        "stds": ((0.1, 0.1, 0.2, 0.2),) * 5,
        "stage_weights": (1.0, 0.5, 0.5, 0.25, 0.1),
    }
    model = make("cascade_rcnn_r18_fpn", **five)
    truth = [target([[8, 6, 60, 50]])]
    losses = model.loss(model(images_of(1), targets=truth), truth)
    assert {f"cls{i}" for i in range(1, 6)} <= set(losses.terms)


@pytest.mark.parametrize(
    "arguments", [{"box_loss": "giou", "box_weight": 10.0}, {"box_convs": 2, "box_fcs": 1, "box_norm": "batch"}]
)
def test_other_losses_and_heads_train(arguments):
    model = make("cascade_rcnn_r18_fpn", **arguments)
    truth = [target([[8, 6, 60, 50], [70, 20, 150, 90]])]
    losses = model.loss(model(images_of(1), targets=truth), truth)
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.head.parameters() if p.grad is not None)
    if "box_loss" in arguments:
        assert 0 < losses.terms["box1"] < 20


def test_the_paper_form_has_task_attention_on_regions_and_none_on_the_pyramid():
    roi, pyramid = make("faster_rcnn_r18_fpn_dyhead_roi"), make("faster_rcnn_r18_fpn_dyhead")
    kinds = [[type(m).__name__ for m in part.modules()] for part in (roi.neck, roi.head, pyramid.neck, pyramid.head)]
    assert ["DyReLU" in names for names in kinds] == [False, True, True, False]
    assert ["ScaleAttention" in names for names in kinds] == [True, False, True, False]
    assert "Linear" in kinds[1]
    assert len(roi.head.heads[0].tasks) == 2
