"""`headway.train`: from annotated pictures to a checkpoint, from Python and from the command line."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checkpoint import load, read_card
from ..data.dataset import DetectionData
from ..data.split import stratified_split
from ..detector import Detector
from ..errors import HeadwayError
from ..evaluate.api import as_detector, open_data_splits
from ..factory import builder_arguments, create_model, plan_of, with_classes
from ..files import CHECKPOINTS, find_checkpoint, is_new, pick_split
from ..progress import say
from ..resolve import is_path, resolve_model
from ..types import Batch
from .config import TrainConfig
from .fit import fit
from .log import METRICS, draw_curve, read_rows
from .recipes import recipe as recipe_of
from .recipes import recipe_for
from .state import COMMAND, require_new
from .suggest import suggest
from .watch import RANDOM

if TYPE_CHECKING:
    from PIL import Image


AUTO = "auto"


class Curve(list[dict[str, Any]]):
    """One row per epoch: epoch, train_loss and, of validated ones, val_loss, ap and so on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(row for row in read_rows(folder / METRICS) if row["kind"] == "epoch")
        self.folder = folder

    def plot(self) -> Image.Image:
        """Losses, AP and learning rate over steps, as a picture."""
        from PIL import Image

        path = draw_curve(self.folder)
        if path is None:
            raise HeadwayError(f"the run in {self.folder} has no finished epoch to draw")
        return Image.open(path)


class Run:
    """A training that ended. best: the checkpoint with the best validation, the last one without validation; last: the
    last one. metrics: of `best`, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best, self.last = find_checkpoint(folder), folder / CHECKPOINTS[1]

    @property
    def metrics(self) -> dict[str, float]:
        return read_card(self.best).metrics

    @property
    def curve(self) -> Curve:
        return Curve(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {', '.join(f'{k}={v:.4f}' for k, v in self.metrics.items())})"


def train(
    model: Detector | str | os.PathLike[str] = AUTO,
    data: Any = None,
    *,
    recipe: str | None = None,
    out: str | Path | None = None,
    val: Any = None,
    val_fraction: float = 0.15,
    format: str | None = None,
    pretrained: bool = False,
    random: bool = False,
    arguments: Mapping[str, Any] | None = None,
    transform: Callable[[Any], Any] | None = None,
    loader: Iterable[Batch] | None = None,
    resume: bool = False,
    config: TrainConfig | None = None,
    **settings: Any,
) -> Run:
    """Train a detector and return the run. A Detector is trained in place.

    model: a Detector, a model's name, a published tag, a checkpoint or run folder to fine-tune; "auto", a small model
        with settings that suit the data (`train.suggest`). All but a Detector take the classes of the data; loaded
        ones then keep their weights but for the class predictors.
    data: a folder or COCO file, an opened split, a mapping of splits, or a map-style Dataset of samples. "train" is
        trained on.
    recipe: the schedule, `headway.train.RECIPES`; None: "finetune" from the weights of a whole detector, else "small"
        ("small_light" for EfficientDet and YOLO).
        settings: of `TrainConfig`, instead of the recipe's: epochs=30.
    out: the run folder, which must be new; None makes runs/<model>-<data>-N.
    val: what to validate on, in the same forms. None: the split val of the data, else `val_fraction` of the training
        pictures is held back, the same in every run of one seed (0: none). A split test is left alone.
    format: "coco", "voc" or "yolo" instead of recognising it.
    pretrained: start a model that has no published weights from timm's ImageNet backbone. A tag (atss_r50_fpn.mmdet)
        means its published weights in any case.
    random: start a tag from random weights instead.
    arguments: of the model's builder, where it is named: {"blocks": 4}.
    transform: of each training sample, instead of the recipe's augmentation (see `data.loader.make_loader`).
    loader: of training batches, instead of all of that (see `train.fit.fit`).
    resume: go on with the run in `out`, or in the folder `model`, to the same final weights. Model, data and settings
        are then those it was started with; only `epochs` may be raised, and data that was an object is given again.
    config: a whole TrainConfig, instead of `recipe` and `settings`.

    Raises: HeadwayError for anything that cannot be meant; NonFiniteLoss, CollapsedTraining, TrainingStopped.
    """
    changes = {**settings, **({"out": Path(out)} if out is not None else {})}
    if model == AUTO and not resume and data is not None:
        splits = open_data_splits(data, format)
        data = data if isinstance(data, (str, os.PathLike)) else splits  # a Dataset is read through once
        suggestion = suggest(pick_split(splits, "train"))
        say("\n".join(suggestion.reasons))
        model, arguments = suggestion.model, {**suggestion.arguments, **(arguments or {})}
        changes = {**(suggestion.settings if config is None else {}), **changes}
    if transform is not None:
        changes["preset"] = "none"
    start: dict[str, Any] = {
        "format": format, "val_fraction": val_fraction, "pretrained": pretrained, "random": random, "recipe": recipe,
        "arguments": json.loads(json.dumps(dict(arguments or {}))),  # as they are read back
        "objects": [name for name, given in (("transform", transform), ("loader", loader)) if given is not None],
    }  # fmt: skip
    if resume:
        folder = find_run(model, config.out if config is not None and out is None else changes.pop("out", None))
        start = _recorded(folder, model, start)
        config = (config or TrainConfig.load(folder / "config.json")).changed(**changes, out=folder)
        data = start["data"] if data is None else data
    else:
        start["recipe"] = recipe or recipe_for(model, random=random)
        config = (config or recipe_of(start["recipe"])).changed(**changes)
    if data is None:
        raise HeadwayError("say what to train on: data= a folder, an opened data set or a Dataset")
    if not 0 <= start["val_fraction"] < 1:
        raise HeadwayError(f"val_fraction must be in [0, 1), got {start['val_fraction']}")
    if config.teacher is not None and is_path(config.teacher):  # a run that is resumed from elsewhere finds it too
        config = config.changed(teacher=str(find_checkpoint(Path(config.teacher)).resolve()))
    if not resume:
        node = os.environ.get("GROUP_RANK", os.environ.get("RANK", "0"))
        if node == "0" and config.out is not None and not is_new(config.out):
            require_new(config.out)  # says no before the data is read, in each process that sees the folder
        if not isinstance(model, Detector) and not is_path(str(model)):
            builder_arguments(str(model))  # an unknown name is told before the data is read
    torch.manual_seed(config.seed)
    names = model.card.class_names if isinstance(model, Detector) else None
    train_data, val_data = _split(data, val, start, config.seed, names)
    if resume:
        detector = model if isinstance(model, Detector) else load(config.out / CHECKPOINTS[1])  # type: ignore[operator]
    elif isinstance(model, Detector):
        detector = model
    else:
        options = {"pretrained": pretrained, "random": random, "arguments": start["arguments"]}
        detector = build(str(model), train_data.class_names, **options)
    record = None if resume else _record(model, data, val, start) | {"weights": weights_of(model, start)}
    inputs = {"transform": transform, "loader": loader, "record": record}
    return Run(fit(detector, train_data, val_data, config, resume=resume, **inputs))


def weights_of(model: Any, start: Mapping[str, Any]) -> str:
    """What a new run starts from, for people."""
    if isinstance(model, Detector):
        published = model.card.training.get("published")
        return f"the published weights of {published}" if published else "the weights of the given Detector"
    found = resolve_model(model)
    if found.kind == "file":
        return f"the weights of {found.path}"
    if found.kind == "tag" and not start["random"]:
        return f"the published weights of {found.name}"
    given = {k.rpartition(".")[2]: v for k, v in start["arguments"].items()}
    chosen = given.get("weights", given.get("backbone_weights", start["pretrained"]))
    if not chosen:
        return RANDOM
    return f"ImageNet weights of the backbone{'' if chosen is True else f' ({chosen})'}, the rest random"


def find_run(model: Any, out: Any) -> Path:
    """The folder of the run to go on with: `out`, or the folder that `model` names. Raises: HeadwayError."""
    for candidate in (out, model):
        if isinstance(candidate, (str, os.PathLike)) and (Path(candidate) / "config.json").is_file():
            return Path(candidate)
    named = out if out is not None or isinstance(model, Detector) else model
    raise HeadwayError(f"{named} is no run folder: it holds no config.json; name one to resume")


def _record(model: Any, data: Any, val: Any, start: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run needs beside its settings: names and folders, None for what was an object."""
    name = model.card.model if isinstance(model, Detector) else str(model)
    if not isinstance(model, Detector) and is_path(name):
        name = str(Path(name).resolve())
    named = isinstance(data, (str, os.PathLike)) and val is None
    return {"model": name or None, "data": str(Path(data).resolve()) if named else None, **start}


def _recorded(folder: Path, model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What `_record` wrote into `folder`; empty entries for a run that `fit` was called for.

    Raises: HeadwayError for a damaged record, or where what is given differs from it and from the defaults.
    """
    path = folder / COMMAND
    defaults = {"format": None, "val_fraction": 0.15, "pretrained": False, "recipe": None, "arguments": {}}
    if not path.is_file():
        return {"model": None, "data": None, **given}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = {key: record[key] for key in ("model", "data", "objects", *defaults)}
        defaults["random"], found["random"] = False, record.get("random", False)
    except (ValueError, KeyError, TypeError) as error:
        raise HeadwayError(f"{path} is damaged ({error}); start the run anew") from None
    changes = [f"{k}: {found[k]} -> {given[k]}" for k in defaults if given[k] not in (found[k], defaults[k])]
    if found["objects"] != given["objects"]:
        changes.append(f"given as objects: {found['objects']} -> {given['objects']}")
    name = str(model) if isinstance(model, (str, os.PathLike)) else None
    if name and Path(name).resolve() != folder.resolve() and found["model"] not in (name, str(Path(name).resolve())):
        changes.insert(0, f"model: {found['model']} -> {name}")
    if changes:
        raise HeadwayError(f"{folder} was started otherwise ({'; '.join(changes)}): resume as it was started")
    return found


def _split(
    data: Any, val: Any, start: dict[str, Any], seed: int, class_names: tuple[str, ...] | None
) -> tuple[DetectionData, DetectionData | None]:
    """Training and validation data, and what they are on stderr."""
    splits = open_data_splits(data, start["format"], class_names)
    train_data, fraction = pick_split(splits, "train"), start["val_fraction"]
    val_data = splits.get("val") if splits.get("val") is not train_data else None
    lines = [f"data set {data if isinstance(data, (str, Path)) else train_data.root}: {train_data.format}"
             f"{f' ({train_data.reason})' if train_data.reason else ''}"]  # fmt: skip
    if val is not None:
        val_data = pick_split(open_data_splits(val, start["format"], class_names), "val")
    elif val_data is None and fraction > 0:
        if len(train_data) < 2:
            raise HeadwayError(
                f"{train_data.root} has {len(train_data)} training pictures, too few to hold some back for validation: "
                "train without it by val_fraction=0"
            )
        parts = stratified_split(train_data, {"train": 1 - fraction, "val": fraction}, seed)
        train_data, val_data = parts["train"], parts["val"]
        left = "; the test split is left for `headway eval`" if "test" in splits else ""
        lines.append(f"there is no val split: {fraction:.0%} of the pictures are held back for it (stratified){left}")
    lines += [f"{part.name}: {_counted(part)}" for part in (train_data, val_data) if part is not None]
    say("\n".join(lines))
    return train_data, val_data


def _counted(data: DetectionData, most: int = 12) -> str:
    """Pictures, boxes, and boxes by class, of at most `most` classes, those with the most boxes first."""
    labels, numbers = np.unique(data.of_boxes("labels"), return_counts=True)
    counts = Counter(dict(zip(labels.tolist(), numbers.tolist())))
    parts = [f"{data.class_names[label]} {count}" for label, count in counts.most_common(most)]
    parts += [f"{len(counts) - most} more classes"] if len(counts) > most else []
    empty = [name for label, name in enumerate(data.class_names) if not counts[label]]
    parts += [f"none of {', '.join(empty)}" if len(empty) <= 5 else f"none of {len(empty)} classes"] if empty else []
    return f"{len(data)} pictures, {data.num_boxes} boxes ({', '.join(parts)})"


def build(
    name: str, class_names: tuple[str, ...], *, pretrained: bool = False, random: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Detector:  # fmt: skip
    """The model to train, by name, tag, checkpoint or run folder, for `class_names`.

    Raises: HeadwayError, also where published weights cannot be had, with both ways on.
    """
    given, kind = dict(arguments or {}), resolve_model(name).kind
    if kind == "file" and given:
        raise HeadwayError("arguments build a new model; a checkpoint keeps those it was made with")
    if kind == "file":
        model = as_detector(name)
    elif kind == "tag" and not random:
        model = _published(name, given)
    else:
        if pretrained:
            given.setdefault("backbone_weights", True)
        model = create_model(name, class_names=class_names, **given)
        norm = getattr(model.backbone, "norm", None)
        if norm in ("frozen", "buffers") and not given.get("backbone_weights"):
            say(
                f"warning: the batch norms of {name} are constants (norm={norm}), and nothing deep learns so from "
                "random weights: add --pretrained for ImageNet weights, or --set norm=batch"
            )
        return model
    if model.card.class_names == class_names:
        return model
    fresh, rebuilt = with_classes(model, class_names)
    say(
        f"{name} knows {len(model.card.class_names)} other classes: {', '.join(rebuilt)} start anew for the "
        f"{len(class_names)} of the data set, the rest keeps its weights"
    )
    return fresh


def _published(tag: str, arguments: dict[str, Any]) -> Detector:
    """A tag's model with its published weights. Raises: HeadwayError where they cannot be had."""
    row = plan_of(tag, arguments, pretrained=True).row
    try:
        file = row.download()
    except HeadwayError as error:
        raise HeadwayError(
            f"{tag} means its published weights: {str(error).partition('; ')[0]}. Either get the file elsewhere, "
            f"`headway convert FILE --model {tag}`, and train what that writes; or start from random weights by "
            "--random (random=True in Python)"
        ) from None
    return create_model(tag, pretrained=file, **arguments)
