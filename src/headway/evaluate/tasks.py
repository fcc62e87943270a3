"""The further tasks of a model over a data set: mAP of its tags, retrieval by its embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.loader import make_loader
from ..detector import Detector
from ..heads.tasks import TaskHead, embeddings_of
from ..types import Batch
from .retrieval import RetrievalMetrics, evaluate_retrieval
from .run import Precision, evaluating
from .tags import TagMetrics, evaluate_tags

MOST_OBJECTS = 5000  # of the retrieval, which compares each with each
SECOND_SCALE = 0.75


def detects(model: Detector) -> bool:
    """Whether the model predicts boxes at all."""
    return not isinstance(model.head, TaskHead)


class TaskMetrics(NamedTuple):
    """tags: or None for a model without; tag_names: by tag. retrieval: or None for a model without embeddings."""

    tags: TagMetrics | None
    tag_names: tuple[str, ...]
    retrieval: RetrievalMetrics | None

    def summary(self) -> dict[str, float | None]:
        """Headline numbers by name, None where undefined; empty for a model without further tasks."""
        values: dict[str, float] = {}
        if self.tags is not None:
            values["tag_map"] = self.tags.map
        if self.retrieval is not None:
            values |= {"rank1": self.retrieval.rank1, "retrieval_map": self.retrieval.map}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """`summary`, and the average precision and number of pictures of each tag; valid JSON."""
        content: dict[str, Any] = dict(self.summary())
        if self.tags is not None:
            content["tags"] = {
                name: {"ap": None if math.isnan(ap) else ap, "images": count}
                for name, ap, count in zip(self.tag_names, self.tags.ap, self.tags.counts)
            }
        if self.retrieval is not None:
            content |= {"queries": self.retrieval.queries, "gallery": self.retrieval.gallery}
        return content


def evaluate_tasks(
    model: Detector,
    data: DetectionData,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
) -> TaskMetrics:
    """Arguments as `detect_dataset`. A model without further tasks costs nothing.

    Tags: a picture has those of the classes of its boxes; tags that are no class of `data` are left out.
    Retrieval: every picture is seen twice, as for detection, and mirrored at 0.75 of the size. Each annotated object
    of the one is looked for among all objects of the other, by the embeddings at the annotated boxes. Of larger splits
    the first MOST_OBJECTS objects take part.
    """
    with_tags, with_embeddings = (getattr(model.head, name, None) is not None for name in ("tags", "embedding"))
    if not with_tags and not with_embeddings:
        return TaskMetrics(None, (), None)
    names = [name for name in model.card.class_names if name in data.class_names]
    short, long = model.card.input_size
    second = (max(1, round(short * SECOND_SCALE)), max(1, round(long * SECOND_SCALE)))
    settings: dict[str, Any] = {"batch_size": batch_size, "train": False, "workers": workers}
    scores, wanted, found, again = [], [], _Objects(), _Objects()
    with evaluating(model, device, precision) as where, torch.no_grad():
        for batch in make_loader(data, model.card, **settings):
            raw = model(to_model_input(batch, where), batch.sizes.to(where))
            if with_tags:
                scores.append(raw.tags[:, [model.card.class_names.index(name) for name in names]].float().cpu())
                tags = torch.stack([target.tags for target in batch.targets if target.tags is not None])
                wanted.append(tags[:, [data.class_names.index(name) for name in names]])
            if with_embeddings:
                found.add(model, raw, batch)
        if with_embeddings:
            for batch in _mirrored(make_loader(data, replace(model.card, input_size=second), **settings)):
                again.add(model, model(to_model_input(batch, where), batch.sizes.to(where)), batch)
    return TaskMetrics(
        evaluate_tags(torch.cat(scores), torch.cat(wanted)) if with_tags else None,
        tuple(names),
        evaluate_retrieval(*found.first(MOST_OBJECTS), *again.first(MOST_OBJECTS)) if with_embeddings else None,
    )


class _Objects:
    """Embeddings and ids of the annotated objects seen so far."""

    def __init__(self) -> None:
        self.embeddings: list[Tensor] = []
        self.ids: list[Tensor] = []

    def add(self, model: Detector, raw: Any, batch: Batch) -> None:
        targets = [target.without_crowd() for target in batch.targets]
        boxes = [target.boxes.to(raw.sizes.device) for target in targets]
        head: Any = model.head
        self.embeddings.append(embeddings_of(raw.embeddings, boxes, head.anchors, head.strides).float().cpu())
        self.ids += [target.ids for target in targets if target.ids is not None]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """(embeddings [M, E], ids [M]) of the objects of lowest id, the same of both views."""
        ids = torch.cat(self.ids)
        order = ids.argsort()[:count]
        return torch.cat(self.embeddings)[order], ids[order]


def _mirrored(batches: Any) -> Iterator[Batch]:
    """Every picture of a batch mirrored left-right, its padding where it was; ids and labels stay."""
    for batch in batches:
        targets = []
        for image, size, target in zip(batch.images, batch.sizes.tolist(), batch.targets):
            inside = image[:, : size[0], : size[1]]
            inside.copy_(inside.flip(2))
            x1, y1, x2, y2 = target.boxes.unbind(1)
            targets.append(replace(target, boxes=torch.stack([size[1] - x2, y1, size[1] - x1, y2], 1)))
        yield batch._replace(targets=targets)
