"""The grid head of YOLOv4-CSP, Scaled-YOLOv4 and YOLOR: every anchor of every cell predicts a box, whether it holds an
object, and the classes. YOLOR has implicit knowledge at every prediction: a learned vector added to the features before
it, and one that multiplies what comes out.

Sources: Scaled-YOLOv4 (arXiv 2011.08036), YOLOR (arXiv 2105.04206), and measured facts on what the published weights
were trained with; no code of the originals was read.
Legend: B images, C classes, L levels, n anchors of a cell, h w a level's map, A = sum of n h w, K candidates, P pairs.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import GridMatches, Neighbours
from ..boxes import aligned_ciou, clip, decode_grid, from_cxcywh, to_cxcywh
from ..errors import HeadwayError, LevelsError
from ..layers.csp import Activation, ConvNormAct, Form, Style
from ..layers.implicit import Implicit, ImplicitConv2d, ImplicitModel, Operator, Refinement
from ..losses import reduce_mean, world_size
from ..priors import grid_anchors
from ..registry import register_head, register_variant
from ..types import Candidates, Frame, Levels, Losses, Priors, Target, valid_sizes
from .task_metrics import IdentityTask, TagTask
from .tasks import EmbeddingBranch, Matched, TagBranch, identity_loss, match_grid, tags_loss

Task = TagTask | IdentityTask
Anchors = tuple[tuple[tuple[float, float], ...], ...]
_3_LEVELS: Anchors = (
    ((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401)),
)  # fmt: skip
_4_LEVELS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
_5_LEVELS: Anchors = (
    ((13, 17), (22, 25), (27, 66), (55, 41)),
    ((57, 88), (112, 69), (69, 177), (136, 138)),
    ((136, 138), (287, 114), (134, 275), (268, 248)),
    ((268, 248), (232, 504), (445, 416), (640, 640)),
    ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
)
_ANCHORS = {len(anchors): anchors for anchors in (_3_LEVELS, _4_LEVELS, _5_LEVELS)}

# How much each level's objectness weighs, finest first, by the number of levels.
BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.4, 0.1), 5: (4.0, 1.0, 0.5, 0.4, 0.1)}


class YoloRaw(NamedTuple):
    """maps: per level [B, n, h, w, 5 + C] logits: box (x, y, w, h), objectness, classes. sizes [B, 2] valid (height,
    width). tags [B, T] logits and embeddings, per level [B, E, h, w], or None. All float32."""

    maps: list[Tensor]
    sizes: Tensor
    tags: Tensor | None = None
    embeddings: list[Tensor] | None = None


def map_sizes(raw: YoloRaw) -> list[tuple[int, int]]:
    """(h, w) per level."""
    return [(x.shape[2], x.shape[3]) for x in raw.maps or raw.embeddings or ()]


@register_head("yolov4", wants={"levels": 3}, shares=("form", "act", "norm_eps"))
class YoloHead(nn.Module):
    """Grid head: every anchor of every cell predicts a box, an object and the classes (YOLOv4-CSP).

    A 3x3 convolution and a prediction per level, a 1x1 convolution or an `ImplicitConv2d`, anchor-major.

    form: of the blocks and of the assignment, see `headway.layers.csp.Style`; weights of one do not fit the other.
    act: activation; leaky has slope 0.1.
    norm_eps: of the batch norms; None: the form's.
    anchors: per level, finest first, as many (width, height) in pixels for each; None: the published ones of as many
        levels.
    align, refine, implicit: implicit values before and after each prediction, see `ImplicitConv2d` and `Implicit`.
    box_weight, objectness_weight, class_weight: of the loss terms.
    clip_boxes: to the valid image, before suppression; the published detectors clip after it, as
        `Detections.to_original` does in any case.
    tags: score each class for the picture as a whole too.
    embedding: numbers of an embedding per object, that of its cell; 0: none.
    detect: False leaves the boxes out: what a joint model is compared with.
    tag_weight, identity_weight: of the losses of tags and embeddings.

    Loss terms `box`, `objectness` and `class`, as published: means over the matched pairs of a level (box: 1 - CIoU;
    class: binary cross entropy) or over all its anchors (objectness, whose target is the CIoU), summed over levels,
    weighted, times 3 / L, objectness of four levels and more times 1.4, class times C / 80 (and 0 for one class).
    All are multiplied by the images of the batch, of all processes: the published learning rate counts on gradients
    that grow with the batch, and on their sum where several batches make a step. `tags` and `identity`: see `tasks`.
    """

    anchors: Tensor
    max_candidates = 8192  # K, the best (anchor, class) pairs of an image

    predictors = ("predictions",)  # stay float in int8

    def __init__(
        self,
        inputs: Levels,
        *,
        num_classes: int,
        form: Form = "cfg",
        act: Activation = "silu",
        norm_eps: float | None = None,
        anchors: Anchors | None = None,
        align: Operator | None = None,
        refine: Refinement | None = None,
        implicit: ImplicitModel = "vector",
        box_weight: float = 0.05,
        objectness_weight: float = 0.7,
        class_weight: float = 0.3,
        clip_boxes: bool = True,
        tags: bool = False,
        embedding: int = 0,
        detect: bool = True,
        tag_weight: float = 0.1,
        identity_weight: float = 0.02,
    ) -> None:
        super().__init__()
        if not (detect or tags or embedding):
            raise HeadwayError("a model without boxes needs a task: give tags=True, an embedding size, or detect=True")
        anchors, style, widths = _checked(anchors, inputs), Style(form, act, norm_eps), inputs.channels
        if detect and len(anchors) not in BALANCE:
            raise HeadwayError(f"{len(anchors)} levels have no published balance; choose 3, 4 or 5 levels")
        self.detects, self.num_classes, self.strides = detect, num_classes, inputs.strides
        outputs, used = len(anchors[0]) * (5 + num_classes), widths if detect else ()
        tag_branch = TagBranch(widths, num_classes, align, implicit) if tags else None
        identity_branch = EmbeddingBranch(widths, embedding, align, implicit) if embedding else None
        self.convs = nn.ModuleList(ConvNormAct(c, 2 * c, 3, style=style) for c in used)
        self.predictions = nn.ModuleList(_prediction(2 * c, outputs, align, refine, implicit) for c in used)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.tags, self.embedding = tag_branch, identity_branch
        self.tags_loss = partial(tags_loss, weight=tag_weight) if tags else None
        self.identity_loss = partial(identity_loss, weight=identity_weight) if embedding else None
        self.neighbours: Neighbours = form if detect else "cfg"  # tasks alone always learn from the same cells
        self.weights = {"box": box_weight, "objectness": objectness_weight, "class": class_weight}
        self.clip_boxes = clip_boxes
        self.card = {
            "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0), "pad": (114.0, 114.0, 114.0),
            "input_size": (640, 640), "pad_multiple": max(inputs.strides), "score_threshold": 0.001, "nms_iou": 0.65,
            "max_detections": 300,
        }  # fmt: skip
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
        tasks: list[Task] = [] if self.tags is None else [TagTask(self.tags_loss)]
        if self.embedding is not None:
            tasks.append(IdentityTask(self.identity_loss, self.anchors, self.strides))
        return tasks

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
        tags = None if raw.tags is None else raw.tags.sigmoid()
        if not self.detects:
            none = raw.sizes.new_zeros(len(raw.sizes), 0, dtype=torch.float32)
            return Candidates(none[..., None].expand(-1, -1, 4), none, none.long(), tags=tags)
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
        return Candidates(boxes, scores, index % self.num_classes, extras=extras, tags=tags)

    # --------------------------------------------------------------------------------------------------- training
    def match(self, raw: YoloRaw, targets: Sequence[Target]) -> Matched:
        """What the anchors of a batch must predict."""
        return match_grid(targets, map_sizes(raw), self.anchors, self.strides, neighbours=self.neighbours)

    def loss(self, raw: YoloRaw, targets: list[Target]) -> Losses:
        """targets: one per image. Returns the terms and the matched pairs per image."""
        matched = self.match(raw, targets)
        further = {task.name: task.loss(raw, targets, matched) for task in self.tasks}
        further = {name: term for name, term in further.items() if term is not None}
        if not self.detects:
            return Losses(further, {})
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
        positives = sum(len(pairs.box) for pairs in matched.pairs) / len(targets)
        return Losses(terms | further, {"positives": box.new_tensor(positives)})

    def _level_terms(
        self, level: int, x: Tensor, boxes: Tensor, labels: Tensor, image: Tensor, pairs: GridMatches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the map x [B, n, h, w, 5 + C]: box, objectness and class loss before weights. Boxes are compared in cells,
        relative to the cell, where small numbers lose nothing to rounding."""
        stride = self.strides[level]
        of = image[pairs.box]
        rows = x[of, pairs.anchor, pairs.y, pairs.x]  # [P, 5 + C]
        normal = reduce_mean(x.new_tensor(float(len(of)))).clamp(min=1 / world_size())

        sides = self.anchors[level][pairs.anchor] / stride
        predicted = decode_grid(torch.cat([0.5 - sides / 2, 0.5 + sides / 2], 1), x.new_ones(1), rows[:, :4])
        cell = F.pad(torch.stack([pairs.x, pairs.y], 1), (0, 2))
        overlap = aligned_ciou(predicted, from_cxcywh(to_cxcywh(boxes[pairs.box] / stride) - cell))
        target = _last_wins(x[..., 4].shape, (of, pairs.anchor, pairs.y, pairs.x), overlap.detach().clamp(min=0))
        objectness = F.binary_cross_entropy_with_logits(x[..., 4], target) * BALANCE[len(self.strides)][level]
        if self.num_classes == 1:
            return (1 - overlap).sum() / normal, objectness, objectness.new_zeros(())
        right = F.one_hot(labels[pairs.box], self.num_classes).to(x.dtype)
        entropy = F.binary_cross_entropy_with_logits(rows[:, 5:], right, reduction="sum")
        return (1 - overlap).sum() / normal, objectness, entropy / normal / self.num_classes


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


def _checked(anchors: Anchors | None, inputs: Levels) -> Anchors:
    levels = len(inputs.strides)
    if anchors is None:
        if levels not in _ANCHORS:
            raise LevelsError(
                f"has published anchors for 3, 4 and 5 levels, got {inputs}: put `fpn`, `pan` or "
                "`simple_pyramid` in front of it, or give one row per level as head.anchors"
            )
        return _ANCHORS[levels]
    counts = {len(level) for level in anchors}
    if len(anchors) != levels or len(counts) != 1 or not all(s > 0 for level in anchors for a in level for s in a):
        raise HeadwayError(
            f"anchors must be {levels} levels, finest first, of as many (width, height) pairs of positive pixels each, "
            f"got {anchors}"
        )
    return anchors


def _prediction(
    channels: int,
    outputs: int,
    align: Operator | None,
    refine: Refinement | None,
    implicit: ImplicitModel,
) -> nn.Module:
    conv = nn.Conv2d(2 * channels if align == "concat" else channels, outputs, 1)
    if align is None and refine is None:
        return conv
    return ImplicitConv2d(
        conv,
        None if align is None else Implicit(channels, align, implicit),
        None if refine is None else Implicit(outputs, refine, implicit),
    )


register_variant(
    "head", "yolor", "yolov4", "Grid head with implicit knowledge at every prediction (YOLOR).",
    align="add", refine="mul",
)  # fmt: skip
