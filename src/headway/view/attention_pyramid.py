"""How the blocks of a Dynamic Head change a pyramid: the energy of the maps before and after each block and each
attention.

The energy of a cell is the root mean square of its channels. `focus` in the numbers is the mean energy on detected
objects over that elsewhere.

    B images, C channels, H x W of one level
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..detector import Detector
from ..errors import HeadwayError
from ..necks.dyhead import DyHead
from .scene import Point, Scene, Sheet, Watcher, stride_of

Finish = Callable[[Scene, Sequence[Point], int | None], list[Sheet]]
STEPS = {"released": ("spatial", "scale", "task"), "paper": ("scale", "spatial", "task")}


def watch_pyramids(model: Detector, watcher: Watcher) -> list[Finish]:
    """Hook every Dynamic Head. Returns functions that make their sheets after the run."""
    found: list[Finish] = []
    for module in model.modules():
        if isinstance(module, DyHead):
            found.append(_Tower(module, watcher, f"-{len(found) + 1}" if found else "").sheets)
    return found


class _Tower:
    """The energies of one tower. before: of the tower's input maps; after: of the output maps of each block; steps: of
    the output maps of each attention, by block."""

    def __init__(self, neck: DyHead, watcher: Watcher, suffix: str) -> None:
        self.neck, self.suffix = neck, suffix
        self.before: list[Tensor] = []
        self.after: list[list[Tensor]] = []
        self.steps: list[dict[str, list[Tensor]]] = [{} for _ in neck.blocks]
        watcher.on(neck, self._enter)
        for block, steps in zip(neck.blocks, self.steps):
            watcher.on(block, lambda _, output: self.after.append([_energy(x) for x in output]))
            for name in STEPS[neck.form]:
                watcher.on(block.get_submodule(name), _note_step(steps.setdefault(name, []), neck.form, name))

    def _enter(self, inputs: tuple[Any, ...], _: Any) -> None:
        self.before = [_energy(x) for x in inputs[0]]

    def sheets(self, scene: Scene, pixels: Sequence[Point], stride: int | None) -> list[Sheet]:
        """stride: of the level that `attentions` shows; None: the level that fits the best detection."""
        strides = [stride_of(scene.input_size, tuple(x.shape)) for x in self.before]  # type: ignore[arg-type]
        if stride is not None and stride not in strides:
            raise HeadwayError(f"there is no level of stride {stride}; there are {', '.join(map(str, strides))}")
        level = strides.index(stride) if stride is not None else _level_of_best(scene, strides)
        return [self._blocks(scene, strides), self._attentions(scene, strides, level)]

    def _blocks(self, scene: Scene, strides: Sequence[int]) -> Sheet:
        columns = ("before", *(f"block {i + 1}" for i in range(len(self.after))))
        rows = [
            (f"stride {stride}", {"stride": stride}, [maps[level] for maps in (self.before, *self.after)])
            for level, stride in enumerate(strides)
        ]
        caption = "Energy of the maps before and after the blocks of Dynamic Head, each map on its own scale."
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
