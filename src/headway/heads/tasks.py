"""Further tasks on the maps that a detector predicts boxes from: tags of the picture, and an embedding per object.

YOLOR (arXiv 2105.04206, 5.4 and figure 8) trains detection together with multi-label classification (JDC) and with
feature embedding (JDE), and gives each task an additive implicit vector between the neck and its branch. Nothing else
of it is described or was ever released: the layers, losses and weights here are this library's own design.

Legend: B images, L levels, N channels of the neck's maps, T tags, E numbers of an embedding, M boxes, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import HeadwayError
from ..layers.implicit import Implicit, ImplicitConv2d, ImplicitModel, Operator
from ..losses import identity_contrast, multilabel_bce, reduce_mean, world_size
from ..types import Candidates, Frame, Losses, Target, valid_sizes
from .task_metrics import embeddings_of as embeddings_of
from .yolo import Matched, Task, YoloRaw, match_grid, task_terms, tasks_of

MOST_ROWS = 4096  # of the contrast, which compares each row with each

TagsLoss = Callable[[Tensor, list[Target]], Tensor]
IdentityLoss = Callable[[list[Tensor], Matched], Tensor]


def _aligned(
    channels: int, hidden: int, kernel: int, align: Operator | None, implicit: ImplicitModel
) -> ImplicitConv2d:
    """The first convolution of a branch with the task's own implicit values in front, which `fuse` folds into it.

    Without a batch norm: one would subtract whatever an additive vector adds to a whole channel.
    """
    prior = None if align is None else Implicit(channels, align, implicit)
    inputs = 2 * channels if align == "concat" else channels
    return ImplicitConv2d(nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2), prior)


class TagBranch(nn.Module):
    """Maps [B, N, h, w] of L levels -> logits [B, T].

    Of each level a 1x1 convolution with SiLU, then its greatest and its mean value over the map: a tag may rest on one
    small object or on the whole picture. A linear layer reads those of all levels.

    channels: N of each level. hidden: of the convolutions. align, implicit: of the task's implicit values, a vector
    for each level; align None: without.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_tags: int,
        *,
        hidden: int = 128,
        align: Operator | None = "add",
        implicit: ImplicitModel = "vector",
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_aligned(c, hidden, 1, align, implicit) for c in channels)
        self.linear = nn.Linear(2 * hidden * len(channels), num_tags)

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = [F.silu(conv(x)) for conv, x in zip(self.convs, features)]
        pooled: Tensor = self.linear(torch.cat([p for x in maps for p in (x.amax((2, 3)), x.mean((2, 3)))], 1))
        return pooled


class EmbeddingBranch(nn.Module):
    """Maps [B, N, h, w] of L levels -> per level [B, E, h, w] float32, of length 1 in every cell.

    Of each level a 3x3 convolution with SiLU; the last layer is one for all levels, so that an object which another
    scale moves to another level keeps its embedding.

    channels, hidden, align, implicit: as in `TagBranch`. size: E.
    """

    def __init__(
        self,
        channels: Sequence[int],
        size: int,
        *,
        hidden: int = 128,
        align: Operator | None = "add",
        implicit: ImplicitModel = "vector",
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_aligned(c, hidden, 3, align, implicit) for c in channels)
        self.last = nn.Conv2d(hidden, size, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [F.normalize(self.last(F.silu(conv(x))).float(), dim=1) for conv, x in zip(self.convs, features)]


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
    normal = reduce_mean(paired.sum().float()).clamp(min=1)
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


class TaskHead(nn.Module):
    """Tags or embeddings or both, without boxes: what a joint model is compared with.

    tags, embedding, tags_loss, identity_loss, anchors, strides: as of `YoloHead`; of the anchors only the levels and
    cells follow that belong to an object. `decode` gives no candidates.

    Raises: HeadwayError without a task.
    """

    anchors: Tensor
    detects = False

    def __init__(
        self,
        *,
        anchors: Sequence[Sequence[Sequence[float]]],
        strides: Sequence[int],
        tags: nn.Module | None = None,
        embedding: nn.Module | None = None,
        tags_loss: TagsLoss | None = None,
        identity_loss: IdentityLoss | None = None,
    ) -> None:
        super().__init__()
        if tags is None and embedding is None:
            raise HeadwayError("a model without boxes needs a task: give tags=True, an embedding size, or detect=True")
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.strides = tuple(strides)
        self.tags, self.embedding = tags, embedding
        self.tags_loss, self.identity_loss = tags_loss, identity_loss

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> YoloRaw:
        """features: one map [B, N, h, w] per stride; `maps` of the result is empty. targets are not used."""
        tags = None if self.tags is None else self.tags(features).float()
        return YoloRaw([], valid_sizes(frame), tags, None if self.embedding is None else self.embedding(features))

    @property
    def tasks(self) -> list[Task]:
        """What the head learns, see `task_metrics`."""
        return tasks_of(self)

    def decode(self, raw: YoloRaw) -> Candidates:
        none = raw.sizes.new_zeros(len(raw.sizes), 0, dtype=torch.float32)
        scores = None if raw.tags is None else raw.tags.sigmoid()
        return Candidates(none[..., None].expand(-1, -1, 4), none, none.long(), tags=scores)

    def loss(self, raw: YoloRaw, targets: list[Target]) -> Losses:
        sizes = [(x.shape[2], x.shape[3]) for x in raw.embeddings or ()]
        matched = match_grid(targets, sizes, self.anchors, self.strides) if sizes else None
        return Losses(task_terms(self.tasks, raw, targets, matched), {})


def make_tasks(
    channels: Sequence[int],
    num_tags: int,
    *,
    tags: bool,
    embedding: int,
    align: Operator | None = "add",
    implicit: ImplicitModel = "vector",
    tag_weight: float = 0.1,
    identity_weight: float = 0.02,
) -> dict[str, Any]:
    """The arguments `tags`, `embedding` and their losses of `YoloHead` or `TaskHead`.

    channels: of the neck's maps. tags: with a tag for each of the `num_tags` classes. embedding: E, or 0 for none.
    """
    options: dict[str, Any] = {"align": align, "implicit": implicit}
    return {
        "tags": TagBranch(channels, num_tags, **options) if tags else None,
        "embedding": EmbeddingBranch(channels, embedding, **options) if embedding else None,
        "tags_loss": partial(tags_loss, weight=tag_weight) if tags else None,
        "identity_loss": partial(identity_loss, weight=identity_weight) if embedding else None,
    }
