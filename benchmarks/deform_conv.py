"""Deformable convolution on the CPU: ours against torchvision.ops.deform_conv2d.

Same inputs, one process, interleaved repeats, medians; peak memory in a process of its own per variant (the growth of
the peak resident size over one call). Writes benchmarks/results/deform_conv.json and .md.

    python benchmarks/deform_conv.py
    python benchmarks/deform_conv.py --sizes 50x68 --repeats 5 --threads 1 --dtypes float32
"""

import argparse
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision

from headway.layers import deform, deform_cpu

RESULTS = Path(__file__).parent / "results"
VARIANTS = {"headway": deform.deform_conv2d, "torchvision": torchvision.ops.deform_conv2d}


def make_inputs(size: tuple[int, int], channels: int, dtype: torch.dtype, layout: str) -> list[torch.Tensor]:
    """Input, offset (normal, sigma 2 px), weight, bias and mask, all wanting gradients; the same for every variant."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(1, channels, *size, generator=generator),
        2 * torch.randn(1, 18, *size, generator=generator),
        torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5,
        torch.randn(channels, generator=generator),
        torch.rand(1, 9, *size, generator=generator),
    ]
    if layout == "channels_last":
        tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def forward(function, inputs) -> torch.Tensor:
    with torch.no_grad():
        return function(*inputs[:4], 1, 1, 1, inputs[4])


def forward_backward(function, inputs) -> list[torch.Tensor]:
    result = function(*inputs[:4], 1, 1, 1, inputs[4])
    return [result.detach(), *torch.autograd.grad(result, inputs, torch.ones_like(result))]


def plain_convolution(x, offset, weight, bias, stride, padding, dilation, mask) -> torch.Tensor:
    return F.conv2d(x, weight, bias, stride, padding, dilation)


def interleaved_medians(calls: dict, repeats: int, budget_s: float) -> dict[str, float]:
    """Median milliseconds per call: every round runs each call once; one round to warm up; stops past the budget."""
    times = {name: [] for name in calls}
    start = time.perf_counter()
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - before))
        if round_ >= 3 and time.perf_counter() - start > budget_s:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def peak_growth(variant: str, size: tuple[int, int], arguments, backward: bool) -> float:
    """MiB by which one call lifts the peak resident size, in a fresh process that warms up on a 4x4 map first."""
    command = [sys.executable, __file__, "--peak", variant, "--sizes", f"{size[0]}x{size[1]}"]
    for name in ("layout", "channels", "threads", "chunk_mib"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--backward"] if backward else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_growth(arguments) -> None:
    run = forward_backward if arguments.backward else forward
    function = VARIANTS[arguments.peak]
    run(function, make_inputs((4, 4), arguments.channels, torch.float32, arguments.layout))
    inputs = make_inputs(arguments.sizes[0], arguments.channels, torch.float32, arguments.layout)
    gc.collect()
    # Importing may have peaked above what is resident now: lift the resident size to the peak before the call.
    ballast = []
    page = resource.getpagesize()
    while (resident := int(Path("/proc/self/statm").read_text().split()[1]) * page) < peak_bytes():
        ballast.append(torch.ones(max(peak_bytes() - resident, 2**20), dtype=torch.uint8))
    before = peak_bytes()
    run(function, inputs)
    print((peak_bytes() - before) / 2**20)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: tuple[int, int], arguments) -> dict:
    """One row: times, ratios, errors and peak memory at one size."""
    inputs = make_inputs(size, arguments.channels, torch.float32, arguments.layout)
    ours, theirs = VARIANTS["headway"], VARIANTS["torchvision"]
    calls = {name: (lambda f=function: forward(f, inputs)) for name, function in VARIANTS.items()}
    calls["plain_convolution"] = lambda: forward(plain_convolution, inputs)
    if "bfloat16" in arguments.dtypes:
        low = make_inputs(size, arguments.channels, torch.bfloat16, arguments.layout)
        calls["headway_bfloat16"] = lambda: forward(ours, low)
    row = {"size": list(size), "forward_ms": interleaved_medians(calls, arguments.repeats, arguments.budget)}
    calls = {name: (lambda f=function: forward_backward(f, inputs)) for name, function in VARIANTS.items()}
    if "bfloat16" in arguments.dtypes:
        calls["headway_bfloat16"] = lambda: forward_backward(ours, low)
    row["forward_backward_ms"] = interleaved_medians(calls, arguments.repeats, arguments.budget)
    for key in ("forward", "forward_backward"):
        times = row[f"{key}_ms"]
        row[f"{key}_ratio"] = times["torchvision"] / times["headway"]
        if "headway_bfloat16" in times:
            row[f"{key}_ratio_bfloat16"] = times["torchvision"] / times["headway_bfloat16"]
    names = ("result", "grad_input", "grad_offset", "grad_weight", "grad_bias", "grad_mask")
    pairs = zip(names, forward_backward(ours, inputs), forward_backward(theirs, inputs), strict=True)
    differences = {name: ((a - b).abs().max().item(), b.abs().max().item()) for name, a, b in pairs}
    row["max_error"] = differences["result"][0]
    row["max_relative_error"] = {name: error / scale for name, (error, scale) in differences.items()}
    row["peak_mib"] = {
        f"{name}_{key}": peak_growth(name, size, arguments, backward)
        for name in VARIANTS
        for key, backward in (("forward", False), ("forward_backward", True))
    }
    return row


def hardware(threads: int) -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def markdown(report: dict) -> str:
    host = report["hardware"]
    lines = [
        f"# Deformable convolution, 3x3, {report['channels']} to {report['channels']} channels, batch 1, float32",
        "",
        f"{host['cpu']} ({host['capability']}), {host['cores']} cores, {host['threads']} threads, "
        f"torch {host['torch']}, torchvision {host['torchvision']}; {report['layout']} inputs, offsets of sigma 2 px.",
        f"Medians in ms of {report['repeats']} interleaved rounds, fewer (3 at least) past {report['budget_s']:g} s;",
        f"peaks in MiB above the process before the call. `{report['command']}`",
        "",
        "| size | forward: ours, torchvision, ratio | plain convolution | forward + backward: ours, torchvision, ratio "
        "| peak forward: ours, torchvision | peak forward + backward | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        one, two, peak = row["forward_ms"], row["forward_backward_ms"], row["peak_mib"]
        lines.append(
            f"| {row['size'][0]}x{row['size'][1]} "
            f"| {one['headway']:.1f}, {one['torchvision']:.1f}, **{row['forward_ratio']:.1f}x** "
            f"| {one['plain_convolution']:.1f} "
            f"| {two['headway']:.1f}, {two['torchvision']:.1f}, **{row['forward_backward_ratio']:.1f}x** "
            f"| {peak['headway_forward']:.0f}, {peak['torchvision_forward']:.0f} "
            f"| {peak['headway_forward_backward']:.0f}, {peak['torchvision_forward_backward']:.0f} "
            f"| {row['max_error']:.1e} |"
        )
    if "forward_ratio_bfloat16" in report["rows"][0]:
        lines += ["", "In bfloat16, against torchvision in float32 (it has no bfloat16 on the CPU):", ""]
        lines += ["| size | forward | forward + backward |", "|---|---|---|"]
        lines += [
            f"| {row['size'][0]}x{row['size'][1]} "
            f"| {row['forward_ms']['headway_bfloat16']:.1f}, {row['forward_ratio_bfloat16']:.1f}x "
            f"| {row['forward_backward_ms']['headway_bfloat16']:.1f}, {row['forward_backward_ratio_bfloat16']:.1f}x |"
            for row in report["rows"]
        ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["25x34", "50x68", "100x136"], help="height x width of the map")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15, help="rounds per measurement")
    parser.add_argument("--budget", type=float, default=60, help="seconds per measurement, at least 3 rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layout", choices=["channels_last", "contiguous"], default="channels_last")
    parser.add_argument("--chunk-mib", type=float, default=deform_cpu.COLUMN_BYTES / 2**20, help="columns per chunk")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=RESULTS / "deform_conv", help="written as .json and .md")
    parser.add_argument("--peak", choices=list(VARIANTS), help="only print the peak growth of one call, in MiB")
    parser.add_argument("--backward", action="store_true", help="with --peak: of forward and backward")
    arguments = parser.parse_args()
    arguments.sizes = [tuple(int(side) for side in size.split("x")) for size in arguments.sizes]
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    deform_cpu.COLUMN_BYTES = int(arguments.chunk_mib * 2**20)
    if arguments.peak:
        print_peak_growth(arguments)
        return
    report = {
        "command": " ".join(["python", "benchmarks/deform_conv.py", *sys.argv[1:]]),
        "hardware": hardware(arguments.threads),
        "channels": arguments.channels,
        "layout": arguments.layout,
        "chunk_mib": arguments.chunk_mib,
        "repeats": arguments.repeats,
        "budget_s": arguments.budget,
        "rows": [measure(size, arguments) for size in arguments.sizes],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    text = markdown(report)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
