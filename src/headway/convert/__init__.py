"""Published checkpoints become ours: one file per upstream, each a rename table and a few tensor functions.

A file has `rules(model)` and, where the tensors have to be looked at together before any name is changed,
`prepare(state_dict, model)`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from torch import Tensor

from ..detector import Detector
from ..errors import CheckpointError, HeadwayError, nearest
from .pickles import read_class_names, read_upstream
from .rules import Rule, ShapesError, apply_rules, count_classes, unwrapped

__all__ = [
    "Rule", "ShapesError", "apply_rules", "classes_in", "from_upstream", "read_upstream", "sources",
]  # fmt: skip

_SOURCES = (
    "centernet", "deformable_detr", "detectron2", "detr", "dynamichead", "effdet", "headway", "hf", "mmdet", "paddle",
    "swin", "timm", "torchvision", "ttfnet", "yolor_cfg", "yolor_yaml", "yolov4",
)  # fmt: skip


def sources() -> list[str]:
    """The upstreams that `from_upstream` understands."""
    return list(_SOURCES)


def from_upstream(state_dict: Mapping[str, Tensor], source: str, model: Detector) -> dict[str, Tensor]:
    """Rename and reshape an upstream state dict for `model.load_state_dict`.

    source: one of `sources()`. Strict both ways, but for a prefix that all names have from a wrapper (`module.`, the
    `model.` of Lightning, `_orig_mod.` of a compiled model). Raises: HeadwayError for an unknown source;
    CheckpointError with the lists of unmapped, unused and shape-mismatched keys, ShapesError where it is shapes alone.
    """
    if source not in _SOURCES:
        raise HeadwayError(f"unknown source {source!r}; {nearest(source, _SOURCES)} (known: {', '.join(_SOURCES)})")
    upstream = import_module(f".{source}", __package__)
    rules, prepare = upstream.rules(model), getattr(upstream, "prepare", None)
    errors: list[CheckpointError] = []
    for names in unwrapped(state_dict):
        try:
            return apply_rules(rules, prepare(names, model) if prepare else names, model, source)
        except CheckpointError as error:
            errors.append(error)
        except (LookupError, ValueError, RuntimeError) as error:  # what `prepare` meets among names it does not expect
            reason = f"{type(error).__name__} {error}"
            errors.append(CheckpointError(f"this state dict does not fit as {source}: {reason}"))
    raise next((error for error in errors if isinstance(error, ShapesError)), errors[0])


def classes_in(
    path: str | Path, error: CheckpointError, shapes: Callable[[int], Mapping[str, Sequence[int]]]
) -> list[str]:
    """The classes of a file that was refused for its shapes alone: their names where it holds them, else class0, class1
    and so on. Empty where another number of classes does not explain the shapes.

    shapes: of the model's keys for a number of classes.
    """
    count = count_classes(shapes, error.found) if isinstance(error, ShapesError) else 0
    names = read_class_names(path) if count else ()
    return list(names) if len(names) == count else [f"class{i}" for i in range(count)]
