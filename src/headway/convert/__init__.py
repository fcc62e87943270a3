"""Published checkpoints become ours: one file per upstream, each a rename table and a few tensor functions.

A file has `rules(model)` and, where the tensors have to be looked at together before any name is changed,
`prepare(state_dict, model)`.
"""

from collections.abc import Mapping
from importlib import import_module

from torch import Tensor

from ..detector import Detector
from ..errors import HeadwayError, nearest
from .pickles import read_upstream
from .rules import Rule, apply_rules

__all__ = ["Rule", "apply_rules", "from_upstream", "read_upstream", "sources"]

_SOURCES = (
    "centernet", "deformable_detr", "detectron2", "detr", "dynamichead", "effdet", "hf", "mmdet", "paddle", "swin",
    "timm", "torchvision", "ttfnet", "yolor_cfg", "yolor_yaml", "yolov4",
)  # fmt: skip


def sources() -> list[str]:
    """The upstreams that `from_upstream` understands."""
    return list(_SOURCES)


def from_upstream(state_dict: Mapping[str, Tensor], source: str, model: Detector) -> dict[str, Tensor]:
    """Rename and reshape an upstream state dict for `model.load_state_dict`.

    source: one of `sources()`. Strict both ways. Raises: HeadwayError for an unknown source; CheckpointError with the
    lists of unmapped, unused and shape-mismatched keys.
    """
    if source not in _SOURCES:
        raise HeadwayError(f"unknown source {source!r}; {nearest(source, _SOURCES)} (known: {', '.join(_SOURCES)})")
    upstream = import_module(f".{source}", __package__)
    rules = upstream.rules(model)
    if prepare := getattr(upstream, "prepare", None):
        state_dict = prepare(state_dict, model)
    return apply_rules(rules, state_dict, model, source)
