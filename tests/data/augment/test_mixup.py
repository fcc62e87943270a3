"""Mosaics of preset yolo and their blending: every box around its own colour."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from headway.data.augment.mosaic import YoloMosaics, join_anywhere, join_nine, mix_up
from headway.data.augment.presets import train_transform


def flat(value, height, width, boxes=None):
    """A picture of one grey; without `boxes` it has one, around all of it, labelled with the grey."""
    boxes = [[0, 0, width, height]] if boxes is None else boxes
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.full((len(boxes),), value),
        "crowd": torch.zeros(len(boxes), dtype=torch.bool),
        "ids": torch.full((len(boxes),), value + 1000),
    }
    return tv_tensors.Image(torch.full((3, height, width), value, dtype=torch.uint8)), target


def around(image, value):
    where = (image[0] == value).nonzero()
    return [*where.amin(0).flip(0).tolist(), *(where.amax(0).flip(0) + 1).tolist()] if len(where) else [0, 0, 0, 0]


def check(image, target):
    """Each box is the one around the pixels of its grey, or has no area where none is seen."""
    for box, value in zip(target["boxes"].tolist(), target["labels"].tolist()):
        if box[2] > box[0] and box[3] > box[1]:
            assert [round(v) for v in box] == around(image, value)
        else:
            assert around(image, value) == [0, 0, 0, 0]


SHAPES = [(40, 60), (60, 40), (50, 50), (20, 60), (60, 10), (40, 60), (33, 57), (60, 60), (1, 60)]


@pytest.mark.parametrize(("join", "count"), [(join_anywhere, 4), (join_nine, 9)])
@pytest.mark.parametrize("seed", range(12))
def test_each_box_is_around_its_own_picture(join, count, seed):
    """On twice 60x60. The seam of four lies in the middle half; the middle picture of nine has a corner in the first
    half and ends within the canvas, so it is always seen whole."""
    torch.manual_seed(seed)
    pictures = [flat(10 * (i + 1), *SHAPES[i]) for i in range(count)]
    image, target = join(pictures, (60, 60), (60, 60), (0, 0, 0))
    assert image.shape == (3, 120, 120)
    assert sorted(target["labels"].tolist()) == [10 * (i + 1) for i in range(count)]
    check(image, target)
    assert torch.equal(target["ids"], target["labels"] + 1000)
    if join is join_anywhere:
        seam = [around(image, 10)[3], around(image, 10)[2]]
        assert all(30 <= place <= 90 for place in seam)
    else:
        own = target["boxes"][target["labels"].tolist().index(10)].tolist()
        assert (own[2] - own[0], own[3] - own[1]) == (60, 40)
        assert target["labels"].tolist()[4] == 10
        assert all(0 <= start <= 60 for start in own[:2])


def test_the_seams_lie_anywhere():
    pictures = [flat(10 * (i + 1), 60, 60) for i in range(9)]
    seams, starts = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        seams.append(around(join_anywhere(pictures[:4], (60, 60), (60, 60), (0, 0, 0))[0], 10)[2])
        torch.manual_seed(seed)
        starts.append(around(join_nine(pictures, (60, 60), (60, 60), (0, 0, 0))[0], 10)[0])
    assert (min(seams), max(seams)) == (pytest.approx(30, abs=1), pytest.approx(90, abs=1))
    assert (min(starts), max(starts)) == (pytest.approx(0, abs=1), pytest.approx(60, abs=1))


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=9, max_size=9), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_pictures_of_any_sizes(shapes, seed):
    torch.manual_seed(seed)
    pictures = [flat(10 * (i + 1), *shape) for i, shape in enumerate(shapes)]
    for join, count in ((join_anywhere, 4), (join_nine, 9)):
        image, target = join(pictures[:count], (32, 48), (32, 48), (0, 0, 0))
        assert image.shape == (3, 64, 96)
        check(image, target)


def test_mixup_blends_and_keeps_all_boxes(monkeypatch):
    """Three quarters of 40 and a quarter of 200 are 80."""

    class Fixed:
        def __init__(self, a, b):
            assert (a, b) == (8.0, 8.0)

        def sample(self):
            return torch.tensor(0.75)

    monkeypatch.setattr(torch.distributions, "Beta", Fixed)
    image, target = mix_up(flat(40, 20, 30), flat(200, 20, 30, [[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert image.unique().tolist() == [80]
    assert image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[0, 0, 30, 20], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert target["labels"].tolist() == [40, 200, 200]
    assert target["ids"].tolist() == [1040, 1200, 1200]
    assert target["boxes"].canvas_size == (20, 30)
    with pytest.raises(ValueError, match="one size"):
        mix_up(flat(40, 20, 30), flat(40, 30, 20))


def mosaics(nine, mixup, **settings):
    single = train_transform("yolo", (48, 64), colour=0, flip=0, fill=(0, 0, 0), **settings)
    return pickle.loads(pickle.dumps(YoloMosaics(single, (48, 64), (0, 0, 0), nine, mixup)))


@pytest.mark.parametrize(
    ("nine", "mixup", "loads"), [(0.0, 0.0, {3}), (1.0, 0.0, {8}), (0.0, 1.0, {7}), (0.5, 0.5, {3, 8, 7, 12, 17})]
)
def test_how_many_pictures_are_joined(nine, mixup, loads):
    """3 others for four, 8 for nine, and a whole second mosaic for MixUp."""
    seen = set()
    build = mosaics(nine, mixup)
    for seed in range(60):
        torch.manual_seed(seed)
        taken = []
        image, target = build(flat(10, 30, 20), lambda taken=taken: taken.append(1) or flat(20, 20, 30))
        seen.add(len(taken))
        assert image.shape == (3, 64, 48)  # tall, as the first is, whatever the others
        assert len(target["boxes"]) == len(target["labels"]) <= 18
    assert seen == loads


def test_without_draws_the_middle_of_the_mosaic_is_seen():
    """Zoom 1, no shift: the middle half of the canvas along each axis, where the seam is; where it is not
    near the border all four are seen, and the ground never."""
    everything = 0
    build, colours = mosaics(0.0, 0.0, scale=(1.0, 1.0), translate=0.0), iter([20, 30, 40] * 30)
    for seed in range(30):
        torch.manual_seed(seed)
        image, target = build(flat(10, 48, 64), lambda: flat(next(colours), 48, 64))
        check(image, target)
        seen = set(image.unique().tolist())
        assert seen <= {10, 20, 30, 40}
        everything += len(seen) == 4
    assert 15 <= everything < 30


def test_no_boxes_and_one_picture():
    build = mosaics(0.5, 0.5)
    torch.manual_seed(0)
    for _ in range(10):
        image, target = build(flat(10, 40, 60, []), lambda: flat(20, 40, 60, []))
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].dtype == torch.int64
        assert image.dtype == torch.uint8
    assert isinstance(build.finish, v2.Compose)


@pytest.mark.parametrize("join", [join_anywhere, join_nine])
def test_a_wrong_number_is_refused(join):
    with pytest.raises(ValueError, match="samples, got 5"):
        join([flat(1, 4, 4)] * 5, (8, 8), (8, 8), (0, 0, 0))
