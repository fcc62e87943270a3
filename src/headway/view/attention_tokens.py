"""Where the tokens of transformers look: a pixel's token in every layer of DETR's encoder, of Swin and of ViT, and the
queries of DETR's objects in its decoder (arXiv 2005.12872, figures 3 and 6). Deformable DETR counts as DETR.

    B images, H x W cells of a map, K = H W, Q queries, h heads, n tokens of a window
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbones.swin import SwinBlock
from ..backbones.vit import ViTBlock
from ..boxes import from_cxcywh
from ..detector import Detector
from ..heads.deformable_detr import DeformableDetrHead
from ..heads.detr import DetrHead
from ..layers.windows import Window
from .attention_pyramid import Finish
from .scene import CONFIDENT, Heat, Point, Scene, Sheet, Watcher

MOST_OBJECTS = 5  # whose queries are drawn
_MOST_HEADS = 24
_COLUMNS = 4  # of a sheet, up to three rows; more layers make it wider


class SelfAttention(NamedTuple):
    """Self-attention over a map.

    name: of the module in the model. text: what a token sees ("7 x 7 shifted", "whole map"). size: (H, W) of the map.
    patches: where its cells lie, see `Scene.heat`. row: (y, x) of a cell -> the attention of its token, [h, H, W].
    """

    name: str
    text: str
    size: Window
    patches: bool
    row: Callable[[int, int], Tensor]


def watch_tokens(model: Detector, watcher: Watcher) -> list[Finish]:
    """Hook the transformers of backbone and head. Returns functions that make the sheets after the run."""
    found: list[Finish] = []
    layers: list[SelfAttention] = []
    for name, module in model.backbone.named_modules():
        if isinstance(module, (SwinBlock, ViTBlock)):
            _watch_block(f"backbone.{name}", module, watcher, layers)
            found = [partial(_sheets, "backbone", layers)]
    if isinstance(model.head, (DetrHead, DeformableDetrHead)):
        found.append(_Detr(model.head, watcher).sheets)
    return found


# ------------------------------------------------------------------------------------------------ backbones' blocks
def _watch_block(name: str, block: SwinBlock | ViTBlock, watcher: Watcher, layers: list[SelfAttention]) -> None:
    """Two hooks: the first keeps the inputs of the attention; the other, on the block, runs later and reads the size of
    the map."""
    attention_inputs: list[tuple[Any, ...]] = []

    def end(inputs: tuple[Any, ...], _: Any) -> None:
        height, width = (int(side) for side in inputs[0].shape[1:3])
        tokens, mask = (*attention_inputs.pop(), None)[:2]
        window, shift = (block.window, block.window) if isinstance(block, ViTBlock) else block.window, (0, 0)
        if isinstance(block, SwinBlock):
            shift = block.shifts(*(-(-side // length) * length for side, length in zip((height, width), window)))
        if not window[0]:
            window = (height, width)
        row = partial(_row_in_window, (height, width), window, shift, partial(_weights, block.attn, tokens, mask))
        kind = "whole map" if window == (height, width) else f"{window[0]} x {window[1]}"
        kind += " shifted" if any(shift) else ""
        layers.append(SelfAttention(name, kind, (height, width), True, row))

    watcher.on(block.attn, lambda inputs, _: attention_inputs.append(inputs))
    watcher.on(block, end)


def _weights(attention: nn.Module, tokens: Tensor, mask: Tensor | None, window: int) -> Tensor:
    """The attention weights [h, n, n] of one window."""
    one = tokens[window : window + 1]
    if hasattr(attention, "weights"):
        return attention.weights(one)[0]
    # timm's attention: without its fused kernel the weights pass through a softmax module.
    weights: list[Tensor] = []
    fused, attention.fused_attn = attention.fused_attn, False
    with Watcher() as watcher:
        watcher.on(attention.softmax, lambda _, output: weights.append(output))
        watcher.callback(setattr, attention, "fused_attn", fused)
        attention(one, None if mask is None else mask[window : window + 1])
    return weights[0][0]


def _row_in_window(
    size: Window, window: Window, shift: Window, weights: Callable[[int], Tensor], y: int, x: int
) -> Tensor:
    """[h, H, W]: the attention of cell (y, x) of a map of `size`, which is padded to whole windows and shifted
    cyclically."""
    full = [-(-side // length) * length for side, length in zip(size, window)]
    row, column = (y - shift[0]) % full[0], (x - shift[1]) % full[1]
    number = row // window[0] * (full[1] // window[1]) + column // window[1]
    in_window = weights(number)[:, row % window[0] * window[1] + column % window[1]].detach().float().cpu()
    top, left = row // window[0] * window[0], column // window[1] * window[1]
    padded = torch.zeros(len(in_window), *full)
    padded[:, top : top + window[0], left : left + window[1]] = in_window.unflatten(1, window)
    return padded.roll(shift, (1, 2))[:, : size[0], : size[1]]


# -------------------------------------------------------------------------------------------------------------- DETR
class _Detr:
    """The inputs of the attentions of a DETR or Deformable DETR. sizes: of the maps, finest first."""

    def __init__(self, head: DetrHead | DeformableDetrHead, watcher: Watcher) -> None:
        self.head = head
        self.sizes: list[Window] = []
        self.encoder: list[tuple[Any, ...]] = []
        self.decoder: list[tuple[Any, ...]] = []
        watcher.on(head, self._note_sizes)
        for layer in head.encoder:
            watcher.on(layer.attention, lambda inputs, _: self.encoder.append(inputs))
        for layer in head.decoder:
            watcher.on(layer.cross_attention, lambda inputs, _: self.decoder.append(inputs))

    def _note_sizes(self, inputs: tuple[Any, ...], _: Any) -> None:
        levels = 1 if isinstance(self.head, DetrHead) else len(self.head.level)
        self.sizes = [(int(x.shape[2]), int(x.shape[3])) for x in inputs[0][-levels:]]

    def sheets(self, scene: Scene, pixels: Sequence[Point], stride: int | None) -> list[Sheet]:
        text = "whole map" if isinstance(self.head, DetrHead) else f"points of {len(self.sizes)} maps"
        layers = [
            SelfAttention(f"head.encoder.{i}.attention", text, self.sizes[0], False, partial(self._row, i))
            for i in range(len(self.encoder))
        ]
        found = _sheets("encoder", layers, scene, pixels, stride) if layers else []
        return [*found, self._objects(scene)]

    def _row(self, layer: int, y: int, x: int) -> Tensor:
        cell = y * self.sizes[0][1] + x
        return self._weights(self.head.encoder[layer].attention, self.encoder[layer], [cell])[:, 0]

    def _weights(self, attention: Any, inputs: tuple[Any, ...], rows: list[int]) -> Tensor:
        """[h, n, H, W]: the attention of these rows of the queries, by cell. Deformable attention reads all maps; the
        share of a cell of a coarser map is spread evenly over the cells of the finest."""
        if isinstance(self.head, DetrHead):
            query, key, _, mask = inputs
            weights = attention.weights(query[:, rows], key, mask)[0]
        else:
            query, reference, memory, shapes, mask = inputs
            weights = attention.weights(query[:, rows], reference[:, rows], memory, shapes, mask)[0]
        parts = weights.detach().float().cpu().split([height * width for height, width in self.sizes], 2)
        maps = [part.unflatten(2, size) for part, size in zip(parts, self.sizes)]
        spread = [nn.functional.interpolate(x, self.sizes[0], mode="nearest-exact") for x in maps]
        shares = [
            x.sum((2, 3), keepdim=True) / y.sum((2, 3), keepdim=True).clamp(min=1e-12) for x, y in zip(maps, spread)
        ]
        return sum((x * share for x, share in zip(spread[1:], shares[1:])), start=spread[0])

    def _objects(self, scene: Scene) -> Sheet:
        """The confident queries, or else the best one, in every layer of the decoder."""
        raw = scene.raw
        last = raw.cls[-1, 0].float().cpu()
        scores, labels = (last.softmax(1)[:, :-1] if isinstance(self.head, DetrHead) else last.sigmoid()).max(1)
        order = scores.argsort(descending=True)
        best = order[: max(1, min(MOST_OBJECTS, int((scores >= CONFIDENT).sum())))].tolist()
        valid = raw.sizes[0].flip(0).repeat(2).cpu()
        boxes = from_cxcywh(raw.box[-1, 0].float().cpu()) * valid / torch.tensor(scene.scale).repeat(2)
        rows: list[list[Heat]] = [[] for _ in best]
        numbers = []
        for i, inputs in enumerate(self.decoder):
            weights = self._weights(self.head.decoder[i].cross_attention, inputs, best).mean(0)
            for place, number in enumerate(best):
                x1, y1, x2, y2 = boxes[number].tolist()
                heat = scene.heat(weights[place], box=(x1, y1, x2, y2))
                spread = numbers_of(scene, heat, heat.box)
                rows[place].append(replace(heat, text=f"{spread['in_box']:.0%} in the box"))
                layer = f"head.decoder.{i}.cross_attention"
                name = scene.detections.name_of(int(labels[number]))
                numbers.append({"query": number, "class": name, "layer": layer, **spread})
        names = [f"{scene.detections.name_of(int(labels[i]))} {scores[i]:.2f}" for i in best]
        caption = (
            "Where the queries of the best objects look in every layer of the decoder, mean of the heads, with the "
            "share of attention in the object's box."
        )
        columns = tuple(f"decoder {i + 1}" for i in range(len(self.decoder)))
        texts = [f"query {number}\n{name}" for number, name in zip(best, names)]
        return Sheet("decoder", caption, columns, tuple((a, tuple(b)) for a, b in zip(texts, rows)), numbers)


# ------------------------------------------------------------------------------------------------------------ sheets
def _sheets(
    kind: str, layers: Sequence[SelfAttention], scene: Scene, pixels: Sequence[Point], stride: int | None
) -> list[Sheet]:
    """Two sheets for each pixel: every layer, mean of the heads; and the heads of the last layer."""
    sheets = []
    for i, pixel in enumerate(pixels):
        box = _box_around(scene, pixel)
        heats, numbers = [], []
        for number, layer in enumerate(layers, start=1):
            heads = layer.row(*scene.cell(pixel, layer.size, patches=layer.patches))
            heat = scene.heat(heads.mean(0), patches=layer.patches, mark=pixel)
            numbers.append({"layer": layer.name, "pixel": list(pixel), **numbers_of(scene, heat, box)})
            heats.append(replace(heat, text=f"{number}: stride {numbers[-1]['stride']}, {layer.text}"))
        where = f"Where the token at {pixel[0]:g},{pixel[1]:g} (+) looks in"
        sheets.append(
            _table(f"{kind}-{i + 1}", f"{where} every layer of the {kind}, mean of the heads.", heats, numbers)
        )
        last, common = layers[-1], {"layer": layers[-1].name, "pixel": list(pixel)}
        heats = [
            scene.heat(values, patches=last.patches, mark=pixel, text=f"head {head}")
            for head, values in enumerate(heads[:_MOST_HEADS], start=1)
        ]
        numbers = [common | {"head": head} | numbers_of(scene, heat, box) for head, heat in enumerate(heats, start=1)]
        caption = f"{where} the last layer of the {kind}, head by head."
        sheets.append(_table(f"{kind}-heads-{i + 1}", caption, heats, numbers))
    return sheets


def _table(name: str, caption: str, heats: Sequence[Heat], numbers: list[dict[str, Any]]) -> Sheet:
    across = max(_COLUMNS if len(heats) > 3 else len(heats), -(-len(heats) // 4))
    rows = [tuple(heats[i : i + across]) for i in range(0, len(heats), across)]
    return Sheet(name, caption, ("",) * across, tuple(("", row) for row in rows), numbers)


def _box_around(scene: Scene, pixel: Point) -> tuple[float, ...] | None:
    """The best confident detection that holds the pixel."""
    for x1, y1, x2, y2 in scene.confident().boxes.tolist():
        if x1 <= pixel[0] < x2 and y1 <= pixel[1] < y2:
            return x1, y1, x2, y2
    return None


def numbers_of(scene: Scene, heat: Heat, box: Sequence[float] | None) -> dict[str, Any]:
    """stride of the map; cells: over how many the attention is spread, the exponential of its entropy; in_box: the
    share of it in the box, by the centres of the cells, None without a box."""
    values = heat.values / heat.values.sum().clamp(min=1e-12)
    stride = round(heat.step[0] * scene.scale[0])
    cells = torch.special.entr(values).sum().exp().item()
    if box is None:
        return {"stride": stride, "cells": cells, "in_box": None}
    inside = heat.inside(torch.tensor([box]))[0]
    return {"stride": stride, "cells": cells, "in_box": values[inside].sum().item()}
