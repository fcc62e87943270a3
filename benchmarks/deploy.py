"""A model in each form that it can leave as, beside peers' own exports, in one run on the CPU.

    python benchmarks/deploy.py                          # all models, two threads
    python benchmarks/deploy.py --only pafnet_lite --threads 1 --rounds 20
    python benchmarks/deploy.py --table                  # only writes results/deploy.md from results/deploy.json

Ours: torch in fp32 and bf16 (`headway.fuse(model).detect`, channels-last), onnxruntime in fp32 and int8, OpenVINO in
fp32, bf16 and int8; each from the scaled picture to final boxes, through `headway.runtime`. Peers: torchvision's
detectors of the same backbone, and effdet's, as torch runs them (channels-last, fp32 and bf16) and as
`torch.onnx.export` writes them, on onnxruntime; a peer that its
exporter refuses has no row. All weights are random, so that accuracy says nothing here; thresholds are 0.05. Rounds are
interleaved; times are medians, ratios the medians of the rounds' own ratios. int8 is calibrated on 8 shipped pictures.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headway
from headway.data.formats.any_format import open_splits
from headway.demo import DATA
from headway.export.openvino import from_onnx
from headway.export.quantize import quantize
from headway.runtime import Runtime

RESULTS = Path(__file__).parent / "results"
LARGE, SMALL = (800, 1088), (320, 320)
LITE: dict[str, Any] = {"fpn.channels": 64, "dyhead.blocks": 1}
# name: (model, arguments, size, peer)
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, int], str]] = {
    "retinanet_r50_fpn": ("retinanet_r50_fpn", {}, LARGE, "torchvision:retinanet_resnet50_fpn"),
    "fcos_r50_fpn": ("fcos_r50_fpn", {}, LARGE, "torchvision:fcos_resnet50_fpn"),
    "faster_rcnn_r50_fpn": ("faster_rcnn_r50_fpn", {}, LARGE, "torchvision:fasterrcnn_resnet50_fpn"),
    "atss_r50_fpn_dyhead": ("atss_r50_fpn_dyhead", {}, LARGE, ""),
    "pafnet_lite": ("pafnet_lite", {}, SMALL, "torchvision:ssdlite320_mobilenet_v3_large"),
    "ttfnet_r18": ("ttfnet_r18", {}, SMALL, ""),
    "yolor_s": ("yolor_s", {}, SMALL, ""),
    "efficientdet_lite0": ("efficientdet_lite0", {}, SMALL, "effdet:tf_efficientdet_lite0"),
    "lite0/fpn/dyhead/atss": ("tf_efficientnet_lite0/fpn/dyhead/atss", LITE, (288, 384), ""),
}
HEADER = "| form | ms | times as fast as our torch in fp32 | in bf16 | as the peer's best |"
Calls = dict[str, Callable[[], object]]


def our_calls(name: str, folder: Path, threads: int) -> Calls:
    """Every form of one model."""
    path, arguments, size, _ = MODELS[name]
    torch.manual_seed(0)
    model = headway.create_model(path, num_classes=80, **arguments).eval()
    model.card.score_threshold = 0.05
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
    folded = headway.fuse(model)

    def in_torch(precision: torch.dtype | None) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad(), torch.autocast("cpu", precision) if precision else nullcontext():
                return folded.detect(images)

        return call

    calls = {"torch fp32": in_torch(None), "torch bf16": in_torch(torch.bfloat16)}
    exact, eight = folder / "exact.onnx", folder / "int8.onnx"
    headway.export(model, exact, size=size, batch=1, verify=0)
    quantize(exact, eight, open_splits(DATA)["train"], pictures=8)
    for file in (exact, eight):
        from_onnx(file, file.with_suffix(".xml"))
    for label, file, precision in (
        ("onnxruntime fp32", exact, "fp32"), ("onnxruntime int8", eight, "fp32"),
        ("OpenVINO fp32", exact.with_suffix(".xml"), "fp32"), ("OpenVINO bf16", exact.with_suffix(".xml"), "bf16"),
        ("OpenVINO int8", eight.with_suffix(".xml"), "bf16"),
    ):  # fmt: skip
        runtime = Runtime(file, threads=threads, precision=precision)
        runtime._short, runtime._long = sorted(size)  # no scaling: the network is what is timed
        inputs = [runtime.prepare(pixels)]
        calls[label] = lambda runtime=runtime, inputs=inputs: runtime.run(inputs)
    return calls


def peer_calls(peer: str, size: tuple[int, int], folder: Path, threads: int) -> Calls:
    """The peer in torch, in bf16 where it runs in it, and exported to onnxruntime where its exporter can."""
    source, _, name = peer.partition(":")
    if not name:
        return {}
    torch.manual_seed(0)
    images = torch.rand(1, 3, *size)
    if source == "torchvision":
        import torchvision

        build = getattr(torchvision.models.detection, name)
        sizes = {} if "ssdlite" in name else {"min_size": min(size), "max_size": max(size)}
        score = {"box_score_thresh": 0.05} if "rcnn" in name else {"score_thresh": 0.05}
        model = build(weights=None, weights_backbone=None, **sizes, **score).eval()
        given: Any = [images[0]]
    else:
        import effdet

        model = effdet.create_model(name, bench_task="predict", pretrained=False, pretrained_backbone=False).eval()
        given = images
    model = model.to(memory_format=torch.channels_last)

    def in_torch(precision: torch.dtype | None) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad(), torch.autocast("cpu", precision) if precision else nullcontext():
                return model(given)

        return call

    calls: Calls = {}
    for label, call in (("fp32", in_torch(None)), ("bf16", in_torch(torch.bfloat16))):
        try:
            call()
            calls[f"peer torch {label}"] = call
        except RuntimeError as error:
            print(f"{name} in {label}: {str(error).splitlines()[0]}")
    session = exported_peer(model, given, folder / "peer.onnx", threads)
    if session is not None:
        feed = {session.get_inputs()[0].name: images.numpy() if source == "effdet" else images[0].numpy()}
        calls["peer onnxruntime fp32"] = lambda: session.run(None, feed)
    return calls


def exported_peer(model: torch.nn.Module, given: Any, path: Path, threads: int) -> Any:
    """A session, or None where neither exporter of torch takes the model."""
    import onnxruntime

    for dynamo in (False, True):
        try:
            with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")
                torch.onnx.export(model, (given,), str(path), dynamo=dynamo, opset_version=18)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 4
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            print(f"{path.name}, dynamo={dynamo}: {str(error).splitlines()[0][:150]}")
    return None


def measure(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in every round, interleaved."""
    for call in calls.values():
        call()
        call()
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(rounds):
        for label, call in calls.items():
            start = time.perf_counter()
            call()
            times[label].append(1000 * (time.perf_counter() - start))
    return times


def write_table(results: dict[str, Any], folder: Path) -> None:
    """deploy.md."""
    lines = ["# The same model in every form, and peers\n", f"{results['about']}\n"]
    for name, row in results["models"].items():
        lines += [f"## {name}, {row['size'][0]} x {row['size'][1]}\n", HEADER, "|---|---|---|---|---|"]
        times = row["ms"]
        peers = [label for label in times if label.startswith("peer")]
        best = min(peers, key=lambda label: statistics.median(times[label])) if peers else None
        for label, values in times.items():
            others = ("torch fp32", "torch bf16", best)
            ratios = [f"{statistics.median(b / a for a, b in zip(values, times[other])):.2f}" if other else ""
                      for other in others]  # fmt: skip
            lines.append(f"| {label} | {statistics.median(values):.1f} | {' | '.join(ratios)} |")
        lines.append("")
    (folder / "deploy.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = options.out / "deploy.json"
    results = json.loads(file.read_text()) if file.is_file() else {"models": {}}
    for name in [] if options.table else options.only:
        size = MODELS[name][2]
        with tempfile.TemporaryDirectory() as folder:
            calls = our_calls(name, Path(folder), options.threads)
            calls |= peer_calls(MODELS[name][3], size, Path(folder), options.threads)
            times = measure(calls, options.rounds)
        results["models"][name] = {
            "size": list(size), "ms": {label: [round(ms, 2) for ms in values] for label, values in times.items()}
        }  # fmt: skip
        cpu = next(
            (x.partition(": ")[2] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
        )
        results["about"] = (
            f"{cpu or platform.processor()}, {options.threads} threads, torch {torch.__version__}, medians of "
            f"{options.rounds} interleaved rounds, random weights; `python benchmarks/deploy.py`."
        )
        print(name, {label: round(statistics.median(values), 1) for label, values in times.items()}, flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    write_table(results, options.out)


if __name__ == "__main__":
    main()
