"""Which prior answers for which ground-truth box: pure functions on the tensors of one image.

Every assigner but one returns `matched` [A] int64: the index of the ground-truth box a prior must predict, NEGATIVE for
background, IGNORE for neither. `yolo_grid` returns pairs, since there a prior may answer for several boxes.

Legend: A priors, M ground-truth boxes, L levels, P pairs, n anchors.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .boxes import area, encode_ltrb, pairwise_iou, to_cxcywh
from .types import Priors

NEGATIVE = -1
IGNORE = -2
_OUTSIDE = 1e8


def max_iou(
    priors: Priors,
    boxes: Tensor,
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    min_positive_iou: float = 0.0,
    rescue: bool = True,
    keep_owner: bool = False,
    ties: bool = True,
) -> Tensor:
    """Anchors by overlap (Faster R-CNN, arXiv 1506.01497, 3.1.2; RetinaNet, arXiv 1708.02002, 4).

    positive_iou: at or above it an anchor takes its best box; negative_iou: below it, background; between, ignored.
    rescue: every box also gets all the anchors that tie its best overlap, if that is at least min_positive_iou; a
        later box overrides an earlier one (mmdetection's order).
    keep_owner: a rescued anchor answers for the box it overlaps most, not for the one that rescues it (torchvision,
        detectron2).
    ties: False rescues by the first of the tied anchors alone, and an earlier box overrides a later one (EfficientDet
        as released: google/automl, efficientdet/object_detection/argmax_matcher.py).
    Differs: a box that overlaps no anchor is not rescued; in mmdetection and torchvision it would take them all.
    """
    count = priors.boxes.shape[0]
    if boxes.shape[0] == 0:
        return torch.full((count,), NEGATIVE, dtype=torch.int64, device=boxes.device)
    overlap = pairwise_iou(priors.boxes, boxes)
    best, owner = overlap.max(dim=1)
    matched = torch.full_like(owner, IGNORE)
    matched[best < negative_iou] = NEGATIVE
    matched = torch.where(best >= positive_iou, owner, matched)
    if rescue:
        best_of_box = overlap.max(dim=0).values
        enough = (best_of_box >= min_positive_iou) & (best_of_box > 0)
        index = torch.arange(boxes.shape[0], device=boxes.device)
        if ties:
            rescuer = torch.where((overlap == best_of_box) & enough, index, -1).max(dim=1).values
        else:
            first = index.new_full((count,), len(index))
            first = first.scatter_reduce(0, overlap.argmax(dim=0), torch.where(enough, index, len(index)), "amin")
            rescuer = torch.where(first < len(index), first, -1)
        matched = torch.where(rescuer >= 0, owner if keep_owner else rescuer, matched)
    return matched


def atss(priors: Priors, boxes: Tensor, *, top_k: int = 9) -> Tensor:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1).

    Per box: on every level the `top_k` anchors nearest by centre are candidates; those whose IoU reaches mean plus
    unbiased standard deviation over the candidates, and whose centre lies inside the box by more than 0.01 px, are
    positives. An anchor claimed by several boxes goes to the one it overlaps most. A box may end without a positive.
    """
    count, num_boxes = priors.boxes.shape[0], boxes.shape[0]
    matched = torch.full((count,), NEGATIVE, dtype=torch.int64, device=boxes.device)
    if num_boxes == 0:
        return matched
    centre = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    box_centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centre[:, None] - box_centre[None]).pow(2).sum(-1).sqrt()
    chosen, start = [], 0
    for size in priors.level_sizes:
        nearest = distance[start : start + size].topk(min(top_k, size), dim=0, largest=False).indices
        chosen.append(nearest + start)
        start += size
    candidates = torch.cat(chosen)  # [K, M]
    overlap = pairwise_iou(priors.boxes, boxes)
    candidate_iou = overlap.gather(0, candidates)
    threshold = candidate_iou.mean(0) + candidate_iou.std(0)
    inside = encode_ltrb(priors.boxes[candidates], boxes).min(-1).values > 0.01
    positive = (candidate_iou >= threshold) & inside
    claim = torch.full_like(overlap, -_OUTSIDE)
    claim.scatter_(0, candidates, torch.where(positive, candidate_iou, -_OUTSIDE))
    best, owner = claim.max(dim=1)
    return torch.where(best > -_OUTSIDE, owner, matched)


def fcos_points(
    priors: Priors,
    boxes: Tensor,
    *,
    ranges: Sequence[tuple[float, float]] = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, _OUTSIDE)),
    center_radius: float | None = None,
    inclusive: bool = True,
) -> Tensor:
    """Points inside boxes (FCOS, arXiv 1904.01355, 3.1 and 3.2): a point answers for the smallest box that contains it
    and whose largest side distance falls in its level's range.

    inclusive: a distance equal to an end of the range is in it (mmdetection), or not (torchvision).
    center_radius: None uses the whole box; a number only the centre region of so many strides (FCOS improved).
    """
    count, num_boxes = priors.boxes.shape[0], boxes.shape[0]
    if num_boxes == 0:
        return torch.full((count,), NEGATIVE, dtype=torch.int64, device=boxes.device)
    if len(ranges) != len(priors.level_sizes):
        raise ValueError(f"{len(priors.level_sizes)} levels need as many regression ranges, got {len(ranges)}")
    distances = encode_ltrb(priors.boxes[:, None], boxes[None])  # [A, M, 4]
    if center_radius is None:
        inside = distances.min(-1).values > 0
    else:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = center_radius * priors.stride[:, None, None]
        low = torch.maximum(centre - reach, boxes[:, :2])
        high = torch.minimum(centre + reach, boxes[:, 2:])
        inside = encode_ltrb(priors.boxes[:, None], torch.cat([low, high], -1)).min(-1).values > 0
    limits = torch.tensor(ranges, device=boxes.device).repeat_interleave(
        torch.tensor(priors.level_sizes, device=boxes.device), dim=0
    )
    largest = distances.max(-1).values
    in_range = (largest > limits[:, :1]) & (largest < limits[:, 1:])
    if inclusive:
        in_range |= (largest == limits[:, :1]) | (largest == limits[:, 1:])
    size = torch.where(inside & in_range, area(boxes)[None], _OUTSIDE)
    smallest, owner = size.min(dim=1)
    return torch.where(smallest < _OUTSIDE, owner, NEGATIVE)


def reppoints(priors: Priors, boxes: Tensor, *, scale: float = 4.0, per_box: int = 1) -> Tensor:
    """The points nearest to a box's centre on the level of its size (RepPoints, arXiv 1904.11490, 3.3).

    The level is the whole part of the mean of log2(width / scale) and log2(height / scale), limited to those there are;
    a point's level is log2 of its stride. On it the `per_box` nearest points, by distance in widths and heights of the
    box, are positives. A point claimed by several boxes goes to the nearest, to the first of equally near ones.
    Source: mmdetection 3.3.0, mmdet/models/task_modules/assigners/point_assigner.py.
    """
    count, num_boxes = priors.boxes.shape[0], boxes.shape[0]
    if num_boxes == 0:
        return torch.full((count,), NEGATIVE, dtype=torch.int64, device=boxes.device)
    level = priors.stride.log2().int()
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    octaves = (size / scale).log2()
    box_level = ((octaves[:, 0] + octaves[:, 1]) / 2).int().clamp(min=level.min(), max=level.max())
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    points, distances, start = [], [], 0
    for number in priors.level_sizes:
        here = slice(start, start + number)
        distance = ((priors.boxes[here, None, :2] - centre) / size).norm(dim=-1)  # [number, M]
        nearest, index = distance.topk(min(per_box, number), dim=0, largest=False)
        points.append(index + start)
        distances.append(torch.where(box_level == level[start], nearest, torch.inf))
        start += number
    point, distance = torch.cat(points).flatten(), torch.cat(distances).flatten()  # claims, the box varying fastest
    box = torch.arange(num_boxes, device=boxes.device).repeat(len(point) // num_boxes)
    best = distance.new_full((count,), torch.inf).scatter_reduce(0, point, distance, "amin")
    won = (distance == best[point]) & distance.isfinite()
    owner = torch.full((count,), num_boxes, device=boxes.device)
    owner = owner.scatter_reduce(0, point, torch.where(won, box, num_boxes), "amin")
    return torch.where(owner < num_boxes, owner, NEGATIVE)


Neighbours = Literal["cfg", "yaml"]


class GridMatches(NamedTuple):
    """Pairs of a cell's anchor and a ground-truth box on one level, each field [P] int64. box: index of the box."""

    box: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor


ANCHOR_RATIO = 4.0  # of `yolo_grid`, as published


def yolo_grid(
    boxes: Tensor,
    anchors: Tensor,
    stride: float,
    map_size: tuple[int, int],
    *,
    ratio: float = ANCHOR_RATIO,
    neighbours: Neighbours = "cfg",
) -> GridMatches:
    """Anchors of a like shape in the cells about a box's centre (YOLOR's and Scaled-YOLOv4's trainings).

    boxes: [M, 4] of any number of images; anchors: [n, 2] width and height in pixels; map_size: (rows, columns).
    ratio: an anchor takes a box when width and height differ by less than this factor, either way. A box may be taken
        by several anchors, on several levels, or by none.
    The cell that holds the centre answers, and of the cells left, above, right and below those to which the centre is
    nearer than half a cell, as long as they are on the map: up to three cells. Centres beyond the map go to its edge.
    neighbours: for centres exactly on a cell's corner. "cfg": left and upper neighbour. "yaml": those two, and the cell
        itself a second and a third time, so that it weighs more (what the published training of that form does).

    Order: the centres' own cells, then left, upper, right, lower neighbours; within each by anchor, then by box.
    """
    rows, columns = map_size
    cells = to_cxcywh(boxes / stride)
    centre, size = cells[:, :2], cells[:, 2:]
    shape = size[None] / (anchors[:, None] / stride)  # [n, M, 2]
    fits = torch.maximum(shape, 1 / shape).amax(2) < ratio
    anchor, box = fits.nonzero(as_tuple=True)
    x, y = centre[box].unbind(1)
    sides = [torch.ones_like(box, dtype=torch.bool)]
    for far in (False, True):
        for along, count in ((x, columns), (y, rows)):
            part = (count - along if far and neighbours == "yaml" else along).remainder(1)
            near = part > 0.5 if far and neighbours == "cfg" else part < 0.5
            sides.append(near & ((along < count - 1) if far else (along > 1)))
    shift = boxes.new_tensor([(0, 0), (-0.5, 0), (0, -0.5), (0.5, 0), (0, 0.5)])
    side, pair = torch.stack(sides).nonzero(as_tuple=True)
    cell = (centre[box[pair]] + shift[side]).long()
    return GridMatches(
        box[pair], anchor[pair], cell[:, 1].clamp(min=0, max=rows - 1), cell[:, 0].clamp(min=0, max=columns - 1)
    )


def hungarian(cost: Tensor) -> Tensor:
    """The one-to-one matching of queries and objects with the least total cost (DETR, arXiv 2005.12872, equation 1).

    cost: [Q, M], also more objects than queries. Returns matched [Q], with min(Q, M) matches. Runs on the CPU.
    Raises: ValueError for a cost that is not finite.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and only set prediction needs it

    matched = torch.full(cost.shape[:1], NEGATIVE, dtype=torch.int64)
    if bad := int((~cost.isfinite()).sum()):
        raise ValueError(
            f"the matching cost of {tuple(cost.shape)} (queries, objects) must be finite, but {bad} entries are not: "
            "the network's output or a box is not finite; lower the learning rate or clip gradients"
        )
    query, box = linear_sum_assignment(cost.detach().float().cpu().numpy())
    matched[torch.from_numpy(query)] = torch.from_numpy(box)
    return matched.to(cost.device)


def sample(matched: Tensor, count: int | None, positive_fraction: float) -> Tensor:
    """Keep a random `count` of the matches [A] and set the others to IGNORE (Fast R-CNN, arXiv 1504.08083, 2.3).

    At most count * positive_fraction are positives; negatives fill the rest, as far as there are any. None keeps all.
    Draws from torch's global generator of the device, so a seeded run repeats.
    """
    if count is None:
        return matched
    order = torch.rand(matched.shape, device=matched.device)
    positive, negative = matched >= 0, matched == NEGATIVE
    positive = positive & (_rank(order, positive) < int(count * positive_fraction))
    negative = negative & (_rank(order, negative) < count - positive.sum())
    return torch.where(positive | negative, matched, IGNORE)


def _rank(order: Tensor, among: Tensor) -> Tensor:
    """Place of every element in ascending `order`, those of `among` first."""
    return torch.where(among, order, 2.0).argsort().argsort()
