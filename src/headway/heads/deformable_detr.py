"""Deformable DETR (arXiv 2010.04159): a transformer whose attention reads a few points of several maps, a set of boxes
at its end; with iterative refinement of the boxes, and with proposals of the encoder as queries.

Source: fundamentalvision/Deformable-DETR 48092c5, models/deformable_detr.py and deformable_transformer.py (Apache-2.0).

    B images, P cells of all maps, L maps, Q queries, C classes, N width, D decoder layers, K candidates
"""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers.attention import MultiHeadAttention, sine_positions, sinusoids, valid_cells
from ..layers.deform_attention import DeformableAttention, sizes_of
from ..layers.deform_transformer import DeformableDecoderLayer, DeformableEncoderLayer, Maps
from ..layers.levels import one_width
from ..layers.transformer import box_layers
from ..registry import register_head
from ..types import Candidates, Frame, Levels, Losses, Target
from .parts import best_pairs
from .set_loss import SetWeights, in_pixels, set_losses

_EPS = 1e-5  # how near to 0 and 1 a coordinate may lie where its logit is taken


class DeformableDetrRaw(NamedTuple):
    """cls: [D, B, Q, C] logits of the sigmoid; box: [D, B, Q, 4] cxcywh in 0..1 of the valid picture; sizes: [B, 2]
    valid (height, width); proposal_cls [B, P, C] and proposal_box [B, P, 4]: the same of every cell, whose first
    class alone counts, as "an object"; None without proposals. many_cls, many_box: of the queries of one-to-many
    matching [D, B, Q', ...], in training only."""

    cls: Tensor
    box: Tensor
    sizes: Tensor
    proposal_cls: Tensor | None = None
    proposal_box: Tensor | None = None
    many_cls: Tensor | None = None
    many_box: Tensor | None = None


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of x in 0..1, of at most +-11.5."""
    x = x.clamp(0, 1)
    return (x.clamp(min=_EPS) / (1 - x).clamp(min=_EPS)).log()


@register_head(
    "deformable_detr", wants={"strides": (8, 16, 32), "levels": 4, "extra": "on_output", "pan.channels": 256}
)
class DeformableDetrHead(nn.Module):
    """Transformer whose attention reads a few points of every map, so that it learns in a tenth of DETR's epochs.

    The numbers of fundamentalvision/Deformable-DETR (commit 48092c5, Apache-2.0), which mmdetection's and Hugging
    Face's share. The width is that of the maps: a multiple of 4 and of `heads`.

    heads, points: of the deformable attention.
    encoder_layers, decoder_layers: of the transformer.
    feedforward: width of the layers' feed-forward networks.
    queries: the most objects that can be found; with two_stage at most as many as there are cells.
    dropout: in training, everywhere in the transformer.
    refine_boxes: every decoder layer corrects the boxes of the one before and reads around them (4.2 there), so that
        layers have class and box layers of their own; otherwise all share one.
    two_stage: the queries are the encoder's best cells; needs refine_boxes.
    many: further queries in training, of which each object is given to `repeats` (one-to-many matching, H-DETR, arXiv
        2207.13080); they do not see the others, and prediction is without them. 0: none, as published.
    repeats: queries of `many` that an object is given to.
    costs: of class, box (L1) and overlap (GIoU) in the matching.
    loss_weights: of the same in the loss.

    Loss terms: `cls`, `box` (L1), `giou`, the same of each earlier decoder layer, `cls_0` and so on, and with two_stage
    those of the proposals, `cls_proposal` and so on, with many `cls_many` and so on.
    Differs: boxes are clipped to the picture. A cell of the padding is never a proposal; upstream it may be, with a box
    in the lower right corner.
    """

    predictors = ("cls", "box")  # stay float in int8
    fuses_views = True

    def __init__(
        self,
        inputs: Levels,
        *,
        num_classes: int,
        heads: int = 8,
        points: int = 4,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 1024,
        queries: int = 300,
        dropout: float = 0.1,
        refine_boxes: bool = False,
        two_stage: bool = False,
        many: int = 0,
        repeats: int = 4,
        costs: tuple[float, float, float] = (2.0, 5.0, 2.0),
        loss_weights: tuple[float, float, float] = (2.0, 5.0, 2.0),
    ) -> None:
        super().__init__()
        channels, levels = one_width(inputs), len(inputs.strides)
        self.card = {"nms_iou": None}
        if two_stage and not refine_boxes:
            raise ValueError("two_stage needs refine_boxes=True: the proposals are boxes that the decoder corrects")
        if decoder_layers < 1:
            raise ValueError(f"a DETR head needs at least one decoder layer, got {decoder_layers}")
        if many < 0 or repeats < 1:
            raise ValueError(f"many must be at least 0 and repeats at least 1, got {many} and {repeats}")
        self.num_classes, self.num_queries, self.max_detections = num_classes, queries, 100
        self.many, self.repeats = many, repeats
        self.refine, self.two_stage = refine_boxes, two_stage
        self.cost, self.weights = SetWeights(*costs), SetWeights(*loss_weights)
        exchange = partial(MultiHeadAttention, channels, heads, dropout=dropout)
        reading = partial(DeformableAttention, channels, heads, levels, points)
        shape = (channels, feedforward, dropout)
        self.encoder = nn.ModuleList(DeformableEncoderLayer(reading(), *shape) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(exchange(), reading(), *shape) for _ in range(decoder_layers)
        )
        self.level = nn.Parameter(torch.randn(levels, channels))
        outputs = decoder_layers + two_stage if refine_boxes else 1
        self.cls = nn.ModuleList(nn.Linear(channels, num_classes) for _ in range(outputs))
        self.box = nn.ModuleList(box_layers(channels) for _ in range(outputs))
        if two_stage:
            self.proposal = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
            self.queries = nn.Sequential(nn.Linear(2 * channels, 2 * channels), nn.LayerNorm(2 * channels))
        else:
            self.queries = nn.Embedding(queries + many, 2 * channels)  # positions, then contents
            self.reference_points = nn.Linear(channels, 2)
        self._initialise()

    def _initialise(self) -> None:
        """As published: Xavier for what has two dimensions, scores of 0.01, boxes of 0.12 of the picture's sides
        (sigmoid of -2) around the reference points or, of proposals, these themselves."""
        for linear in [self.proposal[0], self.queries[0]] if self.two_stage else [self.reference_points]:
            nn.init.xavier_uniform_(linear.weight)
        if not self.two_stage:
            nn.init.zeros_(self.reference_points.bias)
        for layer in self.cls:
            nn.init.constant_(layer.bias, -math.log(99))
        for i, layers in enumerate(self.box):
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
            if i == 0 and not self.two_stage:
                nn.init.constant_(layers[-1].bias[2:], -2.0)

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> DeformableDetrRaw:
        """features: `levels` maps [B, N, h, w], finest first. targets: where there are some, `many` takes part."""
        if len(features) != len(self.level):
            raise ValueError(f"this head was built for {len(self.level)} levels, got {len(features)} feature maps")
        sizes = frame.sizes
        shapes = [(x.shape[2], x.shape[3]) for x in features]
        masks = [valid_cells(sizes, frame.canvas, shape) for shape in shapes]
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        cells = torch.stack([torch.stack([m[:, 0].sum(1), m[:, :, 0].sum(1)], 1) for m in masks], 1).to(dtype)
        ratios = cells / sizes_of(shapes, cells)
        maps = Maps(shapes, torch.cat([m.flatten(1) for m in masks], 1), cells, ratios)
        memory = self._encode(features, masks, maps)
        wanted = self.num_queries + (0 if targets is None else self.many)
        if self.two_stage:
            queries, proposal_cls, proposal_box = self._propose(memory, maps, wanted)
        else:
            position, query = self.queries.weight[:wanted].expand(sizes.shape[0], -1, -1).chunk(2, dim=2)
            queries = query, position, self.reference_points(position).to(dtype).sigmoid()
            proposal_cls = proposal_box = None
        cls, box = self._decode(*(x[:, : self.num_queries] for x in queries), memory, maps)
        raw = DeformableDetrRaw(cls, box, sizes, proposal_cls, proposal_box)
        if queries[0].shape[1] <= self.num_queries or targets is None:
            return raw
        further = self._decode(*(x[:, self.num_queries :] for x in queries), memory, maps)
        return raw._replace(many_cls=further[0], many_box=further[1])

    def _encode(self, features: list[Tensor], masks: list[Tensor], maps: Maps) -> Tensor:
        """The maps as one row of cells [B, P, N] that have read from each other."""
        channels = features[0].shape[1]
        positions = torch.cat(
            [sine_positions(mask, channels, offset=-0.5) + level for mask, level in zip(masks, self.level)], 1
        ).to(self.level.dtype)
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in features], 1)
        places = (_centres(maps) / _by_cell(maps, maps.cells))[:, :, None] * maps.ratios[:, None]
        for layer in self.encoder:
            memory = layer(memory, positions, places, maps)
        return memory

    def _propose(self, memory: Tensor, maps: Maps, wanted: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """The `wanted` best cells as queries (4.2 there, "two-stage"): query and position [B, Q, N] and reference
        [B, Q, 4]; and of all cells logits [B, P, C] and boxes [B, P, 4].

        A cell starts from a box at its centre of 0.05 of the picture's sides, doubled from map to map. Where that has a
        side or a coordinate beyond 0.01..0.99 the memory is zero and the box is one at the picture's lower right.
        """
        centre = _centres(maps) / _by_cell(maps, maps.cells)
        side = _by_cell(maps, centre.new_tensor([0.05 * 2.0**i for i in range(len(maps.shapes))])[None, :, None])
        start = torch.cat([centre, side.expand_as(centre)], 2)
        usable = ((start > 0.01) & (start < 0.99)).all(2, keepdim=True) & maps.mask[..., None]
        logit = (start / (1 - start)).log().masked_fill(~usable, math.inf)
        content = self.proposal(memory.masked_fill(~usable, 0.0))
        cls, box = self.cls[-1](content).to(logit.dtype), (self.box[-1](content).to(logit.dtype) + logit).sigmoid()
        score = cls[..., 0].detach().masked_fill(~maps.mask, -math.inf)
        best = score.topk(min(wanted, score.shape[1]), dim=1).indices
        reference = box.detach().gather(1, best[..., None].expand(-1, -1, 4))
        waves = sinusoids(2 * math.pi * reference, memory.shape[2] // 2).flatten(2)  # [B, Q, 2 N]
        position, query = self.queries(waves.to(self.level.dtype)).chunk(2, dim=2)
        return (query, position, reference), cls, box

    def _decode(
        self, query: Tensor, position: Tensor, reference: Tensor, memory: Tensor, maps: Maps
    ) -> tuple[Tensor, Tensor]:
        """Logits [D, B, Q, C] and boxes [D, B, Q, 4] of all layers."""
        cls, boxes = [], []
        for i, layer in enumerate(self.decoder):
            query = layer(query, position, reference, memory, maps)
            own = i if self.refine else 0
            start = inverse_sigmoid(reference)
            if start.shape[2] == 2:
                start = torch.cat([start, torch.zeros_like(start)], 2)
            box = (self.box[own](query).to(start.dtype) + start).sigmoid()
            cls.append(self.cls[own](query).to(start.dtype))
            boxes.append(box)
            if self.refine:
                reference = box.detach()
        return torch.stack(cls), torch.stack(boxes)

    def decode(self, raw: DeformableDetrRaw) -> Candidates:
        """The best pairs of a query and a class of the last layer; a query may come with several classes."""
        score, query, label = best_pairs(raw.cls[-1], self.max_detections)
        box = raw.box[-1].gather(1, query[..., None].expand(-1, -1, 4))
        return Candidates(in_pixels(box, raw.sizes), score.sigmoid(), label)

    def loss(self, raw: DeformableDetrRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. See `set_losses`. For proposals all objects are of the
        first class."""
        options: dict[str, Any] = {"scores": "sigmoid", "cost": self.cost, "weights": self.weights}
        losses = set_losses(raw.cls, raw.box, raw.sizes, targets, **options)
        terms = dict(losses.terms)
        if raw.proposal_cls is not None and raw.proposal_box is not None:
            objects = [Target(t.boxes, torch.zeros_like(t.labels), t.crowd) for t in targets]
            proposals = set_losses(raw.proposal_cls[None], raw.proposal_box[None], raw.sizes, objects, **options)
            terms |= {f"{name}_proposal": term for name, term in proposals.terms.items()}
        if raw.many_cls is not None and raw.many_box is not None:
            counted = [t.without_crowd() for t in targets]
            copies = [Target(t.boxes.repeat(self.repeats, 1), t.labels.repeat(self.repeats)) for t in counted]
            many = set_losses(raw.many_cls, raw.many_box, raw.sizes, copies, **options)
            terms |= {f"{name}_many": term for name, term in many.terms.items()}
        return Losses(terms, losses.stats)


def _centres(maps: Maps) -> Tensor:
    """[1, P, 2] x and y of every cell's centre, in cells of its map."""
    centres = []
    for height, width in maps.shapes:
        rows, columns = (torch.arange(n, dtype=maps.ratios.dtype, device=maps.ratios.device) for n in (height, width))
        y, x = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
        centres.append(torch.stack([x, y], 2).flatten(0, 1))
    return torch.cat(centres)[None]


def _by_cell(maps: Maps, of_maps: Tensor) -> Tensor:
    """[B, L, n] a value for each map -> [B, P, n] for each of its cells."""
    parts = [of_maps[:, i, None].expand(-1, h * w, -1) for i, (h, w) in enumerate(maps.shapes)]
    return torch.cat(parts, 1)
