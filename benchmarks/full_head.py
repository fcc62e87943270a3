"""FullHead beside Dynamic Head at equal multiply-adds: what both cost, and their AP on BCCD from random weights.

    python benchmarks/full_head.py                                    # the costs: at once, without training
    python benchmarks/full_head.py --time                             # and seconds of processor, a minute
    python benchmarks/full_head.py --data BCCD_FOLDER                 # and every run that has not run
    python benchmarks/full_head.py --data BCCD_FOLDER --only dyhead full --seeds 0 --threads 1

Costs are of the neck alone, of one picture: parameters, multiply-adds of its layers (`headway.profile`) and of the
products between queries, keys and values, with R50's 256 channels and 6 blocks at 800 x 1344 and as
it is trained here, 128 channels and 2 blocks. Rows without a part of FullHead are cheaper by it. Times are of the
processor, on one thread, the least of six, for one picture of 320 x 320 through the latter.

Every run has the same budget of pictures. A run that was stopped goes on where it was, a finished one is only read, and
one that another process is at is left to it, so several processes may share the work. The table in benchmarks/results
has the mean over seeds of the last validation, the spread (highest less lowest), the difference from Dynamic Head seed
by seed, and the seconds of an epoch on so many threads. A difference within the spread shows nothing. On a GPU more
epochs say more; give them a folder of their own (--epochs, --runs).
"""

import argparse
import json
import math
import platform
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bccd import RESULTS, epochs_of, read_json, seeds_of, settings, spread, to_do, train, write
from torch import Tensor, nn

from headway.data.formats.any_format import open_splits
from headway.necks.dyhead import DyHead, DyHeadOptions
from headway.necks.full_head import FullAttention, FullHead
from headway.profile import count_macs, count_parameters
from headway.types import Levels

FULL = "atss_r18_fpn_fullhead"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "dyhead": ("atss_r18_fpn_dyhead", {}),
    "full": (FULL, {"latents": 60}),  # the number of groups that makes it as dear as Dynamic Head at 128 channels
    "full, near only": (FULL, {"far": False}),
    "full, far only": (FULL, {"near": False}),
    "full, no channels": (FULL, {"channel": False}),
}
METRICS = ("ap", "ap50", "ap75")


class Neck(nn.Module):
    """A neck as a network of pictures, for counting: it is handed empty maps P3 to P7 of the picture's size."""

    def __init__(self, neck: nn.Module, channels: int) -> None:
        super().__init__()
        self.neck, self.channels = neck, channels

    def forward(self, images: Tensor) -> list[Tensor]:
        sizes = levels_of(int(images.shape[2]), int(images.shape[3]))
        return self.neck([images.new_zeros(1, self.channels, *size) for size in sizes])


def levels_of(height: int, width: int) -> list[tuple[int, int]]:
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(3, 8)]


def make(name: str, channels: int, blocks: int) -> nn.Module:
    """The neck of a row; with other widths than 128 FullHead has its own number of groups."""
    model, arguments = ROWS[name]
    levels = Levels((8, 16, 32, 64, 128), (channels,) * 5)
    if model != FULL:
        return DyHead(levels, blocks=blocks, options=DyHeadOptions(zero_init_offset=False, **arguments))
    return FullHead(levels, blocks=blocks, **{k: v for k, v in arguments.items() if k != "latents" or channels == 128})


def cost(name: str, size: tuple[int, int], channels: int, blocks: int) -> dict[str, float]:
    """Of the neck of a row: parameters, and multiply-adds of one picture in layers, in products and together."""
    with torch.device("meta"):
        neck = make(name, channels, blocks)
    macs = count_macs(Neck(neck, channels), size)
    products = sum(part.products(levels_of(*size)) for part in neck.modules() if isinstance(part, FullAttention))
    return {"parameters": count_parameters(neck), "layers": macs - products, "products": products, "macs": macs}


def costs(size: int) -> dict[str, dict[str, dict[str, float]]]:
    full = {"R50": ((800, 1344), 256, 6), "R18": ((size, size), 128, 2)}
    return {name: {which: cost(name, *arguments) for which, arguments in full.items()} for name in ROWS}


def time_necks() -> dict[str, dict[str, float]]:
    """Milliseconds of processor of every row: forward, and forward with backward; the rows take turns."""
    torch.set_num_threads(1)
    maps = [torch.randn(1, 128, *size) for size in levels_of(320, 320)]
    necks = {name: make(name, 128, 2) for name in ROWS}
    seconds: dict[str, dict[str, float]] = {name: {"forward": math.inf, "training": math.inf} for name in ROWS}
    for _ in range(6):
        for name, neck in necks.items():
            start = time.process_time()
            with torch.no_grad():
                neck(maps)
            between = time.process_time()
            sum(x.square().mean() for x in neck(maps)).backward()
            for key, spent in (("forward", between - start), ("training", time.process_time() - between)):
                seconds[name][key] = min(seconds[name][key], spent)
    return {name: {key: 1000 * value for key, value in row.items()} for name, row in seconds.items()}


def folder(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name.replace(',', '').replace(' ', '_')}-seed{seed}"


def collect(runs: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{row: {seed: last metrics, seconds of an epoch and threads}} of the finished runs."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in ROWS:
        for seed, row in seeds_of(runs, folder(runs, name, 0).name.removesuffix("-seed0"), METRICS).items():
            ends = [0.0, *(each["seconds"] for each in epochs_of(folder(runs, name, int(seed))))]
            row["seconds_per_epoch"] = statistics.median(b - a for a, b in pairwise(ends))
            table.setdefault(name, {})[seed] = row
    return table


def cost_lines(
    table: dict[str, dict[str, dict[str, float]]], times: dict[str, dict[str, float]], size: int
) -> list[str]:
    lines = [f"| neck | parameters, R50 | GMAC at 800 x 1344 | of DyHead's | parameters, R18 | GMAC at {size} x {size} "
             "| of DyHead's | forward, ms | with backward, ms |", "|---" * 9 + "|"]  # fmt: skip
    for name, row in table.items():
        cells = [name]
        for which in ("R50", "R18"):
            found, plain = row[which], table["dyhead"][which]
            cells += [
                f"{found['parameters']:,.0f}",
                f"{found['macs'] / 1e9:.3f}",
                f"{found['macs'] / plain['macs']:.3f}",
            ]
        cells += [f"{times[name][key]:.0f}" if name in times else "-" for key in ("forward", "training")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def run_lines(table: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = ["| neck | seeds | epochs | AP | spread | AP50 | spread | AP75 | spread | s an epoch (threads) "
             "| AP less DyHead's, by seed |", "|---" * 11 + "|"]  # fmt: skip
    plain = table.get("dyhead", {})
    for name, seeds in table.items():
        cells = [name, ", ".join(seeds), str(max(int(row["epoch"]) for row in seeds.values()))]
        for key in METRICS:
            values = [row[key] for row in seeds.values()]
            cells += [f"{statistics.mean(values):.3f}", spread(values)]
        threads = "/".join(sorted({f"{row['threads']:.0f}" for row in seeds.values()}))
        cells.append(f"{statistics.median(row['seconds_per_epoch'] for row in seeds.values()):.1f} ({threads})")
        both = [seed for seed in seeds if seed in plain and name != "dyhead"]
        cells.append(", ".join(f"{seeds[seed]['ap'] - plain[seed]['ap']:+.3f}" for seed in both) or "-")
        lines.append(f"| {' | '.join(cells)} |")
    return lines if table else ["No run has finished."]


def write_table(runs: Path, size: int, note: str | None, times: dict[str, dict[str, float]] | None = None) -> list[str]:
    """Write the .json and .md in benchmarks/results; gives the lines of the costs. Of note, times and runs the old ones
    stay where there are no new ones."""
    path = RESULTS / "full_head.json"
    old = read_json(path)
    note = old.get("hardware", {}).get("note", "") if note is None else note
    times, found = times or old.get("times", {}), collect(runs) or old.get("runs", {})
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "note": note}
    dear = costs(size)
    content = {"hardware": hardware, "rows": ROWS, "costs": dear, "times": times, "runs": found}
    write(path, json.dumps(content, indent=1) + "\n")
    about = f"torch {hardware['torch']}, {hardware['machine']}. {note}".strip()
    table = cost_lines(dear, times, size)
    lines = ["# FullHead and Dynamic Head at equal multiply-adds", "", about, "", "## Cost of the neck", "", *table]
    lines += ["", "Milliseconds: of the processor on one thread, one picture of 320 x 320, R18's width and depth."]
    lines += ["", "## BCCD val, ATSS-R18, from random weights", "", *run_lines(found)]
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the data set to train on; without it only the costs are written")
    parser.add_argument("--runs", type=Path, default=Path("runs/full_head"))
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=192, help="of the input, in both directions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--note", help="a sentence for the table: how and where this ran; the old one stays without")
    parser.add_argument("--time", action="store_true", help="measure seconds of processor, which are kept")
    parser.add_argument("--table", action="store_true", help="only write the table from what has run")
    arguments = parser.parse_args()
    times = time_necks() if arguments.time else None
    print("\n".join(write_table(arguments.runs, arguments.size, arguments.note, times)), flush=True)
    if arguments.data is None or arguments.table:
        return
    torch.set_num_threads(arguments.threads)
    splits = open_splits(arguments.data)
    for seed in arguments.seeds:
        for name in arguments.only:
            out = folder(arguments.runs, name, seed)
            model, options = ROWS[name]
            with to_do(out) as ours:
                if ours:
                    config = replace(settings(out, seed, arguments.epochs), validate_every=arguments.epochs)
                    train((model, {**options, "input_size": (arguments.size,) * 2}), splits, config)
            write_table(arguments.runs, arguments.size, arguments.note)


if __name__ == "__main__":
    main()
