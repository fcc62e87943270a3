"""Whole detectors on the CPU against the way peers run them, side by side in one run.

    python benchmarks/inference.py                    # 800x1088, fp32 and bf16
    python benchmarks/inference.py --only atss_r50_fpn_dyhead --repeats 5

Columns: "peer as it comes" is fp32, eager and NCHW; "peer at its best" is bf16 autocast and channels-last, as its user
can have it by two lines. Ratios compare like with like: our fp32 with the peer as it comes, our bf16 with the peer at
its best; our bf16 against the peer as it comes stands last and mixes both. Models with deformable convolutions: the
peer is the same network with torchvision.ops.deform_conv2d, which computes in fp32, and norms not folded. The others:
torchvision's own models with the same number of classes, thresholds and picture size. Ours is folded (`headway.fuse`),
as `headway predict` runs it. Times are medians of interleaved repeats, from pixels to detections; weights are random.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor

import headway
from headway.layers import deform
from headway.select import select

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("peer as it comes", "peer at its best", "headway fp32", "headway bf16")
PAIRS = ((0, 2), (1, 3), (0, 3))  # which ratios are told: like with like, and last the two ends
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
    torch.manual_seed(0)
    model = headway.create_model(name).eval()
    model.card.score_threshold = 0.05  # as the peers'
    folded = headway.fuse(model)
    best = torch.channels_last

    def reduced(call: Callable[[], object]) -> Callable[[], object]:
        def in_bf16() -> object:
            with torch.autocast("cpu", torch.bfloat16):
                return call()

        return in_bf16

    def ours() -> object:
        return folded.detect(images)

    if name in PEERS:
        peer_name, background = PEERS[name]
        build = getattr(torchvision.models.detection, peer_name)
        sizes = {"num_classes": 80 + background, "min_size": SIZE[0], "max_size": SIZE[1]}
        plain, fast = (build(weights=None, weights_backbone=None, **sizes).eval() for _ in range(2))
        fast = fast.to(memory_format=best)
        peers = (lambda: plain(images), reduced(lambda: fast(images.to(memory_format=best))))
    else:
        fast = copy.deepcopy(model).to(memory_format=best)
        peers = (
            lambda: same_network(model, images),
            reduced(lambda: same_network(fast, images.to(memory_format=best))),
        )
    return dict(zip(COLUMNS, (*peers, ours, reduced(ours))))


def ratios_of(seconds: dict[str, float]) -> dict[str, float]:
    """How many times as fast ours is: like with like, and bf16 against the peer as it comes."""
    pairs = [(COLUMNS[peer], COLUMNS[ours]) for peer, ours in PAIRS]
    return {f"{ours} / {peer}": seconds[peer] / seconds[ours] for peer, ours in pairs}


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
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    hardware = {"cpu": cpu_name(), "threads": arguments.threads, "torch": torch.__version__,
                "torchvision": torchvision.__version__, "load": round(os.getloadavg()[0], 1)}  # fmt: skip
    file = arguments.out / "inference.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    same = before.get("hardware", {}) | {"load": hardware["load"]} == hardware  # rows of one machine stand together
    rows: dict[str, Any] = before["models"] if same else {}
    for name in arguments.only:
        seconds = measure(make_calls(name, images), arguments.repeats)
        rows[name] = {"seconds": seconds, "times as fast": ratios_of(seconds)}
        print(name, *({k: round(v, 3) for k, v in row.items()} for row in rows[name].values()), flush=True)
    arguments.out.mkdir(exist_ok=True)
    result = {"size": SIZE, "repeats": arguments.repeats, "hardware": hardware, "models": rows}
    file.write_text(json.dumps(result, indent=1) + "\n")
    header = f"| model | {', s | '.join(COLUMNS)}, s | fp32 / as it comes | bf16 / at its best | bf16 / as it comes |"
    lines = [f"# Inference, {SIZE[0]}x{SIZE[1]}, batch 1", "", f"{hardware}", "", header, "|---" * 8 + "|"]
    for name, row in rows.items():
        cells = [f"{seconds:.3f}" for seconds in row["seconds"].values()]
        cells += [f"{ratio:.2f}x" for ratio in row["times as fast"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (arguments.out / "inference.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
