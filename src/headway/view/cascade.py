"""The numbers of `headway view cascade`: what the IoU that a box head was trained at does (arXiv 1712.00726, figures 1
and 4).

Three questions: how AP falls over IoU thresholds; what each stage makes of a box, by the IoU that the box came with;
how good the proposals are before each stage.
Differs: the paper looks at the proposals of each detector, while here every stage gets the same boxes, jittered from
the ground truth, so that stages and detectors can be compared at every IoU.

Legend: M ground-truth boxes of an image, N bins, K regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..boxes import aligned_iou, clip, from_cxcywh, pairwise_iou, to_cxcywh
from ..data.batch import to_model_input
from ..data.dataset import DetectionData
from ..data.loader import make_loader
from ..detector import Detector
from ..errors import HeadwayError
from ..evaluate.coco import IOUS, evaluate, without_nan
from ..evaluate.run import detect_dataset
from ..heads.two_stage import Regions, TwoStageHead
from ..types import Batch

INPUT_EDGES: tuple[float, ...] = tuple(round(0.30 + 0.05 * i, 2) for i in range(14))  # 0.30, 0.35, ... 0.95
PROPOSAL_EDGES: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(21))
POSITIVE_IOUS = (0.5, 0.6, 0.7)
_CHUNK = 1000  # regions that are pooled at once
_FURTHEST = 4.0  # the longest jitter: four box sides, or a side 55 times as long
_HALVINGS = 40

Progress = Callable[[int, int], None]


class StageLine(NamedTuple):
    """One stage on jittered boxes. iou: of its positives in training; count, input, output [N]: boxes of each bin of
    `INPUT_EDGES` and their mean IoU with the ground truth before and after the stage, nan where there is none."""

    iou: float
    count: list[int]
    input: list[float]
    output: list[float]


class StageProposals(NamedTuple):
    """What came to one stage. iou: of its positives in training; count [N]: proposals by their IoU with the best
    ground-truth box, in the bins of `PROPOSAL_EDGES`; positives: proposals per image of at least an IoU, by IoU."""

    iou: float
    count: list[int]
    positives: dict[float, float]


class Stages(NamedTuple):
    """One entry per stage."""

    localisation: list[StageLine]
    proposals: list[StageProposals]


def has_stages(model: Detector) -> bool:
    """Whether the head has stages, even if only one."""
    return isinstance(model.head, TwoStageHead)


def check_labelled(data: DetectionData) -> None:
    """Raises: HeadwayError for a split without a single box."""
    if not any((~record.crowd).any() for record in data.records):
        raise HeadwayError(
            f"no box in any of the {len(data)} pictures of {data.name!r}: AP and IoU need a labelled --split"
        )


def spread(data: DetectionData, limit: int | None) -> DetectionData:
    """At most `limit` pictures, evenly over the split."""
    if limit is None or limit >= len(data):
        return data
    return data.subset([i * len(data) // limit for i in range(limit)], data.name)


def ap_by_iou(model: Detector, data: DetectionData, progress: Progress | None = None) -> dict[str, Any]:
    """COCO's AP at each of `IOUS`, as {"ap", "ap50", "ap75", "ap_by_iou": [10]}; nan where undefined.

    Raises: HeadwayError when `data` has boxes of classes that the model does not know.
    """
    rows, _ = detect_dataset(model, data, progress=progress)
    metrics = evaluate(rows, data)
    return {name: getattr(metrics, name) for name in ("ap", "ap50", "ap75", "ap_by_iou")}


def jitter(
    boxes: Tensor, size: Tensor, generator: torch.Generator, edges: Sequence[float] = INPUT_EDGES
) -> tuple[Tensor, Tensor]:
    """Boxes [M, 4] of an image of `size` [2] (height, width) -> (boxes [M, N, 4] within the image, found [M, N]).

    Box n of each has an IoU with the original that is uniform in [edges[n], edges[n + 1]). It is reached along a
    direction that is uniform on the sphere of (shift by widths, shift by heights, log width, log height): as far along
    as gives that IoU. found: False where no length does, since a box that fills its image cannot grow out of it.
    """
    count, bins = len(boxes), len(edges) - 1
    low, high = torch.tensor(edges[:-1], dtype=torch.float64), torch.tensor(edges[1:], dtype=torch.float64)
    wanted = low + (high - low) * torch.rand(count, bins, generator=generator, dtype=torch.float64)
    direction = torch.randn(count, bins, 4, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    truth, limit = boxes.double().cpu()[:, None], size.cpu()
    original = to_cxcywh(truth)

    def moved(length: Tensor) -> Tensor:
        step = direction * length[..., None]
        centre = original[..., :2] + original[..., 2:] * step[..., :2]
        box = from_cxcywh(torch.cat([centre, original[..., 2:] * step[..., 2:].exp()], dim=-1))
        return clip(box.flatten(0, 1), limit).view_as(box)

    near, far = torch.zeros_like(wanted), torch.full_like(wanted, _FURTHEST)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        close = aligned_iou(moved(middle), truth) >= wanted
        near, far = torch.where(close, middle, near), torch.where(close, far, middle)
    result = moved(near)
    found = (aligned_iou(result, truth) - wanted).abs() < 1e-3
    return result.to(boxes), found.to(boxes.device)


def watch_stages(model: Detector, data: DetectionData, *, seed: int = 0, progress: Progress | None = None) -> Stages:
    """Every stage on jittered boxes, and on the model's own proposals as in inference, over the pictures of `data`.

    The jitter depends on `seed` and the picture alone. Crowd regions are no ground truth; pictures without any take no
    part in the proposals. The model is put into eval mode.
    Raises: HeadwayError for a head without stages.
    """
    head = model.head
    if not isinstance(head, TwoStageHead):
        raise HeadwayError(f"{model.card.model or 'this detector'} has no stages; give a Faster or Cascade R-CNN")
    stages = head.stages
    lines = [torch.zeros(3, len(INPUT_EDGES) - 1, dtype=torch.float64) for _ in stages]
    overlaps: list[list[Tensor]] = [[] for _ in stages]
    pictures = 0
    for number, (batch, features) in enumerate(_features(model, data)):
        if progress is not None:
            progress(number + 1, len(data))
        truth = batch.targets[0].without_crowd().boxes
        truth = truth[(truth[:, 2:] > truth[:, :2]).all(1)]
        if not len(truth):
            continue
        pictures += 1
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        for sums, found in zip(lines, _move(head, features, batch.sizes, truth, generator)):
            sums += found
        for seen, found in zip(overlaps, _propose(head, features, batch.sizes, truth)):
            seen.append(found)
    return Stages(
        [_line(stage.positive_iou, sums) for stage, sums in zip(stages, lines)],
        [_histogram(stage.positive_iou, torch.cat(seen), pictures) for stage, seen in zip(stages, overlaps)],
    )


@torch.no_grad()
def _features(model: Detector, data: DetectionData) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Each picture by itself, on the model's device, and its pyramid."""
    model.eval()
    device = next(model.parameters()).device
    for batch in make_loader(data, model.card, batch_size=1, train=False):
        images, sizes = to_model_input(batch, device), batch.sizes.to(device)
        targets = [target.to(device) for target in batch.targets]
        yield Batch(images, sizes, targets, batch.metas), model.neck(model.backbone(model.normalize(images)))


@torch.no_grad()
def _move(
    head: TwoStageHead, features: list[Tensor], sizes: Tensor, truth: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """What each stage makes of the same jittered boxes of one image: sums [3, N] of ones, IoU before, IoU after."""
    boxes, found = jitter(truth, sizes[0], generator)
    rois, truths = boxes.flatten(0, 1), truth[:, None].expand_as(boxes).flatten(0, 1)
    before = aligned_iou(rois, truths)
    for number in range(len(head.stages)):
        refined = []
        for part in rois[None].split(_CHUNK, dim=1):
            regions = Regions(part, torch.ones_like(part[..., 0], dtype=torch.bool))
            refined.append(head.advance(head.look(features, regions, number), number, sizes).rois[0])
        after = aligned_iou(torch.cat(refined), truths)
        values = torch.stack([torch.ones_like(before), before, after]).view(3, *found.shape)
        yield (values.double() * found).sum(1).cpu()


@torch.no_grad()
def _propose(head: TwoStageHead, features: list[Tensor], sizes: Tensor, truth: Tensor) -> Iterator[Tensor]:
    """IoU with the best ground-truth box of every region [K] that comes to each stage in inference."""
    proposals = head.rpn.propose(head.rpn(features, sizes), training=False)
    for raw in head.refine(features, proposals.boxes, proposals.valid, sizes):
        yield pairwise_iou(raw.regions.rois[0][raw.regions.valid[0]], truth).amax(1).cpu()


def _line(iou: float, sums: Tensor) -> StageLine:
    count, before, after = sums
    return StageLine(iou, count.long().tolist(), (before / count).tolist(), (after / count).tolist())


def _histogram(iou: float, overlaps: Tensor, pictures: int) -> StageProposals:
    edges = torch.tensor(PROPOSAL_EDGES[1:-1])  # an IoU of one belongs to the last bin
    count = torch.bincount(torch.bucketize(overlaps, edges, right=True), minlength=len(edges) + 1)
    limits = sorted({iou, *POSITIVE_IOUS})
    return StageProposals(iou, count.tolist(), {u: int((overlaps >= u).sum()) / pictures for u in limits})


def to_dict(ap: dict[str, Any], stages: Stages | None) -> dict[str, Any]:
    """The numbers of one model as JSON holds them; undefined is None. Without stages, AP alone."""
    lists = {} if stages is None else {
        "localisation": [{"stage": k, **line._asdict()} for k, line in enumerate(stages.localisation, 1)],
        "proposals": [
            {"stage": k, **row._asdict(), "positives": {f"{u:g}": n for u, n in row.positives.items()}}
            for k, row in enumerate(stages.proposals, 1)
        ],
    }  # fmt: skip
    return without_nan({**ap, "ap_by_iou": list(ap["ap_by_iou"]), **lists})


def bins() -> dict[str, list[float]]:
    """The axes of all series."""
    return {"iou": list(IOUS), "input_edges": list(INPUT_EDGES), "proposal_edges": list(PROPOSAL_EDGES)}
