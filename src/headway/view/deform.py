"""Where deformable convolutions look: the points at which a chosen pixel samples a photograph through one or more of
them (the pictures of arXiv 1703.06211, figures 5 and 6, and of arXiv 1811.11168, figure 1).

A layer samples its input for output cell p at q = stride * p - padding + dilation * k + offset_k(p), one point for each
tap k (and offset group), weighted by its mask. These points are cells in the output of the layer before, and each of
them samples as many points again: K, K^2, K^3 points for one, two, three layers.

Between two deformable layers of bottlenecks stand 1x1 convolutions, norms and sums, which move nothing. Of any other
layer in between (the first 3x3 of a basic block) the centre tap is followed. A point lies between four cells; its
offsets and masks are interpolated from theirs, as its features are. A point's weight is the product of its masks, and
of the share of it that lies on each map, since zeros are read outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detector import Detector
from ..errors import HeadwayError, nearest
from ..layers.deform import DeformableConv2d, DeformConv2d
from ..predict import ImageLike
from .scene import Point, Scene, Watcher, run_photograph, stride_of

MOST_LAYERS = 4  # 9^4 = 6561 points; more would say nothing on a picture


@dataclass(frozen=True, slots=True)
class SamplingLayer:
    """One call of a deformable convolution with T sampling points for each output cell.

    offset: [2, T, h, w] y and x in input cells. mask: [T, h, w].
    taps: [2, T] where a plain convolution samples for output cell 0. step: the stride of the convolution, y and x.
    size: (height, width) of the input map. in_stride, out_stride: pixels of the network's input per input, output cell.
    source: the tensor of offsets itself; layers that stand side by side share it.
    chained: the layer predicts its own offsets, so it follows the other layers that do.
    """

    name: str
    offset: Tensor
    mask: Tensor
    taps: Tensor
    step: Tensor
    size: Tensor
    in_stride: int
    out_stride: int
    source: Tensor
    chained: bool

    def sample(self, cells: Tensor, weights: Tensor, plain: bool = False) -> tuple[Tensor, Tensor]:
        """Output cells [2, N] with weights [N] -> the input cells [2, N * T] that they sample, and their weights.

        plain: as a convolution without offsets and masks would.
        """
        height, width = self.mask.shape[1:]
        maps = torch.cat([self.offset.flatten(0, 1), self.mask])
        grid = torch.stack([2 * cells[1] / max(width - 1, 1) - 1, 2 * cells[0] / max(height - 1, 1) - 1], -1)
        found = F.grid_sample(maps[None], grid[None, None], padding_mode="border", align_corners=True)[0, :, 0]
        offset, mask = found.unflatten(0, (3, -1)).split((2, 1))  # [2, T, N], [1, T, N]
        points = (self.step * cells)[:, None] + self.taps[:, :, None]
        if not plain:
            points, weights = points + offset, weights * mask[0]
        outside = torch.maximum(-points, points - (self.size[:, :, None] - 1)).clamp(min=0)
        weights = weights * (1 - outside).clamp(min=0).prod(0)
        return points.flatten(1), weights.flatten()


@dataclass(frozen=True, slots=True)
class Sampling:
    """What one pixel looks at.

    layers: names, the last one first. pixel: as asked for; center: of the cell of the last layer that holds it.
    points: [N, 2] (x, y) pixels of the photograph; weights: [N] from 0 to 1. frame: xyxy around the points that
    convolutions without offsets would sample.
    """

    layers: tuple[str, ...]
    pixel: Point
    center: Point
    points: Tensor
    weights: Tensor
    frame: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Recording:
    """A photograph run through a detector, and its deformable layers by name in the order of their calls."""

    scene: Scene
    layers: dict[str, SamplingLayer]

    def chain(self, layers: int | Sequence[str] | None = None) -> list[SamplingLayer]:
        """The layers to compose, last one first.

        layers: names or their ends (layer4.1.conv2); or how many of the last that follow one another: those of a
            backbone, else those of the finest level. None: up to three of a backbone's, else one.
        Raises: HeadwayError for a name or number that is not there.
        """
        if isinstance(layers, Sequence):
            names = {self._named(name) for name in layers}
            chosen = [layer for name, layer in self.layers.items() if name in names]
        else:
            following = self._following()
            count = min(3 if following[-1].chained else 1, len(following)) if layers is None else layers
            if not 1 <= count <= len(following):
                raise HeadwayError(
                    f"layers must be from 1 to {len(following)}, the deformable layers that follow one another here "
                    f"({', '.join(layer.name for layer in following)}), got {count}"
                )
            chosen = following[-count:]
        if len(chosen) > MOST_LAYERS:
            raise HeadwayError(f"at most {MOST_LAYERS} layers can be composed, got {len(chosen)}; choose fewer")
        return chosen[::-1]

    def _named(self, name: str) -> str:
        """The name of the one layer that is called so or ends so."""
        found = [full for full in self.layers if f".{full}".endswith(f".{name}")]
        if len(found) != 1:
            what = f"{len(found)} deformable layers end" if found else "there is no deformable layer that ends"
            near = found or self.layers
            raise HeadwayError(f"{what} in {name!r}; {nearest(name, near)} There are {', '.join(near)}")
        return found[0]

    def _following(self) -> list[SamplingLayer]:
        chained = [layer for layer in self.layers.values() if layer.chained]
        if chained:
            return chained
        finest = min(layer.out_stride for layer in self.layers.values())
        level = [layer for layer in self.layers.values() if layer.in_stride == layer.out_stride == finest]
        level = level or list(self.layers.values())
        return [a for a, b in zip(level, [*level[1:], None]) if b is None or a.source is not b.source]

    def sample(self, pixel: Point, chain: Sequence[SamplingLayer]) -> Sampling:
        """The points of `pixel` (x, y) through `chain`. Raises: HeadwayError for a pixel outside the photograph."""
        last = chain[0]
        height, width = last.mask.shape[1:]
        cell = torch.tensor([self.scene.cell(pixel, (height, width))], dtype=torch.float32).T
        points, weights = self._compose(cell, chain)
        plain, _ = self._compose(cell, chain, plain=True)
        low, high = plain.amin(0).tolist(), plain.amax(0).tolist()
        x, y = self._to_photograph(cell, last.out_stride)[0].tolist()
        names = tuple(layer.name for layer in chain)
        return Sampling(names, pixel, (x, y), points, weights, (low[0], low[1], high[0], high[1]))

    def _compose(self, cells: Tensor, chain: Sequence[SamplingLayer], plain: bool = False) -> tuple[Tensor, Tensor]:
        weights = torch.ones(cells.shape[1])
        for layer, before in zip(chain, [*chain[1:], None]):
            cells, weights = layer.sample(cells, weights, plain)
            if before is not None:
                cells = cells * (layer.in_stride / before.out_stride)
        return self._to_photograph(cells, chain[-1].in_stride), weights

    def _to_photograph(self, cells: Tensor, stride: int) -> Tensor:
        """Cells [2, N] (y, x) -> [N, 2] (x, y); cell i has its centre at pixel i * stride of the network's input."""
        return (cells.flip(0).T * stride + 0.5) / torch.tensor(self.scene.scale)

    def offset_statistics(self, layer: SamplingLayer) -> dict[str, Any]:
        """Mean and deviation of the offsets' lengths in pixels of the photograph, over its cells; and the deviations
        over those inside and outside of confident detections (None where there are no such cells)."""
        on_objects, elsewhere = self.scene.split(self.scene.heat(layer.mask[0]))
        y, x = (layer.in_stride / scale for scale in self.scene.scale[::-1])
        lengths = (layer.offset * torch.tensor([y, x])[:, None, None, None]).norm(dim=0)
        spread = {"std": on_objects | elsewhere, "std_inside": on_objects, "std_outside": elsewhere}
        return {
            "name": layer.name,
            "stride": layer.out_stride,
            "mean": lengths[:, on_objects | elsewhere].mean().item(),
            **{k: lengths[:, cells].std(correction=0).item() if cells.any() else None for k, cells in spread.items()},
        }


def sampling_points(
    model: Detector, image: ImageLike, pixel: Point, layers: int | Sequence[str] | None = None
) -> Sampling:
    """What `pixel` (x, y) of `image` (a path or a [3, H, W] uint8 tensor) looks at; `Recording.chain` has `layers`."""
    recording = record(model, image)
    return recording.sample(pixel, recording.chain(layers))


def record(model: Detector, image: ImageLike) -> Recording:
    """Run `image` through `model` as in prediction and keep what its deformable layers sampled.

    Raises: HeadwayError for a model without deformable layers, DataError for a picture that cannot be read.
    """
    if not any(isinstance(module, DeformConv2d) for module in model.modules()):
        raise HeadwayError(
            f"{model.card.model or 'this model'} has no deformable layer; train one with --set dcn=c4,c5, or with a "
            "Dynamic Head"
        )
    owners = {m.conv: name for name, m in model.named_modules() if isinstance(m, DeformableConv2d)}
    calls: list[Any] = []
    with Watcher() as watcher:
        for name, module in model.named_modules():
            if isinstance(module, DeformConv2d):
                layer = (owners.get(module, name), module in owners, module)
                watcher.on(module, lambda inputs, output, layer=layer: calls.append((*layer, inputs, output)))
        scene = run_photograph(model, image)
    found = [_layer(scene.input_size, *call) for call in calls if len(call[-1]) == 1]  # more are parts of pictures
    names = [layer.name for layer in found]
    layers = [
        layer if names.count(layer.name) == 1 else replace(layer, name=f"{layer.name}@{layer.out_stride}")
        for layer in found
    ]
    return Recording(scene, {layer.name: layer for layer in layers})


def _layer(
    input_size: tuple[int, int],
    name: str,
    chained: bool,
    module: DeformConv2d,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> SamplingLayer:
    """One call. input_size: (height, width) of the network's input."""
    x, offset = inputs[0], inputs[1].detach().float().cpu()
    height, width = module.weight.shape[2:]
    steps = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack(steps).flatten(1) * torch.tensor(module.dilation)[:, None]
    taps = (grid - torch.tensor(module.padding)[:, None]).float()
    offset = offset[0].unflatten(0, (-1, 2)).transpose(0, 1)  # per offset group and tap dy, dx
    mask = inputs[2] if len(inputs) > 2 else None
    in_stride, out_stride = (stride_of(input_size, (int(m.shape[2]), int(m.shape[3]))) for m in (x, output))
    return SamplingLayer(
        name, offset, torch.ones(offset.shape[1:]) if mask is None else mask[0].detach().float().cpu(),
        taps.repeat(1, offset.shape[1] // taps.shape[1]), torch.tensor(module.stride)[:, None],
        torch.tensor(x.shape[2:])[:, None], in_stride, out_stride, inputs[1], chained,
    )  # fmt: skip


def to_dict(recording: Recording, samplings: Sequence[Sampling]) -> dict[str, Any]:
    """Plain numbers for a JSON file: the layers with their statistics, and the points of every pixel."""
    used = [layer for name, layer in recording.layers.items() if any(name in s.layers for s in samplings)]
    return {
        "size": [int(recording.scene.image.shape[2]), int(recording.scene.image.shape[1])],
        "layers": [recording.offset_statistics(layer) for layer in used],
        "pixels": [
            {
                "pixel": list(s.pixel), "center": [round(v, 3) for v in s.center], "layers": list(s.layers),
                "plain_frame": [round(v, 3) for v in s.frame],
                "points": [[round(x, 3), round(y, 3)] for x, y in s.points.tolist()],
                "weights": [round(w, 5) for w in s.weights.tolist()],
            }
            for s in samplings
        ],
    }  # fmt: skip
