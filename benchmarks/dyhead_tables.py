"""The tables of the Dynamic Head paper (arXiv 2106.08322): ablation, depth, generalisation, and its two forms.

    python benchmarks/dyhead_tables.py                                    # structure at full size, about half a minute
    python benchmarks/dyhead_tables.py --data BCCD_FOLDER                 # AP as well: everything that has not run
    python benchmarks/dyhead_tables.py --data BCCD_FOLDER --only depth --seeds 0 --threads 1
    python benchmarks/dyhead_tables.py --data BCCD_FOLDER --models full   # on a GPU

Structure: parameters and GMACs of the published size (ResNet-50, 256 channels, 80 classes) on a picture of 800x1344,
TTFNet's of 512x512, counted without computing anything. The tower is what a Dynamic Head takes the place of: the
convolutions between pyramid and predictors. The paper's GFLOPs are multiply-adds of that tower, less those of the
baseline's: its published -63.45 and +21.5 for two and six blocks are found that way and no other.

AP: on BCCD from random weights, under one budget of pictures for every row. --models small has ResNet-18, 64 channels
and 192x192 pixels, and two blocks where the row says nothing else; --models full is the published size at 512x512.
What several tables share runs once, the paper's form last; a seed of all of it, small, takes about two and a half hours
on two cores, a process with --threads 1 on each. A run that was stopped goes on where it was, a finished one is only
read, and one that another process is at is left to it, so two processes may share the work. The table in
benchmarks/results has the mean over seeds of the last validation, the spread (highest less lowest), and the difference
from the row that each is held against, seed by seed. One within the spread shows nothing.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bccd import RESULTS, read_json, seeds_of, settings, spread, to_do, train, write

from headway import create_model
from headway.data.formats.any_format import open_splits
from headway.factory import builder_arguments
from headway.necks.dyhead import DyHead
from headway.profile import count_parameters, macs_by_module

SIZE = (800, 1344)  # 1333 brought to whole cells of stride 32
METRICS = ("ap", "ap50", "ap75")
ATSS, DYHEAD = "atss_r50_fpn", "atss_r50_fpn_dyhead"
BASELINE = "no block: two towers of four convolutions"
ON, OFF = ("scale", "spatial", "task"), "no attention: plain convolutions"
FULL = "released form, flat"
FAMILIES = {
    "faster_rcnn_r50_fpn": "Faster R-CNN", "cascade_rcnn_r50_fpn": "Cascade R-CNN", "retinanet_r50_fpn": "RetinaNet",
    ATSS: "ATSS", "fcos_r50_fpn": "FCOS", "reppoints_r50_fpn": "RepPoints", "ttfnet_r18": "TTFNet-R18",
}  # fmt: skip


class Row(NamedTuple):
    """label; the model and its arguments; against: label of the row in the same table to hold it against ("" for such a
    row itself); published: what the authors say of it."""

    label: str
    model: str
    arguments: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)
    against: str = ""
    published: str = ""


class Models(NamedTuple):
    """The size at which AP is measured: side of the pictures, epochs, and arguments that fit the model."""

    trunk: str
    side: int
    epochs: int
    arguments: dict[str, Any]


MODELS = {
    "small": Models("r18", 192, 16, {"channels": 64}),
    "full": Models("r50", 512, 48, {"tower_norm": True, "center_init": False}),  # from random weights, as with R18
}
ABOUT = f"""Structure: the published size (ResNet-50, 256 channels, 80 classes), a picture of {SIZE[0]}x{SIZE[1]}
(TTFNet: 512x512); GMAC are 10^9 multiply-adds of convolutions and linear layers, deformable ones included. The tower is
what a Dynamic Head takes the place of, or for the heads that have none what it adds. Differences are to the row that
each is held against: the baseline, the head without DyHead, or the released form. Published: AP on COCO as others quote
the paper (not all of its rows could be seen), GFLOPs of the tower less the baseline's, and, as "the code", AP from
the README of microsoft/DynamicHead."""


def ablation() -> list[Row]:
    """Table 1 of the paper, in both forms: every combination of scale (L), spatial (S) and task (C) attention."""
    rows = [Row(BASELINE, ATSS, published="39.0 AP")]
    for form in ("released", "paper"):
        for flags in sorted(product((False, True), repeat=3), key=lambda flags: (sum(flags), [not f for f in flags])):
            letters = "".join(letter for letter, on in zip("LSC", flags) if on)
            arguments = {"form": form, **dict(zip(ON, flags))}
            rows.append(Row(f"{form}: {letters or OFF}", DYHEAD, arguments, BASELINE))
    return rows


def depth() -> list[Row]:
    """Table 2, in both forms: the number of blocks."""
    published = {("released", 2): "39.5 AP, -63.45 G", ("released", 6): "+21.5 G"}
    rows = [Row(BASELINE, ATSS, published="39.0 AP")]
    for form, blocks in product(("released", "paper"), (1, 2, 4, 6, 8, 10)):
        label = f"{form}: {blocks} block{'s' if blocks > 1 else ''}"
        arguments = {"form": form, "blocks": blocks}
        rows.append(Row(label, DYHEAD, arguments, BASELINE, published.get((form, blocks), "")))
    return rows


def generalisation() -> list[Row]:
    """Table 3 and more: every head without and with a Dynamic Head, both of the two-stage forms."""
    published = {"Faster R-CNN": "38.9 AP; the code 40.3", "ATSS": "the code 42.4 AP"}
    rows = []
    for model, name in FAMILIES.items():
        rows.append(Row(name, model))
        rows.append(Row(f"{name} + DyHead", f"{model}_dyhead", {}, name, published.get(name, "")))
        if name == "RetinaNet":
            arguments = {"tower_depth": 4}
            rows.append(Row(f"{name} + DyHead, towers kept", f"{model}_dyhead", arguments, name, "the code 39.9 AP"))
        if "rcnn" in model:
            rows.append(Row(f"{name} + DyHead, task attention on regions", f"{model}_dyhead_roi", {}, name))
    return rows


def forms() -> list[Row]:
    """The released form with each way to use offsets on the coarser level, as its authors initialise it, and the
    paper's equations."""
    rows = [Row(FULL, DYHEAD)]
    rows += [
        Row(f"released form, {mode}", DYHEAD, {"high_offset": mode}, FULL)
        for mode in ("crop", "resize", "upsample_first")
    ]
    official = {"deform_bias": True, "zero_init_offset": False}
    rows.append(Row("released form, flat, the authors' start and biases", DYHEAD, official, FULL))
    rows.append(Row("paper's form", DYHEAD, {"form": "paper"}, FULL))
    return rows


TABLES = {
    "ablation": ("Ablation: scale (L), spatial (S) and task (C) attention", ablation()),
    "depth": ("Depth: number of blocks", depth()),
    "generalisation": ("Generalisation: every head without and with a Dynamic Head", generalisation()),
    "forms": ("Released form and paper's form", forms()),
}


# ------------------------------------------------------------------------------------------------------ structure
def structure(row: Row) -> dict[str, Any]:
    """Parameters and multiply-adds of the row at full size; of the tower, and of one block of it by part."""
    size = (512, 512) if row.model.startswith("ttfnet") else SIZE
    with torch.device("meta"):
        model = create_model(row.model, **row.arguments)
    macs = macs_by_module(model, size)
    total = macs[""]
    macs = {name: count for name, count in macs.items() if not list(model.get_submodule(name).children())}
    dyheads = [f"{name}." for name, module in model.named_modules() if isinstance(module, DyHead)]
    tower = [name for name in macs if "_tower." in name or name.startswith(tuple(dyheads))]
    content = {"size": size, "parameters": count_parameters(model), "macs": total,
               "tower_macs": sum(macs[name] for name in tower)}  # fmt: skip
    if dyheads:
        prefix = f"{dyheads[0]}blocks.0."
        inside = {name.removeprefix(prefix): count for name, count in macs.items() if name.startswith(prefix)}
        offset = sum(count for name, count in inside.items() if name.startswith("spatial.offset"))
        sampling = sum(count for name, count in inside.items() if name.startswith("spatial.")) - offset
        content["block"] = {
            "parameters": count_parameters(model.get_submodule(prefix[:-1])), "sampling": sampling, "offset": offset,
            "gates": sum(inside.values()) - sampling - offset,
        }  # fmt: skip
    return content


def structures(tables: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{table: {label: structure}}; a network that stands in several rows is counted once."""
    counted: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        for row in TABLES[table][1]:
            name = slug(row.model, row.arguments)
            counted[name] = counted.get(name) or structure(row)
            found.setdefault(table, {})[row.label] = counted[name]
    return found


def structure_lines(rows: list[Row], found: dict[str, Any]) -> Iterable[str]:
    """The table of structure. The last block column has sampling, offsets and the rest."""
    heads = ("row", "parameters", "difference", "GMAC", "difference", "tower's GMAC", "difference",
             "a block: parameters", "GMAC: sampling + offsets + gates", "published")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        own, other = found[row.label], found.get(row.against)
        cells = [row.label]
        for key, form, scale in (("parameters", ",", 1), ("macs", ".2f", 1e9), ("tower_macs", ".2f", 1e9)):
            cells.append(f"{own[key] / scale:{form}}" if scale > 1 else f"{own[key]:{form}}")
            less = (own[key] - other[key]) / scale if other else None
            cells.append("" if less is None else f"{less if scale > 1 else int(less):+{form}}")
        block = own.get("block")
        parts = [f"{block[key] / 1e9:.2f}" for key in ("sampling", "offset", "gates")] if block else []
        cells += [f"{block['parameters']:,}" if block else "", " + ".join(parts), row.published]
        yield f"| {' | '.join(cells)} |"


# -------------------------------------------------------------------------------------------------------------- AP
def defaults_of(model: str) -> dict[str, Any]:
    """Every argument by its bare name; of several parts that have it, the first one's."""
    found: dict[str, Any] = {}
    for name, option in builder_arguments(model).items():
        found.setdefault(name.rpartition(".")[2], option.default)
    return found


def slug(model: str, arguments: dict[str, Any]) -> str:
    """A name for the network, the same however its defaults are written."""
    defaults = defaults_of(model)
    changed = [f"-{key}_{value}" for key, value in sorted(arguments.items()) if value != defaults[key]]
    return model + "".join(changed)


def experiment(row: Row, models: Models) -> tuple[str, dict[str, Any]]:
    """The row's model at the size of `models`, with its arguments."""
    name = row.model.replace("r50", models.trunk)
    known = defaults_of(name)
    common = {key: value for key, value in models.arguments.items() if key in known}
    return name, {**common, **row.arguments, "input_size": (models.side,) * 2}


def run_name(row: Row, models: Models) -> str:
    name, _ = experiment(row, models)
    return slug(name, row.arguments)


def collect(runs: Path, models: Models) -> dict[str, dict[str, dict[str, float]]]:
    """{run: {seed: last metrics, seconds and threads}} of the finished runs."""
    names = dict.fromkeys(run_name(row, models) for _, rows in TABLES.values() for row in rows)
    found = {name: seeds_of(runs, name, METRICS) for name in names}
    return {name: seeds for name, seeds in found.items() if seeds}


def ap_lines(rows: list[Row], found: dict[str, dict[str, dict[str, float]]], models: Models) -> Iterable[str]:
    heads = ("row", "seeds", "epochs", *(text for key in METRICS for text in (key.upper(), "spread")),
             "AP less its reference's, by seed")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    names = {row.label: run_name(row, models) for row in rows}
    for row in rows:
        seeds, other = (found.get(names.get(label, ""), {}) for label in (row.label, row.against))
        if not seeds:
            continue
        cells = [row.label, ", ".join(seeds), str(max(int(values["epoch"]) for values in seeds.values()))]
        for key in METRICS:
            values = [run[key] for run in seeds.values()]
            cells += [f"{statistics.mean(values):.3f}", spread(values)]
        cells.append(", ".join(f"{seeds[s]['ap'] - other[s]['ap']:+.3f}" for s in seeds if s in other) or "-")
        yield f"| {' | '.join(cells)} |"


# ----------------------------------------------------------------------------------------------------------- tables
def write_table(arguments: argparse.Namespace, counted: dict[str, Any]) -> None:
    """dyhead_tables.json and .md: the structure, and AP for every size that has finished runs."""
    path = arguments.results / "dyhead_tables.json"
    before = read_json(path)
    notes = {**before.get("notes", {}), **({arguments.models: arguments.note} if arguments.note is not None else {})}
    runs = {**before.get("runs", {})}
    if here := collect(arguments.runs / arguments.models, MODELS[arguments.models]):
        runs[arguments.models] = here
    machine = {"machine": platform.machine(), "torch": torch.__version__}
    content = {"hardware": machine, "notes": notes, "structure": counted, "runs": runs}
    arguments.results.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content, indent=1) + "\n")
    lines = ["# The Dynamic Head paper's tables", "", *ABOUT.splitlines()]
    for name, note in notes.items():
        lines += ["", f"AP of the {name} models: {note}"]
    for table, (title, rows) in TABLES.items():
        if table in counted:
            lines += ["", f"## {title}", "", *structure_lines(rows, counted[table])]
        for name, found in runs.items():
            body = list(ap_lines(rows, found, MODELS[name]))
            if len(body) > 2:
                lines += ["", f"On BCCD, {name} models:", "", *body]
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def run_all(arguments: argparse.Namespace, counted: dict[str, Any]) -> None:
    models, splits = MODELS[arguments.models], open_splits(arguments.data)
    models = models._replace(side=arguments.size or models.side)
    rows = {run_name(row, models): row for table in arguments.only for row in TABLES[table][1]}
    released_first = sorted(rows.items(), key=lambda item: item[1].arguments.get("form") == "paper")
    for seed in arguments.seeds:
        for name, row in released_first:
            out = arguments.runs / arguments.models / f"{name}-seed{seed}"
            with to_do(out) as ours:
                if ours:
                    epochs = arguments.epochs or models.epochs
                    config = replace(settings(out, seed, epochs), validate_every=epochs)
                    train(experiment(row, models), splits, config)
            write_table(arguments, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="without it nothing is trained: structure, and what has run")
    parser.add_argument("--runs", type=Path, default=Path("runs/dyhead_tables"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--models", choices=list(MODELS), default="small", help="at which size AP is measured")
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, help=f"by default { ({name: m.epochs for name, m in MODELS.items()}) }")
    parser.add_argument("--size", type=int, help="of the input, in both directions; with --runs of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    counted = read_json(arguments.results / "dyhead_tables.json").get("structure", {})
    counted |= structures(table for table in arguments.only if not (arguments.data and table in counted))
    if arguments.data:
        run_all(arguments, counted)
    write_table(arguments, counted)


if __name__ == "__main__":
    main()
