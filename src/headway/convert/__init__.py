"""Published checkpoints become ours: one file per upstream, each a rename table and a few tensor functions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..detector import Detector
from ..errors import HeadwayError, nearest
from . import (
    centernet,
    deformable_detr,
    detectron2,
    detr,
    dynamichead,
    effdet,
    hf,
    mmdet,
    paddle,
    swin,
    timm,
    torchvision,
    ttfnet,
    yolor_cfg,
    yolor_yaml,
    yolov4,
)
from .pickles import read_upstream
from .rules import Rule, apply_rules, keep_own

__all__ = ["Rule", "apply_rules", "from_upstream", "read_upstream", "sources"]

_SOURCES = {
    "centernet": centernet.rules,
    "mmdet": mmdet.rules,
    "detectron2": detectron2.rules,
    "deformable_detr": deformable_detr.rules,
    "detr": detr.rules,
    "hf": hf.rules,
    "dynamichead": dynamichead.rules,
    "effdet": effdet.rules,
    "paddle": paddle.rules,
    "swin": swin.rules,
    "timm": timm.rules,
    "torchvision": torchvision.rules,
    "ttfnet": ttfnet.rules,
    "yolor_cfg": yolor_cfg.rules,
    "yolor_yaml": yolor_yaml.rules,
    "yolov4": yolov4.rules,
}
# What has to look at the tensors and the model together, before any name is changed.
_BEFORE = {
    "deformable_detr": deformable_detr.prepare,
    "detr": detr.split_projections,
    "hf": deformable_detr.name_once,
    "mmdet": detr.split_projections,
    "swin": keep_own,
    "timm": timm.add_own,
    "torchvision": keep_own,
    "yolor_yaml": yolor_yaml.check_anchors,
    "yolov4": yolov4.name_numbers,
}


def sources() -> list[str]:
    """The upstreams that `from_upstream` understands."""
    return sorted(_SOURCES)


def from_upstream(state_dict: Mapping[str, Tensor], source: str, model: Detector) -> dict[str, Tensor]:
    """Rename and reshape an upstream state dict for `model.load_state_dict`.

    source: one of `sources()`. Strict both ways. Raises: HeadwayError for an unknown source; CheckpointError with the
    lists of unmapped, unused and shape-mismatched keys.
    """
    if source not in _SOURCES:
        raise HeadwayError(f"unknown source {source!r}; {nearest(source, _SOURCES)} (known: {', '.join(sources())})")
    rules = _SOURCES[source](model)
    if source in _BEFORE:
        state_dict = _BEFORE[source](state_dict, model)
    return apply_rules(rules, state_dict, model, source)
