"""Batches must depend on (seed, epoch) alone: not on workers, ranks or where a run was broken off."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headway.data.augment.presets import train_transform
from headway.data.augment.resize import eval_transform
from headway.data.batch import BatchItem, collate, to_model_input
from headway.data.cache import PictureCache
from headway.data.dataset import DetectionData, Record
from headway.data.image import read_image
from headway.data.loader import GroupedBatchSampler, make_loader
from headway.data.prepared import DetectionDataset
from headway.errors import DataError
from headway.types import Meta, ModelCard, Target

CARD = ModelCard(input_size=(48, 64), class_names=("a", "b"), pad_multiple=32)
SHAPES = [(40, 60), (60, 40), (48, 64), (30, 31), (64, 48), (50, 50), (20, 70), (41, 67), (33, 65), (70, 20), (45, 45)]


def record(number, path, size, boxes):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Record(number, path, size, boxes, np.arange(count) % 2, np.arange(count) % 3 == 2, areas)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eleven pictures of noise, wide and tall; number 4 has no boxes."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate(SHAPES):
        path = root / f"{number:03d}.png"
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        boxes = [[2, 3, 12, 18], [5, 1, 6, 2], [0, 0, width, height]] if number != 4 else []
        records.append(record(number + 1, path, (height, width), boxes))
    return DetectionData("train", root, "coco", records, ("a", "b"), (1, 2))


def shapes_only(shapes):
    records = [record(i + 1, Path(f"{i}.jpg"), size, []) for i, size in enumerate(shapes)]
    return DetectionData("train", Path("."), "coco", records, ("a",), (1,))


def flatten(batches):
    """Everything in some batches, comparable."""
    return [
        (batch.images, batch.sizes, [(t.boxes, t.labels, t.crowd) for t in batch.targets], batch.metas)
        for batch in batches
    ]


def assert_same(first, second):
    first, second = flatten(first), flatten(second)
    assert len(first) == len(second)
    for (images_a, sizes_a, targets_a, metas_a), (images_b, sizes_b, targets_b, metas_b) in zip(first, second):
        assert torch.equal(images_a, images_b)
        assert torch.equal(sizes_a, sizes_b)
        assert metas_a == metas_b
        for target_a, target_b in zip(targets_a, targets_b):
            assert all(torch.equal(a, b) for a, b in zip(target_a, target_b))


def run(data, epochs=(0, 1), start=0, of=1, **options):
    options = {"batch_size": 4, "train": True, "preset": "small", "seed": 5, "epochs": of} | options
    loader = make_loader(data, CARD, **options)
    batches = []
    for epoch in epochs:
        loader.set_epoch(epoch, start)
        batches += list(loader)
    return batches


def test_evaluation_loader(data):
    batches = run(data, epochs=(0,), train=False)
    ids = [meta.image_id for batch in batches for meta in batch.metas]
    assert sorted(ids) == list(range(1, 12))
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        assert batch.sizes.dtype == torch.int64
        for image, (height, width), meta, target in zip(
            to_model_input(batch, "cpu"), batch.sizes.tolist(), batch.metas, batch.targets
        ):
            original_height, original_width = SHAPES[meta.image_id - 1]
            assert meta.original_size == (original_height, original_width)
            assert meta.affine == (width / original_width, height / original_height, 0.0, 0.0)
            assert not meta.flipped
            expected = eval_transform((48, 64))(read_image(meta.path)).float() / 255
            assert torch.equal(image[:, :height, :width], expected)
            if len(target.boxes):
                assert torch.allclose(target.boxes[2], torch.tensor([0.0, 0.0, width, height]))
                assert target.crowd.tolist() == [False, False, True]
                assert target.boxes.dtype == torch.float32


@pytest.mark.parametrize("preset", ["mmdet", "small", "mosaic", "yolo"])
def test_workers_do_not_change_anything(data, preset):
    assert_same(run(data, preset=preset), run(data, preset=preset, workers=2))


def test_spawned_workers_give_the_same(data):
    alone = run(data, epochs=(1,), cache="ram")
    assert_same(alone, run(data, epochs=(1,), cache="ram", workers=1, start_method="spawn"))


@pytest.mark.parametrize("preset", ["mmdet", "small", "mosaic", "yolo"])
def test_the_cache_does_not_change_anything(data, preset):
    assert_same(run(data, preset=preset), run(data, preset=preset, cache="ram"))
    assert_same(run(data, train=False), run(data, train=False, cache="ram"))


def test_epochs_differ_and_repeat(data):
    first, second = run(data, epochs=(0,)), run(data, epochs=(1,))
    assert not torch.equal(first[0].images, second[0].images)
    assert_same(run(data, epochs=(3, 1, 0))[3:6], second)


def test_the_global_generator_is_left_alone(data):
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    run(data)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_of_an_epoch(data, workers):
    whole = run(data, epochs=(2,))
    for start in range(len(whole) + 1):
        assert_same(whole[start:], run(data, epochs=(2,), start=start, workers=workers))


def test_two_ranks_joined_are_one(data):
    """Eleven pictures, batch 4: two full batches are shared 2 + 2; the last has 3, so a fourth is repeated."""
    one, two = run(data, epochs=(1,)), [run(data, epochs=(1,), rank=rank, world=2) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1]) == 3
    for whole, left, right in zip(one, *two):
        joined = left.metas + right.metas
        assert joined[: len(whole.metas)] == whole.metas
        assert len(left.metas) == len(right.metas)
        for image, size, meta in [
            *zip(left.images, left.sizes, left.metas),
            *zip(right.images, right.sizes, right.metas),
        ]:
            height, width = size.tolist()
            other = whole.images[whole.metas.index(meta)] if meta in whole.metas else None
            if other is not None:
                assert torch.equal(image[:, :height, :width], other[:, :height, :width])
    assert len(two[0][-1].metas) + len(two[1][-1].metas) == 4


def test_ranks_evaluate_each_picture_once(data):
    ids = [m.image_id for rank in range(3) for b in run(data, (0,), train=False, batch_size=6, rank=rank, world=3)
           for m in b.metas]  # fmt: skip
    assert sorted(ids) == list(range(1, 12))


shapes = st.lists(st.sampled_from([(10, 20), (20, 10), (10, 10)]), max_size=40)


@given(shapes, st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9))
@settings(deadline=None, max_examples=150)
def test_sampler_properties(shapes, share, world, shuffle, drop_last, even, epoch):
    data, size = shapes_only(shapes), share * world
    ranks = [
        GroupedBatchSampler(data, size, 3, rank, world, shuffle=shuffle, drop_last=drop_last, even=even)
        for rank in range(world)
    ]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in ranks]
    assert [len(b) for b in batches] == [len(sampler) for sampler in ranks]
    assert all(key[0] == epoch for b in batches for batch in b for key in batch)
    seen = sorted(index for b in batches for batch in b for _, index in batch)
    if drop_last:
        assert len(seen) == len(set(seen)) == len(shapes) // size * size
    elif even:
        assert len({len(b) for b in batches}) == 1
        assert set(seen) == set(range(len(shapes)))
        assert len(seen) == math.ceil(len(shapes) / world) * world
    else:
        assert seen == list(range(len(shapes)))
    # All but two batches (what was left of the two groups) are of one orientation.
    mixed = [b for b in ranks[0].global_batches() if len({shapes[i][0] > shapes[i][1] for i in b}) > 1]
    assert len(mixed) <= 2


def test_sampler_is_shuffled_by_seed_and_epoch():
    data = shapes_only([(10, 20)] * 30)

    def order(seed, epoch):
        sampler = GroupedBatchSampler(data, 5, seed)
        sampler.set_epoch(epoch)
        return sampler.global_batches()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    still = GroupedBatchSampler(data, 5, shuffle=False).global_batches()
    assert [index for batch in still for index in batch] == list(range(30))


def test_sampler_length_is_the_epochs_also_after_resuming():
    sampler = GroupedBatchSampler(shapes_only([(10, 20)] * 10), 4)
    sampler.set_epoch(1, start_batch=2)
    assert len(sampler) == 3
    assert len(list(sampler)) == 1


def test_sampler_reads_unknown_shapes_from_the_files(data):
    unknown = [record(r.image_id, r.path, None, []) for r in data.records]
    without = DetectionData("train", data.root, "yolo", unknown, ("a",), (1,))
    assert GroupedBatchSampler(without, 4).tall.tolist() == [h > w for h, w in SHAPES]


@pytest.mark.parametrize(("arguments", "message"), [((5, 0, 0, 2), "multiple of world=2, got 5"),
                                                    ((4, 0, 2, 2), r"rank must be in 0\.\.1, got 2"),
                                                    ((0,), "got 0")])  # fmt: skip
def test_wrong_sampler_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupedBatchSampler(shapes_only([(1, 1)]), *arguments)


def test_collate_by_hand():
    """Pictures 2x3 and 4x1 in a 4x4 canvas (multiple 4): values v/255, elsewhere the padding."""

    def one(height, width, value):
        image = torch.full((3, height, width), value, dtype=torch.uint8)
        return BatchItem(image, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), Meta(1, "a", (2, 3)))

    batch = collate([one(2, 3, 255), one(4, 1, 51)], (0.1, 0.2, 0.3), 4)
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 4, 4), torch.uint8)
    images = to_model_input(batch, "cpu")
    assert batch.sizes.tolist() == [[2, 3], [4, 1]]
    assert images[0, 0].tolist() == pytest.approx(np.array(
        [[1, 1, 1, 0.1], [1, 1, 1, 0.1], [0.1] * 4, [0.1] * 4]
    ))  # fmt: skip
    assert images[1, 2].tolist() == pytest.approx(np.array([[0.2, 0.3, 0.3, 0.3]] * 4))


def test_batches_travel_as_bytes_and_arrive_as_they_were(data):
    """Every level of a byte divided by 255 in float32, as torch does it on the CPU, and the padding to the bit."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    batch = collate([BatchItem(levels, target, Meta(1, "a", (16, 16)))], CARD.pad_value, 32)
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (1, 3, 32, 32))
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    expected = torch.tensor(CARD.pad_value).view(3, 1, 1).repeat(1, 32, 32)
    torch.div(levels, 255.0, out=expected[:, :16, :16])
    for device in devices:
        assert torch.equal(to_model_input(batch, device).cpu()[0], expected)
    assert to_model_input(batch._replace(images=expected[None]), "cpu").data_ptr() == expected.data_ptr()  # floats stay
    pinned = next(iter(make_loader(data, CARD, batch_size=4, train=False, workers=1))).images.is_pinned()
    assert pinned == torch.cuda.is_available()


def test_padding_is_zero_after_normalisation(data):
    card = ModelCard(input_size=(48, 64), mean=(103.53, 116.28, 123.675), channels="bgr")
    loader = make_loader(data, card, batch_size=4, train=False)
    batch = next(iter(loader))
    height, width = batch.sizes[0].tolist()
    corner = to_model_input(batch, "cpu")[0, :, -1, -1]
    assert height < batch.images.shape[2] or width < batch.images.shape[3]
    assert torch.allclose(corner.flip(0) * 255, torch.tensor(card.mean))


def test_padding_has_the_colour_that_the_card_states(data):
    """In batches, and around a picture that augmentation has shrunk."""
    card = ModelCard(input_size=(48, 64), mean=(0, 0, 0), std=(255, 255, 255), pad=(114, 115, 116))
    expected = torch.tensor([114.0, 115.0, 116.0])
    batch = next(iter(make_loader(data, card, batch_size=4, train=False)))
    assert (batch.sizes < torch.tensor(batch.images.shape[2:])).any()
    assert torch.allclose(to_model_input(batch, "cpu")[0, :, -1, -1] * 255, expected)
    for preset in ("small", "yolo"):
        batch = next(iter(make_loader(data, card, batch_size=1, train=True, preset=preset, scale=(0.3, 0.3), colour=0)))
        pixels = batch.images[0, :, : batch.sizes[0, 0], : batch.sizes[0, 1]].flatten(1).T.float()
        assert ((pixels - expected).abs() < 1e-3).all(1).float().mean() > 0.3


def test_mosaics_of_one_grey_picture(tmp_path):
    """A data set of a single grey file without boxes, joined with itself nine times and blended."""
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((30, 50), 90, np.uint8)).save(path)
    single = DetectionData("train", tmp_path, "coco", [record(1, path, (30, 50), [])], ("a", "b"), (1, 2))
    for batch in run(single, epochs=(0, 1, 2), preset="yolo", batch_size=1, mosaic9=0.5, mixup=1.0):
        assert batch.sizes.tolist() == [[48, 64]]
        assert batch.targets[0].boxes.shape == (0, 4)
        assert batch.targets[0].labels.dtype == torch.int64


def test_plain_epochs_join_nothing(data):
    """From epoch 1 on single pictures are warped: without draws each lies whole in the middle of the canvas, so a box
    around a whole picture is as large as the fitted picture."""
    options = {"preset": "yolo", "of": 2, "joined_epochs": 1, "scale": (1.0, 1.0), "translate": 0.0, "colour": 0}
    batches = run(data, epochs=(1,), batch_size=1, **options)
    for batch in batches:
        height, width = SHAPES[batch.metas[0].image_id - 1]
        scale = min(48 / min(height, width), 64 / max(height, width))
        for box in batch.targets[0].boxes[2:].tolist():
            assert (box[2] - box[0], box[3] - box[1]) == pytest.approx((width * scale, height * scale), abs=0.6)
    joined = [len(batch.targets[0].boxes) for batch in run(data, epochs=(0,), batch_size=1, **options)]
    assert max(joined) > 3


def test_empty_pictures_are_kept_or_dropped(data):
    ids = [m.image_id for b in run(data, epochs=(0,)) for m in b.metas]
    assert 5 in ids
    target = next(t for b in run(data, epochs=(0,)) for t, m in zip(b.targets, b.metas) if m.image_id == 5)
    assert target.boxes.shape == (0, 4)
    assert target.labels.dtype == torch.int64
    assert target.crowd.dtype == torch.bool
    assert 5 not in [m.image_id for b in run(data, epochs=(0,), drop_empty=True) for m in b.metas]


def test_boxes_beyond_the_picture_are_clipped(data):
    first = data.records[0]
    wild = record(1, first.path, (40, 60), [[-5, -5, 100, 100]])
    sample = DetectionDataset(DetectionData("x", data.root, "coco", [wild], ("a",), (1,)), eval_transform((40, 60)))[0]
    assert sample.target.boxes.tolist() == [[0, 0, 60, 40]]


def test_annotations_are_not_changed_by_training(data):
    before = [r.boxes.copy() for r in data.records]
    run(data)
    assert all(np.array_equal(a, r.boxes) for a, r in zip(before, data.records))


def test_a_wrong_size_is_an_error(data):
    turned = record(1, data.records[0].path, (60, 40), [[0, 0, 5, 5]])
    dataset = DetectionDataset(DetectionData("x", data.root, "coco", [turned], ("a",), (1,)), eval_transform((40, 60)))
    with pytest.raises(DataError, match=r"000\.png is 60x40 upright, but its annotation says 40x60.*data check"):
        dataset[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_named_the_same_with_workers(data, tmp_path, workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff" + b"\0" * 50)
    records = [*data.records, record(99, broken, (40, 60), [[0, 0, 5, 5]])]
    bad = DetectionData("train", data.root, "coco", records, ("a", "b"), (1, 2))
    with pytest.raises(DataError) as caught:
        run(bad, workers=workers)
    assert str(caught.value).startswith(f"image {broken} is ")
    assert "Traceback" not in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), DataError)


def test_the_cache_keeps_what_fits(data):
    """The first two pictures need 2 * 40*60*3 = 14400 bytes."""
    cache = PictureCache(data, limit=14400)
    assert cache.kept == 2
    assert cache.get(2) is None
    image, original = cache.get(1)
    assert original == (60, 40)
    assert torch.equal(image, read_image(data.records[1].path))
    scaled, original = PictureCache(data, resize=(24, 32)).get(2)
    assert scaled.shape == (3, 24, 32)
    assert original == (48, 64)


def test_a_partial_cache_gives_the_same(data):
    transform = train_transform("small", (48, 64))
    full, part = (DetectionDataset(data, transform, 1, cache="ram", ram_limit=limit) for limit in (10**9, 14400))
    for index in range(len(data)):
        assert torch.equal(full[(3, index)].image, part[(3, index)].image)


def test_mosaic_ends_at_its_epoch(data):
    mosaic = run(data, epochs=(0, 1), preset="mosaic", joined_epochs=1)
    plain = run(data, epochs=(1,), preset="small")
    assert_same(mosaic[3:], plain)
    assert not torch.equal(mosaic[0].images, run(data, epochs=(0,), preset="small")[0].images)


def test_unknown_options_are_refused(data):
    with pytest.raises(TypeError, match="colr"):
        make_loader(data, CARD, batch_size=2, train=True, colr=0.5)
    with pytest.raises(ValueError, match="cache must be 'none' or 'ram', got 'disk'"):
        make_loader(data, CARD, batch_size=2, train=True, cache="disk")


def test_a_setting_that_the_preset_ignores_is_named_once(data, caplog):
    """Nothing was said; preset mosaic has a second preset for its plain epochs, which says nothing of its own."""
    make_loader(data, CARD, batch_size=2, train=True, preset="mosaic", translate=0.3, colour=0.5, rotate=0.0)
    expected = "preset 'mosaic' ignores translate=0.3; it uses flip, vertical_flip, scale, colour"
    assert [record.getMessage() for record in caplog.records] == [expected]


TRICKS = {"cutmix": 0.7, "gridmask": 0.9, "of": 4}


@pytest.mark.parametrize("preset", ["none", "small", "ssd"])
def test_tricks_depend_on_seed_epoch_and_index_alone(data, preset):
    """With workers, from a cache, entered in the middle of an epoch: the same pictures; without the tricks: others."""
    options = {"preset": preset, **TRICKS}
    alone = run(data, epochs=(2, 3), **options)
    assert_same(alone, run(data, epochs=(2, 3), workers=2, **options))
    assert_same(alone, run(data, epochs=(2, 3), cache="ram", **options))
    assert_same(alone[4:], run(data, epochs=(3,), start=1, **options))
    for switch in ("cutmix", "gridmask"):
        other = run(data, epochs=(2, 3), **options | {switch: 0.0})
        assert any(not torch.equal(a.images, b.images) for a, b in zip(alone, other)), switch


def test_cutmix_adds_boxes_and_ends_at_its_epoch(data):
    plain, mixed = (run(data, preset="none", cutmix=p, joined_epochs=1) for p in (0.0, 1.0))
    assert_same(plain[3:], mixed[3:])
    ids = [[(m.image_id, len(t.boxes)) for b in batches[:3] for m, t in zip(b.metas, b.targets)]
           for batches in (plain, mixed)]  # fmt: skip
    assert [i for i, _ in ids[0]] == [i for i, _ in ids[1]]
    assert any(more > less for (_, less), (_, more) in zip(*ids))
    for batch in mixed[:3]:
        for target, size in zip(batch.targets, batch.sizes):
            assert (target.boxes >= 0).all()
            assert (target.boxes[:, 2:] <= size.flip(0) + 1e-3).all()
            assert len(target.boxes) == len(target.labels) == len(target.crowd)


def test_gridmask_rises_and_hides_pixels_alone(data):
    """The pictures are noise: a run of equal pixels of the padding's colour is the mask. Boxes stay."""
    plain = run(data, epochs=range(10), preset="none")
    masked = run(data, epochs=range(10), preset="none", gridmask=1.0, of=10)
    changed = []
    for before, after in zip(plain, masked):
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(before.targets, after.targets))
        for old, new in zip(before.images, after.images):
            hidden = (old != new).any(0)
            changed.append(bool(hidden.any()))
            pad = torch.tensor(CARD.pad_value).mul(255).round().byte()
            assert torch.equal(new[:, hidden], pad[:, None].expand(-1, int(hidden.sum())))
    early, late = changed[: len(changed) // 2], changed[len(changed) // 2 :]
    assert sum(early) < 0.5 * len(early) < 0.6 * len(late) < sum(late)


def test_a_mosaic_takes_no_cutmix(data):
    with pytest.raises(ValueError, match="use it with cutmix=0"):
        run(data, preset="mosaic", cutmix=0.5)
