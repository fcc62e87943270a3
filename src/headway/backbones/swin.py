"""Swin (arXiv 2103.14030) at any input size: timm's layers and names, windows laid as its detectors lay them."""

from typing import Literal

import torch
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from ..layers.windows import join_windows, pad_to_windows, shift_mask, split_windows

SwinForm = Literal["official", "torchvision", "timm"]


class SwinBlock(nn.Module):
    """A block of timm's Swin whose map need not consist of whole windows; its children are the same.

    block: whose layers and numbers are taken over. form: "official" fills the map up to whole windows, then shifts it
    cyclically, in every second block and on maps of any size (the authors' detectors, mmdetection); "torchvision" does
    not shift along an axis that one window covers, as in classification.

    Differs: timm itself shifts first and then fills up, so that positions wrapped around lie inside the map and its
    mask hides others; on maps of whole windows all are the same.
    """

    def __init__(self, block: SwinTransformerBlock, form: SwinForm) -> None:
        super().__init__()
        self.form, self.window, self.shift = form, tuple(block.window_size), tuple(block.shift_size)
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same."""
        x = x + self.drop_path1(self._attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = pad_to_windows(x, self.window)
        full_height, full_width = x.shape[1:3]
        down, right = self.shifts(full_height, full_width)
        mask = None
        if down or right:
            x = torch.roll(x, (-down, -right), (1, 2))
            mask = shift_mask(full_height, full_width, self.window, (down, right), x)
        windows = self.attn(split_windows(x, self.window), mask)
        x = join_windows(windows, self.window, full_height, full_width)
        if down or right:
            x = torch.roll(x, (down, right), (1, 2))
        return x[:, :height, :width]

    def shifts(self, height: int, width: int) -> tuple[int, int]:
        """By how much a map of `height` x `width` (whole windows) is shifted up and left."""
        if self.form == "official":
            return self.shift
        down, right = (s if size > w else 0 for s, size, w in zip(self.shift, (height, width), self.window))
        return down, right


def open_to_any_size(body: nn.Module, form: SwinForm) -> None:
    """Make timm's Swin or Swin V2 take any height and width: pictures are filled up to whole patches, maps to whole
    windows; in V2 as timm does it."""
    body.patch_embed.dynamic_img_pad = True
    for stage in body.children():
        if isinstance(stage, SwinTransformerStage) and form != "timm":
            stage.blocks = nn.Sequential(*(SwinBlock(block, form) for block in stage.blocks))
