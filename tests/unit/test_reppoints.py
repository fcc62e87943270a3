"""RepPoints against loops that follow the definitions one point, one prior and one tap at a time, and by hand."""

import math

import pytest
import torch
from torch import Tensor

import headway
from headway.assign import IGNORE, NEGATIVE, reppoints
from headway.heads.reppoints import RepPointsHead, RepPointsRaw, points_to_boxes, scale_gradient
from headway.priors import point_grid
from headway.types import Frame, Levels, Target

CPU = torch.device("cpu")
STRIDES = (8, 16, 32, 64, 128)
MAPS = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
NONE = torch.zeros(0, 4)


def grid(maps=MAPS, strides=STRIDES):
    return point_grid(maps, strides, CPU, center_offset=0.0)


def random_boxes(count: int, seed: int, low: float = 3, high: float = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([110.0, 80.0])
    return torch.cat([corner, corner + low + torch.rand(count, 2, generator=generator) * (high - low)], 1)


# ------------------------------------------------------------------------------------------------ points to boxes
# Nine points; y: 1..9 (mean 5, squared deviations 60); x: 2, 4, .., 18 with the first and last exchanged (mean 10,
# squared deviations 240). Unbiased deviations: sqrt(60 / 8) and sqrt(240 / 8).
Y = [1.0, 2, 3, 4, 5, 6, 7, 8, 9]
X = [18.0, 4, 6, 8, 10, 12, 14, 16, 2]
NINE = torch.tensor([v for pair in zip(Y, X) for v in pair])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("minmax", [2, 1, 18, 9]),
        ("partial_minmax", [4, 1, 18, 4]),
        (
            "moment",
            [10 - 2 * math.sqrt(30), 5 - math.sqrt(7.5) / 4, 10 + 2 * math.sqrt(30), 5 + math.sqrt(7.5) / 4],
        ),
    ],
)
def test_nine_points_become_a_box(transform, expected):
    """The moment's factors are exp(log 2) on the width and exp(-log 4) on the height."""
    moment = torch.tensor([math.log(2), -math.log(4)]) if transform == "moment" else None
    box = points_to_boxes(NINE.expand(2, 3, 18), transform, moment)
    assert box.shape == (2, 3, 4)
    torch.testing.assert_close(box[1, 2], torch.tensor(expected, dtype=torch.float32))


def test_points_that_are_all_one_give_a_box_without_area_and_a_finite_gradient():
    same = torch.full((18,), 3.0, requires_grad=True)
    box = points_to_boxes(same, "moment", torch.zeros(2))
    torch.testing.assert_close(box, torch.full((4,), 3.0), rtol=0, atol=2e-6)
    box.sum().backward()
    torch.testing.assert_close(same.grad, torch.full((18,), 2 / 9), msg="of the mean alone")


def test_scaling_a_gradient_keeps_the_value():
    x = torch.tensor([2.0, -3.0], requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert y.tolist() == [2.0, -3.0]
    (y * torch.tensor([1.0, 8.0])).sum().backward()
    assert x.grad.tolist() == [0.25, 2.0]


# ------------------------------------------------------------------------------------------------ point assigner
def point_loop(priors, boxes: list[list[float]], scale: float, per_box: int) -> list[int]:
    """The definition, one box after the other; a point changes hands only for a smaller distance."""
    levels = [int(math.log2(s)) for s in priors.stride.tolist()]
    result, taken = [NEGATIVE] * len(levels), [math.inf] * len(levels)
    for j, (x1, y1, x2, y2) in enumerate(boxes):
        width, height = max(x2 - x1, 1e-6), max(y2 - y1, 1e-6)
        level = math.trunc((math.log2(width / scale) + math.log2(height / scale)) / 2)
        level = min(max(level, min(levels)), max(levels))
        here = [i for i, number in enumerate(levels) if number == level]

        def distance(i):
            x, y = priors.boxes[i, :2].tolist()
            return math.hypot((x - (x1 + x2) / 2) / width, (y - (y1 + y2) / 2) / height)  # noqa: B023

        for i in sorted(here, key=distance)[:per_box]:
            if distance(i) < taken[i]:
                result[i], taken[i] = j, distance(i)
    return result


@pytest.mark.parametrize("per_box", [1, 3])
def test_point_assigner_equals_the_loop(per_box):
    seen, contested = set(), 0
    for seed in range(20):
        boxes = random_boxes(12, seed, high=400)
        matched = reppoints(grid(), boxes, per_box=per_box).tolist()
        assert matched == point_loop(grid(), boxes.tolist(), 4.0, per_box)
        seen |= {float(s) for s, m in zip(grid().stride, matched) if m >= 0}
        alone = sum((reppoints(grid(), box[None], per_box=per_box) >= 0).long() for box in boxes)
        contested += int((alone > 1).sum())
    assert seen >= {8.0, 16.0, 32.0, 64.0}
    assert contested > 20


@pytest.mark.parametrize(
    ("width", "height", "stride"),
    [
        (64, 64, 16),  # log2(64 / 4) = 4, the level of stride 16
        (63.9, 63.9, 8),  # 3.998 is cut to 3, not rounded
        (32, 128, 16),  # (3 + 5) / 2
        (4, 4, 8),  # level 0, and 3 is the lowest
        (0.5, 0.5, 8),  # below 0
        (0, 0, 8),  # a box without area
        (512, 512, 128),
        (4000, 4000, 128),  # level 9, and 7 is the highest
    ],
)
def test_the_level_of_a_box(width, height, stride):
    box = torch.tensor([[65 - width / 2, 49 - height / 2, 65 + width / 2, 49 + height / 2]])
    matched = reppoints(grid(), box)
    assert grid().stride[matched == 0].tolist() == [stride]


def test_a_contested_point_goes_to_the_nearer_and_to_the_first_of_equals():
    """Four boxes of 40 px on the level of stride 8, whose nearest point is (40, 40): off by 2, 1, 1 and 3 px."""
    boxes = torch.tensor([[22.0, 20, 62, 60], [21, 20, 61, 60], [20, 21, 60, 61], [20, 23, 60, 63]])
    matched = reppoints(grid(), boxes)
    index = int((grid().boxes[:, :2] == 40).all(1).nonzero()[0])
    assert (matched >= 0).nonzero().flatten().tolist() == [index]
    assert matched[index] == 1
    assert reppoints(grid(), boxes.flip(0))[index] == 1, "the box off by (0, 1), now before the one off by (1, 0)"


def test_the_distance_is_in_widths_and_heights_of_the_box():
    """Centre (44, 41), 100 wide and 20 high, level int(log2 11.2) = 3: (40, 40) is off by (.04, .05), (48, 40) too.
    Moved to x = 44.5 the second is nearer; to y = 45 the next row (48, 48) is, by (.035, .15) against (.035, .25)."""
    for centre, expected in (((44.5, 41), (48, 40)), ((43.5, 41), (40, 40)), ((44.5, 45), (48, 48))):
        x, y = centre
        matched = reppoints(grid(), torch.tensor([[x - 50, y - 10, x + 50, y + 10]]))
        assert grid().boxes[matched == 0, :2].tolist() == [list(map(float, expected))]


@pytest.mark.parametrize("per_box", [1, 9])
def test_no_boxes_and_more_points_than_a_level_has(per_box):
    matched = reppoints(grid(), NONE, per_box=per_box)
    assert matched.dtype == torch.int64
    assert (matched == NEGATIVE).all()
    assert len(matched) == sum(grid().level_sizes)
    whole = reppoints(grid(), torch.tensor([[0.0, 0, 512, 512]]), per_box=per_box)
    assert (whole == 0).sum() == 1, "the coarsest level has one point"
    assert whole.dtype == torch.int64


# ---------------------------------------------------------------------------------------------------------- head
def make_head(transform="moment", depth=1, strides=(8,), spread=True, **arguments) -> RepPointsHead:
    """Of 4 channels and 3 classes, without norms, in float64; spread: with all parameters far from where they start."""
    levels = Levels(strides, (4,) * len(strides))
    head = RepPointsHead(levels, num_classes=3, transform=transform, tower_depth=depth, tower_norm=False, **arguments)
    for parameter in head.parameters() if spread else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return head.double()


def bilinear(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """feature [C, H, W] at one real place, zeros outside -> [C]. Differentiable in y and x."""
    total = 0
    for row in (int(y.detach().floor()), int(y.detach().floor()) + 1):
        for column in (int(x.detach().floor()), int(x.detach().floor()) + 1):
            if 0 <= row < feature.shape[1] and 0 <= column < feature.shape[2]:
                total = total + feature[:, row, column] * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return torch.zeros_like(feature[:, 0, 0]) + total


def sampled_at(feature: Tensor, points: Tensor, weight: Tensor) -> Tensor:
    """What a deformable convolution of RepPoints is: at every place the weights of tap k meet the feature at the k-th
    point. feature [C, H, W], points [2n, H, W] from the place, weight [O, C, k, k] -> [O, H, W]."""
    taps = weight.flatten(2)
    rows = []
    for i in range(feature.shape[1]):
        for j in range(feature.shape[2]):
            place = points[:, i, j]
            rows.append(
                sum(
                    taps[:, :, k] @ bilinear(feature, i + place[2 * k], j + place[2 * k + 1])
                    for k in range(taps.shape[2])
                )
            )
    return torch.stack(rows, -1).view(-1, *feature.shape[1:])


@pytest.mark.parametrize("num_points", [9, 25])
def test_the_second_step_samples_at_the_points_of_the_first(num_points):
    torch.manual_seed(0)
    head = make_head(num_points=num_points)
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    raw = head([x], Frame(torch.tensor([[40, 48]]), (40, 48)))
    cls_feature, box_feature = head.cls_tower(x), head.box_tower(x)
    first = head.pts_init(head.pts_init_conv(box_feature).relu())
    cls = head.cls(sampled_at(cls_feature[0], first[0], head.cls_conv.weight).relu()[None])
    refined = first + head.pts_refine(sampled_at(box_feature[0], first[0], head.pts_refine_conv.weight).relu()[None])
    for ours, expected in ((raw.cls, cls), (raw.pts_init, first), (raw.pts_refine, refined)):
        assert ours.dtype == torch.float32, "whatever precision the convolutions run in"
        rows = expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours.double(), rows, rtol=1e-5, atol=1e-5)
    assert raw.pts_init.abs().max() > 1, "points that lie between the taps and beyond them"


def test_a_tenth_of_the_gradient_reaches_the_first_points_through_the_sampling():
    """And none through the sum, by which the refined points start from them."""
    torch.manual_seed(1)
    head = make_head(depth=0)
    x = torch.randn(1, 4, 4, 5, dtype=torch.float64)
    raw = head([x], Frame(torch.tensor([[32, 40]]), (32, 40)))
    weights = [torch.randn(1, 20, n, dtype=torch.float64) for n in (3, 18)]
    ours = torch.autograd.grad((raw.cls * weights[0]).sum() + (raw.pts_refine * weights[1]).sum(), head.pts_init.weight)
    first = head.pts_init(head.pts_init_conv(x).relu())
    outputs = [
        out(sampled_at(x[0], first[0], conv.weight).relu()[None])[0].flatten(1).T
        for out, conv in ((head.cls, head.cls_conv), (head.pts_refine, head.pts_refine_conv))
    ]
    whole = torch.autograd.grad(sum((o * w[0]).sum() for o, w in zip(outputs, weights)), head.pts_init.weight)
    torch.testing.assert_close(ours[0], 0.1 * whole[0], rtol=1e-4, atol=1e-4)
    assert whole[0].abs().max() > 1


def test_a_hundredth_of_the_gradient_reaches_the_moment():
    """One image, one box: d loss / d moment from the raw output, which carries the same values, is a hundred times."""
    torch.manual_seed(2)
    head = make_head(strides=STRIDES)
    maps = [torch.randn(1, 4, h, w, dtype=torch.float64) for h, w in MAPS]
    raw = head(maps, Frame(torch.tensor([[96, 128]]), (96, 128)))
    assert torch.equal(raw.moment, head.moment)
    raw.moment.retain_grad()
    head.loss(raw, [Target(torch.tensor([[10.0, 12, 60, 50]]), torch.tensor([1]))]).total.backward()
    assert raw.moment.grad.abs().min() > 0
    torch.testing.assert_close(head.moment.grad, 0.01 * raw.moment.grad)


def test_other_transforms_have_no_moment():
    head = make_head("minmax")
    assert "moment" not in head.state_dict()
    assert (
        head([torch.zeros(1, 4, 2, 2, dtype=torch.float64)], Frame(torch.tensor([[16, 16]]), (16, 16))).moment is None
    )


@pytest.mark.parametrize("num_points", [9, 25])
def test_points_can_start_on_a_grid_over_the_base_scale(num_points):
    """Of a blank map all first boxes by min-max span 4 strides around the cell; as published they are points."""
    for center_init, reach in ((False, 16), (True, 0)):
        head = make_head("minmax", num_points=num_points, center_init=center_init, spread=False)
        boxes = head.init_boxes(
            head([torch.zeros(1, 4, 3, 3, dtype=torch.float64)], Frame(torch.tensor([[24, 24]]), (24, 24)))
        )
        assert boxes[0, 4].tolist() == [8 - reach, 8 - reach, 8 + reach, 8 + reach]


@pytest.mark.parametrize("num_points", [0, 1, 4, 8, 16])
def test_the_points_must_fill_a_kernel(num_points):
    with pytest.raises(ValueError, match=rf"square of an odd number from 3 on .* got {num_points}"):
        make_head(num_points=num_points)


def test_the_number_of_levels_is_checked():
    with pytest.raises(ValueError, match="built for 1 levels, got 2 feature maps"):
        make_head()([torch.zeros(1, 4, 2, 2)] * 2, torch.tensor([[16, 16]]))


# ----------------------------------------------------------------------------------------------- loss and decode
SCENE = [
    Target(
        torch.tensor([[8.0, 6, 60, 50], [70, 20, 110, 90], [20, 60, 44, 84], [0, 0, 128, 96]]),
        torch.tensor([0, 1, 2, 1]),
        torch.tensor([False, False, False, True]),
    ),
    Target(torch.tensor([[30.0, 10, 100, 70]]), torch.tensor([2])),
    Target(NONE, torch.zeros(0, dtype=torch.int64)),
]


def random_raw(transform: str) -> RepPointsRaw:
    """Three images whose first points lie about a grid of four strides, so that some overlap the boxes well."""
    generator = torch.Generator().manual_seed(3)
    count = sum(h * w for h, w in MAPS)
    cls = torch.randn(3, count, 3, generator=generator) - 2
    grid_of_points = torch.cartesian_prod(*[torch.tensor([-2.0, 0, 2])] * 2).flatten()
    first = grid_of_points + torch.randn(3, count, 18, generator=generator) * 0.6
    refined = first + torch.randn(3, count, 18, generator=generator) * 0.5
    moment = torch.tensor([0.2, -0.1]) if transform == "moment" else None
    return RepPointsRaw(cls, first, refined, moment, grid(), torch.tensor([[96, 128], [80, 120], [96, 128]]))


def box_of(points: list[float], transform: str, moment, prior: list[float], stride: float) -> list[float]:
    y, x = points[0::2], points[1::2]
    if transform == "moment":
        sides = []
        for values, factor in ((x, moment[0]), (y, moment[1])):
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) * math.exp(factor)
            sides.append((mean - deviation, mean + deviation))
        (x1, x2), (y1, y2) = sides
    else:
        if transform == "partial_minmax":
            y, x = y[:4], x[:4]
        x1, y1, x2, y2 = min(x), min(y), max(x), max(y)
    return [x1 * stride + prior[0], y1 * stride + prior[1], x2 * stride + prior[0], y2 * stride + prior[1]]


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def overlap_loop(predicted: list[list[float]], boxes: list[list[float]]) -> list[int]:
    """Positive from .5, background below .4, between ignored; the best of every box is its own."""
    table = [[iou(p, b) for b in boxes] for p in predicted]
    result = [NEGATIVE if not r or max(r) < 0.4 else r.index(max(r)) if max(r) >= 0.5 else IGNORE for r in table]
    for j in range(len(boxes)):
        best = max(row[j] for row in table)
        for i, row in enumerate(table):
            if row[j] == best > 0:
                result[i] = j
    return result


def focal_loop(logits: list[float], label: int) -> float:
    total = 0.0
    for c, logit in enumerate(logits):
        p = 1 / (1 + math.exp(-logit))
        total += -0.25 * (1 - p) ** 2 * math.log(p) if c == label else -0.75 * p**2 * math.log(1 - p)
    return total


def smooth_loop(predicted: list[float], truth: list[float], unit: float) -> float:
    total = 0.0
    for p, t in zip(predicted, truth):
        difference = abs(p - t) / unit
        total += difference**2 / 0.22 if difference < 0.11 else difference - 0.055
    return total


def loss_loop(raw: RepPointsRaw, transform: str) -> tuple[dict[str, float], dict[str, int]]:
    terms, normal, seen = dict.fromkeys(("cls", "pts_init", "pts_refine"), 0.0), {"init": 0, "refine": 0}, {}
    priors, strides = raw.priors.boxes.tolist(), raw.priors.stride.tolist()
    moment = None if raw.moment is None else raw.moment.tolist()
    for b, target in enumerate(SCENE):
        keep = [j for j in range(len(target.boxes)) if target.crowd is None or not target.crowd[j]]
        boxes, labels = [target.boxes[j].tolist() for j in keep], [int(target.labels[j]) for j in keep]
        first, refined = (
            [box_of(p, transform, moment, prior, s) for p, prior, s in zip(points[b].tolist(), priors, strides)]
            for points in (raw.pts_init, raw.pts_refine)
        )
        by_point, by_overlap = point_loop(raw.priors, boxes, 4.0, 1), overlap_loop(first, boxes)
        for name, matched in (("init", by_point), ("refine", by_overlap)):
            normal[name] += max(1, sum(m >= 0 for m in matched))
        for i, stride in enumerate(strides):
            if by_overlap[i] != IGNORE:
                label = labels[by_overlap[i]] if by_overlap[i] >= 0 else -1
                terms["cls"] += focal_loop(raw.cls[b, i].tolist(), label)
            if by_point[i] >= 0:
                terms["pts_init"] += 0.5 * smooth_loop(first[i], boxes[by_point[i]], 4 * stride)
            if by_overlap[i] >= 0:
                terms["pts_refine"] += smooth_loop(refined[i], boxes[by_overlap[i]], 4 * stride)
            seen[by_overlap[i]] = seen.get(by_overlap[i], 0) + 1
    terms["cls"] /= normal["refine"]
    terms["pts_refine"] /= normal["refine"]
    terms["pts_init"] /= normal["init"]
    return terms, seen


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_the_losses_equal_the_loop(transform):
    head, raw = make_head(transform, strides=STRIDES), random_raw(transform)
    losses = head.loss(raw, SCENE)
    expected, seen = loss_loop(raw, transform)
    assert {name: value.item() for name, value in losses.terms.items()} == pytest.approx(expected, rel=2e-4)
    assert min(expected.values()) > 0.1
    assert seen[IGNORE] > 0, "or nothing shows that ignored points take no part"
    positives = sum(n for m, n in seen.items() if m >= 0)
    assert losses.stats["positives"].item() == pytest.approx(positives / 3)
    assert positives > 6, "or overlap alone gave none"
    assert losses.stats["positives_init"].item() == pytest.approx(4 / 3)


def test_the_overlap_is_of_detached_boxes():
    """No gradient may come back through the assignment, and the boxes are those of the first points, not clipped."""
    head, raw = make_head(strides=STRIDES), random_raw("moment")
    boxes = head.init_boxes(raw._replace(pts_init=raw.pts_init.requires_grad_()))
    assert not boxes.requires_grad
    assert boxes.min() < 0
    expected = box_of(raw.pts_init[1, 7].tolist(), "moment", [0.2, -0.1], raw.priors.boxes[7].tolist(), 8.0)
    assert boxes[1, 7].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_the_candidates_equal_the_loop(transform):
    """Of every level the 20 best pairs of point and class, with the box of the refined points, clipped to the image."""
    head, raw = make_head(transform, strides=STRIDES), random_raw(transform)
    head.pre_nms = 20
    candidates = head.decode(raw)
    moment = None if raw.moment is None else raw.moment.tolist()
    for b, (height, width) in enumerate(raw.sizes.tolist()):
        expected, start = [], 0
        for size in raw.priors.level_sizes:
            pairs = [(raw.cls[b, i, c].item(), i, c) for i in range(start, start + size) for c in range(3)]
            for logit, i, c in sorted(pairs, reverse=True)[:20]:
                box = box_of(
                    raw.pts_refine[b, i].tolist(), transform, moment, raw.priors.boxes[i].tolist(),
                    raw.priors.stride[i].item(),
                )  # fmt: skip
                box = [min(max(v, 0.0), float(limit)) for v, limit in zip(box, (width, height) * 2)]
                expected.append([*box, 1 / (1 + math.exp(-logit)), c])
            start += size
        found = torch.cat([candidates.boxes[b], candidates.scores[b, :, None], candidates.labels[b, :, None]], 1)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-3)
    assert torch.equal(candidates.class_scores, candidates.scores)


# -------------------------------------------------------------------------------------------------------- builder
def test_squares_of_four_strides_can_take_the_place_of_the_nearest_points():
    """At stride 8 the square around (40, 40) is (24, 24, 56, 56): a box equal to it is matched there, and its
    neighbours at 8 px, which overlap it by 24 * 32 / (2 * 1024 - 768) = .6, as well; diagonally .39 is background,
    16 px away .33."""
    with torch.device("meta"):
        model = headway.create_model("resnet18/fpn/reppoints", init_assign="max_iou")
    matched = model.head.init_assign(grid(), torch.tensor([[24.0, 24, 56, 56]]))
    found = grid().boxes[matched == 0, :2].tolist()
    assert sorted(found) == [[32.0, 40.0], [40.0, 32.0], [40.0, 40.0], [40.0, 48.0], [48.0, 40.0]]
    assert not (matched == IGNORE).any()


def test_by_default_one_point_answers_for_a_box():
    with torch.device("meta"):
        model = headway.create_model("resnet18/fpn/reppoints")
    matched = model.head.init_assign(grid(), torch.tensor([[24.0, 24, 56, 56]]))
    assert grid().boxes[matched == 0, :2].tolist() == [[40.0, 40.0]]
