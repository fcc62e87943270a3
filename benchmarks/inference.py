"""Whole detectors on the CPU against the way peers run them, side by side in one run.

    python benchmarks/inference.py                    # 800x1088, fp32 and bf16
    python benchmarks/inference.py --only atss_r50_fpn_dyhead --repeats 5

Models with deformable convolutions: the peer is the same network with torchvision.ops.deform_conv2d, eager and NCHW,
batch norms not folded. The others: the peers are torchvision's own models with the same number of classes, thresholds
and picture size. Times are medians of interleaved repeats, from pixels to detections; all weights are random.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor

import headway
from headway.layers import deform
from headway.select import select

RESULTS = Path(__file__).parent / "results"
SIZE = (800, 1088)
PEERS = {  # torchvision's name, and how many of its classes are none
    "retinanet_r50_fpn": ("retinanet_resnet50_fpn", 0),
    "fcos_r50_fpn": ("fcos_resnet50_fpn", 0),
    "faster_rcnn_r50_fpn": ("fasterrcnn_resnet50_fpn", 1),
}
SAME_NETWORK = ("atss_r50_fpn_dyhead", "faster_rcnn_r50_fpn_mdconv")


def same_network(model: headway.Detector, images: Tensor) -> list:
    """The same network as peers run it: NCHW, torchvision's deformable convolution, batch norms as they are."""
    with patch.object(deform, "_path", lambda *_: ("torchvision", "benchmark")):
        candidates = model.decode(model(images))
    return select(candidates, class_threshold=model.card.score_threshold, nms_iou=model.card.nms_iou)


def make_calls(name: str, images: Tensor) -> dict[str, Callable[[], object]]:
    model = headway.create_model(name).eval()
    model.card.score_threshold = 0.05  # as the peers'

    def ours(precision: torch.dtype | None) -> Callable[[], object]:
        def call() -> object:
            with torch.autocast("cpu", precision) if precision else nullcontext():
                return model.detect(images)

        return call

    calls = {"headway fp32": ours(None), "headway bf16": ours(torch.bfloat16)}
    if name in PEERS:
        peer_name, background = PEERS[name]
        build = getattr(torchvision.models.detection, peer_name)
        sizes = {"num_classes": 80 + background, "min_size": SIZE[0], "max_size": SIZE[1]}
        peer = build(weights=None, weights_backbone=None, **sizes).eval()
        return {"peer": lambda: peer(images), **calls}
    return {"peer": lambda: same_network(model, images), **calls}


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, interleaved, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for call in calls.values():
            call()
        for _ in range(repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    name = fields.get("model name", platform.processor())
    return f"{name} family {fields.get('cpu family')} model {fields.get('model')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[*SAME_NETWORK, *PEERS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    hardware = {"cpu": cpu_name(), "threads": arguments.threads, "torch": torch.__version__,
                "torchvision": torchvision.__version__}  # fmt: skip
    rows = {}
    for name in arguments.only:
        seconds = measure(make_calls(name, images), arguments.repeats)
        ratios = {f"{k} / peer": seconds["peer"] / v for k, v in seconds.items() if k != "peer"}
        rows[name] = {"seconds": seconds, "times as fast": ratios}
        print(
            name, {k: round(v, 3) for k, v in seconds.items()}, {k: round(v, 2) for k, v in ratios.items()}, flush=True
        )
    RESULTS.mkdir(exist_ok=True)
    result = {"size": SIZE, "repeats": arguments.repeats, "hardware": hardware, "models": rows}
    (RESULTS / "inference.json").write_text(json.dumps(result, indent=1) + "\n")
    header = "| model | peer, s | ours fp32, s | ours bf16, s | fp32 | bf16 |\n|---|---|---|---|---|---|"
    lines = [f"# Inference, {SIZE[0]}x{SIZE[1]}, batch 1", "", f"{hardware}", "", header]
    for name, row in rows.items():
        s, r = row["seconds"], row["times as fast"]
        lines.append(
            f"| {name} | {s['peer']:.3f} | {s['headway fp32']:.3f} | {s['headway bf16']:.3f} | "
            f"{r['headway fp32 / peer']:.2f}x | {r['headway bf16 / peer']:.2f}x |"
        )
    (RESULTS / "inference.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
