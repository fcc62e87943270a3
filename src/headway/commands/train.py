"""`headway train`: from a folder of annotated pictures to a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from ..errors import HeadwayError
from ..train.config import TrainConfig
from ..train.recipes import RECIPES, recipe
from . import common
from .common import Format, UsageError, say, show, show_json

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..detector import Detector

RECORD = "command.json"  # in the run folder: what a resumed run needs beside its settings (train.state.COMMAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a model: `headway train atss_r18_fpn_dyhead --data DIR`, or go on: `headway train RUN_FOLDER --resume`.

    The data set is COCO, Pascal VOC or YOLO, recognised by its structure. Several processes: `accelerate launch -m
    headway.cli train ...` or `torchrun -m headway.cli train ...`.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A registered model (`headway models`), a checkpoint or run folder to fine-tune; with --resume the run folder."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    val_fraction: float = 0.15
    """Share of the training pictures held back for validation where the data set has no val split; 0: none."""
    pretrained: bool = False
    """Start from published weights: those of the tag (atss_r50_fpn.mmdet), else timm's ImageNet backbone."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Arguments of the model's builder: `--set blocks=4 backbone=resnet34 task=false dcn=c4,c5`."""
    recipe: Annotated[str, arg(metavar=f"{{{','.join(RECIPES)}}}")] = "small"
    """The schedule whose settings are the defaults of the options below."""
    resume: bool = False
    """Go on with a run that was stopped or killed, to the same final weights."""
    json: bool = False
    """Print the result as JSON."""
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: recipe("small"))

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Train:
        """The options' defaults when the command line names a recipe."""
        name = "small"
        for i, argument in enumerate(arguments):
            if argument == "--recipe" and i + 1 < len(arguments):
                name = arguments[i + 1]
            elif argument.startswith("--recipe="):
                name = argument.removeprefix("--recipe=")
        return cls(model=tyro.MISSING, recipe=name, config=recipe(name))

    def run(self) -> int:
        command = _resumed(self) if self.resume else self
        if command.data is None:
            raise UsageError("say what to train on: --data FOLDER")
        if not 0 <= command.val_fraction < 1:
            raise UsageError(f"--val-fraction must be in [0, 1), got {command.val_fraction}")
        command = _with_teacher(command)
        main_process = os.environ.get("RANK", "0") == "0"
        if main_process and not self.resume:
            _refuse_used(command.config.out)

        import torch

        from .. import factory

        if not common.is_path(command.model):
            factory.builder_arguments(command.model)  # an unknown name is told before the data is read
        torch.manual_seed(command.config.seed)
        train_data, val_data = _open(command, talk=main_process)
        model = _build(command, train_data, talk=main_process)
        if main_process and not self.resume:
            _write_record(command)

        from ..train.fit import fit

        folder = fit(model, train_data, val_data, command.config, resume=self.resume)
        if main_process:
            _conclude(folder, model.card.metrics, as_json=self.json)
        return 0


def _resumed(command: Train) -> Train:
    """The command that started the run in the folder `command.model`."""
    folder = Path(command.model)
    path = folder / RECORD
    if not path.is_file():
        raise HeadwayError(f"{folder} is no run folder of `headway train`: it holds no {RECORD}; name one to resume")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["data"], record["set"] = Path(record["data"]), tuple(record["set"])
        started = Train(resume=True, **record)
    except (ValueError, KeyError, TypeError) as error:
        raise HeadwayError(f"{path} is damaged ({error}); start the run anew") from None
    if command.data is not None:
        started = replace(started, data=command.data)
    return replace(started, config=TrainConfig.load(folder / "config.json").changed(out=folder))


def _with_teacher(command: Train) -> Train:
    """The teacher as a file that a run resumed from elsewhere still finds; a published tag stays as it is."""
    teacher = command.config.teacher
    if teacher is None or not common.is_path(teacher):
        return command
    return replace(command, config=command.config.changed(teacher=str(common.find_checkpoint(Path(teacher)).resolve())))


def _refuse_used(folder: Path) -> None:
    """Raise HeadwayError for a folder with anything in it but the record of a run that never began."""
    if folder.exists() and (not folder.is_dir() or any(path.name != RECORD for path in folder.iterdir())):
        raise HeadwayError(
            f"{folder} exists and nothing in it is overwritten: name another --out, or go on with that run by "
            f"`headway train {folder} --resume`"
        )


def _write_record(command: Train) -> None:
    from ..files import write_atomically

    data = command.data.resolve() if command.data else None
    model = str(Path(command.model).resolve()) if common.is_path(command.model) else command.model
    record = {"model": model, "data": str(data), "format": command.format, "val_fraction": command.val_fraction,
              "pretrained": command.pretrained, "set": command.set, "recipe": command.recipe}  # fmt: skip
    write_atomically(command.config.out / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _open(command: Train, *, talk: bool) -> tuple[DetectionData, DetectionData | None]:
    """Training and validation data, and what they are on stderr."""
    from ..data.formats.any_format import open_splits
    from ..data.split import stratified_split

    assert command.data is not None
    splits = open_splits(command.data, format=command.format)
    train_data = splits["train"] if "train" in splits else next(iter(splits.values()))
    others = [name for name in splits if splits[name] is not train_data]
    val_name = next((name for name in ("val", "test") if name in others), None)
    val_data = splits[val_name] if val_name else None
    lines = [f"data set {command.data}: {train_data.format} ({train_data.reason})"]
    if val_name == "test":
        lines.append("there is no val split: the test split is used for validation")
    elif val_data is None and command.val_fraction > 0:
        fractions = {"train": 1 - command.val_fraction, "val": command.val_fraction}
        parts = stratified_split(train_data, fractions, command.config.seed)
        train_data, val_data = parts["train"], parts["val"]
        lines.append(
            f"there is no val split: {command.val_fraction:.0%} of the pictures are held back for it (stratified)"
        )
    for data in (train_data, val_data):
        if data is not None:
            classes = ", ".join(f"{n} {common.count_label(data, label)}" for label, n in enumerate(data.class_names))
            lines.append(f"{data.name}: {len(data)} pictures, {data.num_boxes} boxes ({classes})")
    if talk:
        say("\n".join(lines))
    return train_data, val_data


def _build(command: Train, data: DetectionData, *, talk: bool) -> Detector:
    """The model to train, with the data set's classes."""
    from .. import checkpoint, factory

    arguments = parse_arguments(command.set)
    if arguments and common.is_path(command.model):
        raise UsageError("--set builds a new model; a checkpoint keeps the arguments it was made with")
    if common.is_path(command.model):
        model = checkpoint.load(common.find_checkpoint(Path(command.model)))
        source = command.model
    elif command.pretrained and "." in command.model:
        model, source = factory.create_model(command.model, pretrained=True, **arguments), command.model
    else:
        if command.pretrained:
            arguments.setdefault("backbone_weights", True)
        model = factory.create_model(command.model, class_names=data.class_names, **arguments)
        norm = getattr(model.backbone, "norm", None)
        if talk and norm in ("frozen", "buffers") and not arguments.get("backbone_weights"):
            say(
                f"warning: the batch norms of {command.model} are constants (norm={norm}), and nothing deep learns so "
                "from random weights: add --pretrained for ImageNet weights, or --set norm=batch"
            )
        return model
    if model.card.class_names == data.class_names:
        return model
    fresh, rebuilt = with_classes(model, data.class_names)
    if talk:
        say(
            f"{source} knows {len(model.card.class_names)} other classes: {', '.join(rebuilt)} start anew for the "
            f"{len(data.class_names)} of the data set, the rest keeps its weights"
        )
    return fresh


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs to arguments; a value is JSON where it can be (4, false, [8, 16]), else text, and with commas a
    list of them (c4,c5)."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--set takes KEY=VALUE pairs, as in `--set blocks=4`, got {pair!r}")
        parsed = _json_or_text(value)
        several = isinstance(parsed, str) and "," in value
        arguments[key] = [_json_or_text(part) for part in value.split(",")] if several else parsed
    return arguments


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def with_classes(model: Detector, class_names: Sequence[str]) -> tuple[Detector, list[str]]:
    """A detector like `model` for other classes, with its weights wherever they do not depend on the classes.

    Returns it and the names of the parameters that start anew. Which ones depend on the classes is seen by building the
    network twice without memory, for n and for n + 1 classes.
    """
    import torch

    from .. import factory

    card = model.card
    arguments = {k: v for k, v in card.arguments.items() if k not in ("num_classes", "backbone_weights")}
    count = len(class_names)
    with torch.device("meta"):
        shapes = [
            {k: v.shape for k, v in factory.create_model(card.model, num_classes=n, **arguments).state_dict().items()}
            for n in (count, count + 1)
        ]
    rebuilt = [k for k in shapes[0] if shapes[0][k] != shapes[1][k]]
    fresh = factory.create_model(card.model, class_names=class_names, **arguments)
    kept = {k: v for k, v in model.state_dict().items() if k not in rebuilt}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    fresh.set_card(
        replace(card, arguments=fresh.card.arguments, class_names=fresh.card.class_names, category_ids=(), metrics={})
    )
    return fresh, rebuilt


def _conclude(folder: Path, metrics: dict[str, float], *, as_json: bool) -> None:
    """Where everything is."""
    from ..checkpoint import read_card

    best = common.find_checkpoint(folder)
    metrics = read_card(best).metrics or metrics
    if as_json:
        show_json({"run": folder, "checkpoint": best, "metrics": metrics})
        return
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    show(
        f"run         {folder}\ncheckpoint  {best}  {numbers}\ncurve       {folder / 'curve.png'}\n"
        f"metrics     {folder / 'metrics.jsonl'}"
    )
    say(f"next: headway predict {best} PICTURES")
