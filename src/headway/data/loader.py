"""Records to batches, the same whatever the number of workers, ranks or interruptions.

The sampler's keys are those of `prepared`, so that a run resumed in the middle of an epoch sees the very batches it
would have seen.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..errors import DataError
from ..types import Batch, ModelCard
from .augment.cutmix import CutMix
from .augment.gridmask import GridMask
from .augment.labelled import ImageTransform, Join
from .augment.mosaic import Mosaic, YoloMosaics
from .augment.presets import train_transform, warn_unused
from .augment.resize import eval_transform
from .batch import BatchItem, collate
from .dataset import DetectionData
from .prepared import DetectionDataset
from .sample import Sample
from .sampler import GroupedBatchSampler


def _collate(items: list[BatchItem] | DataError, **padding: Any) -> Batch | DataError:
    """`collate`; an error passes through."""
    return items if isinstance(items, DataError) else collate(items, **padding)


class DetectionLoader(DataLoader[BatchItem]):
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
    transform: Callable[[Sample], Sample] | None = None,
    **augmentation: Any,
) -> DetectionLoader:
    """The loader of a split for a model with this card.

    batch_size: pictures in a global batch over the `world` ranks.
    train: shuffle and augment by `preset`; otherwise resize only, each picture exactly once, `preset` unused.
    cache: "ram" keeps decoded pictures in memory, up to RAM_LIMIT.
    drop_empty: leave out pictures without boxes (they are kept as negatives by default).
    views: how often each picture comes in a batch, every time augmented anew, with the same ids (`Target.ids`), or
        another frame of its video where the data set has identities; a batch then holds `batch_size / views` pictures.
    mosaic9, mixup: of preset "yolo", see `mosaic.YoloMosaics`.
    cutmix, gridmask: probabilities in training, see `augment`; epochs: of the whole training.
    joined_epochs: from this epoch on single pictures: no CutMix, no mosaics, and "small" instead of preset "mosaic".
    transform: done to every training picture as it is read, before the preset's own steps: a `Sample` in tensors ->
        a `Sample`. With preset "none" it is all that happens besides resizing. Python's, numpy's and torch's global
        generators are seeded for it, so a run is repeatable. Workers that are spawned need one that can be pickled.
        A model that learns embeddings needs the boxes kept, in number and order.
    start_method: "fork", "spawn" or "forkserver" for the workers; None is Python's default.
    augmentation: further arguments of `augment.presets.train_transform`; those that the preset ignores are named in a
        warning.
    """
    white = card.white or data.white()  # of all pictures, whatever is dropped
    if drop_empty:
        data = data.subset(np.flatnonzero(data.box_counts()).tolist(), data.name)
    if transform is not None and not train:
        raise ValueError("transform is for training; pictures that are evaluated are only resized")
    steps: ImageTransform = eval_transform(card.input_size)
    options: dict[str, Any] = {}
    if train:
        fill = augmentation.setdefault("fill", tuple(255 * value for value in card.pad_value))
        steps = train_transform(preset, card.input_size, **augmentation)
        warn_unused(preset, augmentation)
        if cutmix and preset in ("mosaic", "yolo"):
            raise ValueError("a mosaic is joined of four pictures already: use it with cutmix=0, or another preset")
        join: Join | None = CutMix(steps, cutmix, card.input_size) if cutmix else None
        if preset == "mosaic":
            join = Mosaic(steps, card.input_size)
            steps = train_transform("small", card.input_size, **augmentation)
        elif preset == "yolo":
            join = YoloMosaics(steps, card.input_size, fill, mosaic9, mixup)
        mask = GridMask(gridmask, epochs, fill) if gridmask else None
        options = {"join": join, "joined_epochs": joined_epochs, "mask": mask, "sample_transform": transform}
    sampler = GroupedBatchSampler(
        data, batch_size, seed, rank, world, train, drop_last, group_by_aspect=group_by_aspect, even=train, views=views
    )
    return DetectionLoader(
        DetectionDataset(data, steps, seed, cache=cache, white=white, **options),
        batch_sampler=sampler,
        collate_fn=partial(_collate, pad_value=card.pad_value, pad_multiple=card.pad_multiple),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator().manual_seed(seed),  # the DataLoader's own draw; the model's stream stays untouched
    )
