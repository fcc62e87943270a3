"""Pictures of one's own in memory, through the loader: every form of picture, a transform, and what is refused."""

import random
from dataclasses import replace

import builders as make
import numpy as np
import pytest
import torch
from PIL import Image

from headway.data.augment.resize import fit_size
from headway.data.batch import to_model_input
from headway.data.formats.any_format import open_dataset, write_dataset
from headway.data.image import read_image
from headway.data.loader import make_loader
from headway.data.open_data import open_data
from headway.data.pixels import to_pixels
from headway.data.sample import Sample
from headway.errors import DataError
from headway.types import ModelCard

CARD = ModelCard(input_size=(48, 64), class_names=("cat", "dog"), pad_multiple=16)
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


class Pictures:
    """A map-style Dataset: one picture of each form, all with the same pixels, and one without boxes."""

    class_names = ("cat", "dog")

    def __init__(self, folder):
        Image.fromarray(PIXELS).save(folder / "a.png")
        tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
        forms = [folder / "a.png", str(folder / "a.png"), Image.fromarray(PIXELS), PIXELS, tensor]
        boxes = [[4, 6, 24, 30], [30, 8, 90, 40]]  # the second reaches outside
        self.samples = [Sample(form, boxes, [0, 1], [False, True]) for form in forms] + [Sample(PIXELS, [], [])]
        self.samples.append(Sample(PIXELS, np.array(boxes, np.float64), torch.tensor([0, 1])))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_in_memory_go_through_the_loader(tmp_path, workers):
    """At the input size already: the pixels divided by 255, and the boxes clipped to the picture."""
    data = open_data(Pictures(tmp_path))["all"]
    assert (len(data), data.num_boxes, data.class_names, data.category_ids) == (7, 12, ("cat", "dog"), (1, 2))
    assert {record.size for record in data.records} == {(48, 64)}
    assert [record.path.name for record in data.records[:3]] == ["a.png", "a.png", "Pictures[2]"]
    assert data.records[3].areas.tolist() == [20 * 24, 34 * 32]
    batch = next(iter(make_loader(data, CARD, batch_size=7, train=False, workers=workers)))
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
    for number, (image, target) in enumerate(zip(to_model_input(batch, "cpu"), batch.targets)):
        assert torch.equal(image, expected)
        assert target.boxes.tolist() == ([[4, 6, 24, 30], [30, 8, 64, 40]] if number != 5 else [])
        assert target.labels.tolist() == ([0, 1] if number != 5 else [])
        assert target.crowd.tolist() == ([] if number == 5 else [False, number != 6])


@pytest.mark.parametrize("preset", ["small", "mosaic", "yolo"])
def test_own_pictures_are_augmented_as_files_are(tmp_path, preset):
    """The same pictures in files and in memory give the same training batches, from a cache or not."""
    samples = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        samples.append(Sample(tmp_path / f"{number}.png", [[4, 6, 24 + number, 30]], [number % 2]))
    files = open_data(samples, ["cat", "dog"])["all"]
    held = open_data([replace(sample, image=read_image(sample.image)) for sample in samples], ["cat", "dog"])["all"]
    options = {"batch_size": 4, "train": True, "preset": preset, "seed": 3}
    batches = [next(iter(make_loader(data, CARD, cache="ram", **options))) for data in (files, held)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(batches[0].targets, batches[1].targets))


def darker_and_cropped(sample):
    """Half as bright, the left half alone."""
    return Sample(sample.image[:, :, : sample.image.shape[2] // 2] // 2, sample.boxes, sample.labels, sample.crowd)


def test_a_transform_sees_the_original_picture_before_the_preset(tmp_path):
    """32 of 64 columns of each picture are left, so each is scaled to 64 rows; the second box is 2 pixels wide."""
    data = open_data(Pictures(tmp_path))["all"]
    options = {"batch_size": 7, "train": True, "preset": "none", "cache": "ram"}
    batch = next(iter(make_loader(data, CARD, transform=darker_and_cropped, **options)))
    assert batch.sizes.unique(dim=0).tolist() == [list(fit_size((48, 32), (48, 64)))] == [[64, 43]]
    assert int(batch.images.max()) <= 127
    boxes = next(target.boxes for target in batch.targets if len(target.boxes))
    across, down = 43 / 32, 64 / 48
    expected = [[4 * across, 6 * down, 24 * across, 30 * down], [30 * across, 8 * down, 43, 40 * down]]
    assert boxes.tolist() == [pytest.approx(box, abs=1e-3) for box in expected]
    with pytest.raises(ValueError, match="transform is for training"):
        make_loader(data, CARD, batch_size=7, train=False, transform=darker_and_cropped)
    with pytest.raises(DataError, match="transform must return a headway Sample, got tuple"):
        next(iter(make_loader(data, CARD, transform=lambda sample: (sample.image, 1), **options)))


def blackened(sample):
    """Writes to the pixels it is given."""
    sample.image.zero_()
    return sample


def test_a_transform_may_write_to_its_picture(tmp_path):
    """What the cache and the Dataset hold stays."""
    pictures = Pictures(tmp_path)
    for source, cache in ((pictures, "none"), (pictures.samples[:1], "ram")):
        data = open_data(source, ["cat", "dog"])["all"]
        loader = make_loader(
            data, CARD, batch_size=1, train=True, preset="none", cache=cache, transform=blackened, seed=0
        )
        assert not any(batch.images.any() for batch in loader)
        if cache == "ram":
            assert loader.dataset.cache.get(0)[0].any()
    assert all(sample.to_tensors()[0].image.any() for sample in pictures.samples)


def noisy(sample):
    """By all three global generators."""
    level = random.randrange(60) + np.random.randint(60) + int(torch.randint(60, ()))
    return replace(sample, image=torch.full_like(sample.image, level))


def test_a_random_transform_depends_on_seed_epoch_and_index_alone(tmp_path):
    make.pictures(tmp_path, [f"{i}.jpg" for i in range(6)])
    data = open_data([Sample(tmp_path / f"{i}.jpg", [], []) for i in range(6)], ["cat"])["all"]

    def levels(epoch, seed=0, workers=0):
        loader = make_loader(
            data, CARD, batch_size=3, train=True, preset="none", seed=seed, workers=workers, transform=noisy
        )
        loader.set_epoch(epoch)
        return {meta.path: int(image[0, 0, 0]) for batch in loader for image, meta in zip(batch.images, batch.metas)}

    before = random.getstate(), np.random.get_state()[1].tolist()
    alone = levels(1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert alone == levels(1, workers=2)
    assert len(set(alone.values())) > 3
    assert alone != levels(2)
    assert alone != levels(1, seed=1)


def test_every_source(tmp_path):
    folder = make.coco(tmp_path / "photos")
    make.coco(folder, split="val")
    data = open_dataset(folder, split="train")
    assert list(open_data(folder)) == list(open_data(str(folder))) == ["train", "val"]
    assert list(open_data(folder / "annotations" / "val.json")) == ["val"]
    assert open_data(data) == {"train": data}
    both = open_data({"val": data, "train": Pictures(tmp_path)})
    assert {name: (split.name, len(split)) for name, split in both.items()} == {
        "val": ("val", 3),
        "train": ("train", 7),
    }
    assert make.truth(both["val"]) == make.EXPECTED
    assert open_data(data, ("cat", "dog")) == {"train": data}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "data must be a folder, a COCO file, an opened split, a map-style Dataset .* got int"),
        ([], "list holds no sample"),
        ([(PIXELS, [], [])], r"list\[0\]: expected a headway Sample\(image, boxes, labels\), got tuple"),
        ([Sample(PIXELS, [[1, 2, 3]], [0])], r"list\[0\]: expected boxes \[M, 4\] xyxy .* got boxes \(1, 3\)"),
        ([Sample(PIXELS, [[1, 2, 3, 4]], [])], "1, 4.*, 0 labels"),
        ([Sample(PIXELS, [[9, 2, 3, 4]], [0])], r"box \[9.0, 2.0, 3.0, 4.0\] is not x1 <= x2.*not xywh"),
        ([Sample(PIXELS, [[float("nan"), 2, 3, 4]], [0])], "finite"),
        ([Sample(PIXELS, [["a", 2, 3, 4]], [0])], "must be arrays of numbers"),
        ([Sample(PIXELS, [[1, 2, 3, 4]], [2])], r"labels must be in 0\.\.1, got \[2\]"),
        ([Sample(PIXELS, [[1, 2, 3, 4]], [0.5])], "labels must be integers, got torch.float64"),
        ([Sample(7, [], [])], r"list\[0\] must be a path, PIL picture, .* got int"),
        (
            [Sample(PIXELS * 1.0, [], [])],
            r"list\[0\] must be float in 0..1, got 0 to 2[0-9]+; divide 8-bit values by 255",
        ),
        ([Sample(PIXELS.transpose(2, 0, 1), [], [])], r"got \(3, 48, 64\) with the channels first"),
        ([Sample("nowhere.jpg", [], [])], r"image nowhere\.jpg does not exist"),
    ],
)
def test_what_is_no_data_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        open_data(source, ["cat", "dog"])


def test_classes_must_be_known_once(tmp_path):
    with pytest.raises(DataError, match=r"list states no classes: pass class_names"):
        open_data([Sample(PIXELS, [], [])])
    with pytest.raises(DataError, match=r"states its own classes, \['cat', 'dog'\], got class_names=\['cat'\]"):
        open_data(make.coco(tmp_path), ["cat"])
    make.coco(tmp_path, split="val")
    with pytest.raises(DataError, match="expected one split as 'train', got 2"):
        open_data({"train": tmp_path})


def test_only_files_are_written(tmp_path):
    samples = [Sample(PIXELS, [[1, 2, 30, 40]], [0])]
    with pytest.raises(DataError, match=r"list\[0\] is in no file.*save it"):
        write_dataset(open_data(samples, ["cat"]), tmp_path / "out", "coco")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    write_dataset(open_data([replace(samples[0], image=tmp_path / "a.png")], ["cat"]), tmp_path / "out", "coco")
    assert make.truth(open_dataset(tmp_path / "out")) == {"a.png": [((1, 2, 30, 40), "cat")]}


def test_boxes_without_area_in_the_picture_are_left_out():
    boxes = [[70, 2, 80, 9], [5, 5, 5, 9], [60, 40, 70, 50], [-9, 0, 0, 9]]
    found, size = Sample(PIXELS, boxes, [3, 4, 5, 6]).to_tensors()
    assert size == (48, 64)
    assert (found.boxes.tolist(), found.labels.tolist()) == ([[60, 40, 64, 48]], [5])


def test_grey_and_alpha():
    for image in (
        PIXELS[:, :, 0],
        PIXELS[:, :, :1],
        Image.fromarray(PIXELS[:, :, 0]),
        torch.from_numpy(PIXELS[None, :, :, 0]),
    ):
        pixels = to_pixels(image)
        assert pixels.shape == (3, 48, 64)
        assert all(np.array_equal(channel.numpy(), PIXELS[:, :, 0]) for channel in pixels)
    alpha = np.dstack([PIXELS, PIXELS[:, :, 0]])
    for image in (alpha, Image.fromarray(alpha)):
        assert np.array_equal(to_pixels(image).permute(1, 2, 0).numpy(), PIXELS)


def test_a_sample_takes_what_a_prediction_takes():
    """Floats in 0..1, and PIL's 16-bit grey by its high byte (a plain conversion to RGB clips it to white)."""
    sixteen = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 256 + 3)
    for image, expected in ((PIXELS / 255, PIXELS), (sixteen, np.repeat(PIXELS[:, :, :1], 3, 2))):
        pixels = Sample(image, [], []).to_tensors()[0].image
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_the_orientation_of_a_pil_picture_in_a_sample_is_not_applied():
    """The boxes are in the pixels of the picture as it is."""
    picture = Image.fromarray(PIXELS)
    picture.getexif()[0x0112] = 6
    assert Sample(picture, [], []).to_tensors()[1] == (48, 64)
