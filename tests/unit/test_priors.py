"""Anchors and points: published values and the order of rows."""

import math

import torch

from headway.priors import anchor_grid, point_grid

CPU = torch.device("cpu")


def test_base_anchors_as_published():
    """RPN at stride 4, scale 8: side 32; ratio h/w = 1/2 is 32 * sqrt 2 wide and 32 / sqrt 2 high."""
    anchors = anchor_grid([(1, 1)], [4], CPU, scales=[8], ratios=[0.5, 1, 2]).boxes
    expected = [[-22.63, -11.31, 22.63, 11.31], [-16, -16, 16, 16], [-11.31, -22.63, 11.31, 22.63]]
    torch.testing.assert_close(anchors, torch.tensor(expected), rtol=0, atol=5e-3)


def test_a_cell_is_ratio_major_and_scale_minor():
    """Two ratios, two scales at stride 10: (ratio 1/4: w = 2s, h = s/2), s = 10 then 20, and then ratio 1."""
    anchors = anchor_grid([(1, 1)], [10], CPU, scales=[1, 2], ratios=[0.25, 1]).boxes
    sizes = (anchors[:, 2:] - anchors[:, :2]).tolist()
    assert sizes == [[20, 5], [40, 10], [10, 10], [20, 20]]


def test_rows_go_by_level_then_y_then_x():
    priors = anchor_grid([(2, 3), (1, 2)], [8, 16], CPU, scales=[1], ratios=[1])
    centre = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    fine = [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    assert centre.tolist() == [*fine, [0, 0], [16, 0]]
    assert priors.level_sizes == (6, 2)
    assert priors.stride.tolist() == [8] * 6 + [16] * 2


def test_center_offset_is_in_cells():
    anchors = anchor_grid([(1, 2)], [16], CPU, scales=[8], ratios=[1], center_offset=0.5).boxes
    assert anchors.tolist() == [[8 - 64, 8 - 64, 8 + 64, 8 + 64], [24 - 64, 8 - 64, 24 + 64, 8 + 64]]


def test_anchor_area_does_not_depend_on_the_ratio():
    """Scale 4 * 2^(1/3) at stride 8: area (32 * 2^(1/3))^2 = 1625.5 for every ratio."""
    anchors = anchor_grid([(1, 1)], [8], CPU, scales=[4 * 2 ** (1 / 3)], ratios=[0.5, 1, 2]).boxes
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    torch.testing.assert_close(width * height, torch.full((3,), (32 * 2 ** (1 / 3)) ** 2))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2]))
    assert math.isclose(float((width * height)[0]), 1625.5, abs_tol=0.1)


def test_points_lie_in_the_middle_of_their_cells_and_have_no_area():
    priors = point_grid([(1, 2), (1, 1)], [8, 16], CPU)
    assert priors.boxes.tolist() == [[4, 4, 4, 4], [12, 4, 12, 4], [8, 8, 8, 8]]
    assert point_grid([(1, 1)], [8], CPU, center_offset=0).boxes.tolist() == [[0, 0, 0, 0]]


def test_rounded_anchors_have_whole_sides_and_corners():
    """Side 4 * 2^(1/3) * 16 = 80.6 is cut to 80; ratio 1/2: 113.1 x 56.6, corners at 56.57 and 28.28; ratio 1: 40."""
    anchors = anchor_grid([(1, 1)], [16], CPU, scales=[4 * 2 ** (1 / 3)], ratios=[0.5, 1], rounded=True).boxes
    assert anchors.tolist() == [[-57, -28, 57, 28], [-40, -40, 40, 40]]


def test_steps_from_the_image_are_per_axis():
    """52 x 13 cells of stride 8 are an image of 416 x 104; 7 x 2 cells of stride 64 lie 416 // 7 = 59 and 52 apart."""
    priors = point_grid([(52, 13), (7, 2)], [8, 64], CPU, center_offset=0, step_from_image=True)
    assert priors.level_sizes == (52 * 13, 14)
    coarse = priors.boxes[52 * 13 :]
    assert coarse[:4].tolist() == [[0, 0, 0, 0], [52, 0, 52, 0], [0, 59, 0, 59], [52, 59, 52, 59]]
    assert priors.boxes[1].tolist() == [8, 0, 8, 0]
    assert priors.stride[-1] == 64, "the stride itself stays"
