"""RoIAlign on the CPU: ours against torchvision.ops.roi_align, over a pyramid as the two-stage heads use it.

Same inputs, one process, interleaved repeats, medians. Writes benchmarks/results/roi_align.json and .md.

    python benchmarks/roi_align.py
    python benchmarks/roi_align.py --repeats 5 --threads 1
"""

import argparse
import json
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from deform_conv import interleaved_medians
from inference import cpu_name
from torch import Tensor

from headway.layers import roi_pool
from headway.layers.roi_pool import pyramid_roi_align

RESULTS = Path(__file__).parent / "results"
STRIDES = (4, 8, 16, 32)
CASES = {  # images, channels, picture, regions an image
    "inference, 800x1088, 1000 regions of 256 channels": (1, 256, (800, 1088), 1000),
    "training, 8 pictures of 240x320, 128 regions of 128 channels each": (8, 128, (256, 320), 128),
}


def make_inputs(images: int, channels: int, size: tuple[int, int], count: int) -> tuple[list[Tensor], Tensor]:
    """Channels-last maps that want gradients, and boxes of 16 to 400 pixels, evenly in the logarithm."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(images, channels, size[0] // s, size[1] // s, generator=generator)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for s in STRIDES
    ]
    side = 16 * 25 ** torch.rand(images, count, 2, generator=generator)
    low = torch.rand(images, count, 2, generator=generator) * torch.tensor([size[1], size[0]])
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    return maps, torch.cat([low - side / 2, low + side / 2], -1).clamp(min=0).minimum(limit)


def pool(maps: list[Tensor], rois: Tensor, ours: bool, backward: bool) -> Tensor:
    """With torchvision's operator the maps go in as they are, as in torchvision's detectors."""
    with patch.object(roi_pool, "capturing", lambda _: None if ours else "benchmark"):
        if not backward:
            with torch.no_grad():
                return pyramid_roi_align(maps, rois, STRIDES)
        pooled = pyramid_roi_align(maps, rois, STRIDES)
        torch.autograd.grad(pooled, maps, torch.ones_like(pooled))
        return pooled


def measure(case: tuple, repeats: int) -> dict:
    maps, rois = make_inputs(*case)
    row: dict = {"difference": float((pool(maps, rois, True, False) - pool(maps, rois, False, False)).abs().max())}
    for name, backward in (("forward", False), ("forward_backward", True)):
        calls = {
            who: (lambda ours=ours, backward=backward: pool(maps, rois, ours, backward))
            for who, ours in (("headway", True), ("torchvision", False))
        }
        times = interleaved_medians(calls, repeats, 60)
        row |= {f"{name}_ms": times, f"{name}_ratio": times["torchvision"] / times["headway"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hardware = {"cpu": cpu_name(), "threads": arguments.threads, "torch": torch.__version__,
                "torchvision": torchvision.__version__}  # fmt: skip
    rows = {name: measure(case, arguments.repeats) for name, case in CASES.items()}
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "roi_align.json").write_text(json.dumps({"hardware": hardware, "cases": rows}, indent=1) + "\n")
    header = "| | forward, ms | torchvision | ratio | with backward, ms | torchvision | ratio |\n" + "|---" * 7 + "|"
    lines = ["# RoIAlign, fp32", "", str(hardware), "", header]
    for name, row in rows.items():
        cells = [name]
        for key in ("forward", "forward_backward"):
            times = row[f"{key}_ms"]
            cells += [f"{times['headway']:.1f}", f"{times['torchvision']:.1f}", f"{row[f'{key}_ratio']:.1f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    (arguments.out / "roi_align.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
