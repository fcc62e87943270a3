"""Swin's names in mmdetection (3.3.0, Apache-2.0) and torchvision (0.29, BSD-3-Clause) to ours, which are timm's.

A stage begins with the merging of patches in timm; elsewhere that ends the stage before.
"""

from collections.abc import Callable

from torch import Tensor, nn

from .rules import Rule

W = r"(weight|bias)"
BODY = "backbone.body."
COMPUTED = "follows from the size of the window"
CLASSIFIER = "the classifier's"


def is_swin(model: nn.Module) -> bool:
    return hasattr(getattr(model.backbone, "body", None), "layers_0")


def mmdet_backbone(model: nn.Module) -> list[Rule]:
    block = (r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.", BODY + r"layers_\1.blocks.\2.")
    table = [
        Rule(rf"backbone\.patch_embed\.projection\.{W}", BODY + r"patch_embed.proj.\1"),
        Rule(rf"backbone\.patch_embed\.norm\.{W}", BODY + r"patch_embed.norm.\1"),
        Rule(block[0] + rf"(norm[12])\.{W}", block[1] + r"\3.\4"),
        Rule(block[0] + r"attn\.w_msa\.relative_position_index", None, reason=COMPUTED),
        Rule(block[0] + r"attn\.w_msa\.(.+)", block[1] + r"attn.\3"),
        Rule(block[0] + rf"ffn\.layers\.0\.0\.{W}", block[1] + r"mlp.fc1.\3"),
        Rule(block[0] + rf"ffn\.layers\.1\.{W}", block[1] + r"mlp.fc2.\3"),
    ]
    return [*table, *merging(r"backbone\.stages\.{}\.downsample\.", _from_unfold), *map_norms(model)]


def torchvision_backbone() -> list[Rule]:
    """`torchvision.models.swin_*`: everything is numbered, blocks at odd places and mergings between them."""
    table = [
        Rule(rf"features\.0\.0\.{W}", BODY + r"patch_embed.proj.\1"),
        Rule(rf"features\.0\.2\.{W}", BODY + r"patch_embed.norm.\1"),
        Rule(r"norm\..+|head\.(weight|bias)", None, reason=CLASSIFIER),
    ]
    for stage in range(4):
        block = (rf"features\.{2 * stage + 1}\.(\d+)\.", f"{BODY}layers_{stage}." + r"blocks.\1.")
        table += [
            Rule(block[0] + r"attn\.relative_position_index", None, reason=COMPUTED),
            Rule(block[0] + rf"mlp\.0\.{W}", block[1] + r"mlp.fc1.\2"),
            Rule(block[0] + rf"mlp\.3\.{W}", block[1] + r"mlp.fc2.\2"),
            Rule(block[0] + r"(.+)", block[1] + r"\2"),
            Rule(rf"features\.{2 * stage}\.(norm|reduction)\.{W}", f"{BODY}layers_{stage}." + r"downsample.\1.\2"),
        ]
    return table


def merging(place: str, transform: Callable[[Tensor], Tensor] | None = None) -> list[Rule]:
    """place: the pattern of a merging's name, with {} for the number of its stage."""
    return [
        Rule(place.format(stage) + rf"(norm|reduction)\.{W}", f"{BODY}layers_{stage + 1}." + r"downsample.\1.\2",
             transform)
        for stage in range(3)
    ]  # fmt: skip


def _from_unfold(tensor: Tensor) -> Tensor:
    """mmdetection joins the four patches by nn.Unfold, channel by channel and row by row (mmdet/models/layers/
    transformer/utils.py, `PatchMerging`); the original patch by patch and column by column."""
    *rest, joined = tensor.shape
    return tensor.reshape(*rest, joined // 4, 2, 2).movedim((-1, -2), (-3, -2)).reshape(tensor.shape)


def map_norms(model: nn.Module) -> list[Rule]:
    """Upstream the norms of the maps carry the number of their stage."""
    first = 4 - len(model.backbone.strides)
    return [
        Rule(rf"backbone\.norm{first + i}\.{W}", f"backbone.norms.{i}." + r"\1")
        for i in range(len(model.backbone.strides))
    ]
