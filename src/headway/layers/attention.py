"""Multi-head attention on torch's fused kernels, and sine positions. Legend: B images, Q queries, K keys, C width."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """softmax(q k^T / sqrt(C / heads)) v in each head, the heads side by side through a last linear layer (arXiv
    1706.03762, 3.2.2).

    heads: a divisor of `channels`. dropout: of the attention weights, in training.
    Starts as `torch.nn.MultiheadAttention` does: the weights of query, key and value together are drawn as one matrix
    of three times the height (Xavier, uniform), all biases are zero.
    """

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; choose a divisor of {channels}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(1 / 2))
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query [B, Q, C], key and value [B, K, C] -> [B, Q, C].

        mask: bool [B, K], True where a key may be attended to (each image needs one), or float [B or 1, heads or 1,
            Q, K], added to the logits.
        """
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        rate = self.dropout if self.training else 0.0
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=_as_bias(mask, q.dtype), dropout_p=rate)
        return self.output(joined.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """The softmax itself, [B, heads, Q, K] float32, of the arguments that `forward` takes: for looking at."""
        q, k = self._split(self.query(query)), self._split(self.key(key))
        logits = (q @ k.transpose(2, 3)).float() / math.sqrt(q.shape[3])
        mask = _as_bias(mask, torch.float32)
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
        return logits.softmax(3)

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, heads, N, C / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None:
        return None
    return mask[:, None, None] if mask.dtype == torch.bool else mask.to(dtype)


def valid_cells(sizes: Tensor, padded: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """[B, h, w] bool: which cells of a map show the picture and not its padding.

    sizes: [B, 2] valid (height, width); padded: (height, width) of the batch in pixels; cells: (h, w).
    As upstream the mask of the pixels is resized to the map by nearest neighbour, here one axis at a time: a cell is
    valid when the pixel floor(cell * pixels / cells) is, by torch's own rounding.
    """
    axes = []
    for axis in (0, 1):
        pixels = torch.arange(padded[axis], device=sizes.device) < sizes[:, axis : axis + 1]
        axes.append(F.interpolate(pixels[:, None].float(), size=cells[axis], mode="nearest")[:, 0] > 0)
    return axes[0][:, :, None] & axes[1][:, None]


def sine_positions(
    mask: Tensor, channels: int, *, offset: float = 0.0, temperature: float = 10000.0, eps: float = 1e-6
) -> Tensor:
    """Positions of the cells of a map as sines and cosines (DETR, arXiv 2005.12872, 3.2 and appendix A.4), float32
    [B, h * w, channels]: the first half of the channels tells y, the second x, sine and cosine in turn.

    mask: [B, h, w] bool, True on the picture, which begins at the upper left. A cell's place is its number, from 1, in
        parts of the picture's height (width), times 2 pi; wave lengths rise from 2 pi to 2 pi `temperature`.
    channels: a multiple of 4. offset: added to the numbers: -0.5 (cell centres) in Deformable DETR.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4 (sine and cosine of y and x), got {channels}")
    axes = []
    for axis in (1, 2):
        number = mask.cumsum(axis, dtype=torch.float32)
        place = (number + offset) / (number.narrow(axis, mask.shape[axis] - 1, 1) + eps) * (2 * math.pi)
        axes.append(sinusoids(place, channels // 2, temperature))
    return torch.cat(axes, dim=3).flatten(1, 2)


def sinusoids(places: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """[...] numbers -> [..., channels] their sines and cosines in turn, at wave lengths of 2 pi to 2 pi `temperature`;
    channels: an even number."""
    octave = torch.arange(channels, device=places.device).div(2, rounding_mode="floor") * 2 / channels
    angle = (places[..., None] / temperature**octave).unflatten(-1, (-1, 2))  # [..., channels / 2, 2]
    return torch.stack([angle[..., 0].sin(), angle[..., 1].cos()], dim=-1).flatten(-2)
