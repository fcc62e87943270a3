"""A Dynamic Head beside the plain convolutions that it is made of: what its sampling and its other parts cost.

Six blocks of the released form over P3 to P7 of an 800x1088 image, 256 channels, random weights with offsets of about a
pixel, channels-last. "convolutions": the 3x3 convolutions of the same shapes, 13 a block, with nothing around them.
"without sampling": the same blocks with plain convolutions, with their norms, gates and activations. Forward without
gradients, and a step forward and backward with all gradients. Rounds are interleaved in one process; times are medians,
ratios the medians of the rounds' own. Writes results/dyhead_plain.json and .md.

    python benchmarks/dyhead_plain.py
    python benchmarks/dyhead_plain.py --threads 1 --blocks 1 --rounds 3
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from dyhead_share import pyramid
from inference import cpu_name
from torch import Tensor, nn
from train_step import measure

from headway.allocator import keep_memory
from headway.necks.dyhead import DyHead, DyHeadOptions
from headway.types import Levels

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("convolutions", "without sampling", "Dynamic Head")


class Convolutions(nn.Module):
    """Of each block: per level the level's own, the finer one's at stride 2 and the coarser one's."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, stride, 1, bias=False) for stride in (1, 1, 2))
            for _ in range(blocks)
        ).to(memory_format=torch.channels_last)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        results = []
        for same, coarser, finer in self.blocks:  # type: ignore[misc]
            results += [coarser(x) for x in maps[1:]] + [finer(x) for x in maps[:-1]]
            maps = [same(x) for x in maps]
        return results + maps


def tower(channels: int, blocks: int, spatial: bool) -> DyHead:
    options = DyHeadOptions(spatial=spatial, zero_init_offset=False)
    neck = DyHead(Levels((8, 16, 32, 64, 128), (channels,) * 5), blocks=blocks, options=options)
    for block in neck.blocks:
        if spatial:
            nn.init.normal_(block.spatial.offset.weight, std=1 / (9 * channels) ** 0.5)
    return neck.to(memory_format=torch.channels_last)


def forward(model: nn.Module, maps: list[Tensor], bf16: bool) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(maps)

    return run


def step(model: nn.Module, maps: list[Tensor], bf16: bool) -> Callable[[], object]:
    def run() -> None:
        inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in maps]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            results = model(inputs)
        torch.autograd.backward(results, [torch.ones_like(x) for x in results])
        model.zero_grad()

    return run


def table(results: dict) -> str:
    lines = ["# A Dynamic Head beside plain convolutions", "", results["about"], ""]
    lines += ["| work | convolutions, ms | without sampling, ms | Dynamic Head, ms | to convolutions | to the same "
              "without sampling |", "|---" * 6 + "|"]  # fmt: skip
    for name, times in results["times"].items():
        ours = times[COLUMNS[2]]
        cells = [f"{1000 * statistics.median(times[column]):.0f}" for column in COLUMNS]
        cells += [f"{statistics.median(a / b for a, b in zip(ours, times[column])):.2f}x" for column in COLUMNS[:2]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1088))
    parser.add_argument("--step-size", type=int, nargs=2, default=(400, 544), help="pictures of the training step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as the command line does
    torch.manual_seed(0)
    models = dict(zip(COLUMNS, (
        Convolutions(options.channels, options.blocks),
        *(tower(options.channels, options.blocks, spatial) for spatial in (False, True)),
    )))  # fmt: skip
    results: dict = {"times": {}}
    for name, make, size in (("forward", forward, options.size), ("training step", step, options.step_size)):
        maps = pyramid(tuple(size), options.channels, "cpu")
        for bf16 in (False, True):
            runs = {column: make(model, maps, bf16) for column, model in models.items()}
            title = f"{name} {size[0]}x{size[1]}, {'bf16' if bf16 else 'fp32'}"
            results["times"][title] = measure(runs, options.rounds)
            results["about"] = (
                f"{cpu_name()}, {options.threads} threads, load average {os.getloadavg()[0]:.1f} at the end, torch "
                f"{torch.__version__}; {options.blocks} blocks, {options.channels} channels, one picture, "
                f"{options.rounds} interleaved rounds, medians."
            )
    (options.out / "dyhead_plain.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "dyhead_plain.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
