"""The further tasks of a head, one object each: its loss term, its output and its figures on a data set.

A head lists them in `tasks`. Training and evaluation loop over that list and know no task by name. A task has

    name        of the loss term
    score       of the headline figure, which tells the best weights of a model without boxes
    views       how often each picture must come in a training batch for the task to learn anything
    looks       further looks of an evaluation at every picture, each mirrored and at this factor of the size
    loss(raw, targets, matched)         the loss term, or None where the head was built without it
    decode(raw)                         the output
    record(raw, targets)                of each picture, the tensors that the figures need, on the CPU
    evaluate(looks, classes, data_classes)      the figures, of each look the recorded tensors of all pictures joined

Legend: B images, N pictures, T tags, Q queries, G gallery, E numbers of an embedding, M boxes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..types import Target

_CHUNK = 1024  # queries compared with the gallery at once
MOST_OBJECTS = 5000  # of the retrieval, which compares each with each


class TaskScores(NamedTuple):
    """summary: headline figures by name, nan where undefined. details: further figures for a JSON file. rows: a table
    for people, one dict per row."""

    summary: dict[str, float]
    details: dict[str, Any]
    rows: list[dict[str, Any]]


class TagTask:
    """Tags of the whole picture. A picture has those of the classes of its boxes; tags that are no class of the data
    set are left out.

    loss: (tags [B, T] logits, targets) -> scalar, or None.
    """

    name, score, views, looks = "tags", "tag_map", 1, ()

    def __init__(self, loss: Callable[..., Tensor] | None) -> None:
        self._loss = loss

    def loss(self, raw: Any, targets: list[Target], matched: Any) -> Tensor | None:
        return None if self._loss is None or raw.tags is None else self._loss(raw.tags, targets)

    def decode(self, raw: Any) -> Tensor:
        """[B, T] scores."""
        scores: Tensor = raw.tags.sigmoid()
        return scores

    def record(self, raw: Any, targets: list[Target]) -> list[tuple[Tensor, ...]]:
        """Of each picture (scores [1, T], wanted [1, data set's classes])."""
        wanted = [target.tags for target in targets if target.tags is not None]
        return [(row[None].float().cpu(), tags[None].cpu()) for row, tags in zip(raw.tags, wanted)]

    def evaluate(
        self, looks: list[tuple[Tensor, ...]], classes: Sequence[str], data_classes: Sequence[str]
    ) -> TaskScores:
        scores, wanted = looks[0]
        names = [name for name in classes if name in data_classes]
        found = evaluate_tags(
            scores[:, [list(classes).index(name) for name in names]],
            wanted[:, [list(data_classes).index(name) for name in names]],
        )
        each = list(zip(names, found.counts, found.ap))
        rows = [{"tag": n, "pictures": c, "AP": ap} for n, c, ap in [("all", found.images, found.map), *each]]
        return TaskScores({"tag_map": found.map}, {"tags": {n: {"ap": ap, "images": c} for n, c, ap in each}}, rows)


class IdentityTask:
    """An embedding per object, by which it is found again.

    Every annotated object of the first look is searched for among all objects of the second, by the embeddings at the
    annotated boxes. Of larger splits the first MOST_OBJECTS objects take part.

    loss: (embeddings, matched) -> scalar, or None. anchors [L, n, 2], strides: see `embeddings_of`.
    """

    name, score, views, looks = "identity", "retrieval_map", 2, (0.75,)

    def __init__(self, loss: Callable[..., Tensor] | None, anchors: Tensor, strides: Sequence[int]) -> None:
        self._loss, self.anchors, self.strides = loss, anchors, strides

    def loss(self, raw: Any, targets: list[Target], matched: Any) -> Tensor | None:
        return None if self._loss is None or raw.embeddings is None else self._loss(raw.embeddings, matched)

    def decode(self, raw: Any, boxes: Sequence[Tensor]) -> Tensor:
        """[sum M, E] at boxes [M, 4] of each image."""
        return embeddings_of(raw.embeddings, boxes, self.anchors, self.strides)

    def record(self, raw: Any, targets: list[Target]) -> list[tuple[Tensor, ...]]:
        """Of each picture (embeddings [M, E], ids [M]) of its objects."""
        targets = [target.without_crowd() for target in targets]
        boxes = [target.boxes for target in targets]
        rows = self.decode(raw, boxes).float().cpu().split([len(box) for box in boxes])
        return [(row, target.ids.cpu()) for row, target in zip(rows, targets) if target.ids is not None]

    def evaluate(
        self, looks: list[tuple[Tensor, ...]], classes: Sequence[str], data_classes: Sequence[str]
    ) -> TaskScores:
        chosen = []
        for embeddings, ids in looks:
            order = ids.argsort()[:MOST_OBJECTS]  # the same objects of both looks
            chosen += [embeddings[order], ids[order]]
        found = evaluate_retrieval(*chosen)
        counts = {"queries": found.queries, "gallery": found.gallery}
        row = {"retrieval": "objects", **counts, "rank-1": found.rank1, "mAP": found.map}
        return TaskScores({"rank1": found.rank1, "retrieval_map": found.map}, counts, [row])


def embeddings_of(embeddings: list[Tensor], boxes: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> Tensor:
    """[sum M, E]: of each box what the cell at its centre has, on the level with the anchor of the likest shape.

    embeddings: per level [B, E, h, w]; boxes: one [M, 4] per image, in pixels; anchors: [L, n, 2] in pixels.
    """
    every = torch.cat([x.flatten(2) for x in embeddings], 2).transpose(1, 2)  # [B, cells, E]
    sizes = torch.tensor([x.shape[2:] for x in embeddings], device=every.device)  # [L, 2] rows, columns
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    found = []
    for rows, box in zip(every, boxes):
        sides = (box[:, 2:] - box[:, :2]).clamp(min=1e-3)
        shape = sides[:, None, None] / anchors  # [M, L, n, 2]
        level = torch.maximum(shape, 1 / shape).amax(3).amin(2).argmin(1)
        stride = torch.tensor(strides, device=box.device)[level, None]
        centre = ((box[:, :2] + box[:, 2:]) / 2 / stride).long().clamp(min=0).minimum(sizes[level].flip(1) - 1)
        found.append(rows[starts[level] + centre[:, 1] * sizes[level, 1] + centre[:, 0]])
    return torch.cat(found)


class TagMetrics(NamedTuple):
    """map: mean of `ap` over the tags where it is defined, nan without any. ap, counts: by tag, the average precision
    (nan where undefined) and the pictures that have it. images: pictures."""

    map: float
    ap: tuple[float, ...]
    counts: tuple[int, ...]
    images: int


def average_precision(scores: Tensor, wanted: Tensor) -> float:
    """Area under the steps of precision over recall, sum_k (R_k - R_{k-1}) P_k over the distinct scores, highest first.

    scores: [N]; wanted: [N] bool. Equal scores are one step, so their order does not matter.
    nan where all pictures are wanted (any order is right) or none.
    """
    positives = int(wanted.sum())
    if not 0 < positives < len(wanted):
        return math.nan
    order = scores.argsort(descending=True)
    scores, hits = scores[order].double(), wanted[order].double().cumsum(0)
    ends = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    hits, seen = hits[ends], torch.arange(1, len(scores) + 1)[ends]
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((gained * hits / seen).sum() / positives)


def evaluate_tags(scores: Tensor, wanted: Tensor) -> TagMetrics:
    """scores: [N, T]; wanted: [N, T], 1 where the picture has the tag. Both on the CPU.

    Tags that every picture has, or none, say nothing about a model and are left out of the mean.

    Raises: ValueError where the shapes differ.
    """
    if scores.shape != wanted.shape or scores.dim() != 2:
        raise ValueError(f"scores and wanted must both be [N, T], got {tuple(scores.shape)} and {tuple(wanted.shape)}")
    wanted = wanted > 0.5
    ap = tuple(average_precision(scores[:, tag], wanted[:, tag]) for tag in range(scores.shape[1]))
    defined = [value for value in ap if not math.isnan(value)]
    mean = sum(defined) / len(defined) if defined else math.nan
    return TagMetrics(mean, ap, tuple(wanted.sum(0).tolist()), len(scores))


class RetrievalMetrics(NamedTuple):
    """rank1: share of the queries whose most similar gallery entry is the same object. map: mean average precision.
    queries: how many had their object in the gallery; gallery: its size. nan without queries."""

    rank1: float
    map: float
    queries: int
    gallery: int


def evaluate_retrieval(queries: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor) -> RetrievalMetrics:
    """queries: [Q, E] and gallery: [G, E], each compared with each by their cosine; ids: [Q] and [G].

    A query's average precision is the mean, over the gallery entries of its object, of the share of such entries among
    those at least as similar. Of equally similar entries the wrong ones come first, so that embeddings that are all
    the same find nothing. Queries whose object is not in the gallery are left out.
    """
    queries, gallery = (torch.nn.functional.normalize(x.double(), dim=1) for x in (queries, gallery))
    known = torch.isin(query_ids, gallery_ids)
    queries, query_ids = queries[known], query_ids[known]
    precisions: list[Tensor] = []
    firsts: list[Tensor] = []
    for start in range(0, len(queries), _CHUNK):
        # Rounded: the same vector against itself and against its copy may differ in the last bit.
        similarity = (queries[start : start + _CHUNK] @ gallery.T).mul(1e9).round()
        right = query_ids[start : start + _CHUNK, None] == gallery_ids
        order = (similarity * 2 - right.double()).argsort(1, descending=True)  # of equal ones the wrong one first
        right = right.gather(1, order).double()
        precision = right.cumsum(1) / torch.arange(1, right.shape[1] + 1)
        precisions.append((precision * right).sum(1) / right.sum(1))
        firsts.append(right[:, 0])
    if not precisions:
        return RetrievalMetrics(math.nan, math.nan, 0, len(gallery))
    every, first = torch.cat(precisions), torch.cat(firsts)
    return RetrievalMetrics(float(first.mean()), float(every.mean()), len(every), len(gallery))
