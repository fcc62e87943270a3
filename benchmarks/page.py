"""All ratios of the speed benchmarks on one page: the part of results/README.md between two marks.

    python benchmarks/page.py                       # from benchmarks/results/*.json
    python benchmarks/page.py --folder some/folder  # as benchmarks/all.sh with OUT=some/folder

Nothing is measured here. A benchmark whose JSON is missing, or is from before its fair columns, has no rows.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
COMES, BEST, OURS, OURS_BF16 = "peer as it comes", "peer at its best", "headway fp32", "headway bf16"
HEAD = """
## Speed: all ratios

How many times as fast headway is as the peer; below 1.00x it is slower. **fair, fp32**: our fp32 beside the peer as it
comes (fp32, eager, NCHW). **fair, best**: our bf16 beside the peer at its best (bf16 autocast, channels-last). The last
column mixes both: our bf16 beside the peer as it comes. In `deploy` the peer in torch is channels-last in fp32, too. An
empty cell was not measured, or there is no such peer.
`sh benchmarks/all.sh` measures it again, but for some models of deploy; `python benchmarks/page.py` writes this part.

| what | case | fair, fp32 | fair, best | mixed |
|---|---|---|---|---|"""


class Row(NamedTuple):
    """Ratios of one case; None where there is none."""

    what: str
    case: str
    fp32: float | None = None
    best: float | None = None
    mixed: float | None = None


def of_rounds(times: dict[str, list[float]], peer: str, ours: str) -> float | None:
    """The median of the rounds' own ratios."""
    if peer not in times or ours not in times:
        return None
    return statistics.median(a / b for a, b in zip(times[peer], times[ours]))


def inference(result: Any) -> Iterator[Row]:
    for name, row in result["models"].items():
        s = row["seconds"]
        if COMES in s:
            ratios = (s[COMES] / s[OURS], s[BEST] / s[OURS_BF16], s[COMES] / s[OURS_BF16])
            yield Row("[inference](inference.md)", name, *ratios)


def three(times: dict[str, list[float]]) -> tuple[float | None, ...]:
    return tuple(of_rounds(times, *pair) for pair in ((COMES, OURS), (BEST, OURS_BF16), (COMES, OURS_BF16)))


def train_step(result: Any) -> Iterator[Row]:
    for name, row in result["steps"].items():
        if COMES in row["seconds"]:
            yield Row("[training step](train_step.md)", name, *three(row["seconds"]))
        if COMES in row.get("peak_mib", {}):
            peak = row["peak_mib"]
            ratios = (peak[COMES] / peak[OURS], peak[BEST] / peak[OURS_BF16], peak[COMES] / peak[OURS_BF16])
            yield Row("[peak memory of it](train_step.md), peer's over ours", name, *ratios)


def whole_runs(result: Any) -> Iterator[Row]:
    for name, row in result["runs"].items():
        yield Row("[whole run](whole_runs.md)", name, *three(row["seconds"]))


def lite(result: Any) -> Iterator[Row]:
    for run, calls in result["ms"].items():
        for name, row in calls.items():
            if "ratio" in row:
                yield Row("[PAFNet-Lite beside ssdlite](lite.md)", f"{run}: {name}", row["ratio"])


def deploy(result: Any) -> Iterator[Row]:
    """Each engine beside the peer on the same engine, and the fastest of ours beside the fastest of the peer's."""
    for name, row in result["models"].items():
        times = row["ms"]
        peers = [form for form in times if form.startswith("peer")]
        if not peers:
            continue
        torch = [of_rounds(times, f"peer torch {form}", f"torch {form}") for form in ("fp32", "bf16")]
        mixed = of_rounds(times, "peer torch fp32", "torch bf16")
        yield Row("[deploy](deploy.md), torch", name, *torch, mixed)
        same = of_rounds(times, "peer onnxruntime fp32", "onnxruntime fp32")
        ours, theirs = (
            min(forms, key=lambda form: statistics.median(times[form]))
            for forms in ([form for form in times if form not in peers], peers)
        )
        fastest = f"{name}; best: {ours} beside {theirs.removeprefix('peer ')}"
        yield Row("[deploy](deploy.md), onnxruntime", fastest, same, of_rounds(times, theirs, ours))


def decode(result: Any) -> Iterator[Row]:
    for row in result["decoding"]:
        case = f"{row['pictures']} to {row['input_size'][0]}/{row['input_size'][1]}"
        yield Row("[decoding and scaling](decode.md) beside torchvision", case, row["headway"] / row["torchvision"])


def deform_conv(result: Any) -> Iterator[Row]:
    for row in result["rows"]:
        for kind in ("forward", "forward_backward"):
            case = f"{row['size'][0]}x{row['size'][1]}, {kind.replace('_', ' + ')}"
            ratios = (row[f"{kind}_ratio"], None, row.get(f"{kind}_ratio_bfloat16"))
            yield Row("[deformable convolution](deform_conv.md)", case, *ratios)


def roi_align(result: Any) -> Iterator[Row]:
    for name, row in result["cases"].items():
        for kind in ("forward", "forward_backward"):
            yield Row("[RoIAlign](roi_align.md)", f"{name}, {kind.replace('_', ' + ')}", row[f"{kind}_ratio"])


def by_precision(what: str, peer: str, ours: str) -> Callable[[Any], Iterator[Row]]:
    """Of times by "work, fp32" and "work, bf16"."""

    def rows(result: Any) -> Iterator[Row]:
        times = result["times"]
        for name in times:
            work, _, precision = name.rpartition(", ")
            if precision == "fp32":
                yield Row(what, work, *(of_rounds(times[f"{work}, {kind}"], peer, ours) for kind in ("fp32", "bf16")))

    return rows


def allocator(result: Any) -> Iterator[Row]:
    for name, row in result["cases"].items():
        yield Row("[glibc's memory kept](allocator.md), beside as it is", name, row["ratio"]["ms"])


PARTS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "inference": inference, "train_step": train_step, "whole_runs": whole_runs, "lite": lite, "deploy": deploy,
    "decode": decode, "deform_conv": deform_conv, "roi_align": roi_align, "allocator": allocator,
    "deform_attention": by_precision(
        "[deformable attention](deform_attention.md) beside transformers, both in fp32 or bf16", "peer", "headway"
    ),
    "dyhead_plain": by_precision(
        "[Dynamic Head](dyhead_plain.md) beside the same tower with plain convolutions", "without sampling",
        "Dynamic Head",
    ),
}  # fmt: skip


def page(folder: Path) -> str:
    lines = [HEAD]
    for name, rows in PARTS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            for row in rows(json.loads(file.read_text())):
                cells = ["" if value is None else f"{value:.2f}x" for value in row[2:]]
                lines.append(f"| {row.what} | {row.case} | {' | '.join(cells)} |")
    startup = folder / "startup.json"
    if startup.is_file():
        result = json.loads(startup.read_text())
        lines += ["", "| [start-up](startup.md) | seconds of the processor |", "|---|---|"]
        lines += [f"| {name} | {row['cpu_s']:.2f} |" for name, row in result["commands"].items()]
        speeds = result["megabytes_per_second"]
        share = speeds["headway.load"] / speeds["safetensors"]
        lines += ["", f"A checkpoint is read at {share:.2f} of the speed of safetensors alone."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    folder = parser.parse_args().folder
    file = folder / "README.md"
    text = file.read_text() if file.is_file() else "# Figures\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(f"{before.rstrip()}\n\n{BEGIN}\n{page(folder)}\n{END}\n{after}".rstrip() + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
