"""A warped picture and its boxes: painted rectangles found again, and boxes against Pillow's and torchvision's maps."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from headway.data.augment.colour import HSVJitter, jitter_hsv
from headway.data.augment.presets import train_transform
from headway.data.augment.warp import RandomWarp, canvas_size, warp_boxes, warp_image


def sample(boxes, height=40, width=60, ground=100):
    image = torch.full((3, height, width), ground, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(len(boxes)),
    }
    return tv_tensors.Image(image), target


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (300, 400)), ((640, 480), (400, 300)), ((50, 50), (300, 400)), ((1, 9), (300, 400))],
)
def test_the_canvas_lies_as_the_picture_does(size, expected):
    assert canvas_size(size, (300, 400)) == expected
    assert canvas_size(size, (320, 320)) == (320, 320)


def test_without_draws_it_is_a_centred_letterbox():
    """A 40x60 picture on a 60x60 canvas: 10 rows of the fill above and below, and boxes 10 lower."""
    warp = RandomWarp((60, 60), (1.0, 1.0), translate=0.0, fill=(1, 2, 3))
    image, target = warp(*sample([[6, 4, 30, 20]]))
    assert image.shape == (3, 60, 60)
    assert torch.equal(image[:, 10:50], sample([[6, 4, 30, 20]])[0])
    for rows in (image[:, :10], image[:, 50:]):
        assert [rows[c].unique().tolist() for c in range(3)] == [[1], [2], [3]]
    assert target["boxes"].tolist() == [[6, 14, 30, 30]]
    assert target["boxes"].canvas_size == (60, 60)


@pytest.mark.parametrize("perspective", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(15))
def test_painted_rectangle_is_where_its_box_is(seed, perspective):
    """Turned by up to 40 degrees, sheared by up to 20, shifted and zoomed: the pixels nearer to white than to the
    ground lie inside the box and reach its four sides, within a pixel and a half where a corner is thin."""
    warp = RandomWarp((150, 200), (0.6, 1.3), 0.1, 40, 20, perspective, fill=(100, 100, 100))
    torch.manual_seed(seed)
    image, target = warp(*sample([[60, 50, 110, 100]], 150, 200))
    white = (image[0] > 177).nonzero()
    found = torch.cat([white.amin(0).flip(0), white.amax(0).flip(0) + 1]).float()
    assert (found - target["boxes"][0].as_subclass(torch.Tensor)).abs().max() <= 1.5


@pytest.mark.parametrize("seed", range(4))
def test_the_map_is_torchvisions(seed):
    """The same matrix as torchvision's perspective kernel samples it, on a smooth picture away from the border."""
    rows, columns = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    image = torch.stack([rows + 20, columns, (rows + columns) / 2]).to(torch.uint8)
    warp = RandomWarp((90, 120), (1.2, 1.5), 0.1, 20, 10, 0.2, fill=(0, 0, 0))
    torch.manual_seed(seed)
    matrix = warp.make_params([tv_tensors.Image(image)])["matrix"]
    back = np.linalg.inv(matrix)
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    expected = F.perspective(image.float(), None, None, coefficients=coefficients)
    ours = warp_image(image, matrix, (90, 120), (0, 0, 0))
    covered = F.perspective(torch.ones(1, 90, 120), None, None, coefficients=coefficients)
    inside = covered[0] > 0.999
    assert inside.float().mean() > 0.5
    assert (ours - expected)[:, inside].abs().max() <= 1.5


def test_boxes_by_hand():
    """A quarter turn about (0, 0) and a shift by 100: (x, y) -> (100 - y, x), on 80 rows by 100 columns.

    Kept whole; cut below to 5 of 30 rows, so that a sixth is left; a twelfth is left; two pixels wide; longer than 20
    times its width; outside; without area."""
    matrix = np.array([[0.0, -1, 100], [1, 0, 0], [0, 0, 1]])
    boxes = torch.tensor(
        [[10, 20, 30, 60], [75, 10, 105, 30], [78, 10, 102, 30], [10, 20, 40, 22], [0, 50, 61, 53], [90, 0, 99, 50],
         [5, 5, 5, 9]]
    ).float()  # fmt: skip
    expected = [[40, 10, 80, 30], [70, 75, 90, 80], [0] * 4, [0] * 4, [0] * 4, [0] * 4, [0] * 4]
    assert warp_boxes(boxes, matrix, (80, 100)).tolist() == expected
    assert warp_boxes(torch.zeros(0, 4), matrix, (80, 100)).shape == (0, 4)
    inside = torch.tensor([[0.0, 50, 59, 53]])  # 59 is less than 20 times 3
    assert warp_boxes(inside, matrix, (80, 100)).tolist() == [[47, 0, 50, 59]]


def test_ranges_are_reached_and_kept():
    """Zooms and shifts of 400 draws, read off the matrix: uniform, not logarithmic, so their mean is the middle."""
    warp = RandomWarp((50, 100), (0.2, 1.8), 0.5, fill=(0, 0, 0))
    image = tv_tensors.Image(torch.zeros(3, 100, 200, dtype=torch.uint8))
    torch.manual_seed(0)
    matrices = np.stack([warp.make_params([image])["matrix"] for _ in range(400)])
    zooms = matrices[:, 0, 0]
    assert 0.2 <= zooms.min() < 0.23
    assert 1.77 < zooms.max() <= 1.8
    assert zooms.mean() == pytest.approx(1.0, abs=0.06)
    assert (matrices[:, 1, 1] == zooms).all()
    centres = matrices @ np.array([100, 50, 1.0])  # of the picture, which lands on that of the canvas shifted
    assert (np.abs(centres[:, 0] - 50) <= 50).all()
    assert (np.abs(centres[:, 1] - 25) <= 25).all()
    assert np.abs(centres[:, 0] - 50).max() > 47


coordinate = st.floats(0, 1, width=32)


@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=4),
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=150)
def test_any_picture_and_any_boxes(corners, height, width, seed):
    boxes = [[min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height] for a, b, c, d in corners]
    torch.manual_seed(seed)
    warp = RandomWarp((24, 40), (0.1, 1.9), 0.5, 180, 60, 0.4, fill=(9, 9, 9))
    image, target = warp(*sample(boxes, height, width))
    moved = target["boxes"].as_subclass(torch.Tensor)
    assert tuple(image.shape[1:]) == target["boxes"].canvas_size == canvas_size((height, width), (24, 40))
    assert torch.isfinite(moved).all()
    assert (moved >= 0).all()
    assert (moved[:, 2:] <= torch.tensor(image.shape[1:]).flip(0)).all()
    sides = moved[:, 2:] - moved[:, :2]
    kept = sides.amax(1) > 0
    assert (sides[kept] > 2).all()
    assert (sides[kept].amax(1) < 20 * sides[kept].amin(1)).all()
    assert len(moved) == len(boxes)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((0, 1, 1), (200, 100, 50)),
        ((0, 1, 0.5), (100, 50, 25)),  # value halved
        ((0, 0, 1), (200, 200, 200)),  # no saturation: the largest channel everywhere
        ((0, 0.5, 1), (200, 150, 125)),  # half the distance from the largest
        ((0, 9, 1), (200, 67, 0)),  # saturation 1: the least channel 0, the other in proportion (50 of 150)
        ((0, 1, 9), (255, 127, 64)),
        ((1 / 3, 1, 1), (50, 200, 100)),  # a third of the circle: the channels change places
        ((0.5, 1, 1), (50, 150, 200)),
    ],
)
def test_hsv_by_hand(factors, expected):
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 5).contiguous()
    changed = jitter_hsv(image, *factors)
    assert changed.shape == image.shape
    assert changed[:, 2, 3].tolist() == pytest.approx(list(expected), abs=3)  # 8-bit hue and saturation


def test_hsv_keeps_greys_grey_and_uses_its_ranges():
    grey = tv_tensors.Image(torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1))
    values = []
    for seed in range(100):
        torch.manual_seed(seed)
        out = HSVJitter()(grey)
        assert torch.equal(out[0], out[1])
        assert torch.equal(out[0], out[2])
        values.append(out[0, 6, 4].item() / 100)
    assert 0.6 <= min(values) < 0.65
    assert 1.35 < max(values) <= 1.4
    assert torch.equal(HSVJitter(0.0)(grey), grey)


def test_boxes_that_are_left_out_are_gone_everywhere():
    """The preset on single pictures: labels and boxes in step, a share of the boxes lost, nothing beyond the canvas."""
    transform = pickle.loads(pickle.dumps(train_transform("yolo", (64, 64), scale=(0.1, 1.9), translate=0.5)))
    boxes = [[x, y, x + 8, y + 8] for y in (1, 15, 30) for x in (1, 20, 45)]
    counts = []
    for seed in range(40):
        torch.manual_seed(seed)
        image, target = transform(*sample(boxes))
        assert image.shape == (3, 64, 64)
        assert len(target["labels"]) == len(target["boxes"])
        counts.append(len(target["labels"]))
    assert min(counts) == 0
    assert max(counts) == 9


@pytest.mark.parametrize(("arguments", "reason"), [({"scale": (0, 1)}, "scale must be"), ({"perspective": 0.5}, "0.4")])
def test_wrong_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        RandomWarp((10, 10), **arguments, fill=(0, 0, 0))


def test_turns_keep_lengths():
    """Half a turn at most, no zoom: distances between mapped points stay."""
    warp = RandomWarp((40, 40), (1.0, 1.0), 0.0, 180, fill=(0, 0, 0))
    image = tv_tensors.Image(torch.zeros(3, 40, 40, dtype=torch.uint8))
    angles = set()
    for seed in range(20):
        torch.manual_seed(seed)
        matrix = warp.make_params([image])["matrix"]
        assert np.hypot(*matrix[:2, 0]) == pytest.approx(1)
        assert np.linalg.det(matrix) == pytest.approx(1)
        angles.add(round(math.degrees(math.atan2(matrix[0, 1], matrix[0, 0])) / 90))
    assert len(angles) > 3
