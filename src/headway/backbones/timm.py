"""Backbones from timm behind one contract: a list of NCHW maps, with `channels` and `strides` declared."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import HeadwayError
from ..meta import on_meta_device
from .dcn import DcnVersion, make_deformable
from .swin import SwinForm, open_to_any_size

NormMode = Literal["batch", "eval", "frozen", "buffers"]
_SWIN = ("swin_", "swinv2_")
# Small networks of a family of timm's, for a CPU: timm's name, and what is changed. There are no weights of them.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_nano_patch4_window7": (
        "swin_tiny_patch4_window7_224", {"embed_dim": 48, "depths": (2, 2, 4, 2), "num_heads": (2, 4, 8, 16)},
    ),
}  # fmt: skip


class TimmBackbone(nn.Module):
    """Feature maps of a timm model.

    name: any timm name that has features (`resnet18`, `resnext101_64x4d`, `swin_tiny_patch4_window7_224`, ...), or one
        of `SMALL`.
    strides: which maps, finest first; each must exist in the model.
    weights: True loads timm's ImageNet weights (a download the first time).
    norm: "batch" trains batch norms as usual; "eval" keeps their running statistics but trains scale and shift
        (mmdetection's norm_eval); "frozen" fixes them altogether; "buffers" does so too, with scale and shift as
        buffers, so that they do not count as parameters (as DETR is published).
    frozen_stages: 0 trains everything; n fixes the stem and every stage up to the n-th map of stride >= 4, batch
        norms included (1 is the usual "stem and layer1").
    frozen_stem: no gradient up to the map of stride 2; unlike in frozen stages its batch norms go on gathering
        statistics, as in the published trainings of Darknet-53.
    stride_in_1x1: put the stride of a bottleneck into its first convolution (the "caffe" ResNets).
    norm_eps: of the batch norms; None leaves the model's own. torchvision's first detectors were published with 0.
    leaky_slope: of the leaky ReLUs; None leaves the model's own (timm's Darknets have 0.01, the original has 0.1).
    dcn: stages whose 3x3 convolutions become deformable, of "c2" (stride 4) to "c5" (stride 32); ResNets only.
    dcn_version, dcn_groups: 1 offsets, 2 offsets and masks; groups of channels with offsets of their own (`dcn.py`).
    drop_path: rate of stochastic depth (arXiv 1603.09382) in the last block, rising to it from 0 in the first.
    map_norms: a LayerNorm for each map, as Swin's detectors have (child `norms`). None: for Swin only.
    swin_form: how Swin's windows lie, see `SwinBlock`.
    output_stride: 16 or 8 lets the last stages of a ResNet keep that stride and dilates their convolutions instead.
    picture: return first, as a map of one channel and stride 1, the input's own first channel. Heads that mask padding
        learn from it how large the padded picture is.

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
        drop_path: float = 0.0,
        map_norms: bool | None = None,
        swin_form: SwinForm = "official",
        output_stride: int = 32,
        picture: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.norm, self.frozen_stages, self.picture = name, norm, frozen_stages, picture
        every = feature_strides(name, output_stride)
        if not set(strides) <= set(every):
            raise HeadwayError(f"backbone {name} has maps of stride {sorted(set(every))}, not {tuple(strides)}")
        last = {stride: i for i, stride in enumerate(every)}  # of several maps of one stride the deepest
        self.body = _create(name, [last[s] for s in strides], weights, drop_path, output_stride)
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        swin = name.startswith(_SWIN)
        if swin:
            open_to_any_size(self.body, swin_form)
        wanted = swin if map_norms is None else map_norms
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels) if wanted else None
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
        for module in self.modules():
            if norm == "frozen" and isinstance(module, _BatchNorm):
                module.requires_grad_(False)
            elif norm == "buffers" and isinstance(module, _BatchNorm):
                _make_constant(module)
        if picture:
            self.channels, self.strides = (1, *self.channels), (1, *self.strides)
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
        maps = self._maps(images)
        return [images[:, :1], *maps] if self.picture else maps

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = list(self.body(images))
        if getattr(self.body, "output_fmt", "NCHW") == "NCHW":
            if self.norms is None:
                return maps
            maps = [x.permute(0, 2, 3, 1) for x in maps]
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps)]
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps]


@lru_cache
def feature_strides(name: str, output_stride: int = 32) -> tuple[int, ...]:
    """The strides of all maps of a timm model, finest first. Raises: HeadwayError for an unknown name."""
    if name not in SMALL and not timm.is_model(name):
        near = get_close_matches(name, [*timm.list_models(), *SMALL], 3, cutoff=0.4)
        raise HeadwayError(f"timm has no backbone {name!r}; did you mean {', '.join(near) or '(nothing near)'}?")
    base, changes = SMALL.get(name, (name, {}))
    with on_meta_device():
        every = timm.create_model(base, features_only=True, **changes, **_dilation(output_stride)).feature_info.info
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


def _dilation(output_stride: int) -> dict[str, Any]:
    return {} if output_stride == 32 else {"output_stride": output_stride}  # which not every family takes


def _create(
    name: str, out_indices: list[int], weights: bool, drop_path: float = 0.0, output_stride: int = 32
) -> nn.Module:
    if weights and name in SMALL:
        raise HeadwayError(f"there are no ImageNet weights of {name}: set backbone_weights=False")
    base, changes = SMALL.get(name, (name, {}))
    options = {"features_only": True, "out_indices": out_indices, **changes, **_dilation(output_stride)}
    if base.startswith(_SWIN):
        options |= {"strict_img_size": False, "always_partition": True}
    if drop_path or base.startswith(_SWIN):  # Swin has 0.1 unless told otherwise
        options["drop_path_rate"] = drop_path
    return create_pretrained(base, **options) if weights else timm.create_model(base, **options)


def create_pretrained(name: str, **options: Any) -> nn.Module:
    """timm's model with its weights. Raises: HeadwayError when they cannot be had."""
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HeadwayError(
            f"ImageNet weights of {name} could not be had ({reason}). They are downloaded the first time: connect to "
            "the network once, set HF_HOME to a cache that holds them, or start with backbone_weights=False"
        ) from None


def _make_constant(norm: _BatchNorm) -> None:
    for name in ("weight", "bias"):
        value = getattr(norm, name).detach()
        delattr(norm, name)
        norm.register_buffer(name, value)


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
