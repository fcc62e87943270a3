"""Windows of a map: what windowed attention reads (Swin, arXiv 2103.14030; ViTDet, arXiv 2203.16527).

Legend: B images, H W height and width of a map, h w of a window, n windows of a map, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Window = tuple[int, int]


def pad_to_windows(x: Tensor, window: Window) -> Tensor:
    """[B, H, W, C] -> the same with zeros at the right and bottom, up to whole windows."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % window[1], 0, -x.shape[1] % window[0]))


def split_windows(x: Tensor, window: Window) -> Tensor:
    """[B, H, W, C] of whole windows -> [B * n, h * w, C], the windows of an image row by row."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(windows: Tensor, window: Window, height: int, width: int) -> Tensor:
    """The inverse of `split_windows` for maps of `height` x `width` (whole windows): [B, height, width, C]."""
    x = windows.unflatten(0, (-1, height // window[0], width // window[1])).unflatten(3, window)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(height: int, width: int, window: Window, shift: Window, like: Tensor) -> Tensor:
    """What to add to attention logits after a cyclic shift, [n, h * w, h * w]: 0 between positions that were neighbours
    before, -100 between those that the shift has brought together.

    height, width: of the map, whole windows. shift: rows and columns moved from the start to the end; 0 along an axis
    that was not moved. like: gives device and type. Source: arXiv 2103.14030, figure 4.
    """
    rows, columns = (_regions(*each, like) for each in ((height, window[0], shift[0]), (width, window[1], shift[1])))
    region = (3 * rows[:, None] + columns)[None, :, :, None]
    own = split_windows(region, window).squeeze(2)
    return (own[:, None, :] != own[:, :, None]).to(like.dtype) * -100.0


def _regions(length: int, window: int, shift: int, like: Tensor) -> Tensor:
    """0 up to the last window, 1 for its part that stayed, 2 for what came from the start; all 0 without a shift."""
    position = torch.arange(length, device=like.device)
    if shift == 0:
        return torch.zeros_like(position)
    return (position >= length - window).long() + (position >= length - shift).long()
