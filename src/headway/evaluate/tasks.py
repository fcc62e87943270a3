"""The further tasks of a model (`headway.heads.task_metrics`) over a data set: what is recorded, and the figures."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import DetectionData
from ..types import Batch, Target

Records = dict[tuple[str, int], dict[int, tuple[Tensor, ...]]]  # (task, look) -> picture's index -> tensors


def tasks_of(model: Any) -> list[Any]:
    """What the model learns beside boxes."""
    return list(getattr(model.head, "tasks", ()))


def detects(model: Any) -> bool:
    """Whether the model predicts boxes at all."""
    return bool(getattr(model.head, "detects", True))


def record_tasks(tasks: list[Any], look: int, raw: Any, targets: list[Target], indices: list[int]) -> Records:
    """What the tasks need of one batch; indices: of its pictures. Look 0 is the plain one, which every task sees."""
    return {
        (task.name, look): dict(zip(indices, task.record(raw, targets))) for task in tasks if look <= len(task.looks)
    }


def further_looks(tasks: list[Any], input_size: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
    """(number, input size) of each look after the plain one."""
    factors: dict[int, float] = {i: factor for task in tasks for i, factor in enumerate(task.looks, 1)}
    short, long = input_size
    return [(i, (max(1, round(short * f)), max(1, round(long * f)))) for i, f in factors.items()]


def task_scores(tasks: list[Any], parts: list[Records], class_names: Any, data: DetectionData) -> dict[str, Any]:
    """The figures (`TaskScores`) by task, from what every batch of every process recorded."""
    joined: dict[tuple[str, int], dict[int, tuple[Tensor, ...]]] = defaultdict(dict)
    for part in parts:
        for key, rows in part.items():
            joined[key] |= rows
    scores = {}
    for task in tasks:
        looks = []
        for look in range(1 + len(task.looks)):
            found = joined[task.name, look]
            looks.append(tuple(torch.cat(column) for column in zip(*(found[index] for index in sorted(found)))))
        scores[task.name] = task.evaluate(looks, class_names, data.class_names)
    return scores


def summary(scores: dict[str, Any]) -> dict[str, float | None]:
    """Headline figures of all tasks by name, None where undefined."""
    values = {name: value for task in scores.values() for name, value in task.summary.items()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def mirrored(batch: Batch) -> Batch:
    """Every picture of a batch mirrored left-right, its padding where it was; ids and labels stay."""
    targets = []
    for image, size, target in zip(batch.images, batch.sizes.tolist(), batch.targets):
        inside = image[:, : size[0], : size[1]]
        inside.copy_(inside.flip(2))
        x1, y1, x2, y2 = target.boxes.unbind(1)
        targets.append(replace(target, boxes=torch.stack([size[1] - x2, y1, size[1] - x1, y2], 1)))
    return batch._replace(targets=targets)
