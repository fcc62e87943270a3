"""Records to batches, the same whatever the number of workers, ranks or interruptions.

The sampler's keys are (epoch, index), and what a key gives depends on (seed, epoch, index) alone: a worker needs no
other state, and a run resumed in the middle of an epoch sees the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DataError
from ..types import Batch, Meta, ModelCard, Target
from .augment import mosaic
from .augment.cutmix import cut_mix
from .augment.gridmask import grid_mask, rising
from .augment.mixup import YoloMosaics
from .augment.transforms import (
    GREY,
    KeepRatioResize,
    SampleTransform,
    eval_transform,
    fit_size,
    resize_affine,
    train_transform,
)
from .dataset import DetectionData, Record
from .image import image_size, read_image
from .sampler import GroupedBatchSampler

RAM_LIMIT = 4 * 2**30  # bytes of decoded pictures that cache="ram" may keep

Key = int | tuple[int, int] | tuple[int, int, int]


class Sample(NamedTuple):
    """One picture ready for `collate`. image: [3, H, W] uint8 RGB."""

    image: Tensor
    target: Target
    meta: Meta


class PictureCache:
    """Decoded pictures of a data set in one uint8 tensor, which forked and spawned workers share without copying.

    resize: (short, long) when the pictures may be kept scaled, because the transform begins with that fixed resize.
    Pictures that do not fit into `limit` bytes any more are decoded each time.

    Raises: DataError for the first picture that cannot be read.
    """

    def __init__(self, data: DetectionData, resize: tuple[int, int] | None = None, limit: int = RAM_LIMIT) -> None:
        original = [image_size(record.path) for record in data.records]
        sizes = [fit_size(size, resize) if resize else size for size in original]
        ends = np.cumsum([3 * height * width for height, width in sizes], dtype=np.int64)
        self.kept = int(np.searchsorted(ends, limit, side="right"))
        self.original, self.sizes = original[: self.kept], sizes[: self.kept]
        self.ends = ends[: self.kept].tolist()
        self.pixels = torch.empty(self.ends[-1] if self.kept else 0, dtype=torch.uint8)
        for index in range(self.kept):
            picture = read_image(data.records[index].path)
            self._view(index).copy_(F.resize(picture, list(sizes[index]), antialias=True) if resize else picture)

    def _view(self, index: int) -> Tensor:
        """[3, H, W], channels-last in memory, as the uint8 resize wants it."""
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * height * width : end].view(height, width, 3).permute(2, 0, 1)

    def get(self, index: int) -> tuple[Tensor, tuple[int, int]] | None:
        """(picture, original (height, width)), or None if it is not kept. The picture must not be written to."""
        return (self._view(index), self.original[index]) if index < self.kept else None


class DetectionDataset(Dataset[Sample]):
    """Samples of one split. Indexed by `index` (epoch 0), `(epoch, index)` or `(epoch, index, view)`.

    Every box of the split has an id of its own, the same in each view (augmentation) of its picture. A picture's tags
    are the classes of the boxes that are left after augmentation, crowd regions among them.

    transform: (image, target) -> (image, target), see `transforms`.
    seed: with the epoch and the index it fixes every random choice for one sample.
    mosaic_size: (short, long) of a tile; every picture is then joined with three others before the transform, in the
        epochs before `joined_epochs` (None: all). From then on `plain_transform` is used on single pictures.
    mosaics: joins, transforms and blends pictures instead, in the same epochs.
    cutmix: probability that a rectangle of another picture is put in before the transform, in the same epochs;
        cutmix_size: (short, long) that pictures are scaled to, see `cutmix.cut_mix`.
    gridmask: probability, rising from 0 over `epochs`, that squares are set to `fill` at the end (`gridmask`).
    cache: "none", or "ram" to keep decoded pictures in memory (`PictureCache`), worth it whenever they fit.

    `Meta.affine` holds for transforms that only resize (evaluation). After augmentation it stays the identity: training
    boxes are already in input pixels, and a zoomed, cropped or joined picture has no single map.
    """

    def __init__(
        self,
        data: DetectionData,
        transform: SampleTransform,
        seed: int = 0,
        *,
        mosaic_size: tuple[int, int] | None = None,
        plain_transform: SampleTransform | None = None,
        mosaics: YoloMosaics | None = None,
        cutmix: float = 0.0,
        cutmix_size: tuple[int, int] = (512, 512),
        joined_epochs: int | None = None,
        gridmask: float = 0.0,
        epochs: int = 1,
        fill: Sequence[float] = GREY,
        cache: str = "none",
        ram_limit: int = RAM_LIMIT,
    ) -> None:
        if cache not in ("none", "ram"):
            raise ValueError(f"cache must be 'none' or 'ram', got {cache!r}")
        if (mosaic_size or mosaics) and cutmix:
            raise ValueError("a mosaic is joined of four pictures already: use it with cutmix=0, or another preset")
        self.data, self.transform, self.seed = data, transform, seed
        self.first_id = np.cumsum([0, *(len(record.boxes) for record in data.records)])
        self.mosaic_size, self.mosaics, self.joined_epochs = mosaic_size, mosaics, joined_epochs
        self.cutmix, self.cutmix_size = cutmix, cutmix_size
        self.gridmask, self.epochs, self.fill = gridmask, epochs, fill
        self.plain_transform = plain_transform or transform
        self.cache = None
        if cache == "ram":
            first = getattr(transform, "transforms", [transform])[0]
            fixed = isinstance(first, KeepRatioResize) and first.fixed and not (mosaic_size or cutmix)
            self.cache = PictureCache(data, first.input_size if fixed else None, ram_limit)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Sample:
        """Raises: DataError naming the file when the picture is broken or not the annotated size."""
        epoch, index, *view = key if isinstance(key, tuple) else (0, key)
        record = self.data.records[index]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would reseed CUDA too, for the model in the same process.
            torch.default_generator.manual_seed(_mix(self.seed, epoch, index, *view))
            image, target, original = self._load(index)
            joining = self.joined_epochs is None or epoch < self.joined_epochs
            if self.mosaic_size and joining:
                others = torch.randint(len(self.data), (3,)).tolist()
                tiles = [(image, target), *(self._load(other)[:2] for other in others)]
                image, target = self.transform(*mosaic.join(tiles, self.mosaic_size))
            elif self.mosaics and joining:
                image, target = self.mosaics((image, target), self._load_any)
            else:
                if self.cutmix and joining and float(torch.rand(())) < self.cutmix:
                    image, target = cut_mix((image, target), self._load_any(), self.cutmix_size)
                image, target = self.plain_transform(image, target)
            if self.gridmask and float(torch.rand(())) < rising(self.gridmask, epoch, self.epochs):
                image = grid_mask(image, self.fill)
        affine = (1.0, 1.0, 0.0, 0.0)
        if isinstance(self.plain_transform, KeepRatioResize):
            affine = resize_affine(original, image.shape[-2:])
        meta = Meta(record.image_id, str(record.path), original, affine)
        return Sample(image.as_subclass(Tensor), _to_target(target, len(self.data.class_names)), meta)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | DataError:
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
        else:
            image = read_image(record.path)
            original = (image.shape[1], image.shape[2])
        _check_size(record, original)
        boxes = torch.tensor(record.boxes).reshape(-1, 4)
        target = {
            "boxes": F.resize(
                F.clamp_bounding_boxes(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=original)),
                list(image.shape[1:]),
            ),
            "labels": torch.tensor(record.labels),
            "crowd": torch.tensor(record.crowd),
            "area": torch.tensor(record.areas),
            "ids": torch.arange(len(boxes)) + int(self.first_id[index]),
        }
        return tv_tensors.Image(image), target, original

    def _load_any(self) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """A sample at random, by torch's global generator."""
        return self._load(int(torch.randint(len(self.data), ())))[:2]


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


def collate(samples: Sequence[Sample], pad_value: Sequence[float], pad_multiple: int = 32) -> Batch:
    """Pictures as float 0..1 in one tensor, padded at the right and bottom.

    pad_value: RGB 0..1 of the padding (`ModelCard.pad_value` becomes zero after normalisation).
    pad_multiple: height and width are rounded up to a multiple of this.
    """
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples])
    height, width = (-(-int(side) // pad_multiple) * pad_multiple for side in sizes.amax(0))
    images = torch.tensor(pad_value).view(1, 3, 1, 1).repeat(len(samples), 1, height, width)
    for image, sample in zip(images, samples):
        torch.div(sample.image, 255.0, out=image[:, : sample.image.shape[1], : sample.image.shape[2]])
    return Batch(images, sizes, [sample.target for sample in samples], [sample.meta for sample in samples])


class _Collate:
    """`collate` with its arguments, picklable for spawned workers; an error passes through."""

    def __init__(self, pad_value: Sequence[float], pad_multiple: int) -> None:
        self.pad_value, self.pad_multiple = pad_value, pad_multiple

    def __call__(self, samples: list[Sample] | DataError) -> Batch | DataError:
        return samples if isinstance(samples, DataError) else collate(samples, self.pad_value, self.pad_multiple)


class DetectionLoader(DataLoader[Sample]):
    """A DataLoader of `Batch` with `set_epoch`. It already gives each rank its share: do not let Accelerate split it.

    Raises: DataError while iterating, naming the picture that cannot be read, the same with and without workers.
    """

    batch_sampler: GroupedBatchSampler
    dataset: DetectionDataset

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration and the batch it starts at."""
        self.batch_sampler.set_epoch(epoch, start_batch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)


def make_loader(
    data: DetectionData,
    card: ModelCard,
    *,
    batch_size: int,
    train: bool,
    preset: str = "small",
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    cache: str = "none",
    drop_last: bool = False,
    drop_empty: bool = False,
    views: int = 1,
    group_by_aspect: bool = True,
    mosaic9: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    gridmask: float = 0.0,
    epochs: int = 1,
    joined_epochs: int | None = None,
    start_method: str | None = None,
    **augmentation: Any,
) -> DetectionLoader:
    """The loader of a split for a model with this card.

    batch_size: pictures in a global batch over the `world` ranks.
    train: shuffle and augment by `preset`; otherwise resize only, each picture exactly once, `preset` unused.
    cache: "ram" keeps decoded pictures in memory, up to RAM_LIMIT.
    drop_empty: leave out pictures without boxes (they are kept as negatives by default).
    views: how often each picture comes in a batch, every time augmented anew, with the same ids (`Target.ids`); a batch
        then holds `batch_size / views` pictures.
    mosaic9, mixup: of preset "yolo", see `mixup.YoloMosaics`.
    cutmix, gridmask: probabilities in training, see `DetectionDataset`; epochs: of the whole training.
    joined_epochs: from this epoch on single pictures: no CutMix, no mosaics, and "small" instead of preset "mosaic".
    start_method: "fork", "spawn" or "forkserver" for the workers; None is Python's default.
    augmentation: further arguments of `transforms.train_transform`.
    """
    if drop_empty:
        data = data.subset([i for i, record in enumerate(data.records) if len(record.boxes)], data.name)
    options: dict[str, Any] = {"cache": cache}
    transform: SampleTransform = eval_transform(card.input_size)
    if train:
        augmentation.setdefault("fill", tuple(255 * value for value in card.pad_value))
        transform = train_transform(preset, card.input_size, **augmentation)
        if preset == "mosaic":
            plain = train_transform("small", card.input_size, **augmentation)
            options |= {"mosaic_size": card.input_size, "plain_transform": plain}
        elif preset == "yolo":
            options["mosaics"] = YoloMosaics(transform, card.input_size, augmentation["fill"], mosaic9, mixup)
        options |= {
            "cutmix": cutmix, "cutmix_size": card.input_size, "joined_epochs": joined_epochs,
            "gridmask": gridmask, "epochs": epochs, "fill": augmentation["fill"],
        }  # fmt: skip
    sampler = GroupedBatchSampler(
        data,
        batch_size,
        seed,
        rank,
        world,
        train,
        drop_last,
        group_by_aspect=group_by_aspect,
        even=train,
        views=views,
    )
    return DetectionLoader(
        DetectionDataset(data, transform, seed, **options),
        batch_sampler=sampler,
        collate_fn=_Collate(card.pad_value, card.pad_multiple),
        num_workers=workers,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator().manual_seed(seed),  # the DataLoader's own draw; the model's stream stays untouched
    )
