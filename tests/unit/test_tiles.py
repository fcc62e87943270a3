"""Tiles: where they lie, and how what is found in them becomes what is in the picture, worked out by hand."""

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headway.data.dataset import Record
from headway.data.tiled import _tiles_of, part_of
from headway.data.windows import Window, spread, windows_of
from headway.predict.tiles import join, views_of

LEFT, RIGHT, WHOLE = Window(0, 0, 100, 100), Window(80, 0, 180, 100), Window(0, 0, 180, 100)


def joined(left=(), right=(), whole=(), windows=(LEFT, RIGHT, WHOLE)):
    """Rows (x1, y1, x2, y2, score[, label]) of two tiles and of the whole picture -> rows with labels, best first."""
    parts = [np.array([(*row, 0)[:6] for row in rows], np.float32).reshape(-1, 6) for rows in (left, right, whole)]
    labels = [part[:, 5].astype(np.int64) for part in parts]
    found = join(windows, [part[:, :4] for part in parts], [part[:, 4] for part in parts], labels)
    every = np.concatenate(labels)[found.index]
    return [(*box, round(score, 3), label) for box, score, label in zip(found.boxes.tolist(), found.scores, every)]


def test_tiles_are_evenly_spread():
    """1000 in tiles of 400 that share 80 at least: (1000 - 80) / 320 = 2.9, so three, 300 apart."""
    assert spread(1000, 400, 0.2) == [0, 300, 600]
    assert spread(400, 400, 0.2) == [0]
    assert spread(401, 400, 0.2) == [0, 1]
    assert spread(800, 400, 0.0) == [0, 400]
    assert windows_of((300, 700), (400, 400), 0.25) == [(0, 0, 400, 300), (300, 0, 700, 300)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(32, 1500), st.floats(0, 0.9))
def test_tiles_cover_an_axis_and_overlap_enough(length, tile, overlap):
    starts = spread(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    shared = [first + tile - second for first, second in pairwise(starts)]
    assert min(shared, default=tile) >= min(math.ceil(tile * overlap), tile - 1) - 1  # rounding of two starts
    assert max(shared, default=0) - min(shared, default=0) <= 1
    least = 1 + max(0, math.ceil((length - tile) / (tile - min(math.ceil(tile * overlap), tile - 1))))
    assert len(starts) == least


def test_views_are_the_tiles_and_the_whole_picture():
    assert views_of((480, 640), None) == [(0, 0, 640, 480)]
    assert views_of((480, 640), 640) == [(0, 0, 640, 480)]
    assert views_of((480, 640), True, input_size=(480, 640)) == [(0, 0, 640, 480)]
    assert views_of((640, 480), True, input_size=(480, 640)) == [(0, 0, 480, 640)]
    seen = views_of((480, 1000), True, 0.2, (480, 640))
    assert seen == [(0, 0, 640, 480), (360, 0, 1000, 480), (0, 0, 1000, 480)]


def test_a_cut_box_goes_where_another_view_shows_the_whole():
    """70..130 ends at 100 in the left tile; the picture shows it to 130, at two thirds of the score."""
    assert joined(left=[(70, 20, 100, 60, 0.9)], whole=[(70, 20, 130, 60, 0.6)]) == [(70, 20, 130, 60, 0.6, 0)]
    # 85..130 lies in the right tile as a whole
    assert joined(left=[(85, 20, 100, 60, 0.5)], right=[(85, 20, 130, 60, 0.8)]) == [(85, 20, 130, 60, 0.8, 0)]
    # a third of the score is too little to say that the sure one is a part
    assert len(joined(left=[(70, 20, 100, 60, 0.9)], whole=[(70, 20, 130, 60, 0.3)])) == 2


def test_parts_that_nobody_shows_as_a_whole_become_their_hull():
    found = joined(left=[(70, 20, 100, 60, 0.9)], right=[(80, 21, 130, 59, 0.7)])
    assert found == [(70, 20, 130, 60, 0.9, 0)]


def test_parts_meet_without_an_overlap_too():
    windows = (Window(0, 0, 100, 100), Window(100, 0, 200, 100), Window(0, 0, 200, 100))
    found = joined([(70, 20, 100, 60, 0.9)], [(100, 22, 130, 60, 0.7), (100, 70, 120, 90, 0.6)], windows=windows)
    assert found == [(70, 20, 130, 60, 0.9, 0), (100, 70, 120, 90, 0.6, 0)]


def test_an_object_over_four_tiles_is_one():
    windows = [Window(x, y, x + 100, y + 100) for y in (0, 80) for x in (0, 80)] + [Window(0, 0, 180, 180)]
    boxes = [[(60, 50, 100, 100)], [(80, 50, 130, 100)], [(60, 80, 100, 120)], [(80, 80, 130, 120)], []]
    arrays = [np.array(rows, np.float32).reshape(-1, 4) for rows in boxes]
    scores = [np.full(len(rows), 0.5 + 0.1 * i) for i, rows in enumerate(boxes)]
    found = join(windows, arrays, scores, [np.zeros(len(rows), np.int64) for rows in boxes])
    assert found.boxes.tolist() == [[60, 50, 130, 120]]
    assert found.scores.tolist() == [0.8]
    assert found.index.tolist() == [3]


def test_neighbours_stay_two():
    """One ends at the border of the left tile, the other begins behind it; a third lies in a larger one."""
    one, other = (60, 20, 99.5, 60), (101, 20, 140, 60)
    found = joined(left=[(*one, 0.9)], right=[(80, 20, 99.5, 60, 0.4), (*other, 0.8)], whole=[(*other, 0.7)])
    assert [row[:4] for row in found] == [one, other]
    small, large = (20, 20, 40, 40, 0.9), (10, 10, 170, 90, 0.8)
    assert [row[:5] for row in joined(left=[small], whole=[large])] == [small, large]


def test_classes_are_apart_and_one_view_does_not_suppress_itself():
    assert len(joined(left=[(85, 20, 100, 60, 0.5, 1)], right=[(85, 20, 130, 60, 0.8, 0)])) == 2
    crowd = [(10, 10, 50, 50, 0.9), (15, 10, 55, 50, 0.8)]  # IoU 35 / 45, which the model's own suppression let pass
    assert len(joined(left=crowd)) == 2
    assert joined(left=crowd[:1], whole=crowd[1:]) == [(10, 10, 50, 50, 0.9, 0)]


def test_tiles_know_the_class_better_than_the_whole_picture():
    tile, whole = (20, 20, 60, 60, 0.7, 1), (22, 20, 62, 60, 0.6, 0)
    assert joined(left=[tile], whole=[whole]) == [tile]
    surer = (*whole[:4], 0.8, 0)
    assert joined(left=[tile], whole=[surer]) == [surer, tile]
    assert len(joined(left=[(85, 20, 95, 60, 0.6, 0)], right=[(85, 20, 95, 60, 0.7, 1)])) == 2  # of two tiles


def test_nothing_found_is_nothing():
    assert joined() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.1, 0.2, 0.5)))
def test_perfect_views_give_the_truth(seed, overlap):
    """What a perfect detector would show of scattered objects in each view becomes the objects again, also of those
    larger than the overlap and than a tile, whose parts are cut on two sides."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(150, 400)), int(rng.integers(150, 400)))
    cells = [(x, y) for y in range(0, size[0] - 99, 100) for x in range(0, size[1] - 99, 100)]
    low = np.array(cells) + rng.uniform(5, 30, (len(cells), 2))
    truth = np.concatenate([low, low + rng.uniform(8, 60, (len(cells), 2))], 1).astype(np.float32)
    views = views_of(size, 64, overlap)
    boxes = []
    for view in views[:-1]:
        seen = np.concatenate([np.clip(truth[:, i : i + 2], view[:2], view[2:]) for i in (0, 2)], 1)
        boxes.append(seen[((seen[:, 2:] - seen[:, :2]) > 2).all(1)])
    boxes.append(truth[:0])  # the whole picture shows nothing
    labels = [np.zeros(len(part), np.int64) for part in boxes]
    found = join(views, boxes, [np.ones(len(part)) for part in boxes], labels)
    order = np.lexsort(found.boxes.T)
    np.testing.assert_allclose(found.boxes[order], truth[np.lexsort(truth.T)], atol=2.01)


def test_boxes_of_a_tile():
    """A box of 40 columns of which 5 are seen is a crowd; one that is outside is left out."""
    boxes = np.array([[70, 10, 110, 30], [60, 10, 100, 50], [10, 10, 20, 20]], np.float32)
    record = Record(
        7, Path("a.jpg"), (100, 200), boxes, np.array([1, 0, 1]), np.zeros(3, bool), np.array([400, 1600, 100.0])
    )
    part = part_of(record, Window(80, 0, 180, 100), Path("b.jpg"))
    assert part.size == (100, 100)
    assert part.boxes.tolist() == [[0, 10, 30, 30], [0, 10, 20, 50]]
    assert part.labels.tolist() == [1, 0]
    assert part.crowd.tolist() == [False, False]
    assert part.areas.tolist() == [300, 800]
    part = part_of(record, Window(95, 0, 195, 100), Path("b.jpg"))
    assert part.boxes.tolist() == [[0, 10, 15, 30], [0, 10, 5, 50]]
    assert part.crowd.tolist() == [False, True]


def test_a_tile_of_a_shard_is_a_picture_of_its_own_and_objects_keep_their_identities(tmp_path):
    """50 x 32 pixels inside a tar shard, in tiles at 0 and 18. Of the objects 5 and 6 the second tile shows 6 alone."""
    file = io.BytesIO()
    pixels = np.arange(32 * 50 * 3, dtype=np.uint8).reshape(32, 50, 3)
    Image.fromarray(pixels).save(file, "png")
    boxes = np.float32([[2, 2, 10, 10], [30, 4, 48, 12]])
    record = Record(
        1, Path("a.png"), (32, 50), boxes, np.int64([0, 0]), np.zeros(2, bool), np.float32([64, 144]),
        content=file.getvalue, ids=np.int64([5, 6]),
    )  # fmt: skip
    first, second = _tiles_of(record, tmp_path / "tiles", (32, 32), 0.2, 0.3, None)
    assert [first.read().shape, second.read().shape] == [(3, 32, 32)] * 2
    np.testing.assert_array_equal(second.read().permute(1, 2, 0), pixels[:, 18:])
    assert (first.ids.tolist(), second.ids.tolist()) == ([5, 6], [6])  # of 6 the first shows 2 of 18 columns
    assert (first.crowd.tolist(), second.boxes.tolist()) == ([False, True], [[12, 4, 30, 12]])


@pytest.mark.parametrize("size", [(10, 10), (63, 64), (64, 64)])
def test_what_fits_into_a_tile_is_one_view(size):
    assert views_of(size, 64) == [(0, 0, size[1], size[0])]
