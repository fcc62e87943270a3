"""The contract of every two-stage model: padded proposals, sampling, losses, gradients, stages, files and export.

Models on ResNet-18 run for real, narrowed; the published sizes are counted.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.assign import IGNORE, NEGATIVE
from headway.boxes import pairwise_iou
from headway.detector import Detector
from headway.heads.two_stage import Regions
from headway.select import select, select_padded
from headway.types import Target

NAMES = [name for name in headway.list_models("r18") if "rcnn" in name]
CLASSES = 3
STRIDES = (8, 16, 32)
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


@pytest.fixture(scope="module", params=NAMES)
def model(request) -> Detector:
    return make(request.param)


@pytest.fixture(scope="module")
def cascade() -> Detector:
    return make("cascade_rcnn_r18_fpn", rpn_samples=None, roi_samples=None)


def images_of(count: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def target(boxes, labels=None, crowd=None) -> Target:
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, labels, None if crowd is None else torch.tensor(crowd))


def test_all_forms_are_here():
    forms = ("", "_dconv", "_mdconv", "_dyhead", "_dyhead_roi")
    assert sorted(NAMES) == sorted(f"{f}_rcnn_r18_fpn{form}" for f in ("faster", "cascade") for form in forms)


# -------------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 64)])
def test_shapes_at_any_input_size(model, size):
    with torch.no_grad():
        raw = model(images_of(2, *size))
        candidates = model.decode(raw)
    cells = [-(-size[0] // s) * -(-size[1] // s) for s in (*STRIDES, 64)]
    assert raw.rpn.priors.level_sizes == tuple(3 * c for c in cells)
    assert raw.rpn.cls.shape == (2, 3 * sum(cells))
    assert raw.rpn.box.shape == (2, 3 * sum(cells), 4)
    count = min(300, sum(min(300, 3 * c) for c in cells))
    agnostic = model.card.model.startswith("cascade")
    assert len(raw.stages) == (3 if agnostic else 1)
    for stage in raw.stages:
        assert stage.regions.rois.shape == (2, count, 4)
        assert stage.regions.valid.shape == (2, count)
        assert stage.regions.matched is None
        assert stage.cls.shape == (2, count, CLASSES + 1)
        assert stage.box.shape == (2, count, 4 if agnostic else 4 * CLASSES)
    assert candidates.boxes.shape == (2, count * CLASSES, 4)
    assert candidates.scores.shape == candidates.labels.shape == (2, count * CLASSES)
    assert candidates.boxes.min() >= 0
    assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()


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


@pytest.mark.parametrize(
    ("name", "arguments", "total", "trainable"),
    [
        ("faster_rcnn_r50_fpn", {}, 41_753_056, 41_753_056),
        ("faster_rcnn_r50_fpn", {"frozen_stages": 1}, 41_753_056, 41_527_712),
        ("faster_rcnn_r101_fpn", {}, 60_745_184, 60_745_184),
        ("cascade_rcnn_r50_fpn", {"frozen_stages": 1}, 69_394_766, 69_169_422),
        ("cascade_rcnn_r101_fpn", {}, 88_386_894, 88_386_894),
        ("faster_rcnn_r50_fpn_dconv", {}, 42_333_898, 42_333_898),
        ("faster_rcnn_r50_fpn_mdconv", {}, 42_624_319, 42_624_319),
        ("faster_rcnn_r101_fpn_dconv", {}, 60_745_184 + 1_286_172, 60_745_184 + 1_286_172),
    ],
)
def test_published_parameter_counts(name, arguments, total, trainable):
    with torch.device("meta"):
        parameters = list(headway.create_model(name, **arguments).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trainable


# ------------------------------------------------------------------------------------------------------ training
MANY = [[i % 150, i % 90, i % 150 + 5 + i % 40, i % 90 + 4 + i % 30] for i in range(500)]
TARGETS: dict[str, Callable[[], list[Target]]] = {
    "none": lambda: [target([]), target([])],
    "one": lambda: [target([[10, 20, 60, 80]]), target([])],
    "whole": lambda: [target([[0, 0, 160, 96]]), target([[0, 0, 160, 96]])],
    "500": lambda: [target(MANY), target([[10, 20, 60, 80]])],
    "crowd only": lambda: [target([[10, 20, 60, 80]], crowd=[True]), target([[0, 0, 160, 96]], crowd=[True])],
    "half a pixel and no area": lambda: [target([[10, 20, 10.5, 20.5]]), target([[30, 30, 30, 60]])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_losses_and_gradients_are_finite(model, case):
    targets = TARGETS[case]()
    losses = model.loss(model(images_of(2), targets=targets), targets)
    assert torch.isfinite(torch.stack(list(losses.terms.values()))).all()
    assert not any(value.requires_grad for value in losses.stats.values())
    if case in ("none", "crowd only"):
        boxes = [value for name, value in losses.terms.items() if "box" in name]
        assert len(boxes) == 1 + len(model.head.stages)
        assert not any(boxes)
        assert all(value > 0 for name, value in losses.terms.items() if "cls" in name)
        assert all(value == 0 for value in losses.stats.values())
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_crowds_take_no_part():
    model = make("cascade_rcnn_r18_fpn", rpn_samples=None, roi_samples=None)
    plain = [target([[10, 20, 60, 80]])]
    crowded = [target([[50, 0, 150, 90], [10, 20, 60, 80]], labels=[2, 0], crowd=[True, False])]
    with torch.no_grad():
        expected = model.loss(model(images_of(1), targets=plain), plain)
        found = model.loss(model(images_of(1), targets=crowded), crowded)
    assert {k: v.item() for k, v in expected.terms.items()} == {k: v.item() for k, v in found.terms.items()}


def test_every_parameter_gets_a_gradient(model):
    """With boxes at many places and sizes, so that regions are pooled from every level."""
    boxes = [[x, x, x + side, x + side] for side in (20, 60, 130, 260, 400) for x in range(0, 640 - side + 1, 60)]
    truth = [target(boxes)]
    model.zero_grad()
    model.loss(model(images_of(1, 640, 640), targets=truth), truth).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert without == []


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
        options = cascade.head.options
        for averaging, expected in (
            ("logits", logits.mean(0).softmax(-1)),
            ("probabilities", logits.softmax(-1).mean(0)),
        ):
            cascade.head.options = options._replace(averaging=averaging)
            scores = cascade.decode(raw).scores.view(-1, CLASSES)
            solid = valid & (scores > 0).any(1)
            torch.testing.assert_close(scores[solid], expected[solid, :CLASSES])
    cascade.head.options = options


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


# --------------------------------------------------------------------------------------------- batches and files
def test_a_batch_of_two_equals_two_batches_of_one(model):
    images = images_of(2)
    both = model.detect(images, score_threshold=0.05)
    for i in range(2):
        (single,) = model.detect(images[i : i + 1], score_threshold=0.05)
        assert abs(len(single) - len(both[i])) <= 1
        count = min(20, len(single))
        torch.testing.assert_close(both[i].scores[:count], single.scores[:count], rtol=1e-3, atol=1e-4)


def test_boxes_are_clipped_to_the_valid_part_of_each_image(model):
    with torch.no_grad():
        candidates = model.decode(model(images_of(2), torch.tensor([[96, 160], [64, 100]])))
    assert candidates.boxes[0, :, 2].max() > 100
    assert candidates.boxes[1, :, 2].max() <= 100
    assert candidates.boxes[1, :, 3].max() <= 64


def test_the_mode_changes_no_return_type_and_detect_equals_forward_decode_and_select(model):
    images = images_of(1)
    with torch.no_grad():
        (expected,) = select(model.decode(model(images)), class_threshold=0.01, nms_iou=model.card.nms_iou)
    (found,) = model.detect(images)
    assert abs(len(found) - len(expected)) <= 1
    torch.testing.assert_close(found.scores[:20], expected.scores[:20], rtol=1e-3, atol=1e-4)
    assert type(model.train()(images)) is type(model.eval()(images))


def test_checkpoint_round_trip(model, tmp_path):
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    with torch.no_grad():
        ours, theirs = model(images_of(1)), again(images_of(1))
    assert torch.equal(ours.stages[-1].cls, theirs.stages[-1].cls)
    assert torch.equal(ours.stages[-1].regions.rois, theirs.stages[-1].regions.rois)
    assert again.card.to_dict() == model.card.to_dict()


class Exportable(nn.Module):
    """From pixels to final detections as one graph: proposals and both suppressions included."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidates = self.model.decode(self.model(images, sizes))
        return tuple(select_padded(candidates, score_threshold=0.05, nms_iou=0.5))


def test_export_gives_the_same_detections(model):
    """On another picture than the graph was made with: as many detections as `detect`, each with its partner."""
    sizes = torch.tensor([[96, 160]])
    with torch.no_grad():
        program = torch.export.export(Exportable(model), (images_of(1), sizes))
        boxes, scores, labels = (x[0] for x in program.module()(images_of(1, seed=1), sizes))
        (expected,) = select(model.decode(model(images_of(1, seed=1), sizes)), score_threshold=0.05, nms_iou=0.5)
    found = scores > 0
    assert abs(int(found.sum()) - len(expected)) <= 1
    assert len(expected) >= 10
    rows = [
        torch.cat([b, s[:, None] * 1000, c[:, None] * 1000.0], 1)
        for b, s, c in (
            (boxes[found], scores[found], labels[found]),
            (expected.boxes, expected.scores, expected.labels),
        )
    ]
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values > 0.1).sum() <= 1
    assert (distance.min(0).values > 0.1).sum() <= 1
