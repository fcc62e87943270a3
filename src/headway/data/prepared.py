"""Pictures of a split made ready for a batch, each by its key alone.

A key is (epoch, index), and what it gives depends on (seed, epoch, index) alone: a worker needs no other state.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DataError
from ..types import Meta, Target
from .augment.gridmask import GridMask
from .augment.labelled import ImageTransform, Join, LabelledImage
from .augment.resize import KeepRatioResize, resize_affine
from .batch import BatchItem
from .cache import RAM_LIMIT, PictureCache
from .dataset import DetectionData, Record
from .sample import Sample

Key = int | tuple[int, int] | tuple[int, int, int]


class DetectionDataset(Dataset[BatchItem]):
    """Pictures of one split, ready for a batch. Indexed by `index` (epoch 0), `(epoch, index)` or
    `(epoch, index, view)`.

    Every box of the split has an id of its own, the same in each view (augmentation) of its picture. Where the data set
    says which object a box shows (`Record.ids`), the ids are those, and further views are of other pictures that show
    an object of the first, as another frame of the video. A picture's tags are the classes of the boxes that are left
    after augmentation, crowd regions among them.

    transform: (image, target) -> (image, target), see `augment.presets`.
    seed: with the epoch and the index it fixes every random choice for one picture.
    join: makes one picture of several, in place of `transform`, in the epochs before `joined_epochs` (None: all).
    mask: hides parts of the picture at the end.
    sample_transform: a user's own, done to every picture as it is read.
    cache: "none", or "ram" to keep decoded pictures in memory (`PictureCache`), worth it whenever they fit. Pictures
        that are in no file are never kept.
    white: of 16-bit pictures, as of `read_image`.

    `Meta.affine` holds for transforms that only resize (evaluation). After augmentation it stays the identity: training
    boxes are already in input pixels, and a zoomed, cropped or joined picture has no single map.
    """

    def __init__(
        self,
        data: DetectionData,
        transform: ImageTransform,
        seed: int = 0,
        *,
        join: Join | None = None,
        joined_epochs: int | None = None,
        mask: GridMask | None = None,
        sample_transform: Callable[[Sample], Sample] | None = None,
        cache: str = "none",
        ram_limit: int = RAM_LIMIT,
        white: int | None = None,
    ) -> None:
        if cache not in ("none", "ram"):
            raise ValueError(f"cache must be 'none' or 'ram', got {cache!r}")
        self.data, self.transform, self.seed = data, transform, seed
        self.join, self.joined_epochs, self.mask = join, joined_epochs, mask
        self.sample_transform, self.white = sample_transform, white
        in_memory = data.in_memory
        self.runs_own_code = sample_transform is not None or in_memory
        # Of columns their own numbers, which a spawned worker need not be sent.
        self.first_id = None if data.columns is not None else np.concatenate([[0], np.cumsum(data.box_counts())])
        self.shown: dict[int, list[int]] = {}  # the pictures that show an object, where the data set says which
        if data.columns is None and len(data) and data.records[0].ids is not None:
            for index, record in enumerate(data.records):
                for identity in {*record.ids.tolist()}:  # type: ignore[union-attr]
                    self.shown.setdefault(identity, []).append(index)
        self.cache = None
        if cache == "ram" and not in_memory:
            first = getattr(transform, "transforms", [transform])[0]
            fixed = isinstance(first, KeepRatioResize) and first.fixed and sample_transform is None
            resize = first.input_size if fixed and (join is None or join.takes_resized) else None
            self.cache = PictureCache(data, resize, ram_limit, white)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> BatchItem:
        """Raises: DataError naming the file when the picture is broken or not the annotated size."""
        epoch, index, *view = key if isinstance(key, tuple) else (0, key)
        with _seeded(_mix(self.seed, epoch, index, *view), self.runs_own_code):
            if view and view[0]:
                index = self._seen_again(index)
            record = self.data.records[index]
            image, target, original = self._load(index)
            if self.join and (self.joined_epochs is None or epoch < self.joined_epochs):
                image, target = self.join((image, target), self._load_any)
            else:
                image, target = self.transform(image, target)
            if self.mask:
                image = self.mask(image, epoch)
        affine = (1.0, 1.0, 0.0, 0.0)
        if isinstance(self.transform, KeepRatioResize):
            affine = resize_affine(original, image.shape[-2:])
        meta = Meta(record.image_id, str(record.path), original, affine)
        return BatchItem(image.as_subclass(Tensor), _to_target(target, len(self.data.class_names)), meta)

    def __getitems__(self, keys: Sequence[Key]) -> list[BatchItem] | DataError:
        """A batch for the DataLoader. An error is returned, not raised: a worker would bury it in its traceback."""
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def _load(self, index: int) -> tuple[tv_tensors.Image, dict[str, Any], tuple[int, int]]:
        """(image, target, original size); the boxes are in the pixels of the image, which the cache may have scaled."""
        record = self.data.records[index]
        cached = self.cache.get(index) if self.cache else None
        if cached:
            image, original = cached
            sample = record.with_picture(image)
        else:
            sample = record.sample(self.white)
            original = sample.image.shape[1], sample.image.shape[2]
        if record.source is None:
            _check_size(record, original)
        if self.sample_transform is not None:
            sample = _transformed(sample, self.sample_transform, record)
            original = sample.image.shape[1], sample.image.shape[2]
        boxes = tv_tensors.BoundingBoxes(sample.boxes.reshape(-1, 4), format="XYXY", canvas_size=original)
        target = {
            "boxes": F.resize(F.clamp_bounding_boxes(boxes), list(sample.image.shape[1:])),
            "labels": sample.labels,
            "crowd": sample.crowd,
            "ids": self._ids(index, len(boxes)),
        }
        return tv_tensors.Image(sample.image), target, original

    def _ids(self, index: int, count: int) -> Tensor:
        """[count] which object each box shows: what the data set says, else each box is one of its own."""
        ids = self.data.records[index].ids
        return torch.arange(count) + self._first_id(index) if ids is None else torch.from_numpy(ids.copy())

    def _seen_again(self, index: int) -> int:
        """A picture at random, by torch's global generator, that shows an object of this one too; this one where the
        data set does not say."""
        ids = self.data.records[index].ids
        if ids is None or not len(ids):
            return index
        same = self.shown[int(ids[int(torch.randint(len(ids), ()))])]
        others = [other for other in same if other != index]
        return others[int(torch.randint(len(others), ()))] if others else index

    def _first_id(self, index: int) -> int:
        columns = self.data.columns
        return int(self.first_id[index]) if columns is None else columns.first_box(index)

    def _load_any(self) -> LabelledImage:
        """A picture at random, by torch's global generator."""
        return self._load(int(torch.randint(len(self.data), ())))[:2]


@contextmanager
def _seeded(seed: int, every_generator: bool) -> Iterator[None]:
    """torch's global generator seeded inside and put back behind; with `every_generator` Python's and numpy's too."""
    before = (random.getstate(), np.random.get_state()) if every_generator else None
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed CUDA too, for the model in the same process.
        torch.default_generator.manual_seed(seed)
        if before:
            random.seed(seed)
            np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            if before:
                random.setstate(before[0])
                np.random.set_state(before[1])


def _transformed(sample: Sample, transform: Callable[[Sample], Sample], record: Record) -> Sample:
    # On a copy: a transform may write to the pixels, which the cache or the user's own data set still needs.
    found = transform(replace(sample, image=sample.image.clone()))
    if not isinstance(found, Sample):
        raise DataError(f"transform must return a headway Sample, got {type(found).__name__} for {record.path}")
    return found.to_tensors(f"{record.path} after transform")[0]


def _mix(*numbers: int) -> int:
    """A 64-bit seed of which every bit depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _check_size(record: Record, size: tuple[int, int]) -> None:
    if record.size is not None and record.size != size:
        expected, got = (f"{width}x{height}" for height, width in (record.size, size))
        raise DataError(
            f"image {record.path} is {got} upright, but its annotation says {expected}, so the boxes may be misplaced; "
            "see `headway data check` and its --fix"
        )


def _to_target(target: dict[str, Any], num_classes: int) -> Target:
    boxes = target["boxes"].as_subclass(Tensor).float()
    tags = torch.zeros(num_classes).index_fill(0, target["labels"], 1.0)
    return Target(boxes, target["labels"], target["crowd"], target["ids"], tags)
