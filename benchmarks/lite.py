"""PAFNet-Lite against torchvision's ssdlite320_mobilenet_v3_large at 320x320 on the CPU, side by side in one run.

    python benchmarks/lite.py                         # 1 and 2 threads, eager and onnxruntime, peak memory
    python benchmarks/lite.py --threads 1 --rounds 50

Both start from one picture of 320x320 in 0..1 and end with detections: `detect` here, the model's call there. Rounds
are interleaved; times are medians over the rounds, the ratio is the median of the rounds' own ratios. Memory is the
peak resident size of a process of its own that does nothing else. All weights are random, so the peer's threshold is
raised to 0.05, which nothing passes: its suppression then costs nothing, which is the least it can cost. With the
threshold of its weights, 0.001, every candidate passes, which is the most; that row is named "all candidates".

onnxruntime runs what torch.onnx.export(dynamo=True) writes: of headway's model everything up to 100 boxes, of the
peer's the network, whose outputs torchvision then decodes; and both networks alone.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
SIDE = 320
THRESHOLDS = {"peer": 0.05, "peer, all candidates": 0.001}


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)


# --------------------------------------------------------------------------------------------------------- eager
def our_model():
    import torch

    import headway

    torch.manual_seed(0)
    return headway.create_model("pafnet_lite").eval()


def peer_model(threshold: float = 0.05):
    import torch
    import torchvision

    torch.manual_seed(0)
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    return build(weights=None, weights_backbone=None, score_thresh=threshold).eval()


def eager_call(name: str) -> Callable[[], object]:
    import torch

    images = torch.from_numpy(picture())
    if name == "headway":
        ours = our_model()
        return lambda: ours.detect(images)
    peer = peer_model(THRESHOLDS[name])

    def call() -> object:
        with torch.no_grad():
            return peer([images[0]])

    return call


# --------------------------------------------------------------------------------------------------- onnxruntime
def export(folder: Path) -> None:
    """Three graphs: headway.onnx up to boxes, and both networks alone, whose inputs are normalised inside."""
    import torch

    ours, peer = our_model(), peer_model()

    class Decoded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ours

        def forward(self, images):
            found = self.model.decode(self.model(images))
            return found.boxes, found.scores, found.labels

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ours

        def forward(self, images):
            raw = self.model(images)
            return raw.heatmap, raw.box

    class PeerNetwork(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = peer.backbone, peer.head

        def forward(self, images):
            found = self.head(list(self.backbone((images - 0.5) / 0.5).values()))
            return found["bbox_regression"], found["cls_logits"]

    images = torch.from_numpy(picture())
    networks = {"headway": Decoded(), "headway network": Network(), "peer network": PeerNetwork()}
    for name, network in networks.items():
        with torch.no_grad():
            torch.onnx.export(
                network.eval(), (images,), folder / f"{name}.onnx", dynamo=True, external_data=False, verbose=False
            )


def session(path: Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_call(name: str, folder: Path, threads: int) -> Callable[[], object]:
    """The graph of that name; of a peer with a threshold its network, and torchvision's own decoding behind it."""
    found = session(folder / ("peer network.onnx" if name in THRESHOLDS else f"{name}.onnx"), threads)
    feed = {found.get_inputs()[0].name: picture()}
    if name not in THRESHOLDS:
        return lambda: found.run(None, feed)
    import torch
    from torchvision.models.detection.image_list import ImageList

    peer = peer_model(THRESHOLDS[name])
    images = torch.from_numpy(picture())
    with torch.no_grad():
        anchors = peer.anchor_generator(ImageList(images, [(SIDE, SIDE)]), list(peer.backbone(images).values()))

    def call() -> object:
        boxes, classes = (torch.from_numpy(x) for x in found.run(None, feed))
        outputs = {"bbox_regression": boxes, "cls_logits": classes}
        return peer.postprocess_detections(outputs, anchors, [(SIDE, SIDE)])

    return call


# --------------------------------------------------------------------------------------------------- measurement
def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call, interleaved, after three of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians, and of every peer how many times as long it takes as its counterpart here."""
    rows = {name: {"ms": round(statistics.median(values), 2)} for name, values in times.items()}
    for name in [n for n in times if n.startswith("peer")]:
        ours = times["headway network" if name == "peer network" else "headway"]
        rows[name]["ratio"] = round(statistics.median(a / b for a, b in zip(times[name], ours)), 2)
    return rows


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024


def in_own_process(kind: str, name: str, folder: Path) -> float:
    """Peak megabytes of a process that makes one call ten times."""
    command = [sys.executable, __file__, "--worker", kind, name, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def worker(kind: str, name: str, folder: Path) -> None:
    call = eager_call(name) if kind == "eager" else onnx_call(name, folder, 1)
    for _ in range(10):
        call()
    print(round(peak_megabytes(), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, name, folder = arguments.worker
        worker(kind, name, Path(folder))
        return
    import onnxruntime
    import torch
    import torchvision

    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export(folder)
        eager = {name: eager_call(name) for name in ("headway", *THRESHOLDS)}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            rows[f"eager, {threads} threads"] = summary(measure(eager, arguments.rounds))
            torch.set_num_threads(1)  # its idle threads and onnxruntime's, which spin, would take turns
            names = ("headway", *THRESHOLDS, "headway network", "peer network")
            graphs = {name: onnx_call(name, folder, threads) for name in names}
            rows[f"onnxruntime, {threads} threads"] = summary(measure(graphs, arguments.rounds))
        memory = {
            f"{kind}, {name}": in_own_process(kind, name, folder)
            for kind, names in (("eager", ("headway", "peer")), ("onnxruntime", ("headway network", "peer network")))
            for name in names
        }
    about = {
        "machine": platform.machine(), "torch": torch.__version__, "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__, "rounds": arguments.rounds,
    }  # fmt: skip
    arguments.out.mkdir(exist_ok=True)
    result = {"side": SIDE, "about": about, "ms": rows, "peak_mb": memory}
    (arguments.out / "lite.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "lite.md").write_text(table(result))
    print(table(result))


def table(result: dict) -> str:
    lines = [f"# PAFNet-Lite and ssdlite320_mobilenet_v3_large, {SIDE}x{SIDE}, batch 1", "", f"{result['about']}", ""]
    lines += ["| run | call | median, ms | times headway's |", "|---|---|---|---|"]
    for run, calls in result["ms"].items():
        lines += [f"| {run} | {name} | {row['ms']:.1f} | {row.get('ratio', '')} |" for name, row in calls.items()]
    lines += ["", "| process | peak memory, MB |", "|---|---|"]
    lines += [f"| {name} | {megabytes:.0f} |" for name, megabytes in result["peak_mb"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
