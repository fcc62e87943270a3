"""The layers of Deformable DETR's transformer (arXiv 2010.04159, 4.1): as DETR's, but the maps are read by
deformable attention. Legend: B images, P cells of all maps, L maps, Q queries, C channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .deform_attention import DeformableAttention, Shapes
from .transformer import FeedForward


class Maps(NamedTuple):
    """What both halves of the transformer know of the maps. shapes: (rows, columns) of each; mask: [B, P] bool, True on
    the picture; cells: [B, L, 2] columns and rows of each map that lie on the picture; ratios: [B, L, 2] their part of
    the padded map's."""

    shapes: Shapes
    mask: Tensor
    cells: Tensor
    ratios: Tensor


class DeformableEncoderLayer(nn.Module):
    """Every cell reads points around its own place in every map, then a feed-forward network on each. levels, points:
    see `DeformableAttention`. width: of the feed-forward network. dropout: after both, and inside."""

    def __init__(self, channels: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads, levels, points)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, maps: Maps) -> Tensor:
        """x, positions [B, P, C]; places [B, P, L, 2] of the cells in every map -> [B, P, C]."""
        read = self.attention(x + positions, places, x, maps.shapes, maps.mask)
        x = self.attention_norm(x + self._drop(read))
        return self.feedforward_norm(x + self._drop(self.feedforward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DeformableDecoderLayer(nn.Module):
    """Attention of all queries to all queries, points of the maps read by each query around its place, then a
    feed-forward network on each."""

    def __init__(self, channels: int, heads: int, levels: int, points: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = DeformableAttention(channels, heads, levels, points)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, queries: Tensor, reference: Tensor, cells: Tensor, maps: Maps) -> Tensor:
        """x [B, Q, C] what the queries know so far; queries [B, Q, C] their positions; reference [B, Q, 2 or 4] their
        points or boxes in 0..1 of the valid picture; cells [B, P, C] -> [B, Q, C]."""
        placed = x + queries
        x = self.self_norm(x + self._drop(self.self_attention(placed, placed, x)))
        ratios = torch.cat([maps.ratios] * (reference.shape[2] // 2), 2)
        places = reference[:, :, None] * ratios[:, None]  # in parts of the padded maps
        read = self.cross_attention(x + queries, places, cells, maps.shapes, maps.mask)
        x = self.cross_norm(x + self._drop(read))
        return self.feedforward_norm(x + self._drop(self.feedforward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
