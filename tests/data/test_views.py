"""Identities and tags of training samples, and several views of a picture in one batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headway.data.augment.labelled import aligned_with_boxes
from headway.data.augment.mosaic import join
from headway.data.augment.resize import eval_transform
from headway.data.dataset import DetectionData, Record
from headway.data.loader import GroupedBatchSampler, make_loader
from headway.data.prepared import DetectionDataset
from headway.types import ModelCard

CARD = ModelCard(input_size=(64, 64), class_names=("left", "right", "never"), pad_multiple=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six pictures of 64x64, each with a box of class 0 in the left upper corner and, in every other, a box of class 1
    in the right lower one."""
    root = tmp_path_factory.mktemp("views")
    records = []
    for number in range(6):
        path = root / f"{number}.png"
        Image.fromarray(np.full((64, 64, 3), 30 * number, np.uint8)).save(path)
        boxes = np.array([[2, 2, 14, 14], [50, 50, 62, 62]][: 1 + number % 2], np.float32)
        flags = np.zeros(len(boxes), bool)
        records.append(Record(number + 1, path, (64, 64), boxes, np.arange(len(boxes)), flags, flags + 144.0))
    return DetectionData("train", Path(root), "coco", records, CARD.class_names, (1, 2, 3))


def test_every_box_has_an_id_of_its_own(data):
    """Pictures have 1, 2, 1, 2, 1, 2 boxes."""
    samples = DetectionDataset(data, eval_transform((64, 64)))
    assert [samples[i].target.ids.tolist() for i in range(6)] == [[0], [1, 2], [3], [4, 5], [6], [7, 8]]


def test_tags_are_the_classes_in_the_picture(data):
    samples = DetectionDataset(data, eval_transform((64, 64)))
    assert samples[0].target.tags.tolist() == [1, 0, 0]
    assert samples[1].target.tags.tolist() == [1, 1, 0]


def test_a_class_that_a_crop_leaves_out_is_no_tag(data):
    """Zoomed in four times, a corner of a box is all that some crops show, and others show none."""
    loader = make_loader(data, CARD, batch_size=6, train=True, preset="small", seed=1, scale=(3.0, 4.0))
    seen = set()
    for epoch in range(4):
        loader.set_epoch(epoch)
        for target in next(iter(loader)).targets:
            wanted = torch.zeros(3)
            wanted[target.labels] = 1
            assert target.tags.tolist() == wanted.tolist()
            assert len(target.ids) == len(target.labels)
            seen.add(tuple(target.tags.tolist()))
    assert (0, 0, 0) in seen
    assert (1, 0, 0) in seen  # also of pictures that have both classes


def test_two_views_share_ids_and_differ_in_pixels(data):
    loader = make_loader(data, CARD, batch_size=4, train=True, preset="small", seed=3, views=2, scale=(0.8, 1.0))
    assert len(loader) == 3
    for batch in loader:
        assert len(batch.targets) == 4
        for first in (0, 2):
            assert batch.metas[first].path == batch.metas[first + 1].path
            assert batch.targets[first].ids.tolist() == batch.targets[first + 1].ids.tolist()
            assert not torch.equal(batch.images[first], batch.images[first + 1])
        assert batch.metas[0].path != batch.metas[2].path
    again = make_loader(data, CARD, batch_size=4, train=True, preset="small", seed=3, views=2, scale=(0.8, 1.0))
    torch.testing.assert_close(next(iter(again)).images, next(iter(loader)).images, rtol=0, atol=0)


def test_ids_go_through_a_mosaic(data):
    samples = DetectionDataset(data, eval_transform((64, 64)))
    _, target = join([samples._load(i)[:2] for i in (1, 3, 0, 5)], (64, 64))
    assert target["ids"].tolist() == [1, 2, 4, 5, 0, 7, 8]
    assert len(aligned_with_boxes((None, target))) == 3


@pytest.mark.parametrize(("batch", "views", "world"), [(6, 4, 1), (6, 2, 2), (4, 0, 1)])
def test_a_batch_that_cannot_hold_the_views(data, batch, views, world):
    with pytest.raises(ValueError, match="views"):
        GroupedBatchSampler(data, batch, views=views, world=world)


def test_ranks_hold_all_views_of_their_pictures(data):
    keys = [next(iter(GroupedBatchSampler(data, 4, rank=rank, world=2, views=2))) for rank in (0, 1)]
    both = next(iter(GroupedBatchSampler(data, 4, views=2)))
    assert keys[0] + keys[1] == both
    assert [view for _, _, view in keys[0]] == [0, 1]
    assert len({index for _, index, _ in keys[0]}) == 1
