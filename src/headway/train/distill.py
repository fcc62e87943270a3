"""Knowledge distillation between heat-map detectors: a trained teacher's maps are a second set of targets.

Sources: prediction mimicking by soft targets as in CrossKD (arXiv 2306.11369, section 3: quality focal loss for the
scores, GIoU loss for the boxes), and boxes weighted by the teacher's confidence as in centerX (JDAI-CV/centerX,
modeling/losses/centernet_kdloss.py), which distils CenterNet.
Differs: CrossKD sends the student's features through the teacher's head, which needs heads of one width; here each
detector predicts by itself, as in centerX. centerX compares maps by squared error and learns sizes at the teacher's
peaks; between detectors of TTFNet's kind, which learn a box in every cell of a Gaussian, every confident cell teaches.
PAFNet was published without distillation of detectors: what is released distils the backbone's ImageNet training.
Legend: B images, C classes, h w the student's map, P cells where the teacher is sure.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint import load
from ..detector import Detector
from ..errors import HeadwayError
from ..heads.heatmap import HeatmapHead, HeatmapRaw
from ..losses import giou, reduce_mean, world_size
from .config import TrainConfig

CONFIDENT = 0.1  # least score of the teacher at which its peaks count and its boxes are learned


class Knowledge(NamedTuple):
    """scores [B, C, h, w] 0..1 and boxes [B, 4, h, w] xyxy input pixels of the teacher, on the student's cells."""

    scores: Tensor
    boxes: Tensor


def distillation_terms(
    logits: Tensor, boxes: Tensor, knowledge: Knowledge, *, peaks_only: bool = False
) -> dict[str, Tensor]:
    """How far a student is from its teacher: 0 where it predicts the same.

    logits: [B, C, h, w] and boxes: [B, 4, h, w] xyxy of the student.
    peaks_only: boxes are learned at the teacher's peaks alone, for detectors that predict none elsewhere.
    `distill_heatmap`: quality focal loss (arXiv 2006.04388, 3.1, beta 2) with the teacher's scores t as soft
        targets, |t - p|^2 ((1 - t) -ln(1 - p) + t -ln p), summed and divided by the teacher's peaks of score
        `CONFIDENT` or more, at least 1.
    `distill_box`: GIoU loss of the student's against the teacher's box, the mean over cells in which the teacher's best
        score is `CONFIDENT` or more, weighted by that score; 0 without such a cell.
    Both are normalised over the processes together.
    """
    scores = knowledge.scores
    focal = (scores - logits.sigmoid()).square() * F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    peaks = (F.max_pool2d(scores, 3, stride=1, padding=1) == scores) & (scores >= CONFIDENT)
    heatmap = focal.sum() / reduce_mean(peaks.sum().float()).clamp(min=1 / world_size())
    confidence = scores.amax(1)
    sure = peaks.any(1) if peaks_only else confidence >= CONFIDENT
    weight = confidence[sure]  # [P]
    apart = giou(boxes.permute(0, 2, 3, 1)[sure], knowledge.boxes.permute(0, 2, 3, 1)[sure])
    total = reduce_mean(weight.sum())
    box = (apart * weight).sum() / torch.where(total > 0, total, 1.0)
    return {"distill_heatmap": heatmap, "distill_box": box}


class Distiller:
    """A frozen teacher and the terms it adds to a student's loss.

    teacher: in eval mode, without gradients, with its own normalisation; it sees the very pictures the student sees.
    heatmap_weight, box_weight: of the two `distillation_terms`; one of weight 0 is left out.

    Raises: HeadwayError for a teacher or student without heat map, or with other classes.
    """

    def __init__(self, teacher: Detector, student: Detector, *, heatmap_weight: float, box_weight: float) -> None:
        for who, model in (("teacher", teacher), ("student", student)):
            if not isinstance(model.head, HeatmapHead):
                raise HeadwayError(
                    f"distillation is between heat maps, but the {who} {model.card.model} has a "
                    f"{type(model.head).__name__}: use CenterNet, TTFNet or PAFNet models for both"
                )
        ours, theirs = student.card.class_names, teacher.card.class_names
        if tuple(ours) != tuple(theirs):
            raise HeadwayError(
                f"the student predicts {len(ours)} classes ({', '.join(ours[:5])}), the teacher {len(theirs)} "
                f"({', '.join(theirs[:5])}): both must have the same classes in the same order; train the teacher on "
                "the same data set"
            )
        self.teacher = teacher.eval().requires_grad_(False)
        self.head: HeatmapHead = student.head
        # CenterNet's sizes and offsets are trained at centres alone and mean nothing in the cells around.
        self.peaks_only = "center" in (self.head.style, teacher.head.style)
        self.weights = {"distill_heatmap": heatmap_weight, "distill_box": box_weight}

    def __call__(self, raw: HeatmapRaw, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms for the student's raw output on a batch (shapes as `Detector.forward`)."""
        with torch.no_grad():
            knowledge = self.ask(images, sizes, (raw.heatmap.shape[2], raw.heatmap.shape[3]))
        boxes = box_map(self.head, raw)
        terms = distillation_terms(raw.heatmap, boxes, knowledge, peaks_only=self.peaks_only)
        return {name: term * self.weights[name] for name, term in terms.items() if self.weights[name]}

    def ask(self, images: Tensor, sizes: Tensor, map_size: tuple[int, int]) -> Knowledge:
        """The teacher's scores and boxes on a map of `map_size` (h, w).

        A teacher of another stride is brought there: scores by bilinear interpolation, boxes, which must not be mixed,
        from the nearest cell.
        """
        raw = self.teacher(images, sizes)
        head = self.teacher.head
        assert isinstance(head, HeatmapHead)
        scores, boxes = raw.heatmap.sigmoid(), box_map(head, raw)
        if scores.shape[2:] != map_size:
            scores = F.interpolate(scores, map_size, mode="bilinear", align_corners=False)
            boxes = F.interpolate(boxes, map_size, mode="nearest-exact")
        return Knowledge(scores, boxes)


def box_map(head: HeatmapHead, raw: HeatmapRaw) -> Tensor:
    """The box predicted at every cell, [B, 4, h, w] xyxy input pixels, not clipped."""
    batch, _, height, width = raw.heatmap.shape
    cells = torch.arange(height * width, device=raw.heatmap.device).expand(batch, -1)
    return head.boxes_at(raw, cells).transpose(1, 2).unflatten(2, (height, width))


def make_distiller(student: Detector, config: TrainConfig, device: torch.device) -> Distiller | None:
    """The distiller that the settings ask for; None without a teacher or with both weights 0."""
    if config.teacher is None or not (config.distill_heatmap or config.distill_box):
        return None
    teacher = load(config.teacher).to(device=device, memory_format=torch.channels_last)
    return Distiller(teacher, student, heatmap_weight=config.distill_heatmap, box_weight=config.distill_box)
