"""The vector that every implicit layer has learned, level by level, and the outputs that each number of a refinement
acts on (the bars of arXiv 2105.04206, figures 8 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..detector import Detector
from ..errors import HeadwayError
from ..heads.yolo import YoloHead
from ..layers.implicit import Implicit, ImplicitModel, Operator

Role = Literal["box", "objectness", "class", "other"]
ROLES: tuple[Role, ...] = ("box", "objectness", "class", "other")
# What a prediction's outputs are, by its name in the head.
_ROLE_OF: dict[str, Role] = {
    "cls": "class", "heatmap": "class", "box": "box", "offset": "box", "pts_init": "box", "pts_refine": "box",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vector:
    """One implicit layer.

    layer: name of what it surrounds, in the model; stride: of its level, None where all levels share it.
    position: "align" before the layer, "refine" after it, else its own name. values: [C].
    roles: of a refinement, (role, start, end) of the runs of outputs, in order; else none.
    """

    layer: str
    stride: int | None
    position: str
    operator: Operator
    model: ImplicitModel
    values: Tensor
    roles: tuple[tuple[Role, int, int], ...]

    @property
    def start(self) -> float:
        """The value that changes nothing, near which training began."""
        return 1.0 if self.operator == "mul" else 0.0

    def values_of(self, role: Role) -> Tensor:
        """The values of one role, maybe none."""
        return torch.cat([self.values[:0], *(self.values[i:j] for name, i, j in self.roles if name == role)])


def vectors(model: Detector) -> list[Vector]:
    """Every implicit layer of a detector, in the order of its modules. Raises: HeadwayError where there is none."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, Implicit):
            layer, _, position = name.rpartition(".")
            values = module.vector().detach().flatten().float().cpu()
            roles = _runs(_roles(model.head, layer, len(values))) if position == "refine" else ()
            stride = _stride(model.head, layer)
            found.append(Vector(layer, stride, position, module.operator, module.model, values, roles))
    if not found:
        raise HeadwayError(
            f"{model.card.model} has no implicit values: train a YOLOR (`headway train yolor_s`), or any model with "
            "`--set align=add refine=mul`; a fused model has them in its weights"
        )
    return found


def _level(layer: str) -> int | None:
    """Of `head.predictions.2` 2."""
    parent, _, last = layer.rpartition(".")
    return int(last) if parent == "head.predictions" else None


def _stride(head: nn.Module, layer: str) -> int | None:
    level = _level(layer)
    return None if level is None or not isinstance(head, YoloHead) else int(head.strides[level])


def _roles(head: nn.Module, layer: str, outputs: int) -> list[Role]:
    """The role of every output of a prediction."""
    if isinstance(head, YoloHead) and _level(layer) is not None:
        anchor: list[Role] = ["box"] * 4 + ["objectness"] + ["class"] * head.num_classes
        return anchor * (outputs // len(anchor))
    names = layer.split(".")
    if names[-2:] == ["rpn", "cls"]:
        return ["objectness"] * outputs
    return [next((_ROLE_OF[name] for name in names if name in _ROLE_OF), "other")] * outputs


def _runs(roles: Sequence[Role]) -> tuple[tuple[Role, int, int], ...]:
    runs, start = [], 0
    for role, members in groupby(roles):
        end = start + len(list(members))
        runs.append((role, start, end))
        start = end
    return tuple(runs)


def _statistics(values: Tensor) -> dict[str, float]:
    return {
        "mean": values.mean().item(), "std": values.std(correction=0).item(), "min": values.min().item(),
        "max": values.max().item(),
    }  # fmt: skip


def to_dict(found: Sequence[Vector]) -> list[dict[str, Any]]:
    """For JSON: what and where each is, its statistics, those of every role, and all values."""
    rows = []
    for vector in found:
        by_role = {role: vector.values_of(role) for role in ROLES}
        rows.append({
            "layer": vector.layer, "stride": vector.stride, "position": vector.position, "operator": vector.operator,
            "model": vector.model, "channels": len(vector.values), **_statistics(vector.values),
            "by_role": {role: _statistics(values) for role, values in by_role.items() if len(values)},
            "roles": [list(run) for run in vector.roles], "values": vector.values.tolist(),
        })  # fmt: skip
    return rows
