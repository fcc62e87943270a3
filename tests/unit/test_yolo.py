"""The grid head by hand: decoding, starting biases, and every constant of its losses."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import complete_box_iou_loss, nms

from headway.boxes import aligned_ciou, decode_grid, encode_grid
from headway.heads.yolo import YoloHead, YoloRaw
from headway.priors import grid_anchors
from headway.select import select, select_padded
from headway.types import Candidates, Levels, Target

STRIDES = (8, 16, 32, 64, 128)
LN2 = math.log(2)


def head_of(levels: int = 3, classes: int = 4, anchors: int = 2, **changes) -> YoloHead:
    """Anchors of 2 and 3 strides; convolutions that nothing runs through. changes: attributes."""
    sides = tuple(tuple((s * k, s * k) for k in range(2, 2 + anchors)) for s in STRIDES[:levels])
    maps = Levels(STRIDES[:levels], (1,) * levels)
    head = YoloHead(maps, num_classes=classes, anchors=sides, objectness_weight=1.0, class_weight=0.5)
    for name, value in changes.items():
        setattr(head, name, value)
    return head


def raw_of(head: YoloHead, size: tuple[int, int] = (256, 384), images: int = 1, value: float = 0.0) -> YoloRaw:
    maps = [
        torch.full((images, head.anchors.shape[1], size[0] // s, size[1] // s, 5 + head.num_classes), value)
        for s in head.strides
    ]
    return YoloRaw(maps, torch.tensor([size]).expand(images, 2))


def none() -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def at(x: float, y: float, width: float, height: float, label: int = 1) -> Target:
    box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return Target(torch.tensor([box]), torch.tensor([label]))


# ---------------------------------------------------------------------------------------------------------- decoding
def test_rows_are_level_major_then_anchor_y_x():
    """Cell (2, 3) of the second anchor on the second of three levels, stride 16, 24 x 16 cells there."""
    head = head_of(clip_boxes=False)
    raw = raw_of(head)
    priors = head.priors(raw)
    row = 2 * 32 * 48 + 1 * 16 * 24 + 3 * 24 + 2
    assert priors.level_sizes == (2 * 32 * 48, 2 * 16 * 24, 2 * 8 * 12)
    assert priors.stride[row] == 16
    assert priors.boxes[row].tolist() == [40 - 24, 56 - 24, 40 + 24, 56 + 24]
    raw.maps[1][0, 1, 3, 2] = torch.arange(9.0)
    assert head.rows(raw)[0, row].tolist() == list(range(9))


def test_zero_logits_are_the_anchors_at_half_scores():
    head = head_of(clip_boxes=False, max_candidates=10**6)
    raw = raw_of(head)
    found = head.decode(raw)
    assert found.boxes.shape == (1, 4 * 2 * (32 * 48 + 16 * 24 + 8 * 12), 4)
    assert (found.scores == 0.25).all()
    assert found.labels[0].bincount().tolist() == [len(found.labels[0]) // 4] * 4
    assert torch.equal(torch.unique(found.boxes[0], dim=0), torch.unique(head.priors(raw).boxes, dim=0))


def test_how_far_boxes_reach():
    """At the ends of the sigmoids the centre is half a cell before the cell or behind it, sides are 0 and 4 anchors."""
    prior, stride = torch.tensor([[32.0, 40.0, 48.0, 56.0]]), torch.tensor([16.0])
    low = decode_grid(prior, stride, torch.full((1, 4), -200.0))
    high = decode_grid(prior, stride, torch.full((1, 4), 200.0))
    assert low.tolist() == [[24, 32, 24, 32]]
    assert high.tolist() == [[56 - 32, 64 - 32, 56 + 32, 64 + 32]]


def test_coder_round_trip():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(50, 4, generator=generator) * 2
    priors = grid_anchors([(5, 5)], (16,), torch.tensor([[[20.0, 30.0], [9.0, 7.0]]]))
    boxes = decode_grid(priors.boxes, priors.stride, codes)
    torch.testing.assert_close(encode_grid(priors.boxes, priors.stride, boxes), codes, rtol=1e-3, atol=1e-3)


def test_the_best_pairs_are_kept_in_order():
    """Against all pairs sorted."""
    generator = torch.Generator().manual_seed(0)
    few, every = head_of(max_candidates=50), head_of(max_candidates=10**6)
    raw = raw_of(few, (64, 96), images=2)
    raw = raw._replace(maps=[torch.randn(x.shape, generator=generator) * 3 for x in raw.maps])
    found, all_of_them = few.decode(raw), every.decode(raw)
    scores, order = all_of_them.scores.sort(1, descending=True)
    assert all_of_them.scores.shape[1] == 4 * 2 * (8 * 12 + 4 * 6 + 2 * 3)
    torch.testing.assert_close(found.scores, scores[:, :50])
    assert torch.equal(found.labels, all_of_them.labels.gather(1, order[:, :50]))
    rows = few.rows(raw)
    products = rows[..., 4:5].sigmoid() * rows[..., 5:].sigmoid()
    torch.testing.assert_close(scores, products.flatten(1).sort(1, descending=True).values)


def test_boxes_are_clipped_to_each_image():
    head = head_of()
    raw = raw_of(head, (64, 96), images=2)._replace(sizes=torch.tensor([[64, 96], [40, 50]]))
    boxes = head.decode(raw).boxes
    assert boxes.min() == 0
    assert boxes[0, :, 2:].amax(0).tolist() == [96, 64]
    assert boxes[1].amax(0).tolist() == [50, 40, 50, 40]


def test_candidates_bring_the_embedding_of_their_cell_and_the_tags():
    """Embeddings number the cells: 100 * level + 10 * y + x."""
    head = head_of(max_candidates=10**6)
    raw = raw_of(head, (64, 96))
    numbers = [
        (100.0 * level + 10.0 * torch.arange(h)[:, None] + torch.arange(w))[None, None].expand(1, 3, h, w)
        for level, (h, w) in enumerate([(8, 12), (4, 6), (2, 3)])
    ]
    head.clip_boxes = False
    found = head.decode(raw._replace(embeddings=numbers, tags=torch.zeros(1, 5)))
    box = found.boxes[0]
    side = box[:, 2] - box[:, 0]
    stride = torch.where(side <= 24, 8, torch.where(side <= 48, 16, 32))  # sides are 2 and 3 strides
    stride = torch.where(side == 32, 16, torch.where(side == 64, 32, stride))
    centre = ((box[:, :2] + box[:, 2:]) / 2 / stride[:, None]).floor()
    expected = 100 * ((stride / 8).log2()) + 10 * centre[:, 1] + centre[:, 0]
    assert found.extras["embeddings"].shape == (1, box.shape[0], 3)
    torch.testing.assert_close(found.extras["embeddings"][0, :, 0], expected)
    assert found.tags.tolist() == [[0.5] * 5]


# ------------------------------------------------------------------------------------------------------------- start
@pytest.mark.parametrize(("classes", "of_class"), [(80, -4.880400), (1, 4.094345)])
def test_starting_biases(classes, of_class):
    """Added to what torch draws: ln(8 / (640 / stride)^2) for objectness, ln(0.6 / (C - 0.99)) for classes."""
    torch.manual_seed(0)
    for _ in range(4):
        nn.Conv2d(1, 2, 3, bias=False)  # drawn first
    plain = [nn.Conv2d(2, 2 * (5 + classes), 1).bias.detach().view(2, -1) for _ in range(4)]
    torch.manual_seed(0)
    head = head_of(4, classes)
    for before, prediction, objectness in zip(plain, head.predictions, (-6.684612, -5.298317, -3.912023, -2.525729)):
        added = prediction.bias.detach().view(2, -1) - before
        torch.testing.assert_close(added[:, :4], torch.zeros(2, 4))
        torch.testing.assert_close(added[:, 4], torch.full((2,), objectness), rtol=0, atol=2e-6)
        torch.testing.assert_close(added[:, 5:], torch.full((2, classes), of_class), rtol=0, atol=2e-6)
    starts = [torch.tensor(x).sigmoid().item() for x in (-6.684612, -5.298317, -3.912023, -2.525729)]
    assert starts == pytest.approx([0.00125, 0.005, 0.02, 0.074], rel=0.02)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="anchors must be 2 levels"):
        YoloHead(Levels((8, 16), (1, 1)), num_classes=4, anchors=(((8, 8),),))
    with pytest.raises(ValueError, match="2 levels have no published balance"):
        head_of(2)
    with pytest.raises(ValueError, match="built for 3 levels, got 1"):
        head_of()([torch.zeros(1, 1, 4, 4)], torch.tensor([[32, 32]]))


# ------------------------------------------------------------------------------------------------------------ losses
def test_complete_iou_equals_torchvision_with_its_gradient():
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 60, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, 60, 2, generator=generator) * 30], 2).double()
    ours, theirs = boxes[0].clone().requires_grad_(), boxes[0].clone().requires_grad_()
    loss, reference = 1 - aligned_ciou(ours, boxes[1]), complete_box_iou_loss(theirs, boxes[1])
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_complete_iou_by_hand():
    """Side by side squares of 2: IoU 0, centres 2 apart, hull 4 x 2: -4 / 20. A 4 x 2 on a 2 x 4 of the same centre:
    IoU 4 / 12, v = 4 / pi^2 (atan 2 - atan 1/2)^2 = 0.1678, alpha = v / (2/3 + v). No area: finite."""
    squares = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[2.0, 0.0, 4.0, 2.0]])
    assert aligned_ciou(*squares).item() == pytest.approx(-0.2)
    cross = torch.tensor([[0.0, 1.0, 4.0, 3.0]]), torch.tensor([[1.0, 0.0, 3.0, 4.0]])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert aligned_ciou(*cross).item() == pytest.approx(1 / 3 - v * v / (2 / 3 + v), rel=1e-5)
    empty = torch.zeros(1, 4, requires_grad=True)
    aligned_ciou(empty, torch.zeros(1, 4)).sum().backward()
    assert torch.isfinite(empty.grad).all()


@pytest.mark.parametrize(
    ("levels", "scale", "objectness", "balance"),
    [(3, 1.0, 1.0, 5.4), (4, 0.75, 1.05, 5.5), (5, 0.6, 0.84, 6.0)],
)
def test_constants_of_the_losses(levels, scale, objectness, balance):
    """All logits zero: every entropy is ln 2. The object is an anchor in the middle of its cell of the first level,
    which fits two anchors there and two of the second level (ratios 2/3 .. 4 apart, the exact 4 left out)."""
    head = head_of(levels, classes=40)
    raw = raw_of(head)
    found = head.loss(raw, [at(100, 100, 16, 16)])
    assert set(found.terms) == {"box", "objectness", "class"}
    assert found.terms["objectness"].item() == pytest.approx(LN2 * balance * objectness, rel=1e-5)
    empty = head.loss(raw, [none()])
    assert empty.terms["box"] == empty.terms["class"] == 0
    assert empty.terms["objectness"].item() == pytest.approx(LN2 * balance * objectness, rel=1e-5)
    # Classes: the mean over pairs is ln 2 on every level with pairs, of weight 0.5 and times 40 / 80.
    with_pairs = sum(len(pairs.box) > 0 for pairs in head.match(raw, [at(100, 100, 16, 16)]).pairs)
    assert found.terms["class"].item() == pytest.approx(with_pairs * LN2 * 0.5 * scale * 40 / 80, rel=1e-5)


def test_box_and_objectness_of_one_pair():
    """One anchor of 16 on stride 8; the object is 32 wide and 16 high in the middle of a cell. Logits are zero, so the
    prediction is the anchor: IoU 1/2, no distance, v = 4/pi^2 (atan 2 - pi/4)^2, alpha v = v^2 / (1/2 + v). The target
    of the cell's objectness is that CIoU."""
    head = head_of(anchors=1)
    head.anchors[1:] = 4096.0  # out of reach
    raw = raw_of(head)
    raw.maps[0].requires_grad_()
    terms = head.loss(raw, [at(100, 100, 32, 16)]).terms
    v = 4 / math.pi**2 * (math.atan(2) - math.pi / 4) ** 2
    overlap = 0.5 - v * v / (0.5 + v)
    assert terms["box"].item() == pytest.approx(0.05 * (1 - overlap), rel=1e-5)
    terms["objectness"].backward()
    gradient = raw.maps[0].grad[0, 0, ..., 4] * (32 * 48) / 4.0  # of a mean over the map, weighted 4
    assert gradient[12, 12].item() == pytest.approx(0.5 - overlap, rel=1e-4)
    gradient[12, 12] = 0.5
    torch.testing.assert_close(gradient, torch.full((32, 48), 0.5))


def test_an_overlap_below_zero_is_no_target():
    """Predictions a hundredth of the anchor's size: their CIoU with the object is near 0 or below, and so is no target
    of objectness."""
    head = head_of(anchors=1)
    raw = raw_of(head)
    with torch.no_grad():
        raw.maps[0][..., :2] = 20.0
        raw.maps[0][..., 2:4] = -20.0
    raw.maps[0].requires_grad_()
    head.loss(raw, [at(100, 100, 16, 16)]).terms["objectness"].backward()
    gradient = raw.maps[0].grad[..., 4]
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5 * 4 / (32 * 48)))


def test_of_two_objects_on_one_anchor_the_last_sets_the_objectness_and_both_count():
    head = head_of(anchors=1)
    head.anchors[1:] = 4096.0
    fitting, long = at(100, 100, 16, 16), at(100, 100, 32, 16, 2)

    def run(*targets: Target):
        raw = raw_of(head)
        raw.maps[0].requires_grad_()
        both = Target(torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets]))
        terms = head.loss(raw, [both]).terms
        terms["objectness"].backward()
        return terms, raw.maps[0].grad[0, 0, 12, 12, 4].item()

    only, of_long = run(long)
    first, of_first = run(fitting, long)
    second, of_second = run(long, fitting)
    _, of_fitting = run(fitting)
    assert of_first == of_long != of_fitting == of_second
    assert first["box"].item() == pytest.approx(only["box"].item() / 2)  # the mean of it and of 0
    assert second["box"].item() == pytest.approx(first["box"].item())


def test_terms_grow_with_the_batch():
    head = head_of()
    one = head.loss(raw_of(head), [at(100, 90, 20, 30)])
    two = head.loss(raw_of(head, images=2), [at(100, 90, 20, 30)] * 2)
    for name, term in one.terms.items():
        assert two.terms[name].item() == pytest.approx(2 * term.item())
    assert two.stats["positives"] == one.stats["positives"] > 0


def test_one_class_has_no_class_loss():
    head = head_of(classes=1)
    raw = raw_of(head, value=0.3)
    raw.maps[0].requires_grad_()
    losses = head.loss(raw, [at(100, 100, 16, 16, 0)])
    assert losses.terms["class"] == 0
    losses.total.backward()
    assert not raw.maps[0].grad[..., 5].any()
    assert head.decode(raw).labels.max() == 0


def test_no_objects_give_finite_gradients():
    head = head_of(4)
    raw = raw_of(head, images=2)
    for x in raw.maps:
        x.requires_grad_()
    head.loss(raw, [none(), none()]).total.backward()
    for x in raw.maps:
        assert torch.isfinite(x.grad).all()
        assert (x.grad[..., 4] > 0).all()


def test_crowd_regions_change_nothing():
    head = head_of()
    generator = torch.Generator().manual_seed(0)
    raw = raw_of(head)
    raw = raw._replace(maps=[torch.randn(x.shape, generator=generator) for x in raw.maps])
    one, other = at(100, 100, 16, 16), at(200, 100, 30, 20)
    both = Target(torch.cat([other.boxes, one.boxes]), torch.tensor([0, 1]), torch.tensor([True, False]))
    plain, crowded = head.loss(raw, [one]), head.loss(raw, [both])
    assert all(torch.equal(term, crowded.terms[name]) for name, term in plain.terms.items())


def test_a_perfect_output_costs_nothing_and_decodes_to_the_ground_truth():
    head = head_of(anchors=1)
    raw = raw_of(head, value=-20.0)
    truth = Target(torch.tensor([[80.0, 90.0, 101.0, 108.0], [200.0, 30.0, 260.0, 100.0]]), torch.tensor([3, 0]))
    priors, matched = head.priors(raw), head.match(raw, [truth])
    start = 0
    for x, pairs, count in zip(raw.maps, matched.pairs, priors.level_sizes):
        rows = start + (pairs.anchor * x.shape[2] + pairs.y) * x.shape[3] + pairs.x
        codes = encode_grid(priors.boxes[rows], priors.stride[rows], truth.boxes[pairs.box])
        x[0, pairs.anchor, pairs.y, pairs.x, :4] = codes
        x[0, pairs.anchor, pairs.y, pairs.x, 4] = 20.0
        x[0, pairs.anchor, pairs.y, pairs.x, 5 + truth.labels[pairs.box]] = 20.0
        start += count
    losses = head.loss(raw, [truth])
    assert sum(len(pairs.box) for pairs in matched.pairs) >= 4
    assert losses.total < 1e-5
    (found,) = select(head.decode(raw), score_threshold=0.5, nms_iou=0.65)
    order = found.labels.argsort(descending=True)
    assert found.labels[order].tolist() == truth.labels.tolist()
    torch.testing.assert_close(found.boxes[order], truth.boxes, rtol=0, atol=1e-3)


def test_further_tasks_add_their_terms():
    seen = []

    def identity(embeddings, matched):
        seen.append(matched)
        return embeddings[0].sum()

    head = head_of(tags_loss=lambda tags, targets: tags.sum() * len(targets), identity_loss=identity)
    head.tags, head.embedding = nn.Identity(), nn.Identity()
    raw = raw_of(head)
    assert set(head.loss(raw, [at(100, 100, 16, 16)]).terms) == {"box", "objectness", "class"}
    terms = head.loss(
        raw._replace(tags=torch.ones(1, 3), embeddings=[torch.ones(1, 2, 1, 1)] * 3), [at(100, 100, 16, 16)]
    ).terms
    assert (terms["tags"], terms["identity"]) == (3, 2)
    assert seen[0].image.tolist() == [0]


# ------------------------------------------------------------------------------------------------------- suppression
def crowded(count: int, classes: int) -> Candidates:
    """Boxes of 5000 to 9000 pixels in a picture of some 17000, near the corners of squares of 4096: shifted by 4096 a
    class, those of one class would come to lie on those of another."""
    generator = torch.Generator().manual_seed(0)
    corner = (
        torch.randint(0, 3, (count // 4, 1), generator=generator) * 4096
        + torch.rand(count // 4, 2, generator=generator) * 300
    )
    boxes = torch.cat([corner, corner + 5000 + torch.rand(count // 4, 2, generator=generator) * 4000], 1).repeat(4, 1)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Candidates(boxes[None], scores[None], labels[None])


def test_thousands_of_boxes_beyond_4096_pixels():
    """Against suppression of each class by itself in double precision; boxes shifted by 4096 a class, as the published
    code does it, lose detections to other classes."""
    candidates = crowded(6000, 5)
    boxes, scores, labels = candidates.boxes[0], candidates.scores[0], candidates.labels[0]
    kept = torch.cat(
        [
            index[nms(boxes[index].double(), scores[index].double(), 0.65)]
            for index in ((labels == label).nonzero()[:, 0] for label in range(5))
        ]
    )
    expected = scores[kept].sort(descending=True).values
    (found,) = select(candidates, nms_iou=0.65, max_detections=10**4)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=0)
    padded = select_padded(candidates, nms_iou=0.65, max_detections=1000, pre_nms=6000)
    torch.testing.assert_close(padded.scores[0, : len(expected)], expected[:1000], rtol=0, atol=0)
    assert not padded.scores[0, len(expected) :].any()
    shifted = nms(boxes + labels[:, None] * 4096.0, scores, 0.65)
    assert len(shifted) < len(expected)


def test_a_head_finds_objects_beyond_4096_pixels():
    """Anchors of 6000 pixels in a picture of 8192: one class's box stays whole beside another's in the same place."""
    levels = Levels((512, 1024, 2048), (1, 1, 1))
    head = YoloHead(levels, num_classes=2, anchors=(((6000, 6000),),) * 3, clip_boxes=False)
    raw = raw_of(head, (8192, 8192), value=-20.0)
    raw.maps[0][0, 0, 7, 8] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, 20.0, 20.0])
    (found,) = select(head.decode(raw), score_threshold=0.5, nms_iou=0.65)
    assert found.boxes.tolist() == [[4352 - 3000, 3840 - 3000, 4352 + 3000, 3840 + 3000]] * 2
    assert sorted(found.labels.tolist()) == [0, 1]
