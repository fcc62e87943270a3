"""Dynamic Head: the share of each attention in the forward time, for the released form and for the paper's.

Levels P3 to P7 of an 800x1088 image, random weights with offsets of about a pixel, batch 1, inference, channels-last.
Every attention is timed by hooks around its module (spatial: with the convolution that predicts the offsets, which is
listed again by itself); the forms take turns, medians over the repeats. The shares sum to less than 1 by what lies
between the modules: in the paper's form the resizing to and from the median level. Writes
benchmarks/results/dyhead_share.json and .md.

    python benchmarks/dyhead_share.py
    python benchmarks/dyhead_share.py --threads 1 --clock cpu    (on a machine with other load)
    python benchmarks/dyhead_share.py --blocks 1 --repeats 5 --threads 1 --device cuda
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from headway.layers.deform import deform_path
from headway.necks.dyhead import DyHead, DyHeadOptions
from headway.types import Levels

RESULTS = Path(__file__).parent / "results"
PARTS = ("scale", "spatial", "spatial.offset", "task")


def pyramid(size: tuple[int, int], channels: int, device: str) -> list[torch.Tensor]:
    """P3 to P7 of an image of that size, each half the one before, rounded up."""
    maps = []
    for level in range(3, 8):
        height, width = (-(-side // 2**level) for side in size)
        maps.append(torch.randn(1, channels, height, width, device=device).to(memory_format=torch.channels_last))
    return maps


def make(form: str, channels: int, blocks: int, device: str) -> DyHead:
    levels = Levels((8, 16, 32, 64, 128), (channels,) * 5)
    neck = DyHead(levels, blocks=blocks, options=DyHeadOptions(form=form, zero_init_offset=False))
    for block in neck.blocks:
        nn.init.normal_(block.spatial.offset.weight, std=1 / (9 * channels) ** 0.5)
    return neck.to(device).eval()


class Stopwatch:
    """Seconds spent inside the attentions of all blocks, summed by part."""

    def __init__(self, neck: DyHead, clock, synchronize) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.started: dict[nn.Module, float] = {}
        self.synchronize = synchronize
        for block in neck.blocks:
            for part in PARTS:
                module = block.get_submodule(part)
                module.register_forward_pre_hook(self._start)
                module.register_forward_hook(lambda module, inputs, output, part=part: self._stop(module, part))

    def _start(self, module: nn.Module, inputs: tuple) -> None:
        self.synchronize()
        self.started[module] = self.clock()

    def _stop(self, module: nn.Module, part: str) -> None:
        self.synchronize()
        self.seconds[part] += self.clock() - self.started[module]


def measure(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """form -> {total, scale, spatial, spatial.offset, task} in ms."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    synchronize = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
    necks = {form: make(form, args.channels, args.blocks, args.device) for form in ("released", "paper")}
    watches = {form: Stopwatch(neck, clock, synchronize) for form, neck in necks.items()}
    maps = pyramid((800, 1088), args.channels, args.device)
    runs: dict[str, dict[str, list[float]]] = {form: defaultdict(list) for form in necks}
    half = torch.autocast(args.device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    with torch.inference_mode(), half:
        for repeat in range(args.repeats + 1):
            for form, neck in necks.items():
                watches[form].seconds.clear()
                start = clock()
                neck(maps)
                synchronize()
                seconds = {"total": clock() - start, **watches[form].seconds}
                for part, value in seconds.items():
                    if repeat:  # the first is warm-up
                        runs[form][part].append(1e3 * value)
    return {form: {part: statistics.median(v) for part, v in parts.items()} for form, parts in runs.items()}


def table(rows: list[dict]) -> str:
    lines = [
        "| form | dtype | total, ms | scale | spatial | of it offsets | task | between |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        total = row["total"]
        share = {part: f"{row[part] / total:.1%}" for part in PARTS}
        between = (total - row["scale"] - row["spatial"] - row["task"]) / total
        lines.append(
            f"| {row['form']} | {row['dtype']} | {total:.0f} | {share['scale']} | {share['spatial']} | "
            f"{share['spatial.offset']} | {share['task']} | {between:.1%} |"
        )
    return "\n".join(lines)


def processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: processor time of all threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for form, parts in measure(args, dtype).items():
            rows.append({"form": form, "dtype": str(dtype).removeprefix("torch."), **parts})
    setting = {
        **vars(args),
        "processor": processor(args.device),
        "torch": torch.__version__,
        "deformable convolution": deform_path(args.device)[0],
    }
    name = "dyhead_share" if args.device == "cpu" else f"dyhead_share_{args.device}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"setting": setting, "ms": rows}, indent=1) + "\n")
    heading = ", ".join(f"{key} {value}" for key, value in setting.items())
    text = f"{table(rows)}\n\nForward, P3 to P7 of 800x1088; {heading}.\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
