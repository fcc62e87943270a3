"""The numbers behind `headway view scaling`."""

import math

import pytest
import torch

from headway.errors import HeadwayError
from headway.view.scaling import Point, measure, plan, to_dict

CPU = torch.device("cpu")


def test_every_line_starts_at_the_same_network_and_changes_one_factor():
    points = plan(3)
    assert [(p.line, p.step) for p in points] == [("compound", 0)] + [
        (line, step) for line in ("width", "depth", "resolution", "compound", "published") for step in (1, 2, 3)
    ]
    by_line = {(p.line, p.step): (p.width, p.depth, p.resolution) for p in points}
    assert by_line["compound", 0] == (1, 1, 1)
    assert by_line["width", 2] == pytest.approx((2, 1, 1))
    assert by_line["depth", 3] == pytest.approx((1, 8, 1))
    assert by_line["resolution", 3] == pytest.approx((1, 1, math.sqrt(8)))
    assert by_line["compound", 2] == pytest.approx((1.21, 1.44, 1.3225))
    assert [p.model for p in points if p.line == "published"] == [f"efficientdet_d{n}" for n in (1, 2, 3)]
    with pytest.raises(HeadwayError, match="from 1 to 7, got 8"):
        plan(8)


def test_a_step_about_doubles_the_work():
    """And of the parameters: width takes nearly twice as many, resolution none."""
    start, *scaled = measure(plan(1, ("width", "resolution", "published")), CPU, repeats=0)
    assert start.size == (512, 512)
    assert start.latency is None
    factors = {p.line: (p.macs / start.macs, p.parameters / start.parameters) for p in scaled}
    for line in ("width", "resolution"):
        assert 1.75 < factors[line][0] < 2.2
    assert 1.8 < factors["width"][1] < 2.1
    assert factors["resolution"][1] == 1
    d1 = scaled[-1]  # published: 6.003 GMAC and 6,625,898 parameters with 90 classes, 9 * (88 + 1) fewer each
    assert d1.parameters == 6_625_898 - 10 * 9 * 89
    assert d1.macs / 1e9 == pytest.approx(6.003, rel=0.02)


def test_latency_is_that_of_the_network():
    small = Point("compound", 0, "efficientdet_scaled", 0.25, 0.3, 0.125)
    (point,) = measure([small], CPU, repeats=1)
    assert point.size == (64, 64)
    assert 0 < point.latency < 60
    (row,) = to_dict([point])
    assert row == {
        "line": "compound", "step": 0, "model": "efficientdet_scaled", "width": 0.25, "depth": 0.3, "resolution": 0.125,
        "size": (64, 64), "parameters": point.parameters, "macs": point.macs, "latency": point.latency,
    }  # fmt: skip
