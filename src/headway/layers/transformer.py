"""The layers of DETR's transformer (arXiv 2005.12872, appendix A.3): norms after the sums (post-norm), positions added
to queries and keys and never to values. Legend: B images, K cells of the map, Q queries, C channels."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention


class FeedForward(nn.Sequential):
    """Linear to `width`, ReLU, dropout, linear back; weights start Xavier uniform, biases as torch's."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        first, last = nn.Linear(channels, width), nn.Linear(width, channels)
        for layer in (first, last):
            nn.init.xavier_uniform_(layer.weight)
        super().__init__(OrderedDict(expand=first, act=nn.ReLU(inplace=True), drop=nn.Dropout(dropout), reduce=last))


class EncoderLayer(nn.Module):
    """Attention of all cells to all cells, then a feed-forward network on each. dropout: after both, and inside."""

    def __init__(self, channels: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """x, positions [B, K, C]; mask [B, K] bool, True on the picture -> [B, K, C]."""
        placed = x + positions
        x = self.attention_norm(x + self._drop(self.attention(placed, placed, x, mask)))
        return self.feedforward_norm(x + self._drop(self.feedforward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecoderLayer(nn.Module):
    """Attention of all queries to all queries, of the queries to the cells, then a feed-forward network on each."""

    def __init__(self, channels: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, Q, C] what the queries know so far; queries [B, Q, C] who they are, the decoder's positions; keys
        [B, K, C] cells with their positions, values [B, K, C] without; mask [B, K] -> [B, Q, C]."""
        placed = x + queries
        x = self.self_norm(x + self._drop(self.self_attention(placed, placed, x)))
        x = self.cross_norm(x + self._drop(self.cross_attention(x + queries, keys, values, mask)))
        return self.feedforward_norm(x + self._drop(self.feedforward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
