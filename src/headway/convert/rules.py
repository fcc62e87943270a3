"""Applying a rename table, strictly: every upstream key is mapped or dropped for a stated reason, every key of the
model is filled, every shape fits."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


class Rule(NamedTuple):
    """pattern: a regular expression that must match a whole upstream key. target: our key with \\1 for the groups, or
    None for a key dropped on purpose, with `reason`. transform: applied to the tensor."""

    pattern: str
    target: str | None
    transform: Callable[[Tensor], Tensor] | None = None
    reason: str = ""


class ShapesError(CheckpointError):
    """A state dict in which nothing is wrong but shapes. found: those of the file, by the model's keys."""

    def __init__(self, text: str, found: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(text)
        self.found = found


# What wrappers and training loops put before every name: DataParallel, torch.compile, Lightning, running means.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "detector.", "ema.")


def unwrapped(state_dict: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The state dict as it is, and then without one after the other of the prefixes that all its names share."""
    yield state_dict
    if any("._orig_mod." in key for key in state_dict):  # parts that were compiled
        state_dict = {key.replace("._orig_mod.", "."): value for key, value in state_dict.items()}
        yield state_dict
    while prefix := next((p for p in _WRAPPERS if state_dict and all(k.startswith(p) for k in state_dict)), ""):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        yield state_dict


def count_classes(shapes: Callable[[int], Mapping[str, Sequence[int]]], found: Mapping[str, Sequence[int]]) -> int:
    """The number of classes for which a model has the shapes `found`, or 0 where none explains all of them.

    shapes: those of the model's keys for a number of classes, of which each is a straight line.
    """
    few, more = shapes(2), shapes(3)
    counts = set()
    for key, shape in found.items():
        one, other = _squeezed(few[key]), _squeezed(more[key])
        # For one class an axis may have vanished: compared is the number of elements.
        step, rest = math.prod(other) - math.prod(one), math.prod(shape) - math.prod(one)
        counts.add(2 + rest // step if step > 0 and rest % step == 0 else 0)
    count = counts.pop() if len(counts) == 1 else 0
    fits = count > 0 and all(_squeezed(shapes(count)[key]) == _squeezed(shape) for key, shape in found.items())
    return count if fits else 0


def apply_rules(
    rules: Sequence[Rule], state_dict: Mapping[str, Tensor], model: nn.Module, source: str
) -> dict[str, Tensor]:
    """The first rule that matches a key decides. A tensor whose size-one axes differ is reshaped (Linear against 1x1
    convolution, [1] against a scalar); counters of batch norms may be missing upstream.

    Raises: CheckpointError naming every key that is unmapped, unused, mapped twice or of another shape; ShapesError
        where it is shapes alone.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    wanted = {k: v.shape for k, v in model.state_dict().items()}
    result: dict[str, Tensor] = {}
    unmapped, unused, wrong = [], [], []
    found: dict[str, tuple[int, ...]] = {}
    for key, tensor in state_dict.items():
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(key))), (None, None))
        if match is None or rule is None:
            unmapped.append(key)
            continue
        if rule.target is None:
            continue
        target = match.expand(rule.target)
        if rule.transform is not None:
            try:
                tensor = rule.transform(tensor)
            except RuntimeError:  # as torch says that a tensor cannot be divided so
                wrong.append(f"{key} {tuple(tensor.shape)} -> {target}")
                continue
        if target not in wanted or target in result:
            unused.append(f"{key} -> {target}")
        elif _squeezed(tensor.shape) != _squeezed(wanted[target]):
            wrong.append(f"{key} {tuple(tensor.shape)} -> {target} {tuple(wanted[target])}")
            found[target] = tuple(tensor.shape)
        else:
            result[target] = tensor.reshape(wanted[target])
    for key in wanted:
        if key not in result and key.endswith("num_batches_tracked"):
            result[key] = torch.zeros((), dtype=torch.int64)
    missing = [key for key in wanted if key not in result]
    problems = [
        f"{len(rows)} {what}: {', '.join(rows[:5])}{', ...' if len(rows) > 5 else ''}"
        for what, rows in (
            ("upstream keys unmapped", unmapped),
            ("mapped keys that the model lacks", unused),
            ("keys of another shape", wrong),
            ("keys of the model not filled", missing),
        )
        if rows
    ]
    if problems:
        text = f"this state dict does not fit as {source}: {'; '.join(problems)}"
        shapes_alone = len(wrong) == len(found) and not (unmapped or unused or {*missing} - {*found})
        raise ShapesError(text, found) if shapes_alone else CheckpointError(text)
    return result


KEPT = Rule(r"own\.(.+)", r"\1")  # what `keep_own` adds


def keep_own(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """For a file that holds a classifier: everything of the detector beside the backbone's body is added as it stands,
    under `own.<key>`. One that holds a detector is returned as it is."""
    if any(key.startswith(("backbone.", "neck.", "head.cls", "bbox_head.", "rpn")) for key in state_dict):
        return dict(state_dict)
    body = "backbone.body." if hasattr(model.backbone, "body") else "backbone."
    own = {f"own.{key}": value for key, value in model.state_dict().items() if not key.startswith(body)}
    return {**state_dict, **own}


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
