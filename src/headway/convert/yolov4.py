"""Darknet's `.weights` files of YOLOv4-CSP, -CSP-X and the large ones: a header and the numbers of every layer, without
a name or a shape among them.

Layout: int32 major, minor and revision, the number of pictures seen (int64 from version 0.2 on, before it int32), then
little-endian float32: of a convolution with a norm its beta, gamma, running mean and variance and the weight, of one
without its bias and the weight, in the order of the cfg's lines. Which line comes where is `yolor_cfg`'s numbering,
without implicit vectors. In some cfgs each level's head follows the block that feeds it, in others all heads are at the
end: the names of AlexeyAB/darknet's files for pre-training say how many lines come before the first head
(yolov4-csp.conv.142 and yolov4x-mish.conv.166 for the former, yolov4-csp-swish.conv.164, yolov4-csp-x-swish.conv.192,
yolov4-p5.conv.232 and yolov4-p6.conv.289 for the latter). Sizes are the same in both, so the order is taken in which
every running variance is one.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .rules import Rule
from .yolor_cfg import Line, lines, prediction_paths

_KEY = "weights"
_NORM = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "conv.weight")
_BARE = ("bias", "weight")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All numbers of a `.weights` file as one float32 tensor named "weights". Raises: CheckpointError."""
    content = path.read_bytes()
    major, minor, _ = struct.unpack("<3i", content[:12]) if len(content) >= 12 else (-1, -1, 0)
    wide = major * 10 + minor >= 2 and max(major, minor) < 1000
    start = 20 if wide else 16
    if min(major, minor) < 0 or len(content) <= start or (len(content) - start) % 4:
        raise CheckpointError(
            f"{path} is no Darknet .weights file: expected a header of {start} bytes and then 4 bytes a number, got "
            f"{len(content)} bytes of version {major}.{minor}"
        )
    return {_KEY: torch.from_numpy(np.frombuffer(content, dtype="<f4", offset=start).astype(np.float32))}


def rules(_: nn.Module) -> list[Rule]:
    """The names are ours once `prepare` has given them."""
    return [Rule(r"(.+)", r"\1")]


def prepare(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Cut the numbers of a `.weights` file into the tensors of `model`, under our names. Raises: CheckpointError with
    the count that was expected, or where no order of the layers makes sense of them."""
    if set(state) != {_KEY}:
        raise CheckpointError(
            f"expected the numbers of a Darknet .weights file alone, under {_KEY!r}, got {sorted(state)[:3]}; state "
            "dicts of module_list.* are yolor_cfg, of model.* yolor_yaml"
        )
    numbers, wanted = state[_KEY].flatten(), model.state_dict()
    order = lines(model)
    if any(line.kind == "implicit" for line in order):
        raise CheckpointError("Darknet files hold no implicit vectors: use yolov4_csp or yolov4_csp_x")
    expected = sum(wanted[key].numel() for line in order for key in _keys(line))
    if numbers.numel() != expected:
        raise CheckpointError(_other_count(numbers.numel(), expected, model))
    for choice in (_heads_between(order, model), order):
        tensors = _cut(numbers, choice, wanted)
        if all((value >= 0).all() for key, value in tensors.items() if key.endswith("running_var")):
            return tensors
    raise CheckpointError(
        f"{expected} numbers fit this model, but some running variances would be negative, whether the heads lie "
        "between the blocks or at the end: the file is of another architecture or damaged"
    )


def _keys(line: Line) -> list[str]:
    return [f"{line.path}.{leaf}" for leaf in (_NORM if line.kind == "conv" else _BARE)]


def _cut(numbers: Tensor, order: list[Line], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = [key for line in order for key in _keys(line)]
    parts = numbers.split([wanted[key].numel() for key in keys])
    return {key: part.view(wanted[key].shape) for key, part in zip(keys, parts)}


def _heads_between(order: list[Line], model: nn.Module) -> list[Line]:
    """The same layers with each level's head behind the block that feeds it: the last one on the way up, then those on
    the way down."""
    count = len(model.neck.bottoms) + 1
    heads, body = order[-2 * count :], order[: -2 * count]
    blocks = [f"neck.tops.{len(model.neck.tops) - 1}", *(f"neck.bottoms.{i}" for i in range(count - 1))]
    result = []
    for line in body:
        result.append(line)
        if line.path.endswith(".merge") and line.path.removesuffix(".merge") in blocks:
            level = blocks.index(line.path.removesuffix(".merge"))
            result += heads[2 * level : 2 * level + 2]
    return result


def _other_count(found: int, expected: int, model: nn.Module) -> str:
    """Says also for how many classes the file would fit."""
    classes = model.head.num_classes
    convs = [model.get_submodule(prediction_paths(model.head, i).conv) for i in range(len(model.head.predictions))]
    step = sum((conv.in_channels + 1) * conv.out_channels // (classes + 5) for conv in convs)
    more, rest = divmod(found - expected, step)
    hint = "it may be of another architecture, or cut off for pre-training"
    if rest == 0 and classes + more > 0:
        hint = f"it has as many as {classes + more} classes would take: num_classes={classes + more}"
    return f"the file holds {found} numbers, this model with {classes} classes takes {expected}; {hint}"
