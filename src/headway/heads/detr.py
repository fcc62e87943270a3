"""DETR's transformer as a head (arXiv 2005.12872): encoder, decoder, and one box and class for each of a fixed set of
queries.

Legend: L decoder layers, B images, Q queries, C classes, N channels, h w cells of the map.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.attention import MultiHeadAttention, sine_positions, valid_cells
from ..layers.transformer import DecoderLayer, EncoderLayer, box_layers
from ..types import Candidates, Losses, Target
from .set_loss import SetWeights, in_pixels, set_losses


class DetrRaw(NamedTuple):
    """cls [L, B, Q, C + 1] logits, the last for "no object"; box [L, B, Q, 4] cxcywh in 0..1 of the valid picture; the
    last layer last; sizes [B, 2] valid (height, width)."""

    cls: Tensor
    box: Tensor
    sizes: Tensor


class DetrHead(nn.Module):
    """Encoder over the cells of one map, decoder over learned queries, and on every decoder layer's output a class
    (linear) and a box (three linear layers, sigmoid).

    channels: N, a multiple of 4 and of `heads`. queries: Q, the most objects that can be found.
    feedforward: width of the layers' feed-forward networks. dropout: in training, everywhere in the transformer.
    cost, weights, no_object: of the matching and of the loss, see `set_losses`.

    Loss terms: `cls`, `box` (L1), `giou`, and the same of each earlier decoder layer, `cls_0` and so on.

    Differs: decoded boxes are clipped to the picture; the published code leaves them as they are.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        queries: int = 100,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        cost: SetWeights = SetWeights(),  # noqa: B008  (a NamedTuple of numbers)
        weights: SetWeights = SetWeights(),  # noqa: B008
        no_object: float = 0.1,
    ) -> None:
        super().__init__()
        if decoder_layers < 1:
            raise ValueError(f"a DETR head needs at least one decoder layer, got {decoder_layers}")
        attention = partial(MultiHeadAttention, channels, heads, dropout=dropout)
        shape = (channels, feedforward, dropout)
        self.num_classes, self.cost, self.weights, self.no_object = num_classes, cost, weights, no_object
        self.encoder = nn.ModuleList(EncoderLayer(attention(), *shape) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(attention(), attention(), *shape) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.queries = nn.Embedding(queries, channels)
        self.cls = nn.Linear(channels, num_classes + 1)
        self.box = box_layers(channels)

    def forward(self, features: list[Tensor], sizes: Tensor, targets: list[Target] | None = None) -> DetrRaw:
        """features: the picture's own map of stride 1 [B, 1, H, W], of which only the size is used, and one map
        [B, N, h, w]. targets are not used."""
        if len(features) != 2:
            raise ValueError(f"a DETR head works on the picture and one map of it, got {len(features)} maps")
        picture, x = features
        valid = valid_cells(sizes, (picture.shape[2], picture.shape[3]), (x.shape[2], x.shape[3]))
        mask, cells = valid.flatten(1), x.flatten(2).transpose(1, 2)
        positions = sine_positions(valid, x.shape[1]).to(self.queries.weight.dtype)
        for encode in self.encoder:
            cells = encode(cells, positions, mask)
        keys = cells + positions
        queries = self.queries.weight.expand(x.shape[0], -1, -1)  # not len(x), which export would fix
        known = torch.zeros_like(queries)
        outputs = []
        for decode in self.decoder:
            known = decode(known, queries, keys, cells, mask)
            outputs.append(self.decoder_norm(known))
        hidden = torch.stack(outputs)
        return DetrRaw(self.cls(hidden).float(), self.box(hidden).float().sigmoid(), sizes)

    def decode(self, raw: DetrRaw) -> Candidates:
        """Every query's best class but "no object", with its probability: Q candidates, from the last layer."""
        scores, labels = raw.cls[-1].softmax(-1)[..., :-1].max(-1)
        return Candidates(in_pixels(raw.box[-1], raw.sizes), scores, labels)

    def loss(self, raw: DetrRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. See `set_losses`."""
        return set_losses(
            raw.cls, raw.box, raw.sizes, targets, cost=self.cost, weights=self.weights, no_object=self.no_object
        )
