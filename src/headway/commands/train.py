"""`headway train`: from a folder of annotated pictures to a checkpoint."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..compare.entries import json_or_text
from ..errors import HeadwayError
from ..train.config import TrainConfig
from ..train.recipes import RECIPES, recipe, recipe_for
from .common import Format, UsageError, is_path, say, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a model: `headway train --data DIR`, `headway train atss_r50_fpn_dyhead.mmdet --data DIR`, or go on:
    `headway train RUN --resume`.

    The data set is COCO, VOC, YOLO or tar shards, recognised by its structure. Several processes: `accelerate launch -m
    headway.cli train ...` or `torchrun -m headway.cli train ...`.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")] = ""
    """A tag (its published weights), a checkpoint or run folder to fine-tune, or a name or path of parts (random
    weights; `headway models` lists all); with --resume the run folder. Default: a small one that suits the data, with
    settings that do, from ImageNet weights where `headway[weights]` is installed."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, a COCO annotation file, or tar shards as shards/{000..009}.tar."""
    format: Format | None = None
    """Format of the data set. Default: recognised by structure."""
    val_fraction: float = 0.15
    """Share of the training pictures held back for validation where the data set has no val split; 0: none."""
    pretrained: bool = False
    """Start a model without published weights from timm's ImageNet weights of its backbone."""
    random: bool = False
    """Start a tag from random weights instead of its published ones."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Arguments of the model's builder: `--set blocks=4 backbone=resnet34 task=false dcn=c4,c5`."""
    recipe: Annotated[str | None, arg(metavar=f"{{{','.join(RECIPES)}}}")] = None
    """The schedule whose settings are the defaults of the other options. Default: finetune from the weights of a whole
    detector, else small, or small_light for EfficientDet and YOLO."""
    resume: bool = False
    """Go on with a run that was stopped or killed, to the same final weights; more --epochs train it longer."""
    json: bool = False
    """Print the result as JSON."""
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Train:
        """The options' defaults: of the recipe that the command line names or the model asks for, or of the run that it
        resumes."""
        if "--resume" in arguments:
            places = [_value(arguments, "--out"), *arguments]
            folders = [Path(place) for place in places if place and (Path(place) / "config.json").is_file()]
            name = _value(arguments, "--recipe")
            config = recipe(name or "small")
            if folders:  # the folder may have been moved since
                config = TrainConfig.load(folders[0] / "config.json").changed(out=folders[0])
            return cls(recipe=name, config=config)
        model, data = _model_in(arguments), _value(arguments, "--data")
        name = _value(arguments, "--recipe") or _default_recipe(model, "--random" in arguments)
        config = recipe(name)
        if not model and data and not {"-h", "--help", "--help-all"} & set(arguments):
            with suppress(HeadwayError):  # no such data: told when the command runs
                config = config.changed(**_suggested(str(Path(data)), _value(arguments, "--format")).settings)
        return cls(recipe=name, config=config)

    @classmethod
    def help(cls, arguments: Sequence[str]) -> str | None:
        """The text of --help and --help-all; None where neither is asked for."""
        if not {"-h", "--help", "--help-all"} & set(arguments):
            return None
        from .train_help import text

        every = "--help-all" in arguments
        return text(cls, cls.defaults(arguments), every=every, width=shutil.get_terminal_size().columns)

    def run(self) -> int:
        if self.data is None and not self.resume:
            raise UsageError("say what to train on: --data FOLDER")
        if not self.model and self.resume:
            raise UsageError("name the run to go on with: headway train RUN --resume")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"--val-fraction must be in [0, 1), got {self.val_fraction}")
        arguments = parse_arguments(self.set)
        model = self.model
        if not model:
            suggestion = _suggested(str(self.data), self.format)
            say("\n".join(suggestion.reasons))
            model, arguments = suggestion.model, {**suggestion.arguments, **arguments}
        elif arguments and is_path(model) and not self.resume:
            raise UsageError("--set builds a new model; a checkpoint keeps the arguments it was made with")

        from ..train.api import train
        from ..train.state import STATE

        run = train(
            model, self.data, recipe=self.recipe, val_fraction=self.val_fraction, format=self.format,
            pretrained=self.pretrained, random=self.random, arguments=arguments, resume=self.resume,
            config=self.config,
        )  # fmt: skip
        if os.environ.get("RANK", "0") != "0":
            return 0
        if self.json:
            show_json({"run": run.folder, "checkpoint": run.best, "metrics": run.metrics})
            return 0
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
        show(
            f"run         {run.folder}\ncheckpoint  {run.best}  {numbers}\ncurve       {run.folder / 'curve.png'}\n"
            f"metrics     {run.folder / 'metrics.jsonl'}"
        )
        state = run.folder / STATE
        size = state.stat().st_size / 1e6
        say(f"{state.parent} ({size:.0f} MB) serves `headway train {run.folder} --resume --epochs N`; else remove it")
        threshold = run.metrics.get("threshold")
        option = f" --threshold {threshold:.2f}" if threshold else ""
        say(f"next: headway predict {run.best} PICTURES{option}")
        return 0


@lru_cache
def _suggested(data: str, format: str | None) -> Any:
    """The model and settings for a data set, see `train.suggest`."""
    from ..data.open_data import open_data
    from ..files import pick_split
    from ..train.suggest import suggest

    return suggest(pick_split(open_data(data, format=format), "train"))


def _default_recipe(model: str, random: bool) -> str:
    """What `recipe_for` says of the model."""
    try:
        return recipe_for(model, random=random) if model else "small"
    except HeadwayError:  # no such file: told when the command runs
        return "small"


def _model_in(arguments: Sequence[str]) -> str:
    """The first argument that is no option's value; empty where there is none."""
    alone = {"--json", "--pretrained", "--random", *_switches()}
    for before, argument in zip(["", *arguments], arguments):
        is_value = before.startswith("--") and "=" not in before and before.replace("_", "-") not in alone
        if is_value or argument.startswith("-") or re.fullmatch(r"[\d.]+|\w[\w.]*=.*", argument):
            continue
        return argument
    return ""


def _switches() -> list[str]:
    return [f"--{f.name.replace('_', '-')}" for f in fields(TrainConfig) if isinstance(f.default, bool)]


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What the command line gives an option, as `--out DIR` or `--out=DIR`."""
    for argument, following in zip(arguments, [*arguments[1:], None]):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs to arguments; a value is JSON where it can be (4, false, [8, 16]), else text, and with commas a
    list of them (c4,c5)."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--set takes KEY=VALUE pairs, as in `--set blocks=4`, got {pair!r}")
        parsed = json_or_text(value)
        several = isinstance(parsed, str) and "," in value
        arguments[key] = [json_or_text(part) for part in value.split(",")] if several else parsed
    return arguments
