"""DETR's transformer as a head (arXiv 2005.12872): encoder, decoder, and one box and class for each of a fixed set of
queries.

Legend: L decoder layers, B images, Q queries, C classes, N channels, h w cells of the map.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.attention import MultiHeadAttention, sine_positions, valid_cells
from ..layers.levels import one_width
from ..layers.transformer import DecoderLayer, EncoderLayer, box_layers
from ..registry import register_head
from ..types import Candidates, Frame, Levels, Losses, Target
from .set_loss import SetWeights, in_pixels, set_losses


class DetrRaw(NamedTuple):
    """cls [L, B, Q, C + 1] logits, the last for "no object"; box [L, B, Q, 4] cxcywh in 0..1 of the valid picture; the
    last layer last; sizes [B, 2] valid (height, width)."""

    cls: Tensor
    box: Tensor
    sizes: Tensor


@register_head("detr", wants={"strides": (8, 16, 32), "levels": 3, "extra": "on_output", "pan.channels": 256})
class DetrHead(nn.Module):
    """Transformer that predicts a set of objects from learned queries, without anchors and suppression (DETR).

    Encoder over the cells of one map, decoder over the queries, and on every decoder layer's output a class (linear)
    and a box (three linear layers, sigmoid). The numbers of facebookresearch/detr (commit 29901c5, Apache-2.0), which
    mmdetection's and Hugging Face's share. The width is that of the maps: a multiple of 4 and of `heads`.

    heads: of the attention.
    encoder_layers, decoder_layers: of the transformer.
    feedforward: width of the layers' feed-forward networks.
    queries: the most objects that can be found.
    dropout: in training, everywhere in the transformer.
    costs: of class, box (L1) and overlap (GIoU) in the matching.
    loss_weights: of the same in the loss.
    no_object: weight of the queries without an object in the class loss.

    Loss terms: `cls`, `box` (L1), `giou`, and the same of each earlier decoder layer, `cls_0` and so on.
    Differs: boxes are clipped to the picture; the published code leaves them as they are.
    """

    predictors = ("cls", "box")  # stay float in int8
    fuses_views = True

    def __init__(
        self,
        inputs: Levels,
        *,
        num_classes: int,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        queries: int = 100,
        dropout: float = 0.1,
        costs: tuple[float, float, float] = (1.0, 5.0, 2.0),
        loss_weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
        no_object: float = 0.1,
    ) -> None:
        super().__init__()
        if decoder_layers < 1:
            raise ValueError(f"a DETR head needs at least one decoder layer, got {decoder_layers}")
        channels = one_width(inputs)
        self.card = {"nms_iou": None, "max_detections": queries}
        attention = partial(MultiHeadAttention, channels, heads, dropout=dropout)
        shape = (channels, feedforward, dropout)
        self.num_classes, self.no_object = num_classes, no_object
        self.cost, self.weights = SetWeights(*costs), SetWeights(*loss_weights)
        self.encoder = nn.ModuleList(EncoderLayer(attention(), *shape) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(attention(), attention(), *shape) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.queries = nn.Embedding(queries, channels)
        self.cls = nn.Linear(channels, num_classes + 1)
        self.box = box_layers(channels)

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> DetrRaw:
        """features: maps [B, N, h, w], finest first. The transformer reads the last one; finer ones are brought to its
        size by their means and added. targets are not used."""
        x = features[-1]
        for finer in features[:-1]:
            x = x + F.adaptive_avg_pool2d(finer, (x.shape[2], x.shape[3]))
        valid = valid_cells(frame.sizes, frame.canvas, (x.shape[2], x.shape[3]))
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
        return DetrRaw(self.cls(hidden).float(), self.box(hidden).float().sigmoid(), frame.sizes)

    def decode(self, raw: DetrRaw) -> Candidates:
        """Every query's best class but "no object", with its probability: Q candidates, from the last layer."""
        scores, labels = raw.cls[-1].softmax(-1)[..., :-1].max(-1)
        return Candidates(in_pixels(raw.box[-1], raw.sizes), scores, labels)

    def loss(self, raw: DetrRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. See `set_losses`."""
        return set_losses(
            raw.cls, raw.box, raw.sizes, targets, cost=self.cost, weights=self.weights, no_object=self.no_object
        )
