"""From candidates to detections: NMS against torchvision's, thresholds, ties, and coordinates that break offsets."""

import pytest
import torch
from torchvision.ops import batched_nms, nms

from headway.heads.parts import best_pairs
from headway.select import nms_per_class, select
from headway.types import Candidates


def scene(count: int = 200, classes: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 40], 1)
    scores = torch.rand(count, generator=generator)
    return boxes, scores, torch.randint(0, classes, (count,), generator=generator)


def one(boxes, scores, labels, **more) -> Candidates:
    """A batch of one image from lists."""
    as_batch = {k: torch.as_tensor(v)[None] for k, v in more.items()}
    boxes = torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4)
    return Candidates(boxes, torch.tensor([scores]), torch.tensor([labels]), **as_batch)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7])
def test_nms_per_class_equals_torchvision(iou):
    boxes, scores, labels = scene()
    kept = nms_per_class(boxes, scores, labels, iou)
    assert kept.tolist() == batched_nms(boxes, scores, labels, iou).tolist()
    assert len(kept) < len(boxes)


def test_nms_none_keeps_all_best_first():
    _, scores, _ = boxes_scores_labels = scene(50)
    assert nms_per_class(*boxes_scores_labels, None).tolist() == scores.argsort(descending=True).tolist()


def test_nms_of_nothing():
    assert nms_per_class(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)


def test_nms_suppresses_above_the_threshold_not_at_it():
    """(0,0,10,10) and (0,0,10,5) overlap by 1/2 exactly."""
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]]), torch.tensor([0, 0])
    scores = torch.tensor([0.9, 0.8])
    assert nms_per_class(boxes, scores, labels, 0.5).tolist() == [0, 1]
    assert nms_per_class(boxes, scores, labels, 0.49).tolist() == [0]


def test_equal_scores_keep_their_order():
    """Of three equal boxes with one score the first stays; apart from each other all stay, in the given order."""
    same, apart = torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1), torch.arange(12.0).view(3, 4) * 100
    scores, labels = torch.full((3,), 0.5), torch.tensor([0, 0, 0])
    assert nms_per_class(same, scores, labels, 0.5).tolist() == [0]
    assert nms_per_class(same, scores, torch.tensor([2, 0, 1]), 0.5).tolist() == [0, 1, 2]
    assert nms_per_class(apart, scores, labels, 0.5).tolist() == [0, 1, 2]


def test_huge_coordinates_give_what_the_same_boxes_give_at_the_origin():
    """At 2^21 = 2,097,152 px float32 steps by 1/4. Shifting classes apart by label * (largest + 1), as batched NMS
    does, makes the steps 16 px for class 79, more than these boxes are wide: the test shows that it goes wrong."""
    boxes, scores, _ = scene(120)
    boxes = boxes.round()
    labels = torch.arange(120) % 2 * 79
    expected = nms_per_class(boxes, scores, labels, 0.5).tolist()
    far = boxes + 2.0**21
    assert nms_per_class(far, scores, labels, 0.5).tolist() == expected
    offset = labels.to(far) * (far.max() + 1)
    assert nms(far + offset[:, None], scores, 0.5).tolist() != expected


def test_select_uses_both_thresholds_exclusively():
    """The class threshold .05 excludes .05 itself, the final one .3 excludes .3."""
    boxes = [[20.0 * i, 0, 20 * i + 9, 9] for i in range(4)]
    candidates = one(boxes, [0.5, 0.4, 0.3, 0.2], [0, 0, 0, 0], class_scores=[0.05, 0.06, 0.9, 0.9])
    assert select(candidates, class_threshold=0.05)[0].scores.tolist() == pytest.approx([0.4, 0.3, 0.2])
    assert select(candidates, score_threshold=0.3)[0].scores.tolist() == pytest.approx([0.5, 0.4])


def test_class_threshold_falls_back_to_the_final_score():
    candidates = one([[0, 0, 9, 9], [20, 0, 29, 9]], [0.5, 0.04], [0, 0])
    assert select(candidates, class_threshold=0.05)[0].scores.tolist() == [0.5]


def test_zero_scores_empty_and_inverted_boxes_are_dropped():
    boxes = [[0, 0, 9, 9], [20, 0, 20, 9], [40, 0, 49, -1], [60, 0, 69, 9], [80, 0, 89, 9]]
    detections = select(one(boxes, [0.9, 0.8, 0.7, 0.0, float("nan")], [0] * 5))[0]
    assert detections.boxes.tolist() == [[0, 0, 9, 9]]


def test_empty_boxes_can_be_kept():
    """They overlap nothing, so the same one twice stays twice."""
    boxes = [[0, 0, 9, 9], [5, 0, 5, 9], [5, 0, 5, 9]]
    candidates = one(boxes, [0.9, 0.8, 0.7], [0] * 3)
    assert len(select(candidates)[0]) == 1
    assert select(candidates, drop_empty=False)[0].boxes.tolist() == boxes


def test_max_detections_keeps_the_best_over_all_classes():
    boxes = [[20 * i, 0, 20 * i + 9, 9] for i in range(6)]
    candidates = one(boxes, [0.1, 0.6, 0.3, 0.5, 0.2, 0.4], [0, 1, 2, 0, 1, 2])
    detections = select(candidates, max_detections=3)[0]
    assert detections.scores.tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert detections.labels.tolist() == [1, 0, 2]


def test_extras_and_names_follow_their_boxes():
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 8]]
    candidates = one(boxes, [0.5, 0.9, 0.4], [0, 1, 0])._replace(extras={"row": torch.tensor([[10, 11, 12]])})
    detections = select(candidates, names=("cat", "dog"))[0]
    assert detections.extras["row"].tolist() == [11, 10]
    assert [found.name for found in detections] == ["dog", "cat"]


def test_images_are_selected_apart():
    boxes = torch.tensor([[[0.0, 0, 9, 9]], [[0.0, 0, 9, 9]]])
    candidates = Candidates(boxes, torch.tensor([[0.9], [0.0]]), torch.zeros(2, 1, dtype=torch.int64))
    first, second = select(candidates)
    assert len(first) == 1
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_half_precision_candidates_give_float_detections():
    candidates = one([[0, 0, 9, 9]], [0.5], [0])
    half = candidates._replace(boxes=candidates.boxes.half(), scores=candidates.scores.half())
    detections = select(half)[0]
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32


@pytest.mark.parametrize(("priors", "classes", "count"), [(500, 7, 40), (30, 5, 1000), (12, 3, 20), (9, 1, 4)])
def test_best_pairs_equal_a_sort_of_all(priors, classes, count):
    logits = torch.randn(2, priors, classes, generator=torch.Generator().manual_seed(0))
    best, prior, label = best_pairs(logits, count)
    expected, index = logits.flatten(1).sort(dim=1, descending=True)
    count = min(count, priors * classes)
    assert torch.equal(best, expected[:, :count])
    assert torch.equal(prior * classes + label, index[:, :count])
