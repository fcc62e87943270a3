"""The grid assignment: cases by hand, and against a loop over boxes, anchors and cells."""

import math

import pytest
import torch

from headway.assign import yolo_grid
from headway.heads.yolo import match_grid
from headway.types import Target

STRIDE = 8
ROWS, COLUMNS = 10, 12


def box_at(x: float, y: float, width: float = 16.0, height: float = 16.0) -> torch.Tensor:
    """Centre in cells, size in pixels."""
    centre, half = torch.tensor([x, y]) * STRIDE, torch.tensor([width, height]) / 2
    return torch.cat([centre - half, centre + half])[None]


def cells(x: float, y: float, neighbours: str) -> list[tuple[int, int]]:
    """(x, y) that answer for a box whose shape the only anchor has."""
    found = yolo_grid(box_at(x, y), torch.tensor([[16.0, 16.0]]), STRIDE, (ROWS, COLUMNS), neighbours=neighbours)
    assert found.box.tolist() == found.anchor.tolist() == [0] * len(found.x)
    return list(zip(found.x.tolist(), found.y.tolist()))


@pytest.mark.parametrize("neighbours", ["cfg", "yaml"])
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (5.3, 7.8, [(5, 7), (4, 7), (5, 8)]),  # nearer to the left and to the lower one
        (5.7, 7.2, [(5, 7), (5, 6), (6, 7)]),
        (5.5, 7.5, [(5, 7)]),  # as near to either
        (5.5, 7.2, [(5, 7), (5, 6)]),
        (0.3, 0.3, [(0, 0)]),  # no neighbours outside
        (0.7, 0.7, [(0, 0), (1, 0), (0, 1)]),
        (11.7, 9.7, [(11, 9)]),
        (11.3, 9.3, [(11, 9), (10, 9), (11, 8)]),
        (11.0, 0.3, [(11, 0), (10, 0)]),  # on a corner, where the right one would be outside
        (-2.7, 4.5, [(0, 4)]),  # beyond the map: its edge
        (14.5, 13.5, [(11, 9)]),
    ],
)
def test_cells_by_hand(x, y, expected, neighbours):
    assert cells(x, y, neighbours) == expected


def test_a_centre_on_a_corner_by_hand():
    """Left and upper neighbour in both forms; in the yaml form the cell itself again, once per axis."""
    assert cells(5.0, 7.0, "cfg") == [(5, 7), (4, 7), (5, 6)]
    assert cells(5.0, 7.0, "yaml") == [(5, 7), (4, 7), (5, 6), (5, 7), (5, 7)]


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (16, 16, True),
        (63.9, 16, True),
        (64, 16, False),  # exactly four times
        (16, 64, False),
        (4, 16, False),
        (4.1, 4.1, True),
        (63.9, 4.1, True),  # each side by itself
        (0, 16, False),
        (0, 0, False),
    ],
)
def test_a_factor_of_exactly_four_is_too_much(width, height, fits):
    found = yolo_grid(box_at(5.5, 5.5, width, height), torch.tensor([[16.0, 16.0]]), STRIDE, (ROWS, COLUMNS))
    assert len(found.box) == int(fits)


def test_no_boxes():
    found = yolo_grid(torch.zeros(0, 4), torch.tensor([[16.0, 16.0]]), STRIDE, (ROWS, COLUMNS))
    assert [len(field) for field in found] == [0, 0, 0, 0]


def loop(boxes, anchors, neighbours: str) -> list[tuple[int, int, int, int]]:
    """(box, anchor, y, x), one at a time, from the rules in words."""
    result = []
    for side in ("own", "left", "up", "right", "down"):
        for a, (anchor_width, anchor_height) in enumerate(anchors):
            for m, (x1, y1, x2, y2) in enumerate(boxes):
                ratios = ((x2 - x1) / anchor_width, (y2 - y1) / anchor_height)
                if any(max(r, 1 / r) >= 4 for r in ratios):
                    continue
                x, y = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
                column, row = math.floor(x), math.floor(y)
                along, count = (x, COLUMNS) if side in ("left", "right") else (y, ROWS)
                rest = along - math.floor(along)
                step = {"own": 0, "left": -1, "up": -1, "right": 1, "down": 1}[side]
                if step == -1 and not (rest < 0.5 and along > 1):
                    continue
                on_corner = neighbours == "yaml" and rest == 0
                if step == 1 and not ((rest > 0.5 or on_corner) and along < count - 1):
                    continue
                if step == 1 and on_corner:
                    step = 0
                if side in ("left", "right"):
                    column += step
                else:
                    row += step
                result.append((m, a, min(max(row, 0), ROWS - 1), min(max(column, 0), COLUMNS - 1)))
    return result


@pytest.mark.parametrize("neighbours", ["cfg", "yaml"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_loop_in_its_order(seed, neighbours):
    """Centres on whole and half cells among them; every coordinate is exact in binary."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(40, 2, generator=generator) * torch.tensor([COLUMNS, ROWS]) * STRIDE
    centre[::2] = (centre[::2] / 4).round() * 4
    half = torch.randint(1, 80, (40, 2), generator=generator) / 2
    boxes = torch.cat([centre - half, centre + half], 1).double()
    anchors = [(12.0, 16.0), (19.0, 36.0), (40.0, 28.0)]
    found = yolo_grid(boxes, torch.tensor(anchors, dtype=torch.float64), STRIDE, (ROWS, COLUMNS), neighbours=neighbours)
    ours = list(zip(*(field.tolist() for field in (found.box, found.anchor, found.y, found.x))))
    assert len(ours) > 40
    assert ours == loop(boxes.tolist(), anchors, neighbours)


def test_a_batch_is_matched_on_every_level_without_crowds():
    """Of three boxes the second is a crowd region, the third in the second picture. A box of 16 pixels fits anchors of
    16 and 32 pixels and not of 64."""
    one = Target(torch.cat([box_at(5.5, 5.5), box_at(3.5, 3.5)]), torch.tensor([0, 1]), torch.tensor([False, True]))
    two = Target(box_at(2.5, 2.5, 200.0, 200.0), torch.tensor([2]), ids=torch.tensor([7]))
    anchors = torch.tensor([[[16.0, 16.0]], [[32.0, 32.0]], [[64.0, 64.0]]])
    matched = match_grid([one, two], [(10, 12), (5, 6), (3, 3)], anchors, (8, 16, 32))
    assert [sorted(set(pairs.box.tolist())) for pairs in matched.pairs] == [[0], [0], [1]]
    assert matched.image.tolist() == [0, 1]
    assert torch.equal(matched.boxes, torch.cat([one.boxes[:1], two.boxes]))
    assert matched.ids is None
