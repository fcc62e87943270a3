"""Everything a training run can be told, in one flat record: the command line is made from these fields.

The defaults are the recipe "small": from random weights on a few hundred pictures, on a CPU (batch norms that train,
AdamW, one cosine, a running mean). `benchmarks/results/bccd.md` has what it reaches.

This file imports neither torch nor anything slow, so that `headway train --help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import HeadwayError, nearest
from ..files import write_atomically

# What may differ between a run and its continuation, because no weight depends on it.
FREE_ON_RESUME = frozenset({"out", "workers", "save_every", "log_every", "tensorboard"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The settings of one training run.

    Raises: HeadwayError, naming the field, for a value that cannot be meant.
    """

    out: Path | None = None
    """Run folder, made by the run: config.json, metrics.jsonl, last.safetensors, best.safetensors, state, curve.png.
    Default: runs/MODEL-DATA-1, or the next number that is free."""
    epochs: int = 60
    """Passes over the training images."""
    batch_size: int = 8
    """Images per forward pass, over all processes together."""
    accumulate: int = 1
    """Forward passes whose gradients are averaged into one step; each is normalised by its own positives."""
    sum_batches: bool = False
    """Add up the gradients of accumulated batches instead: for losses that are sums over the images, as YOLO's are."""
    workers: int | None = None
    """Processes that load images; 0: the training process itself does. Default: up to 8 beside a GPU, else 0. The
    weights do not depend on it."""
    seed: int = 0
    """Seed of the order of images, the augmentation and every random layer."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (arXiv 1711.05101), or SGD with momentum."""
    learning_rate: float = 1.5e-3
    """Peak learning rate at `base_batch_size` images per step."""
    base_batch_size: int = 8
    """The rate is multiplied by batch_size * accumulate / base_batch_size with SGD (the linear rule, arXiv 1706.02677),
    by the root of it with AdamW (arXiv 2205.10287). 0: by nothing."""
    weight_decay: float = 0.05
    """Decoupled for AdamW, L2 for SGD."""
    decay_batch_size: int = 0
    """Weight decay holds at that many images per step and is scaled linearly with them. 0: it is not scaled."""
    decay_norm_and_bias: bool = False
    """Whether weight decay reaches biases, norms and other parameters of at most one dimension as well."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW uses betas (0.9, 0.999)."""
    nesterov: bool = False
    """Nesterov's form of momentum, for SGD."""
    backbone_lr_factor: float = 1.0
    """Learning rate of the backbone relative to the rest (0.1 is usual for a pretrained one)."""
    bias_lr_factor: float = 1.0
    """Learning rate of biases relative to the other parameters around them (2 for TTFNet and PAFNet)."""
    offset_lr_factor: float = 0.1
    """Learning rate of the layers that say where deformable convolution, deformable attention and Dynamic Head read,
    relative to their surroundings. A tenth, as in the papers of deformable convolution v2 and Deformable DETR: AdamW
    moves each weight alike, and at the full rate the places move before the features are worth reading. The published
    schedules of Dynamic Head have 1."""
    attention_lr_factor: float = 0.4
    """Learning rate of transformer blocks (of a ViT, a Swin, DETR) relative to their surroundings. Convolutions take a
    higher one. Published schedules have 1."""
    layer_lr_factor: float = 1.0
    """Learning rate of each block of a ViT relative to the block behind it (0.7 in ViTDet-B); patches and positions
    come in front of the first. 1: all alike."""
    clip_grad: float = 10.0
    """Largest norm of the whole gradient; 0 for no limit."""

    teacher: str | None = None
    """A trained heat-map detector with the same classes, whose maps the model learns as well (knowledge distillation):
    a checkpoint, a run folder (on the command line) or a published tag."""
    distill_heatmap: float = 1.0
    """Weight of the teacher's heat map in the loss."""
    distill_box: float = 5.0
    """Weight of the teacher's boxes in the loss."""

    schedule: Literal["cosine", "cosine_epochs", "multistep"] = "cosine"
    """After the warm-up half a cosine down to `final_factor`, or a factor `gamma` at each milestone. cosine_epochs: the
    cosine runs from the first step on and changes between epochs only."""
    schedule_start: int = 0
    """Epochs of a longer cosine_epochs schedule that earlier runs have done."""
    schedule_epochs: int = 0
    """Length of the longer schedule that this run is a part of, for cosine_epochs. 0: it ends with this run."""
    warmup_steps: int = 200
    """Steps in which the rate rises linearly; at most a quarter of the run is used."""
    warmup_epochs: float = 0.0
    """The same in epochs; the longer of the two counts."""
    warmup_factor: float = 0.001
    """Share of the learning rate at the first step of the warm-up."""
    bias_warmup: float | None = None
    """Share of the learning rate of biases at the first step of the warm-up (10 for YOLO: they start fast and slow
    down). Default: as the rest."""
    momentum_warmup: float | None = None
    """Momentum of SGD at the first step of the warm-up, at the end of which it is `momentum`. Default: the same
    throughout."""
    final_factor: float = 0.01
    """Share of the learning rate at the end of the cosine."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the multistep schedule lowers the rate."""
    gamma: float = 0.1
    """Factor at each milestone."""
    ema: float = 0.998
    """Decay of the running mean of the weights, warmed up as (1 + step) / (10 + step); 0: off. The mean is then what is
    validated and written to last and best."""
    ema_warmup: int = 0
    """Steps n of another warm-up of that decay, as 1 - exp(-step / n) (2000 for YOLO); 0: the one above."""

    preset: Literal["none", "mmdet", "multiscale", "small", "mosaic", "ssd", "yolo", "detr"] = "small"
    """Augmentation: none, mmdet (resize, flip), multiscale (the same at drawn sizes), small (flip, zoom, crop, colour:
    for small data from random weights), mosaic (small, on four pictures joined), ssd (colour, zoom out, crop, flip and
    drawn sizes, for long training), yolo (four or nine pictures joined anywhere, moved, zoomed, turned and perhaps
    blended with another such, colour, flip), detr (drawn sizes, flip, and half of the pictures cropped before)."""
    input_size: tuple[int, int] | None = None
    """Short and long side in pixels that no picture exceeds; one number is both. It is written to the model card.
    Default: the model's own."""
    flip: float = 0.5
    """Probability of mirroring left-right."""
    vertical_flip: float = 0.0
    """Probability of flipping upside down (pictures without an up: microscopes, satellites)."""
    sizes: tuple[int, ...] = ()
    """Short sides that presets multiscale, detr and ssd draw from. Default: in steps of 32, 60 to 100% (multiscale,
    detr) or 80 to 130% (ssd) of the input size's."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Range of the zoom of presets small, mosaic and yolo."""
    translate: float = 0.1
    """Largest shift of preset yolo, in picture sides."""
    rotate: float = 0.0
    """Largest turn of preset yolo, in degrees."""
    shear: float = 0.0
    """Largest shear of preset yolo along each axis, in degrees."""
    perspective: float = 0.0
    """Largest tilt of preset yolo: how much nearer the border is than the centre, up to 0.4."""
    mosaic9: float = 0.0
    """Share of preset yolo's mosaics that join nine pictures instead of four."""
    mixup: float = 0.0
    """Probability that preset yolo blends two mosaics, with the boxes of both (arXiv 1710.09412)."""
    colour: float = 1.0
    """Strength of the colour jitter of presets small, mosaic, ssd and yolo; 0: none."""
    cutmix: float = 0.0
    """Probability that a rectangle of another picture is put into one (arXiv 1905.04899); not with presets mosaic and
    yolo."""
    gridmask: float = 0.0
    """Probability that squares of a grid are taken out of a picture (arXiv 2001.04086), reached at the end of the
    training and rising to it from 0."""
    plain_epochs: int = 0
    """Last epochs in which neither presets mosaic and yolo nor cutmix join pictures."""
    drop_empty: bool = False
    """Leave out training pictures without boxes (they are negatives otherwise)."""
    views: int = 0
    """How often each picture comes in a batch, augmented differently: what embeddings learn to recognise objects from.
    0: twice for a model with embeddings, else once."""
    cache: Literal["none", "ram"] = "ram"
    """ram: keep decoded training pictures in memory, up to 4 GiB of them."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass; weights stay in fp32. auto: bf16 where the GPU or CPU computes in it natively
    and is faster with it, else fp32. fp16 needs a GPU and scales the loss."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA where there is one, else the CPU. mps: the GPU of an Apple computer."""
    sync_bn: bool = False
    """Batch norms over all processes' images (CUDA only)."""
    deterministic: bool = False
    """Ask torch for deterministic kernels on CUDA too (slower); a CPU run is always repeatable."""

    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    validate_start: bool = False
    """Validate before the first step too, so that the best checkpoint is never worse than the start."""
    early_stop: int = 0
    """Stop when this many epochs have brought no better AP; 0: never."""
    save_every: int = 200
    """Steps between two saves of the whole state; each epoch is saved in any case. 0: epochs only."""
    log_every: int = 10
    """Steps that one row of metrics.jsonl summarises."""
    tensorboard: bool = False
    """Also write TensorBoard events to <out>/tensorboard (`pip install 'headway[tensorboard]'`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", None if self.out is None else Path(self.out))
        for rule, test, names in _RULES:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and (isinstance(value, str) or not test(value)):
                    raise HeadwayError(f"{name} must be {rule}, got {value!r}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise HeadwayError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise HeadwayError(f"milestones must be rising epochs from 1, got {self.milestones}")
        if self.schedule == "multistep" and not self.milestones:
            raise HeadwayError("the multistep schedule needs milestones, as in `--milestones 8 11`, or use cosine")
        if self.preset in ("mosaic", "yolo") and self.cutmix:
            raise HeadwayError(
                f"preset {self.preset} joins four pictures already: set cutmix to 0 or choose another preset"
            )
        if self.preset != "yolo" and (self.mosaic9 or self.mixup):
            raise HeadwayError(f"mosaic9 and mixup belong to preset yolo, got preset {self.preset!r}: set them to 0")
        if self.optimizer != "sgd" and (self.nesterov or self.momentum_warmup is not None):
            raise HeadwayError("nesterov and momentum_warmup are settings of SGD: choose `--optimizer sgd`")
        if self.nesterov and not self.momentum:
            raise HeadwayError("nesterov needs a momentum above 0")
        if self.schedule != "cosine_epochs" and (self.schedule_start or self.schedule_epochs):
            raise HeadwayError("schedule_start and schedule_epochs belong to the schedule cosine_epochs")
        if self.schedule_epochs and self.schedule_start + self.epochs > self.schedule_epochs:
            raise HeadwayError(
                f"{self.epochs} epochs from epoch {self.schedule_start} on do not fit into a schedule of "
                f"{self.schedule_epochs}: raise schedule_epochs, or set it to 0"
            )

    @property
    def step_size(self) -> int:
        """Images per optimizer step."""
        return self.batch_size * self.accumulate

    @property
    def scaled_learning_rate(self) -> float:
        """The peak learning rate, scaled by the images of a step, see `base_batch_size`."""
        images = self.step_size / self.base_batch_size if self.base_batch_size else 1.0
        return self.learning_rate * (images if self.optimizer == "sgd" else images**0.5)

    @property
    def scaled_weight_decay(self) -> float:
        """The weight decay, scaled by the images of a step, see `decay_batch_size`."""
        return self.weight_decay * (self.step_size / self.decay_batch_size if self.decay_batch_size else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"out": None if self.out is None else str(self.out)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Raises: HeadwayError for an unknown field, with the nearest known one, or a wrong value."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise HeadwayError(f"unknown training setting {unknown[0]!r}; {nearest(unknown[0], known)}".rstrip("; "))
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        write_atomically(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read what `save` wrote. Raises: HeadwayError for a file that is missing or not ours."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HeadwayError(f"cannot read training settings from {path}: {error}") from None
        if not isinstance(values, dict):
            raise HeadwayError(f"{path} must hold one JSON object of training settings")
        return cls.from_dict(values)

    def changed(self, **settings: Any) -> TrainConfig:
        """A copy with other values. Raises: HeadwayError for an unknown or wrong one."""
        return self.from_dict({field.name: getattr(self, field.name) for field in fields(self)} | settings)

    def differences(self, other: TrainConfig) -> list[str]:
        """'name: mine -> theirs' for each setting that would change the weights."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{k}: {mine[k]} -> {theirs[k]}" for k in mine if k not in FREE_ON_RESUME and mine[k] != theirs[k]]


# What numbers must be, and of which settings. A setting that is None is not judged.
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("at least 1", lambda v: v >= 1, "epochs batch_size accumulate validate_every log_every"),
    (
        "at least 0", lambda v: v >= 0,
        "workers seed base_batch_size weight_decay decay_batch_size distill_heatmap distill_box clip_grad warmup_steps "
        "schedule_start schedule_epochs warmup_epochs bias_warmup ema_warmup colour plain_epochs views early_stop "
        "save_every",
    ),
    (
        "above 0", lambda v: v > 0,
        "learning_rate backbone_lr_factor bias_lr_factor offset_lr_factor attention_lr_factor",
    ),
    ("in (0, 1]", lambda v: 0 < v <= 1, "layer_lr_factor gamma"),
    ("in [0, 1)", lambda v: 0 <= v < 1, "momentum momentum_warmup ema"),
    (
        "in [0, 1]", lambda v: 0 <= v <= 1,
        "warmup_factor final_factor flip vertical_flip cutmix gridmask translate mosaic9 mixup",
    ),
    ("in [0, 180]", lambda v: 0 <= v <= 180, "rotate"),
    ("in [0, 60]", lambda v: 0 <= v <= 60, "shear"),
    ("in [0, 0.4]", lambda v: 0 <= v <= 0.4, "perspective"),
    ("sides of at least 32", lambda v: all(side >= 32 for side in v), "sizes"),
    ("(low, high) with 0 < low <= high", lambda v: len(v) == 2 and 0 < v[0] <= v[1], "scale"),
    (
        "(short, long) with 32 <= short <= long", lambda v: len(v) == 2 and 32 <= v[0] <= v[1], "input_size",
    ),
)  # fmt: skip
_CHOICES = {name: get_args(hint) for name, hint in get_type_hints(TrainConfig).items() if get_origin(hint) is Literal}
