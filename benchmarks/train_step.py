"""A training step on the CPU, ours beside a peer's: pictures in memory to updated weights.

    python benchmarks/train_step.py                                     # every pair, 2 pictures of 320x416
    python benchmarks/train_step.py --only fcos --batch 4 --size 480 640 --rounds 5
    python benchmarks/train_step.py --table                             # only writes the table of what was measured

Columns: the peer as it comes (fp32, NCHW), the peer at its best (bf16 autocast, channels-last, without its own
resizing), ours in fp32 and in bf16. Ratios compare like with like: fp32 with the peer as it comes, bf16 with the peer
at its best. All take SGD with momentum; ours is the step of `headway train` with recipe mmdet_1x. Same pictures, same
boxes, same frozen layers: "frozen" fixes the stem, the first stage and all batch norms of the backbone, as in
fine-tuning; "batch" trains everything. Rounds are interleaved in one process; times are medians, ratios the medians of
the rounds' own ratios. Peak memory is that of a process that does nothing else (--memory).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from inference import cpu_name
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import headway
from headway.process import peak_of_process
from headway.train.fit import one_step
from headway.train.recipes import recipe
from headway.train.timing import made_batches, open_session

RESULTS = Path(__file__).parent / "results"
CLASSES = 80
VARIANTS = ("peer as it comes", "peer at its best", "headway fp32", "headway bf16")
Step = Callable[[], object]


def torchvision_peer(name: str, norm: str, size: tuple[int, int], best: bool) -> nn.Module:
    """torchvision's detector with the backbone that its builders make, but without their download."""
    detection = torchvision.models.detection
    layer = torchvision.ops.misc.FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    body, trainable = torchvision.models.resnet50(norm_layer=layer), 3 if norm == "frozen" else 5
    options: dict[str, Any] = {"min_size": min(size), "max_size": max(size), "_skip_resize": best}
    if name == "faster_rcnn":
        return detection.FasterRCNN(_resnet_fpn_extractor(body, trainable), CLASSES + 1, **options)
    more = LastLevelP6P7(2048 if name == "retinanet" else 256, 256)
    backbone = _resnet_fpn_extractor(body, trainable, returned_layers=[2, 3, 4], extra_blocks=more)
    build = {"fcos": detection.FCOS, "retinanet": detection.RetinaNet}[name]
    return build(backbone, CLASSES, **options)


# family: (our model, whether torchvision has it)
FAMILIES = {
    "fcos": ("fcos_r50_fpn", True), "retinanet": ("retinanet_r50_fpn", True),
    "faster_rcnn": ("faster_rcnn_r50_fpn", True), "atss": ("atss_r50_fpn", False),
}  # fmt: skip


def peer_step(family: str, norm: str, best: bool, batch: Any) -> Step:
    """One step as torchvision's reference takes it (references/detection/engine.py)."""
    torch.manual_seed(0)
    size = tuple(batch.images.shape[2:])
    model = torchvision_peer(family, norm, size, best).train()
    layout = torch.channels_last if best else torch.contiguous_format
    model = model.to(memory_format=layout)
    images = list((batch.images.float() / 255).to(memory_format=layout))
    shift = family == "faster_rcnn"  # whose class 0 is the background
    targets: list[dict[str, Tensor]] = [{"boxes": t.boxes, "labels": t.labels + shift} for t in batch.targets]
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=best)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=best):
            losses = sum(model(images, targets).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        return float(losses)

    return step


def our_step(family: str, norm: str, precision: str, batch: Any) -> Step:
    """One step of `headway train`."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"num_classes": CLASSES}
    if norm == "frozen":
        arguments |= {"backbone.norm": "frozen", "backbone.frozen_stages": 1}
    model = headway.create_model(FAMILIES[family][0], **arguments)
    settings = recipe("mmdet_1x").changed(
        batch_size=len(batch.metas), base_batch_size=0, learning_rate=1e-4, precision=precision, device="cpu"
    )
    run = open_session(model, settings, steps=1000)
    return lambda: one_step(run, [batch], [])[0]["loss"]


def make_step(variant: str, family: str, norm: str, batch: Any) -> Step:
    source, _, form = variant.partition(" ")
    return (
        our_step(family, norm, form, batch) if source == "headway" else peer_step(family, norm, "best" in form, batch)
    )


def variants(family: str) -> tuple[str, ...]:
    return VARIANTS if FAMILIES[family][1] else VARIANTS[2:]


def make_batch(options: argparse.Namespace) -> Any:
    card = headway.ModelCard(class_names=tuple(map(str, range(CLASSES))))
    return next(made_batches(card, options.batch, tuple(options.size)))


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in every round, after one of each that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], peer: str, ours: str) -> float | None:
    if peer not in times:
        return None
    return statistics.median(a / b for a, b in zip(times[peer], times[ours]))


def peak(variant: str, family: str, norm: str, options: argparse.Namespace) -> float:
    """MiB of a process that takes three such steps."""
    command = [sys.executable, __file__, "--worker", variant, family, norm, "--batch", str(options.batch)]
    command += ["--size", *map(str, options.size), "--threads", str(options.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def write_table(results: dict[str, Any]) -> str:
    lines = ["# Training steps on the CPU", "", results["about"], ""]
    lines += ["| family, norms | peer as it comes, s | peer at its best, s | ours fp32, s | ours bf16, s | fp32 / as "
              "it comes | bf16 / at its best | bf16 / as it comes |", "|---" * 8 + "|"]  # fmt: skip
    for name, row in results["steps"].items():
        times = row["seconds"]
        cells = [f"{statistics.median(times[v]):.2f}" if v in times else "" for v in VARIANTS]
        pairs = ((0, 2), (1, 3), (0, 3))
        found = [ratio(times, VARIANTS[peer], VARIANTS[ours]) for peer, ours in pairs]
        cells += ["" if value is None else f"{value:.2f}x" for value in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if any("peak_mib" in row for row in results["steps"].values()):
        lines += ["", f"| peak memory, MiB | {' | '.join(VARIANTS)} |", "|---" * 5 + "|"]
        for name, row in results["steps"].items():
            if "peak_mib" in row:
                cells = [f"{row['peak_mib'][v]:.0f}" if v in row["peak_mib"] else "" for v in VARIANTS]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--norms", nargs="+", choices=("frozen", "batch"), default=["frozen", "batch"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 416))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        step = make_step(*options.worker, make_batch(options))
        for _ in range(3):
            step()
        print(round(peak_of_process() / 2**20, 1))
        return
    file = options.out / "train_step.json"
    results = json.loads(file.read_text()) if file.is_file() else {"steps": {}}
    for family in [] if options.table else options.only:
        for norm in options.norms:
            batch, chosen = make_batch(options), [v for v in variants(family) if v in options.variants]
            times = measure({v: make_step(v, family, norm, batch) for v in chosen}, options.rounds)
            row: dict[str, Any] = {"seconds": {v: [round(s, 4) for s in values] for v, values in times.items()}}
            if options.memory:
                row["peak_mib"] = {v: peak(v, family, norm, options) for v in chosen}
            results["steps"][f"{family}, {norm}"] = row
            results["about"] = (
                f"{cpu_name()}, {options.threads} threads, load average {os.getloadavg()[0]:.1f} at the end, torch "
                f"{torch.__version__}, torchvision {torchvision.__version__}; {options.batch} pictures of "
                f"{options.size[0]}x{options.size[1]}, {options.rounds} interleaved rounds, medians."
            )
            print(f"{family}, {norm}", {v: round(statistics.median(s), 3) for v, s in times.items()}, flush=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "train_step.md").write_text(write_table(results))
    print(write_table(results))


if __name__ == "__main__":
    main()
