"""`headway.compare`: train each model under one budget, seed by seed, and set them side by side."""

import base64
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..detector import Detector
from ..errors import HeadwayError, check_number
from ..evaluate.api import open_data_splits
from ..files import write_atomically
from ..layers.fuse import fuse
from ..profile import count_named, time_detect
from ..progress import say
from ..train.api import train
from ..train.recipes import recipe as recipe_of
from ..train.recipes import recipe_for
from ..train.state import STATE
from . import table
from .drawing import draw
from .entries import Entry, claimed, entries_of, read_result, write_result

BUDGET = "budget.json"


@dataclass(frozen=True)
class Comparison:
    """The table of `compare`. lines: one mapping per model (`table.summarise`); folder: where its files are.

    finished, of: runs that are done and that were asked for; the table of a part is a table too.
    """

    folder: Path
    lines: list[dict[str, Any]]
    budget: dict[str, Any]

    @property
    def finished(self) -> int:
        return sum(len(line["seeds"]) for line in self.lines)

    @property
    def of(self) -> int:
        return sum(line["of"] for line in self.lines)

    def markdown(self) -> str:
        return table.markdown(self.lines, self.budget)

    def to_pandas(self) -> Any:
        """One row per model, the texts of the table (needs pandas)."""
        import pandas

        return pandas.DataFrame([table.cells(line) for line in self.lines], columns=list(table.HEADER))

    def __repr__(self) -> str:
        return self.markdown()

    _repr_markdown_ = markdown


def compare(
    models: Sequence[Any] | Mapping[str, Any],
    data: Any,
    *,
    seeds: int | Sequence[int] = 3,
    recipe: str = "small",
    out: str | os.PathLike[str] = "runs/compare",
    arguments: Mapping[str, Any] | None = None,
    only_table: bool = False,
    **settings: Any,
) -> Comparison:
    """Train every model on `data` with every seed under one budget and write one table and one picture.

    models: paths, names or tags; `MODEL:dyhead.blocks=2` with arguments, `label=MODEL` with a label; pairs (model,
        arguments), or a mapping of labels to either. The first row is what the others are held against.
    data: a folder, a COCO file, or what else `headway.train` takes.
    seeds: how many, from 0 on, or which.
    recipe, settings: of the training (`headway.train`), the same for all: epochs=30, batch_size=8.
    out: a folder that may hold earlier runs of the same budget: a finished run is only read, one that was stopped goes
        on. Several processes may share it.
    arguments: of every model's parts. only_table: train nothing, write the table of what has finished.

    Writes comparison.md, .json, .html and .png into `out`.
    Raises: HeadwayError for an unknown model or argument, before anything is trained, and for another budget in `out`.
    """
    entries = [Entry(e.label, e.model, {**(arguments or {}), **e.arguments}) for e in entries_of(models)]
    if not isinstance(seeds, Sequence):
        check_number("seeds", seeds, 1, whole=True)
    numbers = list(seeds) if isinstance(seeds, Sequence) else list(range(seeds))
    for seed in numbers:
        check_number("a seed", seed, 0, whole=True)
    config = recipe_of(recipe).changed(**settings)
    folder = Path(out)
    splits = open_data_splits(data)
    classes = len(next(iter(splits.values())).class_names)
    counts = {  # an unknown name is told
        e.label: count_named(e.model, config.input_size, num_classes=classes, **e.arguments) for e in entries
    }
    budget = _claim_budget(folder, data, splits, recipe, config.changed(out=None, seed=0))
    if (note := rate_note(entries, recipe, settings)) and not only_table:
        say(note)
    todo = [(entry, seed) for seed in numbers for entry in entries if not only_table]
    for number, (entry, seed) in enumerate(todo, start=1):
        if read_result(entry, folder, seed) is not None:
            continue
        with claimed(entry, folder, seed) as mine:
            if not mine:
                say(f"{entry.label}, seed {seed}: another process has it")
                continue
            if read_result(entry, folder, seed) is None:
                say(f"run {number} of {len(todo)}: {entry.label}, seed {seed}")
                write_result(entry, folder, seed, _train(entry, seed, data, recipe, folder, settings))
                shutil.rmtree(entry.folder(folder, seed) / "run" / "state", ignore_errors=True)  # nothing goes on
    return _write(folder, entries, numbers, counts, budget)


def rate_note(entries: Sequence[Entry], recipe: str, settings: Mapping[str, Any]) -> str:
    """Which rows would learn at a higher rate by themselves; empty where none does."""
    light = [e.label for e in entries if recipe_for(e.model) == "small_light"]
    if not light or recipe != "small" or "learning_rate" in settings:
        return ""
    rate, higher = (recipe_of(name).learning_rate for name in ("small", "small_light"))
    return (
        f"all rows learn at {rate:g}, by which {', '.join(light)} fall behind: by themselves they have {higher:g} "
        "(--recipe small_light for them alone, in another --out)"
    )


def _claim_budget(folder: Path, data: Any, splits: Mapping[str, Any], recipe: str, config: Any) -> dict[str, Any]:
    """The budget that all runs in `folder` share. Raises: HeadwayError where it holds runs of another."""
    place = Path(data).resolve() if isinstance(data, (str, os.PathLike)) else None
    budget = {
        "data": getattr(data, "name", type(data).__name__) if place is None else place.name,
        "path": str(place or ""),
        # The folder may have moved, not changed. A test split is not used, and may be broken.
        "pictures": {name: len(split) for name, split in splits.items() if name != "test"},
        "classes": list(next(iter(splits.values())).class_names),
        "recipe": recipe,
        **json.loads(json.dumps(asdict(config), default=str)),
    }
    path = folder / BUDGET
    if not path.is_file():
        write_atomically(path, (json.dumps(budget, indent=1) + "\n").encode())
        return budget
    known = json.loads(path.read_text(encoding="utf-8"))
    other = sorted(key for key in budget if key != "path" and known.get(key) != budget[key])
    if other:
        key = other[0]
        raise HeadwayError(
            f"{folder} holds runs of another budget ({key} {known.get(key)!r}, now {budget[key]!r}); name another "
            "--out, or give the same settings"
        )
    return dict(known)


def _train(
    entry: Entry, seed: int, data: Any, recipe: str, folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One run, gone on with where it was stopped."""
    place = entry.folder(folder, seed) / "run"
    resume = (place / STATE).is_file()
    if not resume:  # stopped before its first state
        shutil.rmtree(place, ignore_errors=True)
    run = train(
        entry.model, data, recipe=recipe, arguments=entry.arguments, out=place, seed=seed, resume=resume, **settings
    )
    from ..checkpoint import load

    last, batch = run.curve[-1], json.loads((place / "config.json").read_text(encoding="utf-8"))
    images = last["step"] * batch["batch_size"] * batch["accumulate"]
    metrics = {name: run.metrics.get(name.lower(), float("nan")) for name in table.METRICS}
    return {
        "label": entry.label, "model": entry.model, "arguments": dict(entry.arguments), "seed": seed,
        "metrics": metrics, "images_per_s": images / last["seconds"],
        "inference_ms": inference_ms(load(run.best)), "threads": torch.get_num_threads(),
    }  # fmt: skip


def inference_ms(model: Detector) -> float:
    """Milliseconds for one picture of the model's input size, the median of several, norms folded."""
    images = torch.rand(1, 3, *model.card.input_size)
    return 1000 * time_detect(fuse(model), images, repeats=7, warmup=2).quantile(0.5)


def _write(
    folder: Path, entries: Sequence[Entry], seeds: Sequence[int], counts: Mapping[str, Any], budget: dict[str, Any]
) -> Comparison:
    """Table and picture of what has finished."""
    rows = []
    for entry in entries:
        found = {seed: read_result(entry, folder, seed) for seed in seeds}
        runs = {seed: result for seed, result in found.items() if result is not None}
        about = {"label": entry.label, "model": entry.model, "arguments": dict(entry.arguments)}
        rows.append({**about, **counts[entry.label], "runs": runs, "of": len(seeds)})
    comparison = Comparison(folder, table.summarise(rows), budget)
    draw(comparison.lines, folder / "comparison.png")
    picture = base64.b64encode((folder / "comparison.png").read_bytes()).decode()
    document = {"budget": budget, "models": comparison.lines}
    for name, text in (
        ("comparison.md", comparison.markdown()),
        ("comparison.json", json.dumps(document, indent=1) + "\n"),
        ("comparison.html", table.html(comparison.lines, budget, picture)),
    ):
        write_atomically(folder / name, text.encode())
    return comparison
