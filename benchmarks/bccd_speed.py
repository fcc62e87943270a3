"""Speed and memory of one small detector; `bccd.py --measure` starts this in a fresh process for each figure.

    python benchmarks/bccd_speed.py training|inference EXPERIMENT DATA WEIGHTS THREADS    # prints JSON

training: whole steps (forward, loss, backward, AdamW) on one augmented batch of 8 pictures of the training split, bf16,
    without EMA; the pictures are loaded before. images_per_s from the median of the steps.
inference: `detect` on single pictures of the validation split, bf16, with the trained WEIGHTS where that file exists
    (an untrained detector keeps far more boxes); ms is the median, images_per_s its inverse.
peak_mib: the process's highest resident memory during the steps above what it was with model and pictures in memory.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from headway import Detector, create_model, load
from headway.data.batch import to_model_input
from headway.data.formats.any_format import open_splits
from headway.data.loader import make_loader
from headway.profile import autocast, count_parameters, peak_memory, reset_peak_memory
from headway.train.optim import make_optimizer
from headway.train.recipes import recipe

CPU = torch.device("cpu")
TRAINING_STEPS, PICTURES = 6, 40


def training(model: Detector, splits: dict) -> dict[str, float]:
    config = recipe("small")
    loader = make_loader(splits["train"], model.card, batch_size=config.batch_size, train=True, preset=config.preset)
    batch = next(iter(loader))
    images = to_model_input(batch, "cpu").contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, config)

    def step() -> None:
        with autocast(CPU, "bf16"):
            raw = model(images, batch.sizes, batch.targets)
        model.loss(raw, batch.targets).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds, peak = watch([step] * TRAINING_STEPS)
    return {"seconds": seconds, "images_per_s": len(images) / seconds, "peak_mib": peak}


def inference(model: Detector, splits: dict) -> dict[str, float]:
    loader = make_loader(splits["val"], model.card, batch_size=1, train=False)
    batches = [batch for batch, _ in zip(loader, range(PICTURES))]
    model.eval()

    def look(images: torch.Tensor, sizes: torch.Tensor) -> Callable[[], None]:
        def call() -> None:
            with autocast(CPU, "bf16"):
                model.detect(images, sizes)

        return call

    seconds, peak = watch([look(to_model_input(batch, "cpu"), batch.sizes) for batch in batches])
    return {"seconds": seconds, "ms": 1000 * seconds, "images_per_s": 1 / seconds, "peak_mib": peak}


def watch(calls: list[Callable[[], None]]) -> tuple[float, float]:
    """(median seconds of a call, MiB above what was resident before), the first call warming up."""
    reset_peak_memory(CPU)
    before, seconds = peak_memory(CPU), []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), (peak_memory(CPU) - before) / 2**20


def main() -> None:
    part, experiment, data, weights, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    splits = open_splits(Path(data))
    name, arguments = json.loads(experiment)
    trained = Path(weights).exists()
    model = load(weights) if trained else create_model(name, class_names=splits["train"].class_names, **arguments)
    figures = {"training": training, "inference": inference}[part](model, splits)
    print(json.dumps({"parameters": count_parameters(model), "trained": trained, "threads": int(threads), **figures}))


if __name__ == "__main__":
    main()
