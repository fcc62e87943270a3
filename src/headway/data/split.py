"""Divide a data set so that every part has its share of every class: iterative stratification.

Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data" (ECML PKDD 2011), algorithm 1: the images
of the class with the fewest images left are placed first, each where the class lacks most.

Differs: a class with at least as many images as there are parts wants at least one image in each, which the
algorithm's shares alone do not give to rare classes in small parts; the largest part, the one to train on, gets an
image of every class whatever happens; boxes are not counted, only whether an image has the class; a picture that has
several entries (image ids) is one image, so that it is never in two parts.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .dataset import DetectionData


def stratified_split(data: DetectionData, fractions: Mapping[str, float], seed: int = 0) -> dict[str, DetectionData]:
    """Parts by name, in the order of `fractions`; every image is in one of them, in its old order.

    fractions: such as {"train": 0.8, "val": 0.2}; they must add up to 1. The parts' sizes come close to them.
    seed: the same seed and data give the same parts.

    Raises: DataError for fractions that are not positive or do not add up, or fewer images than parts.
    """
    shares = np.array(list(fractions.values()), dtype=np.float64)
    if len(shares) == 0 or not np.all(shares > 0) or abs(shares.sum() - 1) > 1e-6:
        raise DataError(f"fractions must be positive and add up to 1, got {dict(fractions)}")
    numbers: dict[Path, int] = {}
    picture = np.array([numbers.setdefault(record.path, len(numbers)) for record in data.records], dtype=np.int64)
    if len(numbers) < len(shares):
        raise DataError(f"{data.root} has {len(numbers)} images, too few for {len(shares)} parts")
    has = np.zeros((len(numbers), len(data.class_names)), dtype=bool)
    for i, record in zip(picture, data.records):
        has[i, record.labels] = True
    part_of = _assign(has, shares, np.random.default_rng(seed))[picture]
    parts = {}
    for number, name in enumerate(fractions):
        part = data.subset(np.flatnonzero(part_of == number).tolist(), name)
        parts[name] = replace(part, notes=[*data.notes, *_absent(part, has)])
    return parts


def _assign(has: NDArray[np.bool_], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """has: [N, C], image has class -> [N] number of the part."""
    count = len(has)
    room = shares * count  # images that each part still wants
    wanted = _wanted(has.sum(0), shares)  # [parts, C] images of each class that each part still wants
    part_of = np.full(count, -1)
    left = has.sum(0)
    order = rng.permutation(count)
    while left.any():
        label = int(np.argmin(np.where(left > 0, left, count + 1)))
        for image in order[has[order, label] & (part_of[order] < 0)]:
            part = _neediest(wanted[:, label], room, rng)
            part_of[image] = part
            room[part] -= 1
            wanted[part, has[image]] -= 1
            left = left - has[image]
    for image in order[part_of[order] < 0]:  # images without boxes
        part = _neediest(room, room, rng)
        part_of[image] = part
        room[part] -= 1
    _complete_largest(part_of, has, int(shares.argmax()))
    return _fill_empty(part_of, len(shares), order)


def _wanted(images: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Images of each class ([C] in all) for each part [parts, C]: its share, but one at least where there are enough;
    what that adds is taken from the largest part."""
    wanted = shares[:, None] * images
    enough = images >= len(shares)
    wanted[:, enough] = np.maximum(wanted[:, enough], 1.0)
    wanted[int(shares.argmax())] -= wanted.sum(0) - images
    return wanted


def _neediest(first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator) -> int:
    """The part that lacks most, by `first`, then by `second`, then by chance."""
    best = np.flatnonzero(first >= first.max() - 1e-9)
    best = best[second[best] >= second[best].max() - 1e-9]
    return int(rng.choice(best)) if len(best) > 1 else int(best[0])


def _complete_largest(part_of: NDArray[np.int64], has: NDArray[np.bool_], largest: int) -> None:
    """Move an image of every class that the largest part lacks into it."""
    for label in range(has.shape[1]):
        images = np.flatnonzero(has[:, label])
        if len(images) and not (part_of[images] == largest).any():
            part_of[images[0]] = largest


def _fill_empty(part_of: NDArray[np.int64], parts: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tiny data: a part that got nothing takes an image of the largest one."""
    for part in range(parts):
        if not (part_of == part).any():
            largest = int(np.bincount(part_of, minlength=parts).argmax())
            part_of[order[part_of[order] == largest][0]] = part
    return part_of


def _absent(part: DetectionData, has: NDArray[np.bool_]) -> list[str]:
    """A note, logged, on the classes that the data has and this part does not."""
    present = {label for record in part.records for label in record.labels.tolist()}
    names = [name for label, name in enumerate(part.class_names) if has[:, label].any() and label not in present]
    if not names:
        return []
    listed = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    note = f"{len(names)} classes have no box in {part.name!r}: {listed}"
    logging.getLogger("headway").warning("%s", note)
    return [note]
