"""The layers of DETR's transformer (arXiv 2005.12872, appendix A.3): norms after the sums (post-norm), positions added
to queries and keys and never to values. Legend: B images, K cells of the map, Q queries, C channels."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Sequential):
    """Linear to `width`, ReLU, dropout, linear back; weights start Xavier uniform, biases as torch's."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        first, last = nn.Linear(channels, width), nn.Linear(width, channels)
        for layer in (first, last):
            nn.init.xavier_uniform_(layer.weight)
        super().__init__(OrderedDict(expand=first, act=nn.ReLU(inplace=True), drop=nn.Dropout(dropout), reduce=last))


class EncoderLayer(nn.Module):
    """Attention of all cells to all cells, then a feed-forward network on each. dropout: after both, and inside of the
    latter (an attention has its own)."""

    def __init__(self, attention: nn.Module, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """x, positions [B, K, C]; mask [B, K] bool, True on the picture -> [B, K, C]."""
        placed = x + positions
        return self._finish(x, self.attention(placed, placed, x, mask))

    def _finish(self, x: Tensor, read: Tensor) -> Tensor:
        """x, and what its attention has read -> the output of the layer."""
        x = self.attention_norm(x + _drop(self, read))
        return self.feedforward_norm(x + _drop(self, self.feedforward(x)))


class DecoderLayer(nn.Module):
    """Attention of all queries to all queries, of the queries to the cells, then a feed-forward network on each."""

    def __init__(
        self, self_attention: nn.Module, cross_attention: nn.Module, channels: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, width, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, Q, C] what the queries know so far; queries [B, Q, C] who they are, the decoder's positions; keys
        [B, K, C] cells with their positions, values [B, K, C] without; mask [B, K] -> [B, Q, C]."""
        x = self._exchange(x, queries)
        return self._finish(x, self.cross_attention(x + queries, keys, values, mask))

    def _exchange(self, x: Tensor, queries: Tensor) -> Tensor:
        """What the queries know after they have attended to one another."""
        placed = x + queries
        return self.self_norm(x + _drop(self, self.self_attention(placed, placed, x)))

    def _finish(self, x: Tensor, read: Tensor) -> Tensor:
        """x, and what it has read of the cells -> the output of the layer."""
        x = self.cross_norm(x + _drop(self, read))
        return self.feedforward_norm(x + _drop(self, self.feedforward(x)))


def _drop(layer: EncoderLayer | DecoderLayer, x: Tensor) -> Tensor:
    return F.dropout(x, layer.dropout, layer.training)


def box_layers(channels: int) -> nn.Sequential:
    """Three linear layers from a token to a box, four numbers."""
    hidden = [layer for _ in range(2) for layer in (nn.Linear(channels, channels), nn.ReLU(inplace=True))]
    return nn.Sequential(*hidden, nn.Linear(channels, 4))
