"""How the blocks of Dynamic Head and of `FullHead` change a pyramid: the energy of the maps before and after each block
and each attention, and where one cell of `FullHead` looks on all levels.

The energy of a cell is the root mean square of its channels. `focus` in the numbers is the mean energy on detected
objects over that elsewhere.

    B images, C channels, L levels finest first, H x W of one level, h heads, M groups, N positions of all levels
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..detector import Detector
from ..errors import HeadwayError
from ..necks.dyhead import DyHead
from ..necks.full_head import FullAttention, FullHead, FullWeights, to_maps
from .scene import Point, Scene, Sheet, Watcher, stride_of

Finish = Callable[[Scene, Sequence[Point], int | None], list[Sheet]]
STEPS = {"released": ("spatial", "scale", "task"), "paper": ("scale", "spatial", "task")}


def watch_pyramids(model: Detector, watcher: Watcher) -> list[Finish]:
    """Hook every Dynamic Head and FullHead. Returns functions that make their sheets after the run."""
    found: list[Finish] = []
    for module in model.modules():
        if isinstance(module, (DyHead, FullHead)):
            found.append(_Tower(module, watcher, f"-{len(found) + 1}" if found else "").sheets)
    return found


class _Tower:
    """The energies of one tower. before: of the tower's input maps; after: of the output maps of each block; steps: of
    the output maps of each attention, by block; full: the attentions of `FullHead` with their inputs."""

    def __init__(self, neck: DyHead | FullHead, watcher: Watcher, suffix: str) -> None:
        self.neck, self.suffix = neck, suffix
        self.before: list[Tensor] = []
        self.after: list[list[Tensor]] = []
        self.steps: list[dict[str, list[Tensor]]] = [{} for _ in neck.blocks]
        self.full: list[tuple[FullAttention, Tensor, Any]] = []
        watcher.on(neck, self._enter)
        for block, steps in zip(neck.blocks, self.steps):
            if isinstance(neck, FullHead):
                watcher.on(block, self._note_tokens)
                watcher.on(block.attention, self._attended(block.attention))
            else:
                watcher.on(block, lambda _, output: self.after.append([_energy(x) for x in output]))
                for name in STEPS[neck.form]:
                    watcher.on(block.get_submodule(name), _note_step(steps.setdefault(name, []), neck.form, name))

    def _enter(self, inputs: tuple[Any, ...], _: Any) -> None:
        self.before = [_energy(x) for x in inputs[0]]

    def _note_tokens(self, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.after.append([_energy(x.permute(0, 3, 1, 2)) for x in to_maps(output, inputs[1])])

    def _attended(self, module: FullAttention) -> Any:
        return lambda inputs, _: self.full.append((module, *inputs))

    def sheets(self, scene: Scene, pixels: Sequence[Point], stride: int | None) -> list[Sheet]:
        """stride: of the level that `attentions` and `looks` show; None: the level that fits the best detection."""
        strides = [stride_of(scene.input_size, tuple(x.shape)) for x in self.before]  # type: ignore[arg-type]
        if stride is not None and stride not in strides:
            raise HeadwayError(f"there is no level of stride {stride}; there are {', '.join(map(str, strides))}")
        level = strides.index(stride) if stride is not None else _level_of_best(scene, strides)
        found = [self._blocks(scene, strides)]
        if isinstance(self.neck, FullHead):
            return found + [self._looking(scene, strides, level, pixel, i) for i, pixel in enumerate(pixels)]
        return [*found, self._attentions(scene, strides, level)]

    def _blocks(self, scene: Scene, strides: Sequence[int]) -> Sheet:
        columns = ("before", *(f"block {i + 1}" for i in range(len(self.after))))
        rows = [
            (f"stride {stride}", {"stride": stride}, [maps[level] for maps in (self.before, *self.after)])
            for level, stride in enumerate(strides)
        ]
        name = "Dynamic Head" if isinstance(self.neck, DyHead) else "full attention"
        caption = f"Energy of the maps before and after the blocks of {name}, each map on its own scale."
        return _energies(scene, f"blocks{self.suffix}", caption, columns, rows)

    def _attentions(self, scene: Scene, strides: Sequence[int], level: int) -> Sheet:
        order, rows = STEPS[self.neck.form], []
        for number, (before, steps) in enumerate(zip((self.before, *self.after), self.steps)):
            maps = [before[level], *(steps[name][level] for name in order)]
            rows.append((f"block {number + 1}", {"block": number + 1, "stride": strides[level]}, maps))
        caption = (
            f"Energy of the map of stride {strides[level]} before and after each attention, in the order in which they "
            "act, each map on its own scale."
        )
        return _energies(scene, f"attentions{self.suffix}", caption, ("before", *order), rows)

    def _looking(self, scene: Scene, strides: Sequence[int], level: int, pixel: Point, number: int) -> Sheet:
        rows, numbers = [], []
        for block, (module, tokens, sizes) in enumerate(self.full):
            cell = scene.cell(pixel, sizes[level])
            maps, parts = attention_of(module.weights(tokens[:1], sizes), sizes, level, cell)
            heats = [scene.heat(x.mean(0), text=f"{x.sum((1, 2)).mean():.1%}", mark=pixel) for x in maps]
            label = "\n".join(f"{name} {share:.1%}" for name, share in parts.items() if name != "own channel")
            rows.append((f"block {block + 1}\n{label}", tuple(heats)))
            shares = {str(stride): x.sum((1, 2)).mean().item() for stride, x in zip(strides, maps)}
            number_of = {"block": block + 1, "pixel": list(pixel), "stride": strides[level]}
            numbers.append({**number_of, "levels": shares, **parts})
        caption = (
            f"Where the cell of stride {strides[level]} at {pixel[0]:g},{pixel[1]:g} (+) looks: its attention on every "
            "level, mean of the heads, with the share of the level. Each map has its own scale."
        )
        columns = tuple(f"stride {stride}" for stride in strides)
        return Sheet(f"looks{self.suffix}-{number + 1}", caption, columns, tuple(rows), numbers)


def attention_of(
    weights: FullWeights, sizes: Sequence[tuple[int, int]], level: int, cell: tuple[int, int]
) -> tuple[list[Tensor], dict[str, float]]:
    """One row of A (`FullHead`): the attention of the cell (row, column) of a level.

    Returns: the weight of every position, [h, H, W] for each level; together they sum to 1. And shares, mean of the
    heads: of the near keys on the own, finer and coarser level ("own", "finer", "coarser"), of the groups ("far"), and
    of the own channel in G ("own channel").
    """
    y, x = cell
    heads = (weights.near or weights.far)[0].shape[3]  # type: ignore[index]
    rows = torch.zeros(heads, sum(height * width for height, width in sizes))
    parts: dict[str, float] = {}
    far = None if weights.far is None else weights.far[level][0, y, x].float().cpu()  # [h, M]
    if far is not None and weights.groups is not None:
        rows = torch.einsum("hm,hmn->hn", far, weights.groups[0].float().cpu())
    maps = [part.unflatten(1, size) for part, size in zip(rows.split([a * b for a, b in sizes], 1), sizes)]
    if weights.near is not None:
        near = weights.near[level][0, y, x].float().cpu().unflatten(1, (-1, 3, 3))  # [h, 1 to 3, 3, 3]
        around = [("own", level, (y, x))]
        around += [("finer", level - 1, (2 * y, 2 * x))] if level else []
        around += [("coarser", level + 1, (y // 2, x // 2))] if level + 1 < len(sizes) else []
        for (name, other, (row, column)), nine in zip(around, near.unbind(1)):
            parts[name] = nine.sum((1, 2)).mean().item()
            padded = torch.zeros(heads, sizes[other][0] + 2, sizes[other][1] + 2)
            padded[:, row : row + 3, column : column + 3] = nine
            maps[other] = maps[other] + padded[:, 1:-1, 1:-1]
    if far is not None:
        parts["far"] = far.sum(1).mean().item()
    if weights.channels is not None:
        parts["own channel"] = weights.channels[0].diagonal(dim1=1, dim2=2).mean().item()
    return maps, parts


def _note_step(into: list[Tensor], form: str, name: str) -> Any:
    """The paper's form calls each attention once with all levels. The released form calls it once per level; there the
    spatial one returns a list of maps, whose mean counts."""

    def note(_: Any, output: Any) -> None:
        if form == "paper":
            into.extend(_energy(x) for x in output)
        else:
            into.append(_energy(sum(output[1:], start=output[0]) / len(output) if name == "spatial" else output))

    return note


def _energy(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [H, W] of the first image."""
    return x[0].detach().float().square().mean(0).sqrt().cpu()


def _energies(
    scene: Scene,
    name: str,
    caption: str,
    columns: tuple[str, ...],
    rows: list[tuple[str, dict[str, Any], list[Tensor]]],
) -> Sheet:
    """A sheet of energies. rows: label, what the numbers of the row have in common, maps by column."""
    drawn, numbers = [], []
    for label, common, maps in rows:
        heats = []
        for column, heat in zip(columns, map(scene.heat, maps)):
            focus = scene.focus(heat)
            numbers.append({**common, "after": column, "energy": heat.values.mean().item(), "focus": focus})
            heats.append(heat if focus is None else replace(heat, text=f"focus {focus:.2f}"))
        drawn.append((label, tuple(heats)))
    if len(scene.confident()):
        caption += " Focus: mean energy on detected objects over that elsewhere."
    return Sheet(name, caption, columns, tuple(drawn), numbers)


def _level_of_best(scene: Scene, strides: Sequence[int]) -> int:
    """The level whose anchors, 8 strides wide in ATSS, are nearest to the best detection; without one the second."""
    found = scene.confident()
    if not len(found):
        return min(1, len(strides) - 1)
    x1, y1, x2, y2 = found.boxes[0].tolist()
    side = max(((x2 - x1) * scene.scale[0] * (y2 - y1) * scene.scale[1]) ** 0.5, 1.0)
    return min(range(len(strides)), key=lambda i: abs(torch.tensor(side / 8 / strides[i]).log().item()))
