"""The training loss of every picture by itself."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from ..data.dataset import DetectionData
from ..detector import Detector
from ..losses import processes_apart
from ..precision import Precision
from .batches import evaluation_batches, to_device
from .matching import Floats
from .run import Progress, evaluating, forward


def picture_losses(
    model: Detector,
    data: DetectionData,
    *,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Floats:
    """[P] the sum of all loss terms of each picture of `data`, by itself in a batch and without augmentation.

    Heads divide by the positives of a batch, so a picture with few boxes is not a picture with a low loss. Values of
    different heads do not compare. A head that samples draws the same for a picture every time. Arguments as of
    `measure`. The model's mode and the random state are restored.

    Raises: DataError for a broken picture.
    """
    losses = torch.zeros(len(data), dtype=torch.float64)
    with ExitStack() as stack:
        where = stack.enter_context(evaluating(model, device, precision))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[where] if where.type == "cuda" else []))
        stack.enter_context(processes_apart())
        batches = evaluation_batches(data, model.card, batch_size=1, workers=workers, pin=where.type == "cuda")
        for done, ((index,), batch) in enumerate(batches, 1):
            moved = to_device(batch, where)
            torch.manual_seed(0)
            _, raw = forward(model, moved, twice=True)
            losses[index] = float(model.loss(raw, moved.targets).total)
            if progress is not None:
                progress(done, len(data))
    return losses.numpy()
