"""Further tasks on the maps that a detector predicts boxes from: tags of the picture, and an embedding per object.

YOLOR (arXiv 2105.04206, 5.4 and figure 8) trains detection together with multi-label classification (JDC) and with
feature embedding (JDE), and gives each task an additive implicit vector between the neck and its branch. Nothing else
of it is described or was ever released: the layers, losses and weights here are this library's own design.

Legend: B images, L levels, N channels of the neck's maps, T tags, E numbers of an embedding, M boxes, R rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import GridMatches, Neighbours, yolo_grid
from ..layers.implicit import Implicit, ImplicitConv2d, ImplicitModel, Operator
from ..losses import identity_contrast, multilabel_bce, reduce_mean, world_size
from ..types import Target
from .task_metrics import embeddings_of as embeddings_of

MOST_ROWS = 4096  # of the contrast, which compares each row with each
_HIDDEN = 128  # channels of a branch


def _aligned(channels: int, kernel: int, align: Operator | None, implicit: ImplicitModel) -> ImplicitConv2d:
    """The first convolution of a branch with the task's own implicit values in front, which `fuse` folds into it.

    Without a batch norm: one would subtract whatever an additive vector adds to a whole channel.
    """
    prior = None if align is None else Implicit(channels, align, implicit)
    inputs = 2 * channels if align == "concat" else channels
    return ImplicitConv2d(nn.Conv2d(inputs, _HIDDEN, kernel, padding=kernel // 2), prior)


class TagBranch(nn.Module):
    """Maps [B, N, h, w] of L levels -> logits [B, T].

    Of each level a 1x1 convolution with SiLU, then its greatest and its mean value over the map: a tag may rest on one
    small object or on the whole picture. A linear layer reads those of all levels.

    channels: N of each level. align, implicit: of the task's implicit values, a vector for each level; align None:
    without.
    """

    def __init__(
        self, channels: Sequence[int], num_tags: int, align: Operator | None = "add", implicit: ImplicitModel = "vector"
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_aligned(c, 1, align, implicit) for c in channels)
        self.linear = nn.Linear(2 * _HIDDEN * len(channels), num_tags)

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = [F.silu(conv(x)) for conv, x in zip(self.convs, features)]
        pooled: Tensor = self.linear(torch.cat([p for x in maps for p in (x.amax((2, 3)), x.mean((2, 3)))], 1))
        return pooled


class EmbeddingBranch(nn.Module):
    """Maps [B, N, h, w] of L levels -> per level [B, E, h, w] float32, of length 1 in every cell.

    Of each level a 3x3 convolution with SiLU; the last layer is one for all levels, so that an object which another
    scale moves to another level keeps its embedding.

    channels, align, implicit: as in `TagBranch`. size: E.
    """

    def __init__(
        self, channels: Sequence[int], size: int, align: Operator | None = "add", implicit: ImplicitModel = "vector"
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_aligned(c, 3, align, implicit) for c in channels)
        self.last = nn.Conv2d(_HIDDEN, size, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [F.normalize(self.last(F.silu(conv(x))).float(), dim=1) for conv, x in zip(self.convs, features)]


class Matched(NamedTuple):
    """What the loss of a further task may need of the assignment. pairs: per level; image [M], boxes [M, 4] and ids
    [M] of the ground truth that `pairs.box` counts in, crowd regions left out; ids: None where a target has none."""

    pairs: list[GridMatches]
    image: Tensor
    boxes: Tensor
    ids: Tensor | None


def match_grid(
    targets: Sequence[Target],
    sizes: Sequence[tuple[int, int]],
    anchors: Tensor,
    strides: Sequence[int],
    *,
    neighbours: Neighbours = "cfg",
) -> Matched:
    """`yolo_grid` of a batch on every level; crowd regions take no part. sizes: of the maps (h, w)."""
    targets = [target.without_crowd() for target in targets]
    boxes = torch.cat([target.boxes for target in targets])
    counts = torch.tensor([len(target.boxes) for target in targets], device=boxes.device)
    image = torch.arange(len(targets), device=boxes.device).repeat_interleave(counts, output_size=len(boxes))
    ids = [target.ids for target in targets if target.ids is not None]
    pairs = [
        yolo_grid(boxes, level, stride, size, neighbours=neighbours)
        for level, stride, size in zip(anchors, strides, sizes)
    ]
    return Matched(pairs, image, boxes, torch.cat(ids) if len(ids) == len(targets) else None)


def tags_loss(logits: Tensor, targets: list[Target], weight: float = 0.1) -> Tensor:
    """Binary cross-entropy, the mean over tags and pictures, times the pictures of the batch as `YoloHead`'s terms.

    logits: [B, T]. A target without `tags` has those of its labels, crowd regions among them.
    """
    wanted = torch.stack([_tags(target, logits.shape[1]) for target in targets])
    return multilabel_bce(logits, wanted).mean() * weight * len(targets) * world_size()


def _tags(target: Target, count: int) -> Tensor:
    if target.tags is not None:
        return target.tags
    return torch.zeros(count, device=target.labels.device).index_fill(0, target.labels, 1.0)


def identity_loss(embeddings: list[Tensor], matched: Matched, weight: float = 0.02, temperature: float = 0.1) -> Tensor:
    """`identity_contrast` over the cells that are matched to an object, the mean over those whose object is in another
    picture of the batch too, times the pictures of the batch. 0 where no object is, or where targets have no `ids`.

    embeddings: per level [B, E, h, w]. Of more than MOST_ROWS cells evenly many are left out.
    """
    rows, boxes = _matched_rows(embeddings, matched)
    if matched.ids is None:
        rows, boxes = rows[:0], boxes[:0]
    elif len(boxes) > MOST_ROWS:
        kept = torch.linspace(0, len(boxes) - 1, MOST_ROWS, device=boxes.device).long()
        rows, boxes = rows[kept], boxes[kept]
    ids = boxes if matched.ids is None else matched.ids[boxes]
    loss, paired = identity_contrast(rows, ids, matched.image[boxes], temperature)
    normal = reduce_mean(paired.sum().float()).clamp(min=1 / world_size())
    return loss.sum() / normal * weight * len(embeddings[0]) * world_size()


def _matched_rows(embeddings: list[Tensor], matched: Matched) -> tuple[Tensor, Tensor]:
    """(embeddings [R, E], box [R]) of every pair of a cell and an object, once for all anchors of a cell."""
    rows, boxes = [], []
    for x, pairs in zip(embeddings, matched.pairs):
        keys = torch.stack([pairs.box, pairs.y, pairs.x], 1).unique(dim=0)
        box, row, column = keys.unbind(1)
        rows.append(x[matched.image[box], :, row, column])
        boxes.append(box)
    return torch.cat(rows), torch.cat(boxes)
