"""`headway bench --train` and `--data`: what a training step takes, and whether the pictures arrive fast enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..resolve import is_exported, resolve_model
from ..train.recipes import recipe
from . import common
from .common import UsageError, say, show, show_json, table

if TYPE_CHECKING:
    from ..data.loader import DetectionLoader
    from ..train.config import TrainConfig
    from ..types import Batch
    from .bench import Bench

_LABELS = {"data": "waiting for pictures", "loss": "assignment and loss", "clip": "gradient clipping",
           "rest": "schedule and EMA"}  # fmt: skip


def run_train(command: Bench) -> int:
    """Measure, and print the table or the JSON."""
    path = resolve_model(command.model).path  # what is missing is told before anything slow is imported
    settings = recipe(command.recipe)
    if is_exported(path):
        raise UsageError(f"{path} is an exported file, which cannot be trained: name a checkpoint or a model")
    result = _measure(command, settings)
    if command.json:
        show_json(result)
        return 0
    step = result["step_ms"]
    lines = [
        f"training of {result['model']} at {result['size'][0]}x{result['size'][1]}, batch {command.batch}, "
        f"{command.precision}, {result['device']}, {result['threads']} threads",
        f"step         {step['median']:.1f} ms median, {step['p90']:.1f} ms p90 of {command.repeats}",
        f"used         {result['images_per_s']:.2f} pictures/s",
    ]
    if command.data is not None:
        lines.append(f"arriving     {result['arriving_per_s']:.2f} pictures/s ({_loaders(command.workers)})")
    lines.append(f"peak memory  {result['peak_memory_mib']:.0f} MiB ({result['memory_of']})\n")
    show("\n".join(lines))
    show(_table(result["parts_ms"]))
    return 0


def _loaders(workers: int) -> str:
    return "loaded by the training process itself" if not workers else f"{workers} loading processes"


def _table(parts: dict[str, float]) -> str:
    """One line for each part, its forward and its backward pass beside each other."""
    whole, rows = sum(parts.values()), []
    for name, ms in parts.items():
        if name.endswith(", backward"):
            continue
        back = parts.get(f"{name}, backward")
        share = (ms + (back or 0.0)) / whole
        cells = f"{ms:.1f}", "" if back is None else f"{back:.1f}", f"{100 * share:.0f}%"
        rows.append((_LABELS.get(name, name), *cells))
    return table(("part", "ms", "backward, ms", "share"), rows, right=(1, 2, 3))


def _measure(command: Bench, settings: TrainConfig) -> dict[str, Any]:
    import torch

    from .. import profile
    from ..precision import check_precision
    from ..train.timing import made_batches, open_session, time_loading, time_steps

    if command.threads:
        torch.set_num_threads(command.threads)
    device = common.pick_device(command.device)
    check_precision(command.precision, device)
    settings = settings.changed(
        batch_size=command.batch, precision=command.precision, device=device.type, workers=command.workers,
        input_size=None if command.size is None else tuple(sorted(command.size)),
    )  # fmt: skip
    torch.manual_seed(0)
    arriving = None
    if command.data is None:
        model = common.load_model(command.model, random=True)
        size = command.size or settings.input_size or model.card.input_size
        batches: Iterator[Batch] = made_batches(model.card, command.batch, size)
    else:
        model, loader = _with_data(command, settings)
        size = model.card.input_size
        arriving = time_loading(_endless(loader), warmup=max(1, command.workers), most=command.repeats)
        batches = _endless(loader)
    run = open_session(model, settings, steps=command.repeats + 2)
    if not command.json:
        say(f"{command.repeats} steps ...")
    profile.reset_peak_memory(device)
    timing = time_steps(run, batches, repeats=command.repeats, warmup=2)
    seconds = sorted(timing.seconds)
    middle = seconds[len(seconds) // 2]
    return {
        "model": command.model, "size": size, "batch": command.batch, "precision": command.precision,
        "recipe": command.recipe,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(), "workers": command.workers,
        "step_ms": {"median": 1000 * middle, "p90": 1000 * seconds[round(0.9 * (len(seconds) - 1))]},
        "images_per_s": command.batch / middle,
        **({} if arriving is None else {"arriving_per_s": arriving}),
        "peak_memory_mib": profile.peak_memory(device) / 2**20,
        "memory_of": "CUDA tensors" if device.type == "cuda" else "the whole process",
        "parts_ms": {name: 1000 * value for name, value in timing.parts.items()},
    }  # fmt: skip


def _with_data(command: Bench, settings: TrainConfig) -> tuple[Any, DetectionLoader]:
    """The model for the classes of the data, and the loader of a training with these settings."""
    from dataclasses import replace

    from ..evaluate.api import open_data_splits
    from ..files import pick_split
    from ..train.api import build
    from ..train.start import training_loader

    data = pick_split(open_data_splits(command.data), "train")
    model = build(command.model, data.class_names, random=True)
    size = settings.input_size or model.card.input_size
    model.card = replace(model.card, input_size=size, **data.card_fields(model.card.max_detections))
    loader = training_loader(data, model.card, settings)
    if not len(loader):
        raise UsageError(f"{command.data} gives no batch of {command.batch}: take a smaller --batch")
    return model, loader


def _endless(loader: DetectionLoader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1
