"""EfficientDet-D0 to D2 against effdet, which carries the authors' checkpoints: same weights, same answers."""

from functools import cache

import pytest
import torch
from effdet.anchors import Anchors
from effdet_models import build, maps, ours, pictures, predict_bench, train_bench
from torch import Tensor, nn

from headway.assign import max_iou
from headway.detector import Detector
from headway.types import Target

SIZE = (128, 256)
SIZES = ("d0", "d1", "d2")


@cache
def pair(size: str) -> tuple[nn.Module, Detector]:
    theirs = build(size, SIZE)
    return theirs, ours(f"efficientdet_{size}.effdet", theirs)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


# -------------------------------------------------------------------------------------------------------- forward
@pytest.mark.parametrize("size", SIZES)
def test_outputs(size):
    theirs, model = pair(size)
    images = pictures(2, SIZE)
    with torch.no_grad():
        classes, boxes = maps(theirs(images))
        raw = model(images)
    assert classes.std() > 0.5
    assert boxes.std() > 0.2
    close(raw.cls, classes)
    close(raw.box, boxes)
    assert torch.equal(raw.priors.boxes, Anchors.from_config(theirs.config).boxes[:, [1, 0, 3, 2]])


@pytest.mark.parametrize(
    "changes",
    [
        {"fpn_name": "bifpn_fa"},
        {"fpn_name": "bifpn_attn"},
        {"fpn_name": "bifpn_sum"},
        {"fpn_name": "bifpn_fa", "max_level": 8, "num_levels": 6},
        {"fpn_name": "bifpn_fa", "redundant_bias": False, "pad_type": ""},
    ],
)
def test_every_fusion_at_sizes_that_no_stride_divides(changes):
    size = (131, 141)
    theirs = build("d0", size, backbone_name="tf_efficientnet_lite0", backbone_args={}, **changes)
    fusion = {"bifpn_fa": "fast", "bifpn_attn": "softmax", "bifpn_sum": "sum"}[changes["fpn_name"]]
    bias = changes.get("redundant_bias", True)
    model = ours(
        "efficientdet_d0", theirs, num_classes=90, backbone="tf_efficientnet_lite0", fusion=fusion,
        levels=changes.get("num_levels", 5), bias=bias, symmetric=not bias,
    )  # fmt: skip
    images = pictures(1, size)
    with torch.no_grad():
        classes, boxes = maps(theirs(images))
        raw = model(images)
    close(raw.cls, classes)
    close(raw.box, boxes)


def test_outputs_and_statistics_in_training_mode():
    """With the same seed stochastic depth drops the same blocks."""
    theirs = build("d0", SIZE)
    model = ours("efficientdet_d0.effdet", theirs)
    images = pictures(2, SIZE)
    with torch.no_grad():
        before = model(images).cls
        torch.manual_seed(5)
        classes, boxes = maps(theirs.train()(images))
        torch.manual_seed(5)
        raw = model.train()(images)
    close(raw.cls, classes, 1e-3)
    close(raw.box, boxes, 1e-3)
    assert (before - raw.cls).abs().max() > 1
    mine = ours("efficientdet_d0.effdet", theirs).state_dict()  # their statistics after the step
    for name, value in model.state_dict().items():
        if "running" in name:
            close(value, mine[name])


# ----------------------------------------------------------------------------------------------------- detections
@pytest.mark.parametrize("size", SIZES)
def test_detections(size):
    """Boxes, scores and classes after suppression; effdet's classes begin at 1."""
    theirs, model = pair(size)
    images = pictures(2, SIZE)
    info = {"img_scale": torch.ones(2), "img_size": torch.tensor([[SIZE[1], SIZE[0]]] * 2).float()}
    with torch.no_grad():
        expected = predict_bench(theirs)(images, info)
    for rows, found in zip(expected, model.detect(images)):
        assert len(found) == len(rows) == 100
        assert len(rows[:, 5].unique()) > 10
        close(found.scores, rows[:, 4])
        for row in rows:  # neighbours of the same score may change places
            off = (found.boxes - row[:4]).abs().amax(1) + (found.scores - row[4]).abs()
            off[found.labels + 1 != row[5]] = torch.inf
            assert off.min() < 2e-2 or row[4] < rows[-1, 4] + 1e-5


# --------------------------------------------------------------------------------------------------------- losses
BOXES = [
    [[10, 20, 90, 100], [100, 30, 180, 110], [3, 3, 9, 9], [200, 50, 215, 120], [0, 0, 256, 128]],
    [],
]


def targets() -> tuple[list[Target], dict[str, object]]:
    mine, boxes, classes = [], [], []
    for rows in BOXES:
        tensor = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
        labels = torch.arange(len(rows)) * 7 % 90
        mine.append(Target(tensor, labels))
        boxes.append(torch.cat([tensor[:, [1, 0, 3, 2]], torch.zeros(1, 4)]))  # a row of class -1 is none
        classes.append(torch.cat([labels.float() + 1, torch.tensor([-1.0])]))
    return mine, {"bbox": boxes, "cls": classes}


@pytest.mark.parametrize("size", SIZES)
def test_losses_and_gradients(size):
    theirs, model = pair(size)
    images = pictures(2, SIZE)
    mine, upstream = targets()
    bench = train_bench(theirs).train()
    for module in (theirs, model):
        module.eval()
        module.zero_grad()
    losses = bench(images, upstream)
    losses["loss"].backward()
    found = model.loss(model(images), mine)
    found.total.backward()
    close(found.terms["cls"], losses["class_loss"])
    close(found.terms["box"], 50 * losses["box_loss"])
    close(found.total, losses["loss"])
    for a, b in (
        (model.head.cls.weight, theirs.class_net.predict.conv_pw.weight),
        (model.neck.cells[0].nodes[4].weights, theirs.fpn.cell[0].fnode[4].combine.edge_weights),
        (model.backbone.body.conv_stem.weight, theirs.backbone.conv_stem.weight),
    ):
        assert b.grad.abs().max() > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(b.grad.abs().max()))


def test_assignment_of_boxes_that_tie():
    """Small boxes lie inside many anchors of one size, so their overlaps tie but for rounding; equal boxes compete."""
    theirs, model = pair("d0")
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * torch.tensor([240.0, 112.0])
    side = torch.rand(60, 2, generator=generator) * torch.tensor([14.0, 14.0]) + 1
    boxes = torch.cat([corner, corner + side], 1).round()
    boxes = torch.cat([boxes, boxes[:3]])
    priors = model.head.make_priors(
        [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in model.head.strides], model.head.strides, torch.device("cpu")
    )
    labels = torch.arange(len(boxes)) % 90
    classes, _, positives = train_bench(theirs).anchor_labeler.label_anchors(boxes[:, [1, 0, 3, 2]], labels + 1)
    matched = model.head.assign(priors, boxes)
    mine = torch.where(matched >= 0, labels[matched], -1)
    assert positives == (matched >= 0).sum() > 30
    assert torch.equal(mine, torch.cat([c.flatten() for c in classes]))
    assert not torch.equal(matched, max_iou(priors, boxes, negative_iou=0.5))
