"""The gates that Dynamic Head's scale attention has learned, level by level (arXiv 2106.08322, figure 4: the ratio of
the gate of the higher resolution to that of the lower one).

In the released form every level has a gate for itself and for each of its neighbours; its ratio is that of the finest
of them to the coarsest. In the paper's form every level has one gate, and a level's ratio is the finer neighbour's to
the coarser one's (its own at the ends).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.loader import make_loader
from ..detector import Detector
from ..errors import HeadwayError
from ..evaluate.run import Progress, evaluating
from ..necks.dyhead import DyHead, ScaleAttention
from ..necks.dyhead_paper import PaperScale
from .scene import Watcher

KINDS = ("finer", "own", "coarser")
BINS = 40


class Gates(NamedTuple):
    """Of one level in one block, counted from 0. values: by kind [pictures]; a level at an end has two kinds."""

    block: int
    level: int
    values: dict[str, Tensor]

    def ratio(self) -> Tensor:
        """[pictures]: the gate of the finest kind over that of the coarsest; infinite where the latter is 0."""
        kinds = [kind for kind in KINDS if kind in self.values]
        return self.values[kinds[0]] / self.values[kinds[-1]]


@contextmanager
def watched_gates(model: Detector) -> Iterator[list[Gates]]:
    """Collect the gates of every block, picture by picture, while the model runs; the list is filled at the end."""
    calls: dict[tuple[int, int], dict[str, list[Tensor]]] = {}
    found: list[Gates] = []
    with Watcher() as watcher:
        for number, block in enumerate(blocks_with_gates(model)):
            _watch(number, block, watcher, calls)
        yield found
    found += [Gates(*key, {kind: torch.cat(v) for kind, v in parts.items()}) for key, parts in sorted(calls.items())]


def blocks_with_gates(model: Detector) -> list[nn.Module]:
    """The blocks of all Dynamic Heads whose scale attention was not taken out, in their order."""
    heads = [module for module in model.modules() if isinstance(module, DyHead)]
    return [b for head in heads for b in head.blocks if isinstance(b.scale, (ScaleAttention, PaperScale))]


def _watch(number: int, block: Any, watcher: Watcher, calls: dict[tuple[int, int], dict[str, list[Tensor]]]) -> None:
    levels: list[list[Tensor]] = []  # the gates of one pass through the block, in the order of its maps

    def gates_of(inputs: tuple[Any, ...], _: Any) -> None:
        if isinstance(block.scale, ScaleAttention):
            levels.append([block.scale.gates(x).flatten().float().cpu() for x in inputs[0]])
        else:
            gates = block.scale.gates(inputs[0]).float().cpu()
            levels.extend([gate] for gate in gates.T)

    def end(*_: Any) -> None:
        for level, gates in enumerate(levels):
            if isinstance(block.scale, ScaleAttention):  # the level itself, the finer one, the coarser one
                kinds = ["own", *["finer"] * (level > 0), *["coarser"] * (level + 1 < len(levels))]
                by_kind = dict(zip(kinds, gates))
            else:
                neighbours = {"finer": level - 1, "own": level, "coarser": level + 1}
                by_kind = {kind: levels[i][0] for kind, i in neighbours.items() if 0 <= i < len(levels)}
            for kind, gate in by_kind.items():
                calls.setdefault((number, level), {}).setdefault(kind, []).append(gate)
        levels.clear()

    watcher.on(block.scale, gates_of)
    watcher.on(block, end)


def gates_over(model: Detector, data: DetectionData, progress: Progress | None = None) -> list[Gates]:
    """The gates on every picture of a data set. Raises: HeadwayError for a model without them."""
    check_gates(model)
    done = 0
    with watched_gates(model) as found, evaluating(model, None, "fp32") as device, torch.no_grad():
        for batch in make_loader(data, model.card, batch_size=4, train=False):
            model(to_model_input(batch, device), batch.sizes.to(device))
            done += len(batch.metas)
            if progress is not None:
                progress(done, len(data))
    return found


def spread(data: DetectionData, limit: int | None) -> DetectionData:
    """At most `limit` pictures, evenly over the split."""
    count = min(limit or len(data), len(data))
    return data.subset([i * len(data) // count for i in range(count)], data.name)


def check_gates(model: Detector) -> None:
    """Raises: HeadwayError for a model without scale gates."""
    if not blocks_with_gates(model):
        raise HeadwayError(
            f"{model.card.model or 'this model'} has no scale gates: they belong to a Dynamic Head with its scale "
            "attention (`headway train atss_r18_fpn_dyhead`)"
        )


def gates_to_dict(found: Sequence[Gates]) -> dict[str, Any]:
    """For JSON: how many pictures; of every block and level the mean and deviation of its gates and of its ratio; of
    every level the histogram of the ratio over pictures and blocks. Both count from 1, as in the pictures."""
    rows = [
        {"block": gates.block + 1, "level": gates.level + 1, "ratio": _moments(gates.ratio())}
        | {kind: _moments(gates.values[kind]) for kind in KINDS if kind in gates.values}
        for gates in found
    ]
    edges = ratio_edges(found)
    levels = [
        {"level": level + 1, "ratio": _moments(ratios), "counts": torch.histogram(ratios, edges).hist.int().tolist()}
        for level, ratios in ratios_by_level(found).items()
    ]
    pictures = len(found[0].ratio()) if found else 0
    return {"pictures": pictures, "blocks": rows, "levels": levels, "edges": [round(e, 5) for e in edges.tolist()]}


def ratios_by_level(found: Sequence[Gates]) -> dict[int, Tensor]:
    """Level -> the finite ratios of all blocks and pictures."""
    ordered = sorted(found, key=lambda gates: (gates.level, gates.block))
    joined = {
        level: torch.cat([gates.ratio() for gates in same]) for level, same in groupby(ordered, key=lambda g: g.level)
    }
    return {level: ratios[ratios.isfinite()] for level, ratios in joined.items()}


def ratio_edges(found: Sequence[Gates]) -> Tensor:
    """[BINS + 1]: the bins of the histograms, the same for all levels, with 1 in their middle."""
    ratios = torch.cat(list(ratios_by_level(found).values()))
    reach = max(float((ratios - 1).abs().max()) if len(ratios) else 0.0, 0.01) * 1.001
    return torch.linspace(1 - reach, 1 + reach, BINS + 1)


def _moments(values: Tensor) -> dict[str, float | None]:
    values = values[values.isfinite()]
    if not len(values):
        return {"mean": None, "std": None}
    return {"mean": values.mean().item(), "std": values.std(correction=0).item()}
