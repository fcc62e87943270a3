"""Multi-scale deformable attention on the CPU: ours beside the one of transformers' Deformable DETR, with its weights.

The encoder's (every cell of four maps of an 800x1088 image asks) and the decoder's (300 queries), 256 channels, 8
heads, 4 points, random weights. "as it comes": fp32; "at its best": under bf16 autocast, for both. Forward without
gradients, and forward and backward. The results are compared first. Rounds are interleaved in one process; times are
medians, ratios the medians of the rounds' own. Writes results/deform_attention.json and .md.

    python benchmarks/deform_attention.py
    python benchmarks/deform_attention.py --threads 1 --size 400 544
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from inference import cpu_name
from torch import Tensor, nn
from train_step import measure
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention

from headway.allocator import keep_memory
from headway.layers.deform_attention import DeformableAttention

RESULTS = Path(__file__).parent / "results"
CHANNELS, HEADS, POINTS, STRIDES = 256, 8, 4, (8, 16, 32, 64)
NAMES = {"value": "value_proj", "output": "output_proj", "scores": "attention_weights"}  # ours: theirs


def pair() -> tuple[DeformableAttention, nn.Module]:
    """Both with the same weights, which are random where both begin at zero."""
    ours = DeformableAttention(CHANNELS, HEADS, len(STRIDES), POINTS)
    for layer in (ours.sampling_offsets, ours.scores):
        nn.init.normal_(layer.weight, std=CHANNELS**-0.5)
    config = transformers.DeformableDetrConfig(d_model=CHANNELS, num_feature_levels=len(STRIDES))
    peer = DeformableDetrMultiscaleDeformableAttention(config, num_heads=HEADS, n_points=POINTS)
    weights = {}
    for name, value in ours.state_dict().items():
        layer, _, kind = name.partition(".")
        weights[f"{NAMES.get(layer, layer)}.{kind}"] = value
    peer.load_state_dict(weights)
    return ours, peer


def calls(size: tuple[int, int], queries: int | None) -> dict[str, Callable[[bool], Tensor]]:
    """Of ours and of the peer: a call on the same input, with gradients for it or not."""
    shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    cells = sum(height * width for height, width in shapes)
    memory = torch.randn(1, cells, CHANNELS)
    query = torch.randn(1, queries or cells, CHANNELS)
    centres = [torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in shape)).flip(1) for shape in shapes]
    places = torch.rand(1, queries, 2) if queries else torch.cat(centres)[None]
    reference = places[:, :, None].expand(-1, -1, len(shapes), -1)
    ours, peer = pair()
    sides = torch.tensor(shapes)
    first = torch.cat([sides.new_zeros(1), sides.prod(1).cumsum(0)[:-1]])

    def of_ours(memory: Tensor, query: Tensor) -> Tensor:
        return ours(query, reference, memory, shapes)

    def of_peer(memory: Tensor, query: Tensor) -> Tensor:
        return peer(
            query, encoder_hidden_states=memory, reference_points=reference, spatial_shapes=sides,
            spatial_shapes_list=shapes, level_start_index=first,
        )[0]  # fmt: skip

    def call(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[bool], Tensor]:
        def one(train: bool) -> Tensor:
            with torch.set_grad_enabled(train):
                result = run(memory.clone().requires_grad_(train), query.clone().requires_grad_(train))
                if train:
                    result.backward(torch.ones_like(result))
            return result.detach()

        return one

    return {"peer": call(of_peer), "headway": call(of_ours)}


def table(results: dict[str, Any]) -> str:
    lines = ["# Deformable attention on the CPU", "", results["about"], ""]
    lines += ["| work | peer, ms | headway, ms | ratio |", "|---" * 4 + "|"]
    for name, times in results["times"].items():
        cells = [f"{1000 * statistics.median(times[column]):.1f}" for column in ("peer", "headway")]
        ratio = statistics.median(a / b for a, b in zip(times["peer"], times["headway"]))
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f}x |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1088))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as the command line does
    torch.manual_seed(0)
    results: dict[str, Any] = {"times": {}}
    for part, queries in (("encoder", None), ("decoder, 300 queries", 300)):
        runs = calls(tuple(options.size), queries)
        torch.testing.assert_close(runs["headway"](False), runs["peer"](False), rtol=1e-4, atol=1e-5)
        for train in (False, True):
            for bf16 in (False, True):
                one = {name: partial(run, train) for name, run in runs.items()}
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    times = measure(one, options.rounds)
                work = "forward + backward" if train else "forward"
                results["times"][f"{part}, {work}, {'bf16' if bf16 else 'fp32'}"] = times
    results["about"] = (
        f"{cpu_name()}, {options.threads} threads, load average {os.getloadavg()[0]:.1f} at the end, torch "
        f"{torch.__version__}, transformers {transformers.__version__}; maps of {options.size[0]}x{options.size[1]}, "
        f"one picture, {options.rounds} interleaved rounds, medians."
    )
    (options.out / "deform_attention.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "deform_attention.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
