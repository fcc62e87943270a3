"""`headway compare`: several models under one budget, in one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .common import UsageError, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Train every MODEL with every seed under one budget: `headway compare resnet18/fpn/atss resnet18/fpn/dyhead/atss`.

    A finished run is only read, one that was stopped goes on, and several processes may share the list. Writes a table
    (Markdown, JSON, HTML) and a picture.
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL ...")]
    """Paths, names or tags; MODEL:dyhead.blocks=2,fpn.channels=128 with arguments, LABEL=MODEL with a label."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    seeds: int = 3
    """How many seeds, from 0 on."""
    epochs: int | None = None
    """Of every run. Default: the recipe's."""
    recipe: str = "small"
    """The schedule of all runs."""
    batch_size: int | None = None
    """Of every run. Default: the recipe's."""
    input_size: Annotated[tuple[int, int] | None, arg(metavar="SHORT LONG")] = None
    """Of every run. Default: each model's own."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Arguments of the parts of every model, and settings of the training as `train.KEY=VALUE`."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the table; it may hold earlier runs of the same budget."""
    table: bool = False
    """Only write the table of what has finished."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> int:
        if self.data is None:
            raise UsageError("say what to train on: --data FOLDER")
        if self.seeds < 1:
            raise UsageError(f"--seeds must be at least 1, got {self.seeds}")
        from ..compare.api import compare
        from .train import parse_arguments

        given = parse_arguments(self.set)
        settings = {k.removeprefix("train."): v for k, v in given.items() if k.startswith("train.")}
        own = {name: getattr(self, name) for name in ("epochs", "batch_size", "input_size")}
        settings |= {name: value for name, value in own.items() if value is not None}
        found = compare(
            self.models, self.data, seeds=self.seeds, recipe=self.recipe, out=self.out, only_table=self.table,
            arguments={k: v for k, v in given.items() if not k.startswith("train.")}, **settings,
        )  # fmt: skip
        if self.json:
            show_json({"out": found.folder, "finished": found.finished, "of": found.of, "models": found.lines})
        else:
            show(found.markdown())
            show(f"table    {found.folder / 'comparison.html'}\npicture  {found.folder / 'comparison.png'}")
        return 0
