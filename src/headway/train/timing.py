"""Where the time of a training step goes, and whether the pictures arrive as fast as they are used.

The step is that of `fit`, watched from outside by hooks: nothing of it stands here a second time.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from ..detector import Detector
from ..layers.depthwise import with_fast_depthwise
from ..layers.fuse import tensors_in
from ..profile import Clock
from ..types import Batch, Meta, Target
from .config import TrainConfig
from .fit import one_step
from .optim import make_ema, make_optimizer, make_schedule
from .start import Session, make_accelerator

NETWORK = ("normalize", "backbone", "neck", "head")
# In the order in which they run. "loss" is assignment and loss; "rest" is the schedule and the running mean of weights.
PARTS = (
    "data", *NETWORK, "loss", "loss, backward", "head, backward", "neck, backward", "backbone, backward", "clip",
    "optimizer", "rest",
)  # fmt: skip


class StepTiming(NamedTuple):
    """seconds: of each step, with its data; parts: seconds of one step by part, medians over the steps; losses: of each
    step."""

    seconds: list[float]
    parts: dict[str, float]
    losses: list[float]


def made_batches(card: Any, batch_size: int, size: tuple[int, int], *, boxes: int = 8) -> Iterator[Batch]:
    """One batch of random pixels with random boxes, again and again."""
    height, width = size
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    targets = []
    for _ in range(batch_size):
        low, sides = draw(boxes, 2) * 0.7, 0.05 + draw(boxes, 2) * 0.25
        corners = torch.cat([low, low + sides], 1) * torch.tensor([width, height, width, height])
        labels = (draw(boxes) * card.num_classes).long()
        tags = torch.zeros(card.num_classes).index_fill(0, labels, 1.0)
        ids = torch.arange(boxes)  # the same objects in each picture, as of a picture's views
        targets.append(Target(corners, labels, torch.zeros(boxes, dtype=torch.bool), ids, tags))
    images = (draw(batch_size, 3, height, width) * 256).byte()
    metas = [Meta(number, "", size) for number in range(batch_size)]
    sizes = torch.tensor([size] * batch_size)
    return repeat(Batch(images, sizes, targets, metas, card.pad_value))


def open_session(model: Detector, config: TrainConfig, *, steps: int) -> Session:
    """What `train.start.start` builds, without data, folder and log."""
    accelerator = make_accelerator(config)
    core = with_fast_depthwise(model).to(device=accelerator.device, memory_format=torch.channels_last).train()
    ema = make_ema(core, config.ema, config.ema_warmup) if config.ema else None
    wrapped, optimizer = accelerator.prepare(core, make_optimizer(core, config))
    schedule = make_schedule(optimizer.optimizer, steps, steps, config)
    nothing: Any = None
    return Session(
        config, Path(), accelerator, core, wrapped, ema, optimizer, schedule, nothing, nothing, None, {}, nothing,
        nothing, None,
    )  # fmt: skip


def time_steps(run: Session, batches: Iterable[Batch], *, repeats: int = 5, warmup: int = 2) -> StepTiming:
    """Take `warmup` + `repeats` steps, and time the last ones by part. The model is trained by them."""
    clock, stream = Clock(run.accelerator.device), iter(batches)
    rows: list[dict[str, float]] = []
    losses = []
    with _watched(run, clock):
        for number in range(warmup + repeats):
            clock.start()
            batch = next(stream)
            clock.mark("data")
            values, _ = one_step(run, [batch], [])
            clock.mark("rest")
            losses.append(values["loss"])
            if number >= warmup:
                rows.append(dict(clock.parts))
    parts = {name: median(row.get(name, 0.0) for row in rows) for name in PARTS}
    return StepTiming([sum(row.values()) for row in rows], parts, losses[warmup:])


def time_loading(batches: Iterable[Batch], *, warmup: int = 1, most: int = 20) -> float:
    """Pictures per second that arrive, with nobody using them: of up to `most` batches after `warmup` others."""
    stream, images = iter(batches), 0
    for _, _batch in zip(range(warmup), stream):
        pass
    start = time.perf_counter()
    for _, batch in zip(range(most), stream):
        images += len(batch.metas)
    return images / (time.perf_counter() - start)


@contextmanager
def _watched(run: Session, clock: Clock) -> Iterator[None]:
    """Mark the ends of the parts, forward and backward."""
    core, accelerator = run.core, run.accelerator
    loss, backward, optimizer = core.loss, accelerator.backward, run.optimizer.optimizer

    def ended(name: str, behind: str) -> Callable[..., Any]:
        """Of the part `name`; its output's gradients are there when the backward pass of the part behind it ends."""

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            clock.mark(name)
            if isinstance(output, list):  # a coarser stage reads the maps too: the part behind gets its own names
                output = [x.view_as(x) for x in output]
            wanted = [x for x in tensors_in(output) if x.requires_grad]
            if wanted:
                register_multi_grad_hook(wanted, lambda _: clock.mark(f"{behind}, backward"))
            return output

        return hook

    def timed_loss(raw: Any, targets: Any) -> Any:
        losses = loss(raw, targets)
        clock.mark("loss")
        return losses

    def timed_backward(total: Tensor) -> None:
        backward(total)
        clock.mark("backbone, backward")

    present = [name for name in NETWORK if not isinstance(core.get_submodule(name), nn.Identity)]
    with ExitStack() as hooks:
        for name, behind in zip(present, (*present[1:], "loss")):
            hooks.enter_context(core.get_submodule(name).register_forward_hook(ended(name, behind)))
        hooks.enter_context(optimizer.register_step_pre_hook(lambda *_: clock.mark("clip")))
        hooks.enter_context(optimizer.register_step_post_hook(lambda *_: clock.mark("optimizer")))
        core.loss, accelerator.backward = timed_loss, timed_backward  # type: ignore[method-assign]
        hooks.callback(delattr, core, "loss")
        hooks.callback(delattr, accelerator, "backward")
        yield
