"""The splitter: complete, repeatable, and fair to rare classes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.dataset import DetectionData, Record
from headway.data.split import stratified_split
from headway.errors import DataError


def dataset(labels_per_image, classes):
    records = []
    for i, labels in enumerate(labels_per_image):
        boxes = np.tile(np.array([[0, 0, 8, 8]], np.float32), (len(labels), 1))
        areas, crowd = np.full(len(labels), 64, np.float32), np.zeros(len(labels), bool)
        records.append(Record(i + 1, Path(f"{i}.jpg"), (10, 10), boxes, np.array(labels, np.int64), crowd, areas))
    names = tuple(f"class{i}" for i in range(classes))
    return DetectionData("all", Path("data"), "coco", records, names, tuple(range(1, classes + 1)))


def ids(parts):
    return {name: [record.image_id for record in part.records] for name, part in parts.items()}


def images_with(part, label):
    return sum(label in record.labels for record in part.records)


def test_rare_class_is_in_every_part():
    """100 images: all have class 0, every 4th class 1, three class 2. A tenth of 3 images is 0.3, so by shares alone
    the small parts would get none of class 2."""
    labels = [[0, 0] + [1] * (i % 4 == 0) + [2] * (i in (10, 11, 12)) for i in range(100)]
    for seed in range(20):
        parts = stratified_split(dataset(labels, 3), {"train": 0.8, "val": 0.1, "test": 0.1}, seed)
        assert [images_with(part, 2) for part in parts.values()] == [1, 1, 1]
        sizes = [len(part) for part in parts.values()]
        assert sum(sizes) == 100
        np.testing.assert_allclose(sizes, [80, 10, 10], atol=2)
        np.testing.assert_allclose([images_with(part, 1) for part in parts.values()], [20, 2.5, 2.5], atol=1.5)


def test_shares_beat_a_random_split():
    """Distance of every class's share from 0.75, against the mean of random splits of the same data."""
    rng = np.random.default_rng(0)
    chances = np.geomspace(0.5, 0.03, 12)
    labels = [np.flatnonzero(rng.random(12) < chances).tolist() for _ in range(300)]
    has = np.array([[c in row for c in range(12)] for row in labels])

    def distance(train):
        return np.abs(has[train].sum(0) / has.sum(0) - 0.75).mean()

    parts = stratified_split(dataset(labels, 12), {"train": 0.75, "val": 0.25}, seed=3)
    ours = distance([i - 1 for i in ids(parts)["train"]])
    chance = np.mean([distance(rng.permutation(300)[:225]) for _ in range(50)])
    assert ours < chance / 3


def test_seed_decides_and_order_is_kept():
    data = dataset([[i % 3] for i in range(30)] + [[] for _ in range(10)], 3)
    fractions = {"train": 0.7, "val": 0.3}
    first, again, other = (ids(stratified_split(data, fractions, seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert all(numbers == sorted(numbers) for numbers in first.values())
    assert sum(number > 30 for number in first["val"]) == 3, "images without boxes are shared out too"


def test_largest_part_has_every_class():
    """Class 1 is in one image only, class 2 in another: both must be there to be learnt."""
    labels = [[0]] * 8 + [[0, 1], [0, 2]]
    for seed in range(10):
        train = stratified_split(dataset(labels, 3), {"val": 0.3, "train": 0.7}, seed)["train"]
        assert {label for record in train.records for label in record.labels.tolist()} == {0, 1, 2}


def test_class_that_a_part_lacks_is_noted():
    parts = stratified_split(dataset([[0], [0], [0], [0, 1]], 3), {"train": 0.5, "val": 0.5})
    assert parts["train"].notes == []
    assert parts["val"].notes == ["1 classes have no box in 'val': class1"], "class 2 has none anywhere"


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=3, max_size=30),
    shares=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_every_image_is_in_exactly_one_part(labels, shares, seed):
    fractions = {f"part{i}": share / sum(shares) for i, share in enumerate(shares)}
    parts = stratified_split(dataset(labels, 5), fractions, seed)
    assert list(parts) == list(fractions)
    assert sorted(number for numbers in ids(parts).values() for number in numbers) == list(range(1, len(labels) + 1))
    assert all(len(part) for part in parts.values())
    assert [part.name for part in parts.values()] == list(parts)


@pytest.mark.parametrize(
    "fractions", [{}, {"train": 0.8, "val": 0.1}, {"train": 1.2, "val": -0.2}, {"train": float("nan")}]
)
def test_fractions_must_add_up(fractions):
    with pytest.raises(DataError, match="add up to 1"):
        stratified_split(dataset([[0]] * 9, 1), fractions)


def test_too_few_images():
    with pytest.raises(DataError, match="too few for 3 parts"):
        stratified_split(dataset([[0]] * 2, 1), {"a": 0.4, "b": 0.3, "c": 0.3})
