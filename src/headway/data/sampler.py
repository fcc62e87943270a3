"""Which pictures make up each batch of an epoch, for each rank: fixed by (seed, epoch), whatever came before."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from .dataset import DetectionData, Record
from .image import image_size


class GroupedBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of (epoch, index) keys for one rank, pictures of like shape together, so that little is padded.

    An epoch is one list of global batches, fixed by (seed, epoch): each full batch holds only wide (w >= h) or only
    tall pictures, what is left of the two groups is batched together, and a short batch comes last. A rank takes its
    slice of each global batch, so ranks joined in order give what one process would get.

    batch_size: of the global batch, divisible by `world`.
    drop_last: leave out the short batch.
    even: give every rank equally many pictures of the short batch, repeating the epoch's first ones (training, where
        ranks step together); False repeats nothing and may leave a rank without its last batch (evaluation).
    views: keys of each picture in a batch, (epoch, index, view) where more than one; `batch_size` counts the keys, and
        must be a multiple of views * world.

    `len()` is the number of batches in a whole epoch, also when an epoch is entered in the middle.
    """

    def __init__(
        self,
        data: DetectionData,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        group_by_aspect: bool = True,
        even: bool = True,
        views: int = 1,
    ) -> None:
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}")
        if batch_size < 1 or batch_size % (world * views):
            several = f" times {views} views" if views > 1 else ""
            raise ValueError(f"batch_size is global and must be a multiple of world={world}{several}, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}")
        self.batch_size, self.views = batch_size // views, views  # pictures in a batch
        self.seed, self.rank, self.world = seed, rank, world
        self.shuffle, self.drop_last, self.even = shuffle, drop_last, even
        self.tall = _are_tall(data) if group_by_aspect else np.zeros(len(data), bool)
        self.epoch, self.start_batch = 0, 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch, and the batch at which its next iteration starts."""
        self.epoch, self.start_batch = epoch, start_batch

    def global_batches(self) -> list[list[int]]:
        """Every batch of the epoch as indices, before the ranks divide it."""
        generator = np.random.default_rng([self.seed, self.epoch])
        count = len(self.tall)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        groups = [order[~self.tall[order]], order[self.tall[order]]]
        cuts = [len(group) // self.batch_size * self.batch_size for group in groups]
        full = [part for group, cut in zip(groups, cuts) for part in group[:cut].reshape(-1, self.batch_size)]
        rest = np.concatenate([group[cut:] for group, cut in zip(groups, cuts)])
        if len(rest) >= self.batch_size:
            full.append(rest[: self.batch_size])
            rest = rest[self.batch_size :]
        if self.shuffle:
            full = [full[i] for i in generator.permutation(len(full))]
        if len(rest) and not self.drop_last:
            missing = -len(rest) % self.world if self.even else 0
            full.append(np.concatenate([rest, np.resize(order, missing)]))
        return [batch.tolist() for batch in full]

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for batch in self.global_batches()[self.start_batch :]:
            share = -(-len(batch) // self.world)
            mine = batch[self.rank * share : (self.rank + 1) * share]
            if mine:
                extra = [(view,) for view in range(self.views)] if self.views > 1 else [()]
                yield [(self.epoch, index, *view) for index in mine for view in extra]

    def __len__(self) -> int:
        whole, rest = divmod(len(self.tall), self.batch_size)
        if not rest or self.drop_last:
            return whole
        share = -(-rest // self.world)
        return whole + int(self.even or self.rank * share < rest)


def _are_tall(data: DetectionData) -> NDArray[np.bool_]:
    if (columns := data.columns) is not None:
        tall: NDArray[np.bool_] = columns.sizes[:, 1] < columns.sizes[:, 0]
        return tall
    return np.array([_is_tall(record) for record in data.records], bool)


def _is_tall(record: Record) -> bool:
    height, width = record.size or image_size(record.path)
    return width < height
