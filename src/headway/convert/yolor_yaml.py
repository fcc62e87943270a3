"""Names of the yaml networks of WongKinYiu/yolor (branch paper, 10efdf7) and ScaledYOLOv4 (branch yolov4-large,
6768003) to ours: `model.<line of the yaml>.<part of the block>`.

Both projects are GPL-3.0 and were not read: these are the names that their pickled modules have. A line is a block, so
the numbers follow from the order of the blocks; compared with the key list recorded from YOLOR-P6.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .rules import Rule
from .yolor_cfg import PREFIX, check_family, prediction_paths

_ANCHORS = re.compile(rf"{PREFIX}model\.\d+\.anchor_grid")
# Of each kind of block: their part and ours. A convolution has its norm beside it; a bypass and a transition are bare.
_RESIDUAL = {"cv1": "conv1", "cv2": "conv2"}
_STAGE = {"cv1": "cv1", "cv2": "bypass", "cv3": "transition", "cv4": "merge"}
_REVERSED = {"cv1": "entry", "cv2": "bypass", "cv3": "merge"}
_SPP = {
    "cv1": "conv1", "cv2": "bypass", "cv3": "conv2", "cv4": "conv3", "cv5": "after1", "cv6": "after2", "cv7": "merge",
}  # fmt: skip
_DOWN = {"cv1": "conv1", "cv2": "conv2", "cv3": "pooled"}


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`. Raises: CheckpointError for a model that is not of the yaml form."""
    check_family(model)
    if model.neck.spp.norm is None:
        raise CheckpointError(
            "this model is built in the cfg form, which computes another function than a yaml checkpoint: use a tag "
            "that ends in .yaml, or form='yaml'"
        )
    blocks = _blocks(model)
    table = [rule for number, (path, parts) in enumerate(blocks) for rule in _block(number, path, parts)]
    return [*table, *_predictions(len(blocks), model.head)]


def prepare(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict as it is. Raises: CheckpointError where its anchors are not the model's."""
    for key in filter(_ANCHORS.fullmatch, state):
        ours, theirs = model.head.anchors.detach().float().cpu(), state[key].float().cpu().flatten()
        if theirs.numel() != ours.numel() or not torch.allclose(theirs, ours.flatten(), rtol=1e-3):
            levels = len(ours)
            shown = theirs.round().int().view(levels, -1, 2).tolist() if theirs.numel() % (2 * levels) == 0 else theirs
            raise CheckpointError(
                f"{key} holds other anchors than the model: {shown} against {ours.round().int().tolist()}; "
                "create the model with anchors=... as in the file"
            )
    return state


def _blocks(model: nn.Module) -> list[tuple[str, dict[str, str]]]:
    """Our path and the parts of the block in every line; without a path where a line has no weights."""
    nothing: tuple[str, dict[str, str]] = ("", {})
    backbone, neck = model.backbone, model.neck
    found = []
    for name, layer in backbone.stem.named_children():
        found.append((f"backbone.stem.{name}", {}) if hasattr(layer, "norm") else nothing)
    if backbone.residual is not None:
        found.append(("backbone.residual", _RESIDUAL))
    for i, down in enumerate(backbone.downs):
        found += [(f"backbone.downs.{i}", _down(down)), (f"backbone.stages.{i}", _STAGE)]
    found.append(("neck.spp", _SPP))
    for i in range(len(neck.tops)):
        found += [(f"neck.reduces.{i}", {}), nothing, (f"neck.laterals.{i}", {}), nothing]
        found.append((f"neck.tops.{i}", _REVERSED))
    found.append(("head.convs.0", {}))
    for i, down in enumerate(neck.downs):
        found += [(f"neck.downs.{i}", _down(down)), nothing, (f"neck.bottoms.{i}", _REVERSED)]
        found.append((f"head.convs.{i + 1}", {}))
    return found


def _down(down: nn.Module) -> dict[str, str]:
    return {} if hasattr(down, "norm") else _DOWN


def _block(number: int, path: str, parts: dict[str, str]) -> list[Rule]:
    if not path:
        return []
    theirs = rf"{PREFIX}model\.{number}\."
    table = _conv(theirs, path)
    for name, part in parts.items():
        place = f"{path}.{part}"
        table += [*_conv(rf"{theirs}{name}\.", place), Rule(rf"{theirs}{name}\.weight", place + ".weight")]
    for k in (1, 2):
        table += _conv(rf"{theirs}m\.(?P<block>\d+)\.cv{k}\.", rf"{path}.blocks.\g<block>.conv{k}")
    return table


def _conv(theirs: str, ours: str) -> list[Rule]:
    """A convolution with its norm; at the top of a block of branches, the norm behind their concatenation."""
    return [
        Rule(theirs + r"conv\.weight", ours + ".conv.weight"),
        Rule(theirs + r"bn\.(?P<leaf>\w+)", ours + r".norm.\g<leaf>"),
    ]


def _predictions(number: int, head: nn.Module) -> list[Rule]:
    theirs = rf"{PREFIX}model\.{number}\."
    table = [Rule(theirs + r"anchors?(?:_grid)?", None, reason="kept in the model; `prepare` compares them")]
    for i in range(len(head.predictions)):
        place = prediction_paths(head, i)
        table.append(Rule(theirs + rf"m\.{i}\.(weight|bias)", place.conv + r".\1"))
        for name, path in (("ia", place.align), ("im", place.refine)):
            if path:
                table.append(Rule(theirs + rf"{name}\.{i}\.implicit", path))
    return table
