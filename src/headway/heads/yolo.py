"""The grid head of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR: every anchor of every cell predicts a box, whether it holds an
object, and the classes.

Sources: Scaled-YOLOv4 (arXiv 2011.08036), YOLOR (arXiv 2105.04206), and measured facts on what the published weights
were trained with; no code of the originals was read.
Legend: B images, C classes, L levels, n anchors of a cell, h w a level's map, A = sum of n h w, K candidates, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import GridMatches, Neighbours, yolo_grid
from ..boxes import aligned_ciou, clip, decode_grid, from_cxcywh, to_cxcywh
from ..losses import reduce_mean, world_size
from ..priors import grid_anchors
from ..types import Candidates, Frame, Losses, Priors, Target, valid_sizes
from .task_metrics import IdentityTask, TagTask

Task = TagTask | IdentityTask

# How much each level's objectness weighs, finest first, by the number of levels.
BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.4, 0.1), 5: (4.0, 1.0, 0.5, 0.4, 0.1)}


class YoloRaw(NamedTuple):
    """maps: per level [B, n, h, w, 5 + C] logits: box (x, y, w, h), objectness, classes. sizes [B, 2] valid (height,
    width). tags [B, T] logits and embeddings, per level [B, E, h, w], or None. All float32."""

    maps: list[Tensor]
    sizes: Tensor
    tags: Tensor | None = None
    embeddings: list[Tensor] | None = None


class Matched(NamedTuple):
    """What the loss of a further task may need of the assignment. pairs: per level; image [M], boxes [M, 4] and ids
    [M] of the ground truth that `pairs.box` counts in, crowd regions left out; ids: None where a target has none."""

    pairs: list[GridMatches]
    image: Tensor
    boxes: Tensor
    ids: Tensor | None


def map_sizes(raw: YoloRaw) -> list[tuple[int, int]]:
    """(h, w) per level."""
    return [(x.shape[2], x.shape[3]) for x in raw.maps]


def match_grid(
    targets: Sequence[Target],
    sizes: Sequence[tuple[int, int]],
    anchors: Tensor,
    strides: Sequence[int],
    *,
    ratio: float = 4.0,
    neighbours: Neighbours = "cfg",
) -> Matched:
    """`yolo_grid` of a batch on every level; crowd regions take no part. sizes: of the maps (h, w)."""
    targets = [target.without_crowd() for target in targets]
    boxes = torch.cat([target.boxes for target in targets])
    counts = torch.tensor([len(target.boxes) for target in targets], device=boxes.device)
    image = torch.arange(len(targets), device=boxes.device).repeat_interleave(counts, output_size=len(boxes))
    ids = [target.ids for target in targets if target.ids is not None]
    pairs = [
        yolo_grid(boxes, level, stride, size, ratio=ratio, neighbours=neighbours)
        for level, stride, size in zip(anchors, strides, sizes)
    ]
    return Matched(pairs, image, boxes, torch.cat(ids) if len(ids) == len(targets) else None)


class YoloHead(nn.Module):
    """A 3x3 convolution and a prediction per level.

    convs: per level, finest first, [B, N, h, w] -> [B, N', h, w]. predictions: [B, N', h, w] -> [B, n (5 + C), h, w], a
        convolution or an `ImplicitConv2d`, anchor-major; their biases are set here (`_start_low`).
    anchors: [L, n, 2] width and height in pixels. strides: of the levels.
    neighbours, anchor_ratio: see `yolo_grid`. balance: of the levels' objectness, finest first; None: `BALANCE`.
    max_candidates: K, the best (anchor, class) pairs of an image. clip_boxes: to the valid image, before suppression;
        the published detectors clip after it, as `Detections.to_original` does in any case.
    tags: maps of the neck -> [B, T]; embedding: maps of the neck -> per level [B, E, h, w]. Of candidates the
        embedding of their cell is in `extras["embeddings"]`.
    tags_loss: (tags, targets) -> scalar, the term `tags`; identity_loss: (embeddings, Matched) -> scalar, `identity`.

    Loss terms `box`, `objectness` and `class`, as published: means over the matched pairs of a level (box: 1 - CIoU;
    class: binary cross entropy) or over all its anchors (objectness, whose target is the CIoU), summed over levels,
    weighted, times 3 / L, objectness of four levels and more times 1.4, class times C / 80 (and 0 for one class).
    All are multiplied by the images of the batch, of all processes: the published learning rate counts on gradients
    that grow with the batch, and on their sum where several batches make a step.
    """

    anchors: Tensor

    def __init__(
        self,
        convs: Sequence[nn.Module],
        predictions: Sequence[nn.Module],
        *,
        num_classes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        strides: Sequence[int],
        neighbours: Neighbours = "cfg",
        anchor_ratio: float = 4.0,
        box_weight: float = 0.05,
        objectness_weight: float = 1.0,
        class_weight: float = 0.5,
        balance: Sequence[float] | None = None,
        max_candidates: int = 8192,
        clip_boxes: bool = True,
        tags: nn.Module | None = None,
        embedding: nn.Module | None = None,
        tags_loss: Callable[[Tensor, list[Target]], Tensor] | None = None,
        identity_loss: Callable[[list[Tensor], Matched], Tensor] | None = None,
    ) -> None:
        super().__init__()
        levels = len(strides)
        if not len(convs) == len(predictions) == len(anchors) == levels:
            raise ValueError(
                f"{levels} strides need as many convolutions, predictions and rows of anchors, got {len(convs)}, "
                f"{len(predictions)} and {len(anchors)}"
            )
        if balance is None and levels not in BALANCE:
            raise ValueError(f"{levels} levels have no published balance; give one number for each as `balance`")
        self.convs, self.predictions = nn.ModuleList(convs), nn.ModuleList(predictions)
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.neighbours, self.anchor_ratio = neighbours, anchor_ratio
        self.weights = {"box": box_weight, "objectness": objectness_weight, "class": class_weight}
        self.balance = tuple(balance) if balance is not None else BALANCE[levels]
        self.max_candidates, self.clip_boxes = max_candidates, clip_boxes
        self.tags, self.embedding = tags, embedding
        self.tags_loss, self.identity_loss = tags_loss, identity_loss
        self._start_low()

    @torch.no_grad()
    def _start_low(self) -> None:
        """Add to the biases what makes 8 objects in a picture of 640 pixels, and classes of 0.6 among them, the first
        guess: ln(8 / (640 / stride)^2) and ln(0.6 / (C - 0.99))."""
        for prediction, stride in zip(self.predictions, self.strides):
            bias = getattr(prediction, "conv", prediction).bias.view(self.anchors.shape[1], -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99))

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> YoloRaw:
        """features: one map [B, N, h, w] per stride. targets are not used."""
        if len(features) != len(self.strides):
            raise ValueError(f"this head was built for {len(self.strides)} levels, got {len(features)} feature maps")
        maps = []
        for x, conv, prediction in zip(features, self.convs, self.predictions):
            y = prediction(conv(x)).float()
            y = y.view(y.shape[0], self.anchors.shape[1], 5 + self.num_classes, *y.shape[2:])
            maps.append(y.permute(0, 1, 3, 4, 2))
        tags = None if self.tags is None else self.tags(features).float()
        embeddings = None if self.embedding is None else [x.float() for x in self.embedding(features)]
        return YoloRaw(maps, valid_sizes(frame), tags, embeddings)

    @property
    def tasks(self) -> list[Task]:
        """What the head learns beside boxes, see `task_metrics`."""
        return tasks_of(self)

    # -------------------------------------------------------------------------------------------------- inference
    def priors(self, raw: YoloRaw) -> Priors:
        """The anchors of all cells, in the order of `rows`."""
        return grid_anchors(map_sizes(raw), self.strides, self.anchors)

    @staticmethod
    def rows(raw: YoloRaw) -> Tensor:
        """[B, A, 5 + C]: levels finest first, then (anchor, y, x)."""
        return torch.cat([x.flatten(1, 3) for x in raw.maps], 1)

    def decode(self, raw: YoloRaw) -> Candidates:
        """The K best (anchor, class) pairs by objectness times class score.

        Differs: the published code puts all pairs above the threshold through suppression.
        """
        rows, priors = self.rows(raw), self.priors(raw)
        best = rows[..., 4].sigmoid() * rows[..., 5:].amax(2).sigmoid()
        # The best K pairs belong to the K anchors whose best class is best.
        prior = best.topk(min(self.max_candidates, best.shape[1]), dim=1).indices
        rows = rows.gather(1, prior[..., None].expand(-1, -1, rows.shape[2]))
        pairs = (rows[..., 4:5].sigmoid() * rows[..., 5:].sigmoid()).flatten(1)
        scores, index = pairs.topk(min(self.max_candidates, pairs.shape[1]), dim=1)
        chosen = index // self.num_classes
        # All columns, of which OpenVINO gathers; of a slice it does not.
        codes = rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2]))[..., :4]
        prior = prior.gather(1, chosen)
        boxes = decode_grid(priors.boxes[prior], priors.stride[prior], codes)
        if self.clip_boxes:
            boxes = clip(boxes, raw.sizes)
        extras = (
            {} if raw.embeddings is None else {"embeddings": _at_cells(raw.embeddings, prior, self.anchors.shape[1])}
        )
        tags = None if raw.tags is None else raw.tags.sigmoid()
        return Candidates(boxes, scores, index % self.num_classes, extras=extras, tags=tags)

    # --------------------------------------------------------------------------------------------------- training
    def match(self, raw: YoloRaw, targets: Sequence[Target]) -> Matched:
        """What the anchors of a batch must predict."""
        return match_grid(
            targets, map_sizes(raw), self.anchors, self.strides, ratio=self.anchor_ratio, neighbours=self.neighbours
        )

    def loss(self, raw: YoloRaw, targets: list[Target]) -> Losses:
        """targets: one per image. Returns the terms and the matched pairs per image."""
        matched = self.match(raw, targets)
        labels = torch.cat([target.without_crowd().labels for target in targets])
        levels = [
            self._level_terms(level, x, matched.boxes, labels, matched.image, pairs)
            for level, (x, pairs) in enumerate(zip(raw.maps, matched.pairs))
        ]
        box, objectness, classes = (torch.stack(column).sum() for column in zip(*levels))
        scale = 3 / len(levels) * len(targets) * world_size()
        terms = {
            "box": box * self.weights["box"] * scale,
            "objectness": objectness * self.weights["objectness"] * scale * (1.4 if len(levels) >= 4 else 1.0),
            "class": classes * self.weights["class"] * scale * self.num_classes / 80,
        }
        terms |= task_terms(self.tasks, raw, targets, matched)
        positives = sum(len(pairs.box) for pairs in matched.pairs) / len(targets)
        return Losses(terms, {"positives": box.new_tensor(positives)})

    def _level_terms(
        self, level: int, x: Tensor, boxes: Tensor, labels: Tensor, image: Tensor, pairs: GridMatches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the map x [B, n, h, w, 5 + C]: box, objectness and class loss before weights. Boxes are compared in cells,
        relative to the cell, where small numbers lose nothing to rounding."""
        stride = self.strides[level]
        of = image[pairs.box]
        rows = x[of, pairs.anchor, pairs.y, pairs.x]  # [P, 5 + C]
        normal = reduce_mean(x.new_tensor(float(len(of)))).clamp(min=1)

        sides = self.anchors[level][pairs.anchor] / stride
        predicted = decode_grid(torch.cat([0.5 - sides / 2, 0.5 + sides / 2], 1), x.new_ones(1), rows[:, :4])
        cell = F.pad(torch.stack([pairs.x, pairs.y], 1), (0, 2))
        overlap = aligned_ciou(predicted, from_cxcywh(to_cxcywh(boxes[pairs.box] / stride) - cell))
        target = _last_wins(x[..., 4].shape, (of, pairs.anchor, pairs.y, pairs.x), overlap.detach().clamp(min=0))
        objectness = F.binary_cross_entropy_with_logits(x[..., 4], target) * self.balance[level]
        if self.num_classes == 1:
            return (1 - overlap).sum() / normal, objectness, objectness.new_zeros(())
        right = F.one_hot(labels[pairs.box], self.num_classes).to(x.dtype)
        entropy = F.binary_cross_entropy_with_logits(rows[:, 5:], right, reduction="sum")
        return (1 - overlap).sum() / normal, objectness, entropy / normal / self.num_classes


def tasks_of(head: Any) -> list[Task]:
    """The tasks that a head with `tags` or `embedding` has."""
    tasks: list[Task] = [] if head.tags is None else [TagTask(head.tags_loss)]
    if head.embedding is not None:
        tasks.append(IdentityTask(head.identity_loss, head.anchors, head.strides))
    return tasks


def task_terms(
    tasks: Sequence[Task], raw: YoloRaw, targets: list[Target], matched: Matched | None
) -> dict[str, Tensor]:
    """The loss term of every task that was given a loss."""
    terms = {task.name: task.loss(raw, targets, matched) for task in tasks}
    return {name: term for name, term in terms.items() if term is not None}


def _last_wins(shape: torch.Size, index: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """Zeros of `shape` with values [P] at `index`; of several at one place the last, on every device."""
    place = torch.zeros_like(index[0])
    for size, along in zip(shape, index):
        place = place * size + along
    order = torch.arange(len(place), device=place.device)
    last = place.new_full((shape.numel(),), -1).scatter_reduce(0, place, order, "amax")
    wins = last[place] == order
    return values.new_zeros(shape.numel()).index_put((place[wins],), values[wins]).view(shape)


def _at_cells(maps: list[Tensor], prior: Tensor, anchors: int) -> Tensor:
    """Per level [B, E, h, w], prior [B, K] in the order of `YoloHead.rows` -> [B, K, E], what its cell has."""
    cells, start = [], 0
    for x in maps:
        count = x.shape[2] * x.shape[3]
        cells.append(torch.arange(start, start + count, device=prior.device).repeat(anchors))
        start += count
    every = torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)
    cell = torch.cat(cells)[prior]
    return every.gather(1, cell[..., None].expand(-1, -1, every.shape[2]))
