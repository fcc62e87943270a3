"""The start of a run: settings, data and folder checked, everything built, a saved state put back."""

import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object, set_seed
from timm.layers import convert_sync_batchnorm  # torch's own drops the activation of timm's BatchNormAct2d
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..data.dataset import DetectionData
from ..data.loader import DetectionLoader, make_loader
from ..detector import Detector
from ..errors import HeadwayError, one_line
from ..evaluate.processes import check_alike, patience
from ..evaluate.tasks import tasks_of
from ..files import new_folder, write_atomically
from ..layers.depthwise import with_fast_depthwise
from ..precision import choose_precision, computes_bf16, require_mps
from ..types import ModelCard
from .check import check_norms, drops_last, size_warning
from .config import TrainConfig
from .distill import Distiller, make_distiller
from .log import RunLog, board_writer
from .optim import make_ema, make_optimizer, make_schedule, warmup_length
from .state import (
    COMMAND,
    Progress,
    check_same_data,
    describe_data,
    how_to_resume,
    open_folder,
    read_state,
    set_random_state,
)


@dataclass(slots=True)
class Session:
    """Everything one run holds. core: the detector itself; model: the same, wrapped for processes and precision."""

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    core: Detector
    model: nn.Module
    ema: AveragedModel | None
    optimizer: Any
    schedule: Any
    loader: Any
    train_data: DetectionData
    val_data: DetectionData | None
    described: dict[str, dict[str, Any]]
    progress: Progress
    log: RunLog
    distiller: Distiller | None

    @property
    def shown(self) -> Detector:
        """The weights that are validated and kept: the running mean where there is one."""
        return self.core if self.ema is None else self.ema.module


def start(
    model: Detector, train_data: DetectionData, val_data: DetectionData | None, config: TrainConfig, resume: bool,
    transform: Any = None, loader: Any = None, record: dict[str, Any] | None = None,
) -> Session:  # fmt: skip
    """Build everything of a run and, with `resume`, put it where the saved state left off. Arguments as of `fit`."""
    own = transform is not None or train_data.in_memory
    config = _settled(config, resume, own)
    accelerator = make_accelerator(config)
    described = {"training": describe_data(train_data), "validation": describe_data(val_data)}
    for what, mine in described.items():
        check_alike(mine, f"{what} data", gather_object)
    if config.tensorboard:
        board_writer()
    distiller = make_distiller(model, config, accelerator.device)  # before the seed: building a model draws numbers
    set_seed(config.seed, device_specific=True)
    input_size = config.input_size or model.card.input_size
    model.card = replace(model.card, input_size=input_size, **train_data.card_fields(model.card.max_detections))
    ranks = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    if loader is None:
        views = _views(model, config)
        check_norms(model, config.batch_size // accelerator.num_processes)
        loader = training_loader(train_data, model.card, config, views=views, transform=transform, **ranks)
    if config.sync_bn:
        model = convert_sync_batchnorm(model)
    core = with_fast_depthwise(model).to(device=accelerator.device, memory_format=torch.channels_last)
    ema = make_ema(core, config.ema, config.ema_warmup) if config.ema else None
    wrapped, optimizer = accelerator.prepare(core, make_optimizer(core, config))
    steps_per_epoch = math.ceil(len(loader) / config.accumulate)
    total = steps_per_epoch * config.epochs
    schedule = make_schedule(optimizer.optimizer, total, steps_per_epoch, config)
    default = default_folder(model.card.model, train_data.root)
    folder, saved, before = _open(accelerator, config, default, described, resume, record)
    progress = Progress() if saved is None else saved["progress"]
    about = {"done": progress.step, "kept_bytes": progress.log_bytes, "tensorboard": config.tensorboard}
    log = RunLog(folder, total, silent=not accelerator.is_main_process, **about)
    config = config.changed(out=folder)
    run = Session(
        config, folder, accelerator, core, wrapped, ema, optimizer, schedule, loader, train_data, val_data, described,
        progress, log, distiller,
    )  # fmt: skip
    if saved is not None:
        _restore(run, saved)
        if config.epochs > before:
            progress.finished = False
            if accelerator.is_main_process:
                config.save(run.folder / "config.json")
    _announce(run, total, steps_per_epoch, "" if record is None else record.get("weights", ""))
    if config.epochs > before:
        log.say(f"{config.epochs} epochs instead of {before}: the schedule goes on as that of the longer run")
    return run


def _views(model: Detector, config: TrainConfig) -> int:
    """`config.views`, or what the model needs. Raises: HeadwayError for a batch that does not hold them evenly."""
    views = config.views or max((task.views for task in tasks_of(model)), default=1)
    if config.batch_size % views:
        raise HeadwayError(f"batch_size {config.batch_size} must be a multiple of the {views} views of each picture")
    return views


# Settings that `make_loader` and the presets have by the same name.
_OF_LOADER = (
    "batch_size", "preset", "seed", "cache", "drop_empty", "epochs", "cutmix", "gridmask", "mosaic9",
    "mixup", "flip", "vertical_flip", "sizes", "scale", "colour", "translate", "rotate", "shear", "perspective",
)  # fmt: skip


def training_loader(
    data: DetectionData, card: ModelCard, config: TrainConfig, *, rank: int = 0, world: int = 1, views: int = 1,
    transform: Any = None,
) -> DetectionLoader:  # fmt: skip
    """The training pictures of one process, augmented as the settings say. transform: of each sample, before that."""
    return make_loader(
        data, card, train=True, rank=rank, world=world, views=views, transform=transform,
        drop_last=drops_last(_pictures(data, config), config.batch_size // views, world, views),
        workers=config.workers or 0, joined_epochs=config.epochs - config.plain_epochs,
        **{name: getattr(config, name) for name in _OF_LOADER},
    )  # fmt: skip


def _pictures(data: DetectionData, config: TrainConfig) -> int:
    """Pictures of an epoch."""
    return int((data.box_counts() > 0).sum()) if config.drop_empty else len(data)


def _open(
    accelerator: Accelerator, config: TrainConfig, default: Path, described: dict[str, dict[str, Any]], resume: bool,
    record: dict[str, Any] | None,
) -> tuple[Path, dict[str, Any] | None, int]:  # fmt: skip
    """Open the run folder, `default` with a number where none is named. Gives it, the state to go on from, and the
    epochs asked for at the start of the run. Raises: HeadwayError, in every process alike."""
    answer: list[Any] = [None, config.out, config.epochs]
    if accelerator.is_main_process:
        try:
            if config.out is None:
                answer[1] = new_folder(default, numbered=True)
            answer[2] = open_folder(config.changed(out=answer[1]), resume=resume)
            if record is not None:
                write_atomically(answer[1] / COMMAND, (json.dumps(record, indent=2) + "\n").encode())
        except HeadwayError as error:
            answer[0] = str(error)
    reason, folder, before = broadcast_object_list(answer)
    if reason:
        raise HeadwayError(reason)
    if not resume:
        return folder, None, before
    saved = read_state(folder)
    for what, now in described.items():
        check_same_data(folder, what, saved["data"][what], now)
    return folder, saved, before


def default_folder(model: str, data: Path) -> Path:
    """runs/<model>-<data>, of a run that was given no folder."""
    return Path("runs", f"{model or 'detector'}-{data.stem or 'data'}".replace("/", "-"))


def _settled(config: TrainConfig, resume: bool, own: bool) -> TrainConfig:
    """The settings with what the machine decides: number format and loading processes. A run that goes on keeps its
    number format. own: pictures come from objects of the user's, which another process may not be able to open.
    Raises: HeadwayError for a device that is not there."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise HeadwayError("device is cuda, but torch sees no CUDA device here; use --device auto or cpu")
    if config.device == "mps":
        require_mps()
    kind = config.device if config.device != "auto" else "cuda" if cuda else "cpu"
    precision = config.precision
    if precision == "auto":
        before = config.out / "config.json" if resume and config.out is not None else None
        known = TrainConfig.load(before).precision if before is not None and before.is_file() else "auto"
        precision = choose_precision(known, torch.device(kind))
    workers = config.workers
    if workers is None:
        workers = min(8, (os.cpu_count() or 1) // 2) if kind == "cuda" and not own else 0
    return config.changed(precision=precision, workers=workers)


def make_accelerator(config: TrainConfig) -> Accelerator:
    use_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if use_cpu and config.precision == "fp16":
        raise HeadwayError("fp16 training needs a CUDA device; use bf16 or fp32 on a CPU")
    if use_cpu and config.sync_bn:
        raise HeadwayError("sync_bn needs CUDA devices; leave it off on a CPU")
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run in this process may have differed
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(
        cpu=use_cpu, mixed_precision=precision, kwargs_handlers=[InitProcessGroupKwargs(**patience())]
    )
    if config.batch_size % accelerator.num_processes:
        *fits, last = [str(n) for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
        raise HeadwayError(
            f"batch_size {config.batch_size} is over all processes and must be a multiple of their number, "
            f"{accelerator.num_processes}: start {' or '.join([*filter(None, [', '.join(fits)]), last])} of them"
        )
    return accelerator


def _announce(run: Session, total: int, steps_per_epoch: int, weights: str) -> None:
    """Say what will be trained, from which weights, on what, and at which learning rate."""
    config, log, card = run.config, run.log, run.core.card
    count = sum(p.numel() for p in run.core.parameters() if p.requires_grad)
    threads = f", {torch.get_num_threads()} threads" if run.accelerator.device.type == "cpu" else ""
    log.say(
        f"{card.model or 'detector'}: {count / 1e6:.2f} M trainable parameters{f' from {weights}' if weights else ''}; "
        f"input size {card.input_size[0]}x{card.input_size[1]}"
    )
    log.say(
        f"{run.accelerator.device}, {run.accelerator.num_processes} process(es){threads}, {config.workers} loading "
        f"processes, {config.precision}; {len(run.train_data)} images, {config.epochs} epochs, {total} steps of "
        f"{config.step_size} images"
    )
    root = "" if config.optimizer == "sgd" else "the root of "
    log.say(
        f"learning rate {config.scaled_learning_rate:g} = {config.learning_rate:g} x "
        f"{root}{config.step_size} images / {config.base_batch_size or config.step_size}; warm-up "
        f"{warmup_length(total, steps_per_epoch, config)} steps, {config.schedule}"
    )
    if run.distiller is not None:
        log.say(f"distilled from {config.teacher}: heat map {config.distill_heatmap:g}, box {config.distill_box:g}")
    if run.val_data is None:
        log.say("no validation data: no AP, no best.safetensors, no early stop")
    elif run.val_data.num_boxes == 0:
        log.say(
            f"warning: none of the {len(run.val_data)} validation images has a box, so there will be no AP and no "
            "best.safetensors: give a split with boxes, or hold back some of the training pictures"
        )
    if config.precision == "fp32" and computes_bf16(run.accelerator.device):
        # torch 2.14 on a CPU: NaN in the weight gradient of a bf16 convolution of stride 2 on a map of one cell.
        log.say("this device computes in bf16 natively: --precision bf16 is faster (use it from input size 128 on)")
    if warning := size_warning(run.train_data, card.input_size):
        log.say(warning)
    if run.progress.step:
        log.say(f"resumed at epoch {run.progress.epoch + 1}, step {run.progress.step}")
    log.say(f"run folder {run.folder}; Ctrl-C saves the state, and {how_to_resume(run.folder)} goes on from it")


def _restore(run: Session, saved: dict[str, Any]) -> None:
    """Inverse of `save.save_state`. Raises: HeadwayError when the state is another model's."""
    try:
        run.core.load_state_dict(saved["model"])
        if run.ema is not None:
            run.ema.load_state_dict(saved["ema"])
        run.optimizer.load_state_dict(saved["optimizer"])
    except (RuntimeError, ValueError) as error:
        what = f"the state in {run.config.out} is of another model than {run.core.card.model}"
        raise HeadwayError(f"{what}: {one_line(error)}") from None
    run.schedule.load_state_dict(saved["schedule"])
    if run.accelerator.scaler is not None and saved["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(saved["scaler"])
    if len(saved["random"]) == run.accelerator.num_processes:
        set_random_state(saved["random"][run.accelerator.process_index], run.accelerator.device)
    else:
        _regroup(run, len(saved["random"]))


def _regroup(run: Session, before: int) -> None:
    """Go on with another number of processes than `before`: global batches, their pictures and rates stay; what random
    layers draw is from here on fixed by seed, step, number of processes and process."""
    now, step = run.accelerator.num_processes, run.progress.step
    seed = np.random.SeedSequence([run.config.seed, step, now, run.accelerator.process_index]).generate_state(1)
    set_seed(int(seed[0]))
    run.log.say(
        f"{now} process(es) instead of {before} from step {step} on: the same batches, augmentation and rates; "
        "batch norms see other parts of a batch, and random layers draw anew"
    )
    batch, views = run.config.batch_size, _views(run.core, run.config)
    pictures = _pictures(run.train_data, run.config)
    one, other = (drops_last(pictures, batch // views, world, views) for world in (before, now))
    if isinstance(run.loader, DetectionLoader) and one != other:
        how = "without" if other else "with"
        run.log.say(f"an epoch has {len(run.loader)} batches from here on, {how} the short one at its end")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that fills when Ctrl-C or SIGTERM arrives, so that a step is never cut in half; a second Ctrl-C is not
    waited for."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kernels(config: TrainConfig) -> Iterator[None]:
    """torch's deterministic kernels, while `config.deterministic`."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(config.deterministic or before, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
