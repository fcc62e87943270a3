"""Plain ViT as a backbone of detectors (arXiv 2010.11929): windowed and global blocks, positions interpolated to any
size, relative positions as an option (ViTDet, arXiv 2203.16527), and the hybrid whose tokens are a CNN's map.

Legend: B images (or windows), H W height and width in tokens, N = H W, C channels.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from ..errors import HeadwayError
from ..layers.windows import join_windows, pad_to_windows, split_windows
from ..meta import on_meta_device
from ..registry import register_backbone
from ..types import Levels
from .timm import PLAIN_VIT, Weights, create_pretrained, timm_backbone, weight_statistics

STRIDE = 16
# Names of ours: whose geometry and weights they take from timm, and what `ViT` is told beside.
VITS: dict[str, tuple[str, dict[str, Any]]] = {
    "vitdet_base": ("vit_base_patch16_224.mae", {"relative_grid": 64}),
    "vitdet_large": ("vit_large_patch16_224.mae", {"relative_grid": 64}),
    "vit_tiny_patch16": ("vit_tiny_patch16_224", {"window": 10}),
    "vit_tiny_hybrid_r18": ("vit_tiny_patch16_224", {"stem": "resnet18", "window": 10}),
}
_norm = partial(nn.LayerNorm, eps=1e-6)


class ViTAttention(nn.Module):
    """Multi-head self-attention over a map or a window.

    relative_side: with it, every axis has a learned vector per distance and head channel (ViTDet's decomposed relative
        positions: q k^T / sqrt(d) + q r_y + q r_x); tables are made for sides of so many tokens and interpolated for
        others. 0: none.
    """

    def __init__(self, channels: int, heads: int, *, relative_side: int = 0) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; choose a divisor of {channels}")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        shape = (2 * relative_side - 1, channels // heads)
        self.rel_pos_h = nn.Parameter(torch.zeros(shape)) if relative_side else None
        self.rel_pos_w = nn.Parameter(torch.zeros(shape)) if relative_side else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same."""
        q, k, v = self._heads(x)
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q, *x.shape[1:3]))
        return self.proj(joined.transpose(1, 2).reshape(x.shape))

    def weights(self, x: Tensor) -> Tensor:
        """The softmax itself, [B, heads, N, N] float32, of the argument that `forward` takes: for looking at."""
        q, k, _ = self._heads(x)
        logits = (q @ k.transpose(2, 3)).float() / q.shape[3] ** 0.5
        bias = self._bias(q, *x.shape[1:3])
        return (logits if bias is None else logits + bias).softmax(3)

    def _heads(self, x: Tensor) -> Sequence[Tensor]:
        """q, k, v [B, heads, N, C / heads]."""
        return self.qkv(x).flatten(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _bias(self, q: Tensor, height: int, width: int) -> Tensor | None:
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        grid = q.unflatten(2, (height, width))
        rows = torch.einsum("bnyxc,ykc->bnyxk", grid, _distances(self.rel_pos_h, height).to(q.dtype))
        columns = torch.einsum("bnyxc,xkc->bnyxk", grid, _distances(self.rel_pos_w, width).to(q.dtype))
        return (rows[..., :, None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)


def _distances(table: Tensor, side: int) -> Tensor:
    """The row of `table` for every pair of places along an axis of `side` tokens, [side, side, C]: query, key."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]


class ViTBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and added to its input.

    window: side of the windows that attention is kept to, in tokens (the map is filled up with zeros to whole windows
        behind the norm); 0: it sees the whole map.
    """

    def __init__(
        self, channels: int, heads: int, mlp_ratio: float, *, window: int, relative_side: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.attn = ViTAttention(channels, heads, relative_side=relative_side)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        if not self.window:
            return self.attn(x)
        height, width = x.shape[1:3]
        window = (self.window, self.window)
        x = pad_to_windows(x, window)
        attended = self.attn(split_windows(x, window).unflatten(1, window)).flatten(1, 2)
        return join_windows(attended, window, *x.shape[1:3])[:, :height, :width]


class PatchEmbed(nn.Module):
    """Pictures or a CNN's map to tokens.

    backbone: the CNN, whose last map is taken; None for pictures. kernel: side of a patch of what comes in.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride=kernel)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, ceil(h / 16), ceil(w / 16), C]; pictures are filled up with zeros to whole patches."""
        x = F.pad(images, (0, -images.shape[3] % STRIDE, 0, -images.shape[2] % STRIDE))
        if self.backbone is not None:
            x = self.backbone(x)
            x = x[-1] if isinstance(x, (list, tuple)) else x
        return self.proj(x).permute(0, 2, 3, 1)


class ViT(nn.Module):
    """A plain ViT of one map, of stride 16.

    depth, channels, heads, mlp_ratio: of the blocks. embed: pictures to tokens.
    window: side of the windows of all blocks but `global_blocks`, in tokens; 0: all blocks are global.
    global_blocks: None for the last one of every quarter (ViTDet, 3).
    grid: rows and columns of the learned positions, which are interpolated (bicubic) to other sizes.
    relative_grid: side of the map for which relative positions of global blocks are made; 0: no relative positions.
    drop_path: rate of stochastic depth (arXiv 1603.09382) in the last block, rising to it from 0 in the first.

    channels, strides: of the maps that `forward` returns.
    Differs from the classifiers: no class token and no last norm (ViTDet).
    """

    def __init__(
        self,
        embed: PatchEmbed,
        *,
        channels: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        window: int = 14,
        global_blocks: Sequence[int] | None = None,
        grid: tuple[int, int] = (14, 14),
        relative_grid: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if global_blocks is None:
            global_blocks = [max(0, depth * quarter // 4 - 1) for quarter in range(1, 5)]
        if not all(0 <= i < depth for i in global_blocks):
            raise HeadwayError(f"global_blocks must be of 0..{depth - 1}, got {tuple(global_blocks)}")
        self.name = ""
        self.channels, self.strides = (channels,), (STRIDE,)
        self.levels = Levels(self.strides, self.channels)
        self.patch_embed = embed
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential()
        for i in range(depth):
            side = 0 if i in global_blocks else window
            rate, relative = drop_path * i / max(1, depth - 1), (side or relative_grid) if relative_grid else 0
            block = ViTBlock(channels, heads, mlp_ratio, window=side, relative_side=relative, drop_path=rate)
            self.blocks.append(block)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, h, w] normalised -> one map [B, C, ceil(h / 16), ceil(w / 16)]."""
        x = self.patch_embed(images)
        x = self.blocks(x + self.positions(*x.shape[1:3]))
        return [x.permute(0, 3, 1, 2).contiguous()]

    def positions(self, height: int, width: int) -> Tensor:
        """The learned positions for a map of that size, [1, height, width, C]."""
        if (height, width) == self.pos_embed.shape[1:3]:
            return self.pos_embed
        table = self.pos_embed.permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False)
        return table.permute(0, 2, 3, 1)


def is_vit(name: str) -> bool:
    return name in VITS or (name.startswith(PLAIN_VIT) and timm.is_model(name.split(".")[0]))


@register_backbone("vit", matches=is_vit)
def make_vit(name: str, *, weights: Weights = False, drop_path: float = 0.0) -> ViT:
    """Plain or hybrid ViT of timm with patches (of pictures) 16 pixels wide, or one of `VITS`: one map of stride 16.

    weights: true loads timm's ImageNet weights (a download the first time); a path reads a local file.
    drop_path: rate of stochastic depth in the last block.

    Raises: HeadwayError for a name that is not known or whose network is built otherwise, and for weights that cannot
    be had.
    """
    source, arguments = VITS.get(name, (name, {}))
    stem, layout = arguments.get("stem"), {key: value for key, value in arguments.items() if key != "stem"}
    if weights and stem is not None:
        raise HeadwayError(f"there are no ImageNet weights of {name}: set backbone.weights=false")
    try:
        with on_meta_device():
            theirs = timm.create_model(source, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise HeadwayError(f"timm has no ViT {name!r} ({error}); ours are {', '.join(VITS)}") from None
    geometry = _geometry(name, theirs)
    model = ViT(_embed(theirs, stem), drop_path=drop_path, **geometry | layout)
    model.name = source
    foreign = sorted(set(from_timm(theirs.state_dict(), model)) ^ set(model.state_dict()))
    if foreign and name not in VITS:
        raise HeadwayError(f"{name} is no plain ViT: {', '.join(foreign[:3])} are not in both; ours: {', '.join(VITS)}")
    if weights:
        state = create_pretrained(source, num_classes=0).state_dict()
        tables = {key: value for key, value in model.state_dict().items() if "rel_pos" in key}
        model.load_state_dict({**tables, **from_timm(state, model)})
        model.pixel_statistics = weight_statistics(source)
    return model


def _geometry(name: str, theirs: nn.Module) -> dict[str, Any]:
    """What `ViT` has to be told to be like timm's network."""
    try:
        block, embed = theirs.blocks[0], theirs.patch_embed
        stride = embed.feat_ratio(as_scalar=True)
        found = {
            "channels": theirs.embed_dim, "depth": len(theirs.blocks), "heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.fc1.out_features / theirs.embed_dim, "grid": tuple(embed.grid_size),
        }  # fmt: skip
    except (AttributeError, TypeError, IndexError) as error:
        raise HeadwayError(f"{name} is no plain ViT ({error}); ours are {', '.join(VITS)}") from None
    if stride != STRIDE:
        raise HeadwayError(f"{name} has one token per {stride} pixels; a ViT for detection here needs {STRIDE}")
    return found


def _embed(theirs: nn.Module, stem: str | None) -> PatchEmbed:
    """timm's own, or one that reads the CNN `stem`."""
    if stem is not None:
        cnn = timm_backbone(stem, strides=(STRIDE,))
        return PatchEmbed(cnn.channels[0], theirs.embed_dim, 1, cnn)
    proj, cnn = theirs.patch_embed.proj, getattr(theirs.patch_embed, "backbone", None)
    if cnn is not None:  # built on the meta device
        cnn = timm.create_model(theirs.default_cfg["architecture"], num_classes=0, depth=1).patch_embed.backbone
    return PatchEmbed(proj.in_channels, theirs.embed_dim, proj.kernel_size[0], cnn)


def from_timm(state_dict: Mapping[str, Tensor], model: ViT) -> dict[str, Tensor]:
    """timm's names and shapes to ours: without class token, last norm and classifier, positions as a grid."""
    rows, columns = model.pos_embed.shape[1:3]
    dropped = ("cls_token", "dist_token", "reg_token", "norm.", "fc_norm.", "head", "pre_logits.")
    kept = {key: value for key, value in state_dict.items() if not key.startswith(dropped)}
    if "pos_embed" in kept:  # those of extra tokens come first
        kept["pos_embed"] = kept["pos_embed"][:, -rows * columns :].unflatten(1, (rows, columns))
    return kept
