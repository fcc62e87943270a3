"""Region proposal network (Faster R-CNN, arXiv 1506.01497, 3; on a pyramid: FPN, arXiv 1612.03144, 4.1).

Legend: B images, A anchors of all levels, K proposals.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assign import IGNORE, max_iou, sample
from ..boxes import Coder, clip, survivors
from ..losses import box_loss, reduce_mean, world_size
from ..priors import anchor_grid
from ..types import Frame, Priors, Target, valid_sizes

_RATIOS = (0.5, 1.0, 2.0)


class RPNRaw(NamedTuple):
    """cls [B, A] objectness logits; box [B, A, 4] codes; priors; sizes [B, 2] valid (height, width); matched [B, A]
    the ground-truth box of each sampled anchor, NEGATIVE, or IGNORE; None where no targets were given."""

    cls: Tensor
    box: Tensor
    priors: Priors
    sizes: Tensor
    matched: Tensor | None


class Proposals(NamedTuple):
    """boxes [B, K, 4] best first, clipped; scores [B, K] logits; valid [B, K]: the rest is padding."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


class ProposalOptions(NamedTuple):
    """The proposal network.

    anchor_scale: side of the anchors in strides.
    rounded_anchors, step_from_image: see `anchor_grid`; torchvision has both, detectron2 and mmdetection neither.
    keep_owner, rpn_min_iou: of a rescued anchor, see `max_iou`; torchvision and detectron2 have True and 0.
    rpn_depth: its convolutions.
    rpn_beta: of its smooth L1; 0 is L1.
    rpn_border: how far anchors may reach beyond the image in training; None: any.
    rpn_samples: anchors of an image that are trained on; None takes all.
    pre_nms, proposals: per level before suppression and of all levels after it: (training, inference).
    proposal_min_size: proposals are wider and higher than this.
    """

    anchor_scale: float = 8.0
    rounded_anchors: bool = False
    step_from_image: bool = False
    keep_owner: bool = False
    rpn_depth: int = 1
    rpn_beta: float = 1 / 9
    rpn_min_iou: float = 0.3
    rpn_border: float | None = 0.0
    rpn_samples: int | None = 256
    pre_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_min_size: float = 0.0


class RPN(nn.Module):
    """`rpn_depth` 3x3 convolutions shared by all levels, and one objectness and one box code for each of the three
    anchors of a cell.

    coder: of the boxes. options: see `ProposalOptions`.
    """

    positive_fraction = 0.5  # of the sampled anchors
    nms_iou = 0.7

    def __init__(self, channels: int, strides: tuple[int, ...], coder: Coder, options: ProposalOptions) -> None:
        super().__init__()
        self.strides, self.coder, self.options = strides, coder, options
        self.box_loss = box_loss("smooth_l1" if options.rpn_beta else "l1", options.rpn_beta)
        self.make_priors = partial(
            anchor_grid, ratios=_RATIOS, scales=(options.anchor_scale,), rounded=options.rounded_anchors,
            step_from_image=options.step_from_image,
        )  # fmt: skip
        self.assign = partial(
            max_iou, positive_iou=0.7, negative_iou=0.3, min_positive_iou=options.rpn_min_iou,
            keep_owner=options.keep_owner,
        )  # fmt: skip
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(options.rpn_depth))
        self.cls = nn.Conv2d(channels, len(_RATIOS), 1)
        self.box = nn.Conv2d(channels, len(_RATIOS) * 4, 1)
        for conv in (*self.convs, self.cls, self.box):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> RPNRaw:
        """features: one map [B, channels, H, W] per stride. Targets are sampled here, so that `loss` draws nothing."""
        if len(features) != len(self.strides):
            raise ValueError(f"this RPN was built for {len(self.strides)} levels, got {len(features)} feature maps")
        cls, box = [], []
        for x in features:
            for conv in self.convs:
                x = F.relu(conv(x))
            cls.append(self.cls(x).permute(0, 2, 3, 1).flatten(1))
            box.append(self.box(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        priors = self.make_priors([tuple(x.shape[-2:]) for x in features], self.strides, features[0].device)
        matched = None if targets is None else self._match(priors, valid_sizes(frame), targets)
        return RPNRaw(torch.cat(cls, 1).float(), torch.cat(box, 1).float(), priors, valid_sizes(frame), matched)

    def _match(self, priors: Priors, sizes: Tensor, targets: list[Target]) -> Tensor:
        rows, border = [], self.options.rpn_border
        for (height, width), target in zip(sizes, targets):
            boxes, inside = priors.boxes, None
            if border is not None:
                low, high = boxes[:, :2] >= -border, boxes[:, 2:] < torch.stack([width, height]) + border
                inside = (low & high).all(1)
                boxes = torch.where(inside[:, None], boxes, 0.0)  # without area, they win no box from another
            matched = self.assign(priors._replace(boxes=boxes), target.without_crowd().boxes)
            if inside is not None:
                matched = torch.where(inside, matched, IGNORE)
            rows.append(sample(matched, self.options.rpn_samples, self.positive_fraction))
        return torch.stack(rows)

    @torch.no_grad()
    def propose(self, raw: RPNRaw, *, training: bool) -> Proposals:
        """The best anchors of every level, decoded and suppressed level by level; a static number of them."""
        pre_nms, post_nms = (counts[0 if training else 1] for counts in (self.options.pre_nms, self.options.proposals))
        boxes, scores, start = [], [], 0
        for size in raw.priors.level_sizes:
            level = slice(start, start + size)
            start += size
            best, index = raw.cls[:, level].topk(min(pre_nms, size), dim=1)
            codes = raw.box[:, level].gather(1, index[..., None].expand(-1, -1, 4))
            decoded = clip(self.coder.decode(raw.priors.boxes[level][index], codes), raw.sizes)
            large = (decoded[..., 2:] - decoded[..., :2] > self.options.proposal_min_size).all(-1)
            kept = survivors(decoded, best, None, self.nms_iou)
            boxes.append(decoded)
            scores.append(torch.where(kept & large, best, -torch.inf))
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        best, index = all_scores.topk(min(post_nms, all_scores.shape[1]), dim=1)
        valid = best > -torch.inf
        return Proposals(all_boxes.gather(1, index[..., None].expand(-1, -1, 4)), best, valid)

    def loss(self, raw: RPNRaw, targets: list[Target]) -> tuple[dict[str, Tensor], Tensor]:
        """Terms `rpn_cls` (binary cross entropy) and `rpn_box`, each divided by the number of sampled anchors, and
        the positives per image."""
        assert raw.matched is not None
        positive, sampled = raw.matched >= 0, raw.matched != IGNORE
        normal = reduce_mean(sampled.sum().float()).clamp(min=1 / world_size())
        entropy = F.binary_cross_entropy_with_logits(raw.cls, positive.float(), reduction="none")
        truth = torch.cat([t.without_crowd().boxes[m[p]] for t, m, p in zip(targets, raw.matched, positive)])
        priors = raw.priors.boxes.expand(len(targets), -1, -1)[positive]
        box = self.box_loss.function(raw.box[positive], self.coder.encode(priors, truth)).sum()
        terms = {"rpn_cls": (entropy * sampled).sum() / normal, "rpn_box": box / normal * self.box_loss.weight}
        return terms, positive.sum(1).float().mean()
