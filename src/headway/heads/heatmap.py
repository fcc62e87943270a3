"""One heat-map head for CenterNet, TTFNet and PAFNet: objects are peaks of a map, and their boxes are read off there.

Sources: CenterNet (arXiv 1904.07850), TTFNet (arXiv 1909.00700), PAFNet (arXiv 2104.13534) and what the published
weights were trained with: PaddleDetection 2.6.0 (ppdet/modeling/heads/ttf_head.py), mmdetection 3.3.0
(mmdet/models/dense_heads/centernet_head.py).
Legend: B images, N channels, C classes, h w the map, K candidates, M ground-truth boxes, P cells with a box to learn.
"""

import math
from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import clip, decode_ltrb, encode_ltrb
from ..errors import LevelsError
from ..layers.deform import DeformableConv2d
from ..losses import gaussian_focal, giou, l1, reduce_mean, world_size
from ..priors import point_grid
from ..targets import centernet_targets, ttf_targets
from ..types import Candidates, Frame, Levels, Losses, Target, valid_sizes

_STRIDE = 4
Style = Literal["ltrb", "center"]
Attention = Literal["off", "paddle", "gaussian"]
Terms = dict[str, Tensor]


class HeatmapRaw(NamedTuple):
    """heatmap [B, C, h, w] logits; box: style "ltrb" [B, 4, h, w] distances to the left, top, right and bottom side
    in input pixels, style "center" [B, 2, h, w] width and height in cells; offset [B, 2, h, w] (x, y) from the cell's
    corner to the centre in cells, or None; sizes [B, 2] valid (height, width). All float32."""

    heatmap: Tensor
    box: Tensor
    offset: Tensor | None
    sizes: Tensor


def one_fine_map(inputs: Levels) -> tuple[int, int]:
    """Channels and stride of the one map a heat-map head reads. Raises: LevelsError for other inputs."""
    if len(inputs.strides) != 1 or inputs.strides[0] != _STRIDE:
        raise LevelsError(
            f"reads one map of stride {_STRIDE}, got {inputs}: put `upsample` in front of it, behind maps of "
            "strides 4, 8, 16 and 32"
        )
    return inputs.channels[0], inputs.strides[0]


def make_branch(in_channels: int, width: int, outputs: int, depth: int, *, deformable: bool = False) -> nn.Sequential:
    """`depth` 3x3 convolutions with ReLU, then a 1x1 one; weights N(0, 0.01) as in PaddleDetection 2, biases 0.

    deformable: modulated deformable convolutions, which have no bias here (PAFNet).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        channels = in_channels if i == 0 else width
        if deformable:
            layers[f"conv{i}"] = layer = DeformableConv2d(channels, width)
            nn.init.normal_(layer.conv.weight, std=0.01)
        else:
            layers[f"conv{i}"] = layer = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        layers[f"act{i}"] = nn.ReLU(inplace=True)
    layers["out"] = out = nn.Conv2d(width if depth else in_channels, outputs, 1)
    nn.init.normal_(out.weight, std=0.01)
    nn.init.zeros_(out.bias)
    return nn.Sequential(layers)


def set_prior(branch: nn.Module, score: float) -> None:
    """Set the bias of the branch's last convolution so that an untrained map is near `score` everywhere (RetinaNet,
    arXiv 1708.02002, 4.1). TTFNet and PAFNet start at 0.01, CenterNet at 0.1."""
    _set_bias(branch, -math.log(1 / score - 1))


def open_distances(branch: nn.Module) -> None:
    """Have an untrained branch of distances predict `box_scale` pixels to every side.

    Differs: upstream starts at 0, on the edge of the rectifier. From random weights one of the four distances then
    often ends behind it everywhere within a hundred steps, where nothing brings it back.
    """
    _set_bias(branch, 1.0)


def _set_bias(branch: nn.Module, value: float) -> None:
    last = [m for m in branch.modules() if isinstance(m, nn.Conv2d)][-1]
    if last.bias is None:
        raise ValueError("the last convolution of the branch has no bias to start from; build it with bias=True")
    nn.init.constant_(last.bias, value)


class HeatmapHead(nn.Module):
    """Branches for the heat map, the box and (CenterNet) the centre's offset on one map.

    heatmap, box, offset: modules [B, N, h, w] -> [B, C | 4 or 2 | 2, h, w] with their last convolution, initialised
        by the builder (`set_prior` for the heat map, `open_distances` for distances).
    stride: input pixels per cell; the point of a cell is its upper left corner, cell * stride.
    style: "ltrb" (TTFNet, PAFNet) predicts the four distances from every cell of an object's Gaussian; "center"
        (CenterNet) the size, and with `offset` the rest of the centre, at the centre cell alone.
    min_overlap: (center) see `centernet_targets`. score_clip: see `gaussian_focal`.
    ags: (ltrb) attention-guided sampling, see `attention`; it acts on the training loss alone.
    clip_boxes: to the valid image; the published codes leave boxes as they are, or clip them to the padded one.

    Loss terms: `heatmap`, and `box` (ltrb: GIoU) or `size` and `offset` (center: L1), times their weights.
    """

    box_scale = 16.0  # the distances of "ltrb" are ReLU(box) * box_scale
    alpha = 0.54  # of "ltrb", see `ttf_targets`
    max_candidates = 100  # K, or all C * h * w pairs where there are fewer

    def __init__(
        self,
        heatmap: nn.Module,
        box: nn.Module,
        offset: nn.Module | None = None,
        *,
        num_classes: int,
        stride: int = 4,
        style: Style = "ltrb",
        min_overlap: float = 0.3,
        score_clip: float = 1e-4,
        ags: Attention = "off",
        clip_boxes: bool = True,
    ) -> None:
        super().__init__()
        if ags not in ("off", "paddle", "gaussian"):
            raise ValueError(f"ags must be 'off', 'paddle' or 'gaussian', got {ags!r}")
        if style not in ("ltrb", "center"):
            raise ValueError(f"style must be 'ltrb' or 'center', got {style!r}")
        if style == "ltrb" and offset is not None:
            raise ValueError("style 'ltrb' has no offset: its distances are from the cell itself; leave `offset` out")
        if style == "center" and ags != "off":
            raise ValueError(
                f"ags={ags!r} weighs the cells of a Gaussian, and style 'center' learns one cell: use 'off'"
            )
        self.heatmap, self.box, self.offset = heatmap, box, offset
        self.num_classes, self.stride, self.style, self.clip_boxes = num_classes, stride, style, clip_boxes
        self.min_overlap, self.score_clip, self.ags = min_overlap, score_clip, ags
        self.weights = {"heatmap": 1.0, "box": 5.0, "size": 0.1, "offset": 1.0}

    @property
    def predictors(self) -> tuple[str, ...]:
        """What stays float in int8: the last convolution of each branch."""
        convs = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        return tuple({name.split(".")[0]: name for name in convs}.values())

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> HeatmapRaw:
        """features: one map [B, N, h, w] of `stride`. targets are not used."""
        if len(features) != 1:
            raise ValueError(f"a heat-map head works on one map of stride {self.stride}, got {len(features)} maps")
        x = features[0]
        box = self.box(x).float()
        if self.style == "ltrb":
            box = F.relu(box) * self.box_scale
        offset = None if self.offset is None else self.offset(x).float()
        return HeatmapRaw(self.heatmap(x).float(), box, offset, valid_sizes(frame))

    # -------------------------------------------------------------------------------------------------- inference
    def decode(self, raw: HeatmapRaw) -> Candidates:
        """The K best peaks: (cell, class) pairs whose logit is the greatest among its 3x3 neighbours of that class.

        Every cell of a plateau is a peak, as in the published code, which therefore returns such an object more than
        once (NMS per class, `card.nms_iou`, removes it). Of equal scores the upper cell comes first, then the left one,
        then the lower class, also where only some of them are among the K. Where there are fewer than K peaks the
        rest has score 0.
        Differs: the published code compares scores, which are equal for logits that float32's sigmoid cannot tell
        apart.
        """
        logits = raw.heatmap
        if not torch.compiler.is_exporting():  # the CPU's pooling is ten times as fast, the view below without gaps
            logits = logits.contiguous(memory_format=torch.channels_last)
        peak = F.max_pool2d(logits, 3, stride=1, padding=1) == logits
        pairs = torch.where(peak, logits, -math.inf).flatten(2).transpose(1, 2)  # [B, h * w, C]
        # The best K pairs lie in the K cells whose best class is best.
        cell = _greatest(pairs.amax(2), min(self.max_candidates, pairs.shape[1]))
        pairs = pairs.gather(1, cell[..., None].expand(-1, -1, pairs.shape[2])).flatten(1)
        index = _greatest(pairs, min(self.max_candidates, pairs.shape[1]))
        index = index.gather(1, _descending(pairs.gather(1, index)))
        best, cell = pairs.gather(1, index), cell.gather(1, index // self.num_classes)
        boxes = self.boxes_at(raw, cell)
        if self.clip_boxes:
            boxes = clip(boxes, raw.sizes)
        return Candidates(boxes, best.sigmoid(), index % self.num_classes)

    def _points(self, raw: HeatmapRaw) -> Tensor:
        """[h * w, 4] x, y, x, y of every cell, in pixels."""
        return point_grid([_map_size(raw)], [self.stride], raw.heatmap.device, center_offset=0.0).boxes

    def boxes_at(self, raw: HeatmapRaw, cell: Tensor) -> Tensor:
        """cell [B, K] -> boxes [B, K, 4] predicted there."""
        points, codes = self._points(raw)[cell], _gather(raw.box, cell)
        if self.style == "ltrb":
            return decode_ltrb(points, codes)
        if raw.offset is not None:
            points = points + _gather(raw.offset, cell).repeat(1, 1, 2) * self.stride
        half = codes * self.stride / 2
        return decode_ltrb(points, half.repeat(1, 1, 2))

    # --------------------------------------------------------------------------------------------------- training
    def loss(self, raw: HeatmapRaw, targets: list[Target]) -> Losses:
        """targets: one per image; crowd regions take no part. Stats: positives per image (peaks of the target maps);
        `stuck`, the part of the `heatmap` term that comes from scores beyond the clip and so has no gradient; (ltrb)
        `closed`, how many of the four distances the rectifier holds at 0 in every cell where they should be longer
        than a cell, and `judged`, 1 if there is such a cell and else 0: the mean of `closed` over batches is to be
        divided by that of `judged`."""
        targets = [target.without_crowd() for target in targets]
        box_terms = self._ltrb_terms if self.style == "ltrb" else self._center_terms
        heatmap, terms, stats = box_terms(raw, targets)
        positives = _positives(heatmap)
        normal = reduce_mean(positives).clamp(min=1 / world_size())
        focal = gaussian_focal(raw.heatmap, heatmap, clip=self.score_clip)
        limit = math.log(1 / self.score_clip - 1) if self.score_clip else math.inf
        stuck = (focal.detach() * (raw.heatmap.detach().abs() > limit)).sum() / normal * self.weights["heatmap"]
        terms = {"heatmap": focal.sum() / normal, **terms}
        weighted = {name: term * self.weights[name] for name, term in terms.items()}
        return Losses(weighted, {"positives": positives / len(targets), "stuck": stuck, **stats})

    def health(self, values: dict[str, float]) -> list[str] | None:
        """What is going wrong in a training step, each as "what: evidence"; None where the step cannot tell.

        values: means of the step over batches and processes, "loss/heatmap" and "stat/stuck" among them. Without
        objects a map of zeros is right. The mean of `closed` over batches is divided by that of `judged`, since only
        some of them may have objects.
        """
        if "stat/stuck" not in values or values["stat/positives"] == 0:
            return None
        loss = values["loss/heatmap"]
        if loss > 0.5 and values["stat/stuck"] > 0.999 * loss:  # a map that is right everywhere costs nothing
            return [
                f"the heat map has collapsed: its scores are beyond the limits of the focal loss (loss/heatmap "
                f"{loss:.4f}; 9.2085 is every score at 1e-4), where it has no gradient. In a model of your own start "
                "the heat map's bias at its prior (heads.heatmap.set_prior)"
            ]
        if "stat/judged" not in values:
            return []
        judged = values["stat/judged"]
        if not judged:
            return None
        if values["stat/closed"] > 0.999 * judged:
            return [
                f"the boxes have collapsed: {values['stat/closed'] / judged:.0f} of the four distances are 0 at every "
                "object, behind the rectifier, where there is no gradient. In a model of your own start the distances' "
                "bias open (heads.heatmap.open_distances)"
            ]
        return []

    def _ltrb_terms(self, raw: HeatmapRaw, targets: list[Target]) -> tuple[Tensor, Terms, Terms]:
        """Target maps [B, C, h, w], and the GIoU loss: sum(weight * (1 - GIoU)) / (sum(weight) + 1e-4) over the batch
        (PaddleDetection 2.6.0, ppdet/modeling/losses/ctfocal_loss.py and iou_loss.py), and the stats."""
        size, options = _map_size(raw), {"stride": self.stride, "alpha": self.alpha}
        encoded = [ttf_targets(t.boxes, t.labels, size, self.num_classes, **options) for t in targets]
        counts = [len(t.boxes) for t in targets]
        owner = torch.stack([e.owner + sum(counts[:i]) for i, e in enumerate(encoded)]).flatten(1)
        weight = torch.stack([e.weight for e in encoded]).flatten(1)
        chosen = weight > 0
        owner, weight = owner[chosen], weight[chosen]  # [P]
        points = self._points(raw).expand(len(targets), -1, -1)[chosen]
        distances = raw.box.flatten(2).transpose(1, 2)[chosen]
        truth = torch.cat([t.boxes for t in targets])[owner]
        per_cell = giou(decode_ltrb(points, distances), truth) * weight
        if self.ags != "off":
            score = raw.heatmap.detach().amax(1).flatten(1)[chosen].sigmoid()
            per_cell = per_cell * (0.1 + 0.9 * attention(score, owner, weight, sum(counts), self.ags))
        box = per_cell.sum() / (reduce_mean(weight.sum()) + 1e-4 / world_size())
        long = encode_ltrb(points, truth) > self.stride
        judged, closed = long.any().float(), (long.any(0) & ((distances <= 0) | ~long).all(0)).sum().float()
        return torch.stack([e.heatmap for e in encoded]), {"box": box}, {"closed": closed, "judged": judged}

    def _center_terms(self, raw: HeatmapRaw, targets: list[Target]) -> tuple[Tensor, Terms, Terms]:
        """Target maps [B, C, h, w], and the L1 losses of size and offset at the centre cells, each the mean over both
        axes and all positives."""
        size, options = _map_size(raw), {"stride": self.stride, "min_overlap": self.min_overlap}
        encoded = [centernet_targets(t.boxes, t.labels, size, self.num_classes, **options) for t in targets]
        heatmap = torch.stack([e.heatmap for e in encoded])
        normal = reduce_mean(_positives(heatmap)).clamp(min=1 / world_size()) * 2

        def distance(maps: Tensor, wanted: list[Tensor]) -> Tensor:
            found = torch.cat([x.flatten(1)[:, e.cells].T for x, e in zip(maps, encoded)])
            return l1(found, torch.cat(wanted)).sum() / normal

        terms = {"size": distance(raw.box, [e.sizes for e in encoded])}
        if raw.offset is not None:
            terms["offset"] = distance(raw.offset, [e.offsets for e in encoded])
        return heatmap, terms, {}


def attention(score: Tensor, owner: Tensor, weight: Tensor, objects: int, form: Attention) -> Tensor:
    """Factors s [P] of attention-guided sampling (PAFNet, arXiv 2104.13534): where the localisation map is sure of an
    object, its box counts more. The box loss of a cell is weight * (1 - GIoU) * (0.1 + 0.9 s).

    score: [P] the channel maximum of the localisation map, 0..1. owner: [P] the object each cell belongs to, below
    `objects`. weight: [P] the cells' shares of the box loss (Gaussian times log area).

    form "gaussian": with q_i = weight_i / sum_j weight_j, sums over the cells j of the same object,

        s_i = exp(score_i) / sum_j q_j exp(score_j),     so that q_i s_i = softmax_j(ln q_j + score_j) at i.

    That is a softmax over the positions inside the object's Gaussian with the Gaussian as its prior. Three things
    follow. The mean of s over an object, in the weights of the loss, is 1: attention moves weight between the cells
    of an object, never between objects or against the heat map. A map that tells nothing (one score in the whole
    window) gives s = 1, the plain loss. And with that mean the released form 1 - 0.1 GIoU - 0.9 GIoU s has the same
    sum over an object as (1 - GIoU) (0.1 + 0.9 s).
    form "paddle": the released code's softmax runs over an axis of length one (PaddleDetection 2.6.0,
    ppdet/modeling/heads/ttf_head.py), so s = 1 for every map. Kept to repeat what was trained: it does nothing.

    Callers detach `score`. The released code does not; through s the box loss would then raise the map wherever a box
    already fits and lower it elsewhere, against the Gaussian that the map itself is trained to.
    Differs: the paper's equation is not published as text, so "gaussian" is a reading of it.
    """
    if form == "paddle":
        return score[:, None].softmax(1).squeeze(1)
    raised = score.exp()  # of 0..1: nothing overflows
    totals = weight.new_zeros(2, objects).index_add(1, owner, torch.stack([weight, weight * raised]))
    return raised * (totals[0] / totals[1])[owner]


def _map_size(raw: HeatmapRaw) -> tuple[int, int]:
    return raw.heatmap.shape[2], raw.heatmap.shape[3]


def _positives(heatmap: Tensor) -> Tensor:
    return (heatmap == 1).sum().float()


def _greatest(values: Tensor, count: int) -> Tensor:
    """Indices [B, count], ascending, of the greatest of values [B, n], of equal ones the first.

    `topk` leaves open which of equal ones it takes, and ONNX has no stable sort.
    """
    least = values.topk(count, dim=1).values[:, -1:]
    above, level = values > least, values == least
    taken = above | (level & (level.cumsum(1) <= count - above.sum(1, keepdim=True)))
    place = torch.arange(values.shape[1], 0, -1, device=values.device)
    return (taken * place).topk(count, dim=1).indices


def _descending(values: Tensor) -> Tensor:
    """The stable order [B, K] that makes values [B, K] descending; K is small enough for K x K comparisons."""
    place = torch.arange(values.shape[1], device=values.device)
    row, column = values[:, :, None], values[:, None]
    rank = ((column > row) | ((column == row) & (place < place[:, None]))).sum(2)
    return torch.empty_like(rank).scatter(1, rank, place.expand_as(rank))


def _gather(maps: Tensor, cell: Tensor) -> Tensor:
    """maps [B, n, h, w], cell [B, K] -> [B, K, n]."""
    return maps.flatten(2).gather(2, cell[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)
