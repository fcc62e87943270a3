"""What is wrong with a data set, its sizes and its batches for a model, found before the first step."""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augment.resize import fit_size
from ..data.dataset import DetectionData
from ..data.image import image_size
from ..detector import Detector
from ..errors import HeadwayError, one_line
from .config import TrainConfig

SMALL = 8  # pixels: below about one cell of a detector's finest map there is hardly a position to learn from


def check_data(model: Detector, train_data: DetectionData, val_data: DetectionData | None, config: TrainConfig) -> None:
    """Everything about labels that would otherwise show as an odd loss. Raises: HeadwayError."""
    names = tuple(train_data.class_names)
    if tuple(model.card.class_names) != names:
        raise HeadwayError(
            f"the model predicts {_listed(model.card.class_names)}, the data set {train_data.root} has "
            f"{_listed(names)}: build the model with class_names={list(names)[:5]}{'...' if len(names) > 5 else ''}"
        )
    if val_data is not None and tuple(val_data.class_names) != names:
        raise HeadwayError(
            f"training data has {_listed(names)}, validation data {_listed(val_data.class_names)}: both must have "
            "the same classes in the same order"
        )
    for data in (train_data, val_data):
        labels = np.zeros(0, int) if data is None else data.of_boxes("labels")
        if data is None or not len(labels) or 0 <= labels.min() <= labels.max() < len(names):
            continue
        for record in data.records:
            if len(record.labels) and not 0 <= record.labels.min() <= record.labels.max() < len(names):
                raise HeadwayError(
                    f"labels must be 0..{len(names) - 1}, got {sorted(set(record.labels.tolist()))} in {record.path}"
                )
    if train_data.num_boxes == 0:
        raise HeadwayError(f"no box in any of the {len(train_data)} training images of {train_data.root}")
    if len(train_data) < config.batch_size:
        raise HeadwayError(
            f"batch_size is {config.batch_size}, but there are only {len(train_data)} training images: set "
            f"batch_size={len(train_data)} or less"
        )
    if val_data is not None and len(val_data) == 0:
        raise HeadwayError(f"the validation split {val_data.name!r} of {val_data.root} is empty: pass None for none")
    if config.early_stop and (val_data is None or val_data.num_boxes == 0):
        raise HeadwayError("early_stop needs validation data with boxes: give such a split or set early_stop to 0")


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def share_of_small(data: DetectionData, input_size: tuple[int, int], limit: float = SMALL) -> float:
    """Share of the boxes whose side, as the root of the area, is under `limit` pixels once the picture has
    `input_size` (short, long). 0 for data without boxes."""
    known, which = np.unique(_sizes(data), axis=0, return_inverse=True)
    factors = [(fit_size((h, w), input_size)[1] / w, fit_size((h, w), input_size)[0] / h) for h, w in known.tolist()]
    boxes = data.of_boxes("boxes")
    scale = np.array(factors).reshape(-1, 2)[np.repeat(which.reshape(-1), data.box_counts())]
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale
    small = int((np.sqrt(np.maximum(sides, 0).prod(1)) < limit).sum())
    return small / max(1, len(boxes))


def _sizes(data: DetectionData) -> NDArray[np.int64]:
    """[N, 2] (height, width) of the pictures, read from those whose size is not stated."""
    if (columns := data.columns) is not None:
        return columns.sizes.astype(np.int64)
    return np.array([record.size or image_size(record.path) for record in data.records], np.int64).reshape(-1, 2)


def size_warning(data: DetectionData, input_size: tuple[int, int], *, worth: float = 0.1) -> str | None:
    """A warning where at least the share `worth` of the boxes is too small at `input_size` to be learned, with the
    smallest larger input size that mends it, if pictures have as many pixels."""
    share = share_of_small(data, input_size)
    if not data.num_boxes or share < worth:
        return None
    largest = int(_sizes(data).max())
    remedy = "cut the pictures into tiles"
    for factor in (1.5, 2, 3, 4, 6, 8, 12, 16):
        larger = tuple(32 * math.ceil(side * factor / 32) for side in input_size)
        left = share_of_small(data, larger)  # type: ignore[arg-type]
        if left < worth and larger[1] <= 1.5 * largest:
            remedy = f"--input-size {larger[0]} {larger[1]} leaves {left:.0%}, or {remedy}"
            break
    return (
        f"warning: {share:.0%} of the {data.num_boxes} boxes are under {SMALL} px at the input size "
        f"{input_size[0]}x{input_size[1]}, and hardly any detector learns such: {remedy}"
    )


def drops_last(pictures: int, batch: int, world: int, views: int) -> bool:
    """Whether the last batch of an epoch would have one picture per process, where others have more: batch norms have
    no statistics of it, so it is left out. batch: pictures of a global batch."""
    rest = pictures % batch
    return views == 1 and pictures > batch and batch > world and 0 < rest <= world


def check_norms(model: Detector, pictures: int) -> None:
    """Send `pictures` of the input size, those of a process in its smallest batch, through a copy of the network that
    has shapes and no values.

    Raises: HeadwayError where a batch norm in training would see a single value.
    """
    if pictures > 1:
        return
    try:
        twin = copy.deepcopy(model).to("meta").train()
        twin(torch.empty(pictures, 3, *model.card.input_size, device="meta"))
    except HeadwayError as error:
        raise HeadwayError(f"{error} (batch_size, input_size)") from None
    except Exception:  # a network that asks for values, as where it proposes regions: then the first step tells
        return


def out_of_memory(
    config: TrainConfig, input_size: tuple[int, int], device: torch.device, error: Exception
) -> HeadwayError:
    """The levers for a batch that does not fit, in place of `error`."""
    return HeadwayError(
        f"the memory of {device} does not hold a batch of {config.batch_size} at {input_size[0]}x{input_size[1]} "
        f"({one_line(error, 120)}): start anew with half the batch_size and accumulate=2, which takes the "
        "same steps, or with a smaller input_size"
    )
