"""The tags of a picture go with its detections."""

import torch

from headway.select import select
from headway.types import Candidates, Detections, Meta


def candidates(count):
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(count, 1)[None].repeat(2, 1, 1)
    scores = torch.tensor([[0.9], [0.0]]).expand(2, count)
    return Candidates(
        boxes, scores, torch.zeros(2, count, dtype=torch.int64), tags=torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    )


def test_selection_keeps_the_tags_of_pictures_with_and_without_detections():
    for count in (0, 3):
        first, second = select(candidates(count))
        assert len(second) == 0
        torch.testing.assert_close(first.tags, torch.tensor([0.1, 0.2]))
        torch.testing.assert_close(second.tags, torch.tensor([0.3, 0.4]))


def test_tags_survive_indexing_moving_and_scaling_back():
    found = select(candidates(1))[0]
    for same in (found[found.scores > 2], found[:1], found.to("cpu"), found.to_original(Meta(1, "a", (8, 8)))):
        torch.testing.assert_close(same.tags, torch.tensor([0.1, 0.2]))
    assert Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)).to("cpu").tags is None
