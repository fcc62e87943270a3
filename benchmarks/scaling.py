"""What a larger detector costs: EfficientDet-D0 scaled in width, in depth, in resolution and in all three
(EfficientNet, arXiv 1905.11946, sections 3.2 and 3.3), beside the published D1, D2 and so on. Prints a Markdown table.

A step takes the root of 2 in width or in the side of the picture, 2 in depth, or 1.1, 1.2 and 1.15 together (equation 3
there). Each is meant to double the multiply-adds. The time is the median of the network for one picture on the CPU,
without decoding and suppression; the machine must be idle.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --steps 5 --repeats 0     # nothing is timed
"""

import argparse
import math

import torch

from headway import create_model, fuse, profile
from headway.models.scaling import scaled

FACTORS = {  # of width, depth and resolution in one step
    "width": (math.sqrt(2), 1, 1),
    "depth": (1, 2, 1),
    "resolution": (1, 1, math.sqrt(2)),
    "all three": (1.1, 1.2, 1.15),
}
NETWORK = ("normalize", "backbone", "neck", "head")


def row(label: str, factors: tuple[float, ...], repeats: int, name: str = "") -> str:
    """One line of the table. factors: of width, depth and resolution; or the name of a published model."""
    path, arguments = (name, {}) if name else scaled(*factors)
    torch.manual_seed(0)
    with torch.device("cpu" if repeats else "meta"):
        model = create_model(path, **arguments).eval()
    height, width = model.card.input_size
    macs = profile.count_macs(model, (height, width))
    cells = [label, ", ".join(f"{factor:.2f}" for factor in factors), f"{height} x {width}",
             f"{profile.count_parameters(model):,}", f"{macs / 1e9:.2f}"]  # fmt: skip
    if repeats:
        timing = profile.time_detect(fuse(model), torch.rand(1, 3, height, width), repeats=repeats)
        seconds = sum(timing.parts[part] for part in NETWORK)
        cells += [f"{1000 * seconds:.1f}", f"{1e12 * seconds / macs:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, choices=range(1, 8))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    header = ["scaled", "width, depth, resolution", "picture", "parameters", "GMAC"]
    header += ["ms", "ms per GMAC"] if arguments.repeats else []
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    print(row("not", (1, 1, 1), arguments.repeats))
    for line, factors in FACTORS.items():
        for step in range(1, arguments.steps + 1):
            print(row(line, tuple(factor**step for factor in factors), arguments.repeats), flush=True)
    for step in range(1, arguments.steps + 1):
        print(row(f"D{step}", (), arguments.repeats, f"efficientdet_d{step}"), flush=True)


if __name__ == "__main__":
    main()
