"""The training loop, top to bottom: start, steps, validation, saves. Nothing calls back.

Hugging Face Accelerate gives the device, the processes, mixed precision and gradient clipping. The loader itself gives
each process its part of every global batch, and the heads average their normalisers over processes, so the mean of
the processes' gradients is the gradient of one process with the whole batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..data.dataset import DetectionData
from ..data.loader import DetectionLoader
from ..detector import Detector
from ..errors import HeadwayError
from ..evaluate.api import detection_cap
from ..evaluate.batches import Share, to_device
from ..evaluate.coco import evaluate
from ..evaluate.processes import none_lost
from ..evaluate.run import Stopped, measure
from ..evaluate.tasks import detects, summary, tasks_of
from ..types import Batch
from .check import check_data, out_of_memory
from .config import TrainConfig
from .guard import HealthGuard
from .log import Meter, draw_curve
from .save import Thresholds, save_checkpoint, save_state
from .start import Session, kernels, start, stop_signals
from .state import dump_batches, going_on, how_to_resume, random_state, set_random_state
from .watch import Watch

_VALIDATED = 8  # pictures of a pass of a validation in each process, or fewer where the batch has fewer


class NonFiniteLoss(HeadwayError):  # noqa: N818  (named for what happened)
    """The loss or its gradient became NaN or infinite; the weights before that step are kept."""


class TrainingStopped(HeadwayError):  # noqa: N818
    """Ctrl-C or a termination signal: the state was saved and the run can be resumed."""


def fit(
    model: Detector,
    train_data: DetectionData,
    val_data: DetectionData | None,
    config: TrainConfig,
    *,
    resume: bool = False,
    transform: Callable[[Any], Any] | None = None,
    loader: Iterable[Batch] | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """Train `model` in place (seed torch before building it for a repeatable start) and return the run folder.

    The folder holds config.json, metrics.jsonl, curve.png, last.safetensors, best.safetensors (by AP on `val_data`, for
    a model without boxes by another metric; without validation data there is none) and state/. Afterwards `model` has
    the weights of last.safetensors.

    config.out: None makes a new folder runs/<model>-<data>-N.
    resume: go on with the run in `config.out` after it was stopped or killed, to the same final weights; with more
        epochs than before, the run becomes that much longer.
    transform: of each training sample, see `data.loader.make_loader`.
    loader: of training batches, instead of the one that the settings describe; each process gives its own. It has a
        length, and where it shuffles, `set_epoch(epoch)`.
    record: what the run was started with, kept in the folder as command.json; its "weights" are named at the start.
    Raises: HeadwayError for settings, data or a folder that do not fit; NonFiniteLoss; CollapsedTraining;
    TrainingStopped; LostProcess.
    """
    check_data(model, train_data, val_data, config)
    with kernels(config), none_lost(lambda: "start all nodes again"):
        run = start(model, train_data, val_data, config, resume, transform, loader, record)
        guard = HealthGuard(run.core.head, config)
        watch = Watch(run.log.say, new=run.progress.step == 0, record=record or {})
        try:
            # Not before: until then one process may wait for another without end, and a signal must end it.
            with stop_signals() as stop, none_lost(lambda: going_on(run.folder)):
                if not resume:  # so that a run killed before its first save can be resumed like any other
                    if run.accelerator.is_main_process:
                        save_checkpoint(run, "last", {})
                    save_state(run)
                _validate_start(run, stop)
                while not run.progress.finished:
                    _train_epoch(run, stop, guard, watch)
                    _end_epoch(run, stop, watch)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(config, run.core.card.input_size, run.accelerator.device, error) from None
        finally:
            run.log.close()
            run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        if run.accelerator.is_main_process:
            draw_curve(run.folder)
        if run.ema is not None:
            model.load_state_dict(run.ema.module.state_dict())
        model.card = run.shown.card
        run.accelerator.end_training()
    model.eval()
    return run.folder


# ------------------------------------------------------------------------------------------------------- the loop
def _validate_start(run: Session, stop: list[int]) -> None:
    """Where the settings ask for it, validate the weights that the run starts from and keep them as the best so far."""
    progress = run.progress
    if not run.config.validate_start or run.val_data is None or progress.step or progress.start_validated:
        return
    figures, thresholds = _validate(run, run.val_data, stop)
    row = {"epoch": 0, **figures}
    progress.best = _score(run, row)
    progress.start_validated = True
    run.log.say(f"before the first step  {_numbers(row)}")
    run.log.row("epoch", 0, {**row, "seconds": progress.seconds})
    if run.accelerator.is_main_process and progress.best is not None:
        save_checkpoint(run, "best", row, thresholds)
    save_state(run)


def _score(run: Session, row: dict[str, Any]) -> float | None:
    """What tells the best weights: AP, or of a model without boxes the first figure of its tasks."""
    names = ["ap", *(task.score for task in tasks_of(run.core))]
    return next((row[name] for name in names if row.get(name) is not None), None)


def _numbers(row: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))


def _train_epoch(run: Session, stop: list[int], guard: HealthGuard, watch: Watch) -> None:
    """Every remaining step of the running epoch."""
    config, progress, meter = run.config, run.progress, Meter()
    run.core.train()
    for group in _grouped(_remaining(run), config.accumulate):
        rate = config.scaled_learning_rate * run.schedule.lr_lambdas[0](progress.step)
        values, stopping = one_step(run, group, stop)
        progress.batch += len(group)
        progress.step += 1
        images = sum(len(batch.metas) for batch in group) * run.accelerator.num_processes
        seconds, speed = meter.stop(images)
        progress.seconds += seconds
        _record(run, values, rate, speed)
        guard.check(values, progress.epoch + 1, progress.step)
        watch.step(values)
        if stopping:
            _stop(run)
        if config.save_every and progress.step % config.save_every == 0:
            save_state(run)
        meter.start()


def _stop(run: Session) -> NoReturn:
    """Save the state and end."""
    save_state(run)
    raise TrainingStopped(
        f"stopped by a signal at epoch {run.progress.epoch + 1}, step {run.progress.step}; the state is in "
        f"{run.folder}: {how_to_resume(run.folder)} goes on from here"
    )


def _remaining(run: Session) -> Iterable[Batch]:
    """The batches of the running epoch that are not used yet. A loader of the user's own is run through up to them."""
    progress, loader = run.progress, run.loader
    if isinstance(loader, DetectionLoader):
        loader.set_epoch(progress.epoch, start_batch=progress.batch)
        return loader
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(progress.epoch)
    return islice(loader, progress.batch, None)


def one_step(run: Session, group: list[Batch], stop: list[int]) -> tuple[dict[str, float], bool]:
    """One optimizer step over a group of batches.

    Returns the mean of each loss and stat over group and processes, and whether any process was asked to stop.
    """
    config, accelerator = run.config, run.accelerator
    records = []
    for index, batch in enumerate(group):
        images, sizes, targets = to_device(batch, accelerator.device)[:3]
        last = index == len(group) - 1
        with nullcontext() if last else accelerator.no_sync(run.model):
            raw = run.model(images, sizes, targets)
            losses = run.core.loss(raw, targets)
            if run.distiller is not None:
                with accelerator.autocast():
                    taught = run.distiller(raw, images, sizes)
                losses = losses._replace(terms=losses.terms | taught)
            total = losses.total
            accelerator.backward(total if config.sum_batches else total / len(group))
        terms = {f"loss/{k}": v for k, v in losses.terms.items()}
        counts = [len(t.boxes) if t.crowd is None else (~t.crowd).sum() for t in targets]
        objects = torch.stack([total.new_tensor(0.0) + count for count in counts]).mean()
        stats = {f"stat/{k}": v for k, v in {**losses.stats, "objects": objects}.items()}
        records.append({"loss": total, **terms, **stats})
    norm = _clipped_norm(run)
    local = torch.stack([torch.stack([v.detach().float() for v in record.values()]) for record in records])
    flags = local.new_tensor([float(norm), float(bool(stop))])
    means = accelerator.reduce(torch.cat([local.mean(0), flags]), "mean").tolist()  # one wait for the device per step
    values = dict(zip([*records[0], "grad_norm"], means))
    # fp16 gradients overflow by design now and then: the loss scaler then skips the step and lowers its scale.
    if not math.isfinite(values["loss"]) or (config.precision != "fp16" and not math.isfinite(values["grad_norm"])):
        _refuse(run, group, local, values)
    run.optimizer.step()
    run.schedule.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update_parameters(run.core)
    return values, means[-1] > 0


def _clipped_norm(run: Session) -> Tensor:
    """The norm of the whole gradient, which is then clipped where the settings say so."""
    if run.config.clip_grad:
        return run.accelerator.clip_grad_norm_(run.core.parameters(), run.config.clip_grad)
    run.accelerator.unscale_gradients()
    return torch.nn.utils.get_total_norm([p.grad for p in run.core.parameters() if p.grad is not None])


def _refuse(run: Session, group: list[Batch], local: Tensor, values: dict[str, float]) -> None:
    """Stop at a non-finite step: write the batches that caused it and name their images."""
    broken = [batch for batch, row in zip(group, local) if not torch.isfinite(row).all()]
    folder = run.folder / "bad_batch"
    if run.accelerator.num_processes > 1:
        folder /= f"process{run.accelerator.process_index}"
    if not broken and run.accelerator.num_processes == 1:
        broken = group  # every loss is finite, the gradient is not
    progress = run.progress
    notes = {"epoch": progress.epoch + 1, "step": progress.step + 1, "values": {k: str(v) for k, v in values.items()}}
    names = gather_object(dump_batches(folder, broken, notes) if broken else [])
    what = "loss" if not math.isfinite(values["loss"]) else "gradient"
    bad = ", ".join(f"{k}={v:.4g}" for k, v in values.items() if not math.isfinite(v))
    raise NonFiniteLoss(
        f"the {what} is not finite ({bad}) at epoch {progress.epoch + 1}, step {progress.step + 1}, images "
        f"{', '.join(names)}. The batch is in {run.folder / 'bad_batch'} and the last good state is kept: check "
        "those images, lower the learning rate, set clip_grad, or use fp32 or bf16 instead of fp16"
    )


def _record(run: Session, values: dict[str, float], rate: float, speed: float) -> None:
    """Add a step to the sums, show it, and write a row of means every `log_every` steps."""
    progress, config = run.progress, run.config
    for sums in (progress.window, progress.epoch_sums):
        for name, value in {**values, "steps": 1.0}.items():
            sums[name] = sums.get(name, 0.0) + value
    run.log.tick(progress.epoch, config.epochs, progress.step, values["loss"], speed)
    if progress.step % config.log_every == 0:
        means = _means(progress.window)
        row = {"epoch": progress.epoch + 1, "lr": rate, **means, "images_per_s": speed, "seconds": progress.seconds}
        run.log.row("step", progress.step, row)
        progress.window = {}


def _means(sums: dict[str, float]) -> dict[str, float]:
    steps = sums.get("steps", 1.0)
    return {k: v / steps for k, v in sums.items() if k != "steps"}


def _end_epoch(run: Session, stop: list[int], watch: Watch) -> None:
    """Validate, keep the best, write checkpoints, the row and the state; decide whether the run is over."""
    config, progress = run.config, run.progress
    epoch = progress.epoch + 1
    row: dict[str, Any] = {"epoch": epoch, "train_loss": _means(progress.epoch_sums).get("loss")}
    thresholds: Thresholds = ()
    if run.val_data is not None and (epoch % config.validate_every == 0 or epoch == config.epochs):
        figures, thresholds = _validate(run, run.val_data, stop)
        row |= figures
    score = _score(run, row)
    better = score is not None and (progress.best is None or score > progress.best)
    if better:
        progress.best, progress.best_epoch, progress.stale = score, epoch, 0
    elif score is not None:
        progress.stale = epoch - progress.best_epoch
    stopped_early = bool(config.early_stop) and progress.stale >= config.early_stop
    progress.epoch, progress.batch, progress.epoch_sums = epoch, 0, {}
    progress.finished = epoch == config.epochs or stopped_early
    run.log.say(f"epoch {epoch}/{config.epochs}  {_numbers(row)}{'  (best yet)' if better else ''}")
    watch.epoch(row)
    run.log.row("epoch", progress.step, {**row, "seconds": progress.seconds})
    if run.accelerator.is_main_process:
        for name in ("last", "best") if better else ("last",):
            save_checkpoint(run, name, row, thresholds)
        if not progress.finished:  # else `fit` draws it
            draw_curve(run.folder)
    save_state(run)
    if stopped_early:
        run.log.say(f"no better AP than {progress.best:.4f} (epoch {progress.best_epoch}) for {progress.stale} epochs")


def _validate(run: Session, data: DetectionData, stop: list[int]) -> tuple[dict[str, float | None], Thresholds]:
    """(validation loss, AP and the figures of further tasks of the shown weights; the best threshold of each class):
    one pass, shared by the processes."""
    config, accelerator = run.config, run.accelerator
    cap = detection_cap(data, run.core.card)
    before = random_state(accelerator.device)  # a stopped validation is done again from its start

    def stopping() -> bool:
        if accelerator.num_processes == 1:
            return bool(stop)
        return bool(accelerator.reduce(torch.tensor(float(bool(stop)), device=accelerator.device)) > 0)

    try:
        found = measure(
            run.shown, data, batch_size=min(config.batch_size, _VALIDATED), workers=config.workers,
            device=accelerator.device, precision=config.precision, losses=True, tasks=True, max_detections=cap,
            stop=stopping, share=Share(accelerator.process_index, accelerator.num_processes), gather=gather_object,
            progress=run.log.validating(),
        )  # fmt: skip
    except Stopped:
        set_random_state(before, accelerator.device)
        _stop(run)
    run.core.train()
    metrics = evaluate(found.rows, data, max_detections=cap) if detects(run.core) else None
    thresholds = () if metrics is None else metrics.thresholds()
    figures = {} if metrics is None else metrics.summary()
    return {"val_loss": found.losses["loss"], **figures, **summary(found.tasks)}, thresholds


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last of an epoch may be shorter."""
    left = iter(batches)
    while group := list(islice(left, size)):
        yield group
