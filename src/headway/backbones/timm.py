"""Backbones from timm behind one contract: a list of NCHW maps, with `channels` and `strides` declared."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import HeadwayError
from .dcn import DcnVersion, make_deformable

NormMode = Literal["batch", "eval", "frozen"]


class TimmBackbone(nn.Module):
    """Feature maps of a timm model.

    name: any timm name that has features (`resnet18`, `resnext101_64x4d`, ...).
    strides: which maps, finest first; each must exist in the model.
    weights: True loads timm's ImageNet weights (a download the first time).
    norm: "batch" trains batch norms as usual; "eval" keeps their running statistics but trains scale and shift
        (mmdetection's norm_eval); "frozen" fixes them altogether.
    frozen_stages: 0 trains everything; n fixes the stem and every stage up to the n-th map of stride >= 4, batch
        norms included (1 is the usual "stem and layer1").
    frozen_stem: no gradient up to the map of stride 2; unlike in frozen stages its batch norms go on gathering
        statistics, as in the published trainings of Darknet-53.
    stride_in_1x1: put the stride of a bottleneck into its first convolution (the "caffe" ResNets).
    norm_eps: of the batch norms; None leaves the model's own. torchvision's first detectors were published with 0.
    leaky_slope: of the leaky ReLUs; None leaves the model's own (timm's Darknets have 0.01, the original has 0.1).
    dcn: stages whose 3x3 convolutions become deformable, of "c2" (stride 4) to "c5" (stride 32); ResNets only.
    dcn_version, dcn_groups: 1 offsets, 2 offsets and masks; groups of channels with offsets of their own (`dcn.py`).

    channels, strides: of the maps that `forward` returns. Raises: HeadwayError for an unknown name, a missing
    stride, or weights that cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        strides: Sequence[int] = (8, 16, 32),
        weights: bool = False,
        norm: NormMode = "batch",
        frozen_stages: int = 0,
        frozen_stem: bool = False,
        stride_in_1x1: bool = False,
        norm_eps: float | None = None,
        leaky_slope: float | None = None,
        dcn: Sequence[str] = (),
        dcn_version: DcnVersion = 2,
        dcn_groups: int = 1,
    ) -> None:
        super().__init__()
        self.name, self.norm, self.frozen_stages = name, norm, frozen_stages
        every = feature_strides(name)
        if not set(strides) <= set(every):
            raise HeadwayError(f"backbone {name} has maps of stride {sorted(set(every))}, not {tuple(strides)}")
        last = {stride: i for i, stride in enumerate(every)}  # of several maps of one stride the deepest
        self.body = _create(name, [last[s] for s in strides], weights)
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        if stride_in_1x1:
            _move_stride(self.body)
        for module in self.modules():
            if norm_eps is not None and isinstance(module, _BatchNorm):
                module.eps = norm_eps
            if leaky_slope is not None and isinstance(module, nn.LeakyReLU):
                module.negative_slope = leaky_slope
        make_deformable(_stages(self.body), dcn, dcn_version, dcn_groups)
        self._frozen = _stage_modules(self.body, frozen_stages)
        for module in [*self._frozen, *(_stem_modules(self.body) if frozen_stem else ())]:
            module.requires_grad_(False)
        if norm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        fixed = self.modules() if self.norm != "batch" else (m for stage in self._frozen for m in stage.modules())
        for module in fixed:
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        maps = self.body(images)
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":
            return [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        return list(maps)


@lru_cache
def feature_strides(name: str) -> tuple[int, ...]:
    """The strides of all maps of a timm model, finest first. Raises: HeadwayError for an unknown name."""
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3, cutoff=0.4)
        raise HeadwayError(f"timm has no backbone {name!r}; did you mean {', '.join(near) or '(nothing near)'}?")
    with torch.device("meta"):
        every = timm.create_model(name, features_only=True).feature_info.info
    return tuple(row["reduction"] for row in every)


def weight_statistics(name: str) -> dict[str, Any]:
    """`mean` and `std` for a model card: of the pixels (RGB 0..255) that timm's ImageNet weights of this name were
    trained on; empty for a model without weights. Most have ImageNet's, but `resnet50d.ra4_e3600_r224_in1k` was trained
    on -1..1 and `mobilenetv3_large_100.miil_in21k_ft_in1k` on plain 0..1.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return {}
    statistics = {"mean": config.mean, "std": config.std}
    return {key: tuple(round(255 * value, 3) for value in values) for key, values in statistics.items()}


def _create(name: str, out_indices: list[int], weights: bool) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=weights, out_indices=out_indices)
    except (OSError, RuntimeError) as error:
        if not weights:
            raise
        reason = str(error).splitlines()[0]
        raise HeadwayError(
            f"ImageNet weights of {name} could not be had ({reason}). They are downloaded the first time: connect to "
            "the network once, set HF_HOME to a cache that holds them, or start with backbone_weights=False"
        ) from None


def _move_stride(body: nn.Module) -> None:
    for module in body.modules():
        conv1, conv2 = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if hasattr(module, "conv3") and isinstance(conv2, nn.Conv2d) and conv2.stride == (2, 2):
            conv1.stride, conv2.stride = (2, 2), (1, 1)


def _stages(body: nn.Module) -> dict[str, nn.Module]:
    """The stages of a features_only model by name: "c2" ends at stride 4, "c3" at 8, "c4" at 16, "c5" at 32."""
    children = dict(body.named_children())
    ends = {info["reduction"]: info["module"].replace(".", "_") for info in body.feature_info.info}
    return {f"c{i}": children[ends[2**i]] for i in range(2, 6) if ends.get(2**i) in children}


def _stage_modules(body: nn.Module, count: int) -> list[nn.Module]:
    """The children of a features_only model up to the `count`-th stage of stride >= 4."""
    if count == 0:
        return []
    ends = [info["module"] for info in body.feature_info.info if info["reduction"] >= 4]
    if not 0 < count <= len(ends):
        raise HeadwayError(f"frozen_stages must be 0..{len(ends)}, got {count}")
    return _modules_until(body, ends[count - 1], "use frozen_stages=0")


def _stem_modules(body: nn.Module) -> list[nn.Module]:
    """The children of a features_only model up to the end of its (last) map of stride 2."""
    ends = [info["module"] for info in body.feature_info.info if info["reduction"] == 2]
    return _modules_until(body, ends[-1] if ends else "of stride 2", "use frozen_stem=False")


def _modules_until(body: nn.Module, end: str, advice: str) -> list[nn.Module]:
    children = dict(body.named_children())
    last = end.replace(".", "_")
    if last not in children:
        raise HeadwayError(f"this backbone's stages cannot be told apart (no module {last}); {advice}")
    names = list(children)
    return [children[n] for n in names[: names.index(last) + 1]]
