"""Gaussian targets by hand, against a plain loop over cells, and at the edges: none, tiny, cut and coinciding boxes."""

import math

import pytest
import torch
from torch import Tensor

from headway.boxes import pairwise_iou
from headway.losses import gaussian_focal
from headway.targets import centernet_targets, overlap_radius, ttf_targets


def boxes_of(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def labels_of(*labels: int) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64)


def random_boxes(count: int, height: int, width: int, seed: int) -> Tensor:
    """Whole pixels, so that no centre or radius is a rounding away from the next."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, width, (count, 2), generator=generator).sort(1).values
    y = torch.randint(0, height, (count, 2), generator=generator).sort(1).values
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).float()


def looped(boxes: Tensor, labels: Tensor, height: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of `ttf_targets`, one box and one cell at a time: large boxes are painted first."""
    heatmap, weight = torch.zeros(classes, height, width), torch.zeros(height, width)
    owner = torch.full((height, width), -1)
    area = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in boxes.tolist()]
    for row in sorted(range(len(boxes)), key=lambda i: (-area[i], -i)):
        x1, y1, x2, y2 = boxes[row].tolist()
        cx, cy = int((x1 + x2) / 2 / 4), int((y1 + y2) / 2 / 4)
        rx = int((min(x2 / 4, width - 1) - min(x1 / 4, width - 1)) / 2 * 0.54)
        ry = int((min(y2 / 4, height - 1) - min(y1 / 4, height - 1)) / 2 * 0.54)
        values = {}
        for y in range(max(cy - ry, 0), min(cy + ry, height - 1) + 1):
            for x in range(max(cx - rx, 0), min(cx + rx, width - 1) + 1):
                sx, sy = (2 * rx + 1) / 6, (2 * ry + 1) / 6
                values[y, x] = math.exp(-((x - cx) ** 2) / (2 * sx**2) - (y - cy) ** 2 / (2 * sy**2))
        for (y, x), value in values.items():
            heatmap[labels[row], y, x] = max(heatmap[labels[row], y, x].item(), value)
            weight[y, x] = math.log(area[row]) * value / sum(values.values())
            owner[y, x] = row
    return heatmap, owner, weight


@pytest.mark.parametrize(("height", "width"), [(20, 33), (33, 20), (1, 40)])
def test_ttf_against_a_loop_on_maps_of_any_ratio(height, width):
    boxes = random_boxes(40, 4 * height, 4 * width, seed=height)
    labels = torch.arange(40) % 3
    encoded = ttf_targets(boxes, labels, (height, width), 3)
    heatmap, owner, weight = looped(boxes, labels, height, width, 3)
    assert torch.equal(encoded.owner, owner)
    torch.testing.assert_close(encoded.heatmap, heatmap, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(encoded.weight, weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("encode", [ttf_targets, centernet_targets])
def test_no_object(encode):
    encoded = encode(boxes_of(), labels_of(), (5, 7), 2)
    assert encoded.heatmap.shape == (2, 5, 7)
    assert not encoded.heatmap.any()
    if encode is ttf_targets:
        assert not encoded.weight.any()
        assert (encoded.owner == -1).all()
    else:
        assert [len(x) for x in encoded[1:]] == [0, 0, 0]


def test_one_pixel_objects_have_one_cell():
    """[13, 6, 14, 7]: cell (13.5 / 4, 6.5 / 4) = (3, 1), weight ln(2 * 2); at the last pixel cell (7, 5)."""
    encoded = ttf_targets(boxes_of((13, 6, 14, 7), (31, 23, 32, 24)), labels_of(0, 0), (6, 8), 1)
    assert encoded.heatmap.nonzero().tolist() == [[0, 1, 3], [0, 5, 7]]
    assert (encoded.owner[1, 3], encoded.owner[5, 7]) == (0, 1)
    torch.testing.assert_close(encoded.weight[[1, 5], [3, 7]], torch.full((2,), math.log(4)))


def test_window_is_cut_at_the_border_and_its_weight_still_sums_to_the_log_area():
    """On a map of 16 x 16. [-30, 0, 10, 64] has its centre at x = -10 and no target. [0, 0, 10, 64]: cell (1, 8);
    2.5 cells across, radius int(0.675) = 0; 15 of its 16 cells down (to the last cell's corner), radius int(15 / 2 *
    0.54) = 4: rows 4 to 12. [0, -48, 10, 64] has the same radius around row 2: rows 0 to 6."""
    encoded = ttf_targets(boxes_of((-30, 0, 10, 64), (0, 0, 10, 64)), labels_of(0, 0), (16, 16), 1)
    assert encoded.heatmap.nonzero()[:, 1:].tolist() == [[y, 1] for y in range(4, 13)]
    assert encoded.weight.sum().item() == pytest.approx(math.log(11 * 65), rel=1e-6)
    cut = ttf_targets(boxes_of((0, -48, 10, 64)), labels_of(0), (16, 16), 1)
    assert cut.heatmap.nonzero()[:, 1:].tolist() == [[y, 1] for y in range(7)]
    assert cut.weight.sum().item() == pytest.approx(math.log(11 * 113), rel=1e-6)


@pytest.mark.parametrize("encode", [ttf_targets, centernet_targets])
@pytest.mark.parametrize(
    "box",
    [(-90, 8, 40, 24), (10, 20, 120, 60), (8, -40, 24, 10), (8, 28, 24, 90), (-9, 8, 7, 24), (8, -5, 24, 3)],
)
def test_objects_whose_centre_is_outside_have_no_target(encode, box):
    """On a map of 8 x 12 cells, 32 x 48 pixels, with a second box that stays. The last two miss it by one pixel, a
    quarter of a cell, which a centre cut toward zero would place inside."""
    both = encode(boxes_of(box, (8, 8, 24, 24)), labels_of(0, 1), (8, 12), 2)
    alone = encode(boxes_of((8, 8, 24, 24)), labels_of(1), (8, 12), 2)
    torch.testing.assert_close(both.heatmap, alone.heatmap)
    if encode is ttf_targets:
        assert torch.equal(both.owner, torch.where(alone.owner < 0, -1, 1))
        torch.testing.assert_close(both.weight, alone.weight)
    else:
        assert both.cells.tolist() == alone.cells.tolist() == [4 * 12 + 4]


def test_two_objects_with_one_centre():
    """Of one class they share a peak, of two classes each has one; the smaller owns its window, the larger the rest."""
    boxes = boxes_of((8, 8, 88, 88), (28, 28, 68, 68))
    for labels, peaks in ((labels_of(1, 1), [[1, 12, 12]]), (labels_of(1, 0), [[0, 12, 12], [1, 12, 12]])):
        encoded = ttf_targets(boxes, labels, (24, 24), 2)
        assert (encoded.heatmap == 1).nonzero().tolist() == peaks
        assert (encoded.owner == 1).sum() == 5 * 5  # radius int(40 / 4 / 2 * 0.54) = 2
        assert (encoded.owner == 0).sum() == 11 * 11 - 5 * 5  # radius int(80 / 4 / 2 * 0.54) = 5
        assert encoded.owner[12, 12] == 1
        centre = centernet_targets(boxes, labels, (24, 24), 2)
        assert (centre.heatmap == 1).nonzero().tolist() == peaks
        assert centre.cells.tolist() == [12 * 24 + 12]
        assert centre.sizes.tolist() == [[10, 10]]


def test_of_equal_boxes_the_earlier_is_learned():
    boxes = boxes_of((20, 20, 60, 60), (20, 20, 60, 60))
    assert ttf_targets(boxes, labels_of(0, 1), (20, 20), 2).owner.unique().tolist() == [-1, 0]
    turned = boxes_of((20, 30, 60, 50), (30, 20, 50, 60))
    assert centernet_targets(turned, labels_of(0, 0), (20, 20), 1).sizes.tolist() == [[10, 5]]


# ------------------------------------------------------------------------------------------------------ CenterNet
def test_overlap_radius_by_hand():
    """A square of 10. Overlap 0.3: shifted 10 (1 - sqrt(1 - 0.7 / 1.3)) = 3.2063, inwards 10 (1 - sqrt(0.3)) / 2 =
    2.2614, outwards 10 (1 / sqrt(0.3) - 1) / 2 = 4.1287. Overlap 0.7: 0.9252, 0.8167, 0.9761. Twice the size, twice the
    radius."""
    squares = torch.tensor([[10.0, 10.0], [20, 20], [0, 0]])
    torch.testing.assert_close(overlap_radius(squares, 0.3), torch.tensor([2.26139, 4.52277, 0]))
    torch.testing.assert_close(overlap_radius(squares[:1], 0.7), torch.tensor([0.81670]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.7])
def test_overlap_radius_keeps_the_iou(overlap):
    """Of the three ways to move both corners by the radius the worst has exactly the IoU asked for."""
    sizes = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 40 + 2
    radius = overlap_radius(sizes, overlap)[:, None]
    box, zero = torch.cat([torch.zeros_like(sizes), sizes], 1), torch.zeros(50, 2)
    moved = [
        torch.cat([zero + radius, sizes + radius], 1),
        torch.cat([zero + radius, sizes - radius], 1),
        torch.cat([zero - radius, sizes + radius], 1),
    ]
    worst = torch.stack([pairwise_iou(box, other).diagonal() for other in moved]).amin(0)
    torch.testing.assert_close(worst, torch.full((50,), overlap), rtol=1e-4, atol=0)


def test_centernet_by_hand():
    """[10, 21, 50, 61] at stride 4: 10 x 10 cells, radius int(2.26) = 2, sigma 5 / 6, centre (7.5, 10.25). At distance
    1: exp(-0.72) = 0.486752, diagonally exp(-1.44), at the window's corner exp(-5.76); at distance 3 nothing."""
    encoded = centernet_targets(boxes_of((10, 21, 50, 61)), labels_of(1), (20, 16), 2)
    assert encoded.cells.tolist() == [10 * 16 + 7]
    assert encoded.sizes.tolist() == [[10, 10]]
    assert encoded.offsets.tolist() == [[0.5, 0.25]]
    assert not encoded.heatmap[0].any()
    found = encoded.heatmap[1, [10, 10, 11, 12, 13], [7, 8, 8, 9, 7]]
    torch.testing.assert_close(found, torch.tensor([1, math.exp(-0.72), math.exp(-1.44), math.exp(-5.76), 0]))
    assert encoded.heatmap.count_nonzero() == 25


def test_centernet_is_round_whatever_the_box():
    """80 x 8 px: 20 x 2 cells, inwards (20 - 2r)(2 - 2r) = 0.3 * 40 gives r = 0.6635: one cell."""
    encoded = centernet_targets(boxes_of((0, 20, 80, 28)), labels_of(0), (20, 20), 1)
    assert encoded.heatmap.nonzero().tolist() == [[0, 6, 10]]


# ----------------------------------------------------------------------------------------------------------- loss
def test_focal_without_clip_by_hand():
    """Logit 0 at a positive: 0.25 ln 2. At heat 0.5: 0.5^4 0.25 ln 2. Logit -20 at a positive, unlike with the clip,
    costs 20 and has gradient -1."""
    logits, heatmap = torch.tensor([0.0, 0.0, -20.0]).requires_grad_(), torch.tensor([1.0, 0.5, 1.0])
    loss = gaussian_focal(logits, heatmap, clip=0.0)
    torch.testing.assert_close(loss, torch.tensor([0.25 * math.log(2), 0.25 * math.log(2) / 16, 20.0]))
    loss.sum().backward()
    assert logits.grad[2].item() == pytest.approx(-1, abs=1e-5)
    clipped = torch.tensor([-20.0]).requires_grad_()
    gaussian_focal(clipped, torch.ones(1)).sum().backward()
    assert clipped.grad.item() == 0


def test_focal_in_half_precision_is_computed_in_float32():
    logits = torch.tensor([-9.0, 8.0], dtype=torch.bfloat16)
    loss = gaussian_focal(logits, torch.tensor([1.0, 0.0]))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, gaussian_focal(logits.float(), torch.tensor([1.0, 0.0])))
