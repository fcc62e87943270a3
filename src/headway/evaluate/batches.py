"""The batches of an evaluation: pictures of one padded shape, dealt out to processes, each picture once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from ..data.augment.resize import fit_size
from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.image import image_size
from ..data.loader import make_loader
from ..types import Batch, ModelCard


class Share(NamedTuple):
    """Which part of the pictures a process evaluates: part `rank` of `world`."""

    rank: int = 0
    world: int = 1


WHOLE = Share()


def shape_batches(data: DetectionData, card: ModelCard, batch_size: int) -> list[list[int]]:
    """Indices of the pictures in batches of at most `batch_size` that one padded shape fits without a pixel more.

    Padding changes scores a little. So a picture's detections, and with them AP, do not depend on its neighbours in a
    batch.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, record in enumerate(data.records):
        size = fit_size(record.size or image_size(record.path), card.input_size)
        shape = tuple(-(-side // card.pad_multiple) for side in size)
        groups.setdefault(shape, []).append(index)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]


def evaluation_batches(
    data: DetectionData, card: ModelCard, *, batch_size: int, workers: int = 0, share: Share = WHOLE, pin: bool = False
) -> Iterator[tuple[list[int], Batch] | None]:
    """(indices, batch) of the batches of `shape_batches` that this process has: every `share.world`-th.

    So a picture comes once and has the same neighbours whatever the number of processes. Every process takes as many
    turns; one that has no batch left gets None.
    Raises: DataError naming the picture that cannot be read.
    """
    plain = make_loader(data, card, batch_size=1, train=False)
    every = shape_batches(data, card, batch_size)
    keys = every[share.rank :: share.world]
    loader: DataLoader[Batch] = type(plain)(
        plain.dataset, batch_sampler=keys, collate_fn=plain.collate_fn, num_workers=workers,
        worker_init_fn=plain.worker_init_fn, pin_memory=pin, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    yield from zip(keys, loader)
    yield from [None] * (-(-len(every) // share.world) - len(keys))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, images channels-last; of pinned batches the copy runs beside the device's work."""
    images = to_model_input(batch, device).to(memory_format=torch.channels_last)
    sizes = batch.sizes.to(device, non_blocking=True)
    return batch._replace(images=images, sizes=sizes, targets=[target.to(device) for target in batch.targets])
