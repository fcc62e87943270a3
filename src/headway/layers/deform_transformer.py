"""The layers of Deformable DETR's transformer (arXiv 2010.04159, 4.1): as DETR's, but the maps are read by
deformable attention. Legend: B images, P cells of all maps, L maps, Q queries, C channels."""

from typing import NamedTuple

import torch
from torch import Tensor

from .deform_attention import Shapes
from .transformer import DecoderLayer, EncoderLayer


class Maps(NamedTuple):
    """What both halves of the transformer know of the maps. shapes: (rows, columns) of each; mask: [B, P] bool, True on
    the picture; cells: [B, L, 2] columns and rows of each map that lie on the picture; ratios: [B, L, 2] their part of
    the padded map's."""

    shapes: Shapes
    mask: Tensor
    cells: Tensor
    ratios: Tensor


class DeformableEncoderLayer(EncoderLayer):
    """Every cell reads points around its own place in every map: attention is a `DeformableAttention`."""

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, maps: Maps) -> Tensor:
        """x, positions [B, P, C]; places [B, P, L, 2] of the cells in every map -> [B, P, C]."""
        return self._finish(x, self.attention(x + positions, places, x, maps.shapes, maps.mask))


class DeformableDecoderLayer(DecoderLayer):
    """Every query reads points of the maps around its place: cross_attention is a `DeformableAttention`."""

    def forward(self, x: Tensor, queries: Tensor, reference: Tensor, cells: Tensor, maps: Maps) -> Tensor:
        """x [B, Q, C] what the queries know so far; queries [B, Q, C] their positions; reference [B, Q, 2 or 4] their
        points or boxes in 0..1 of the valid picture; cells [B, P, C] -> [B, Q, C]."""
        x = self._exchange(x, queries)
        ratios = torch.cat([maps.ratios] * (reference.shape[2] // 2), 2)
        places = reference[:, :, None] * ratios[:, None]  # in parts of the padded maps
        return self._finish(x, self.cross_attention(x + queries, places, cells, maps.shapes, maps.mask))
