"""Deformable convolutions against numbers recorded from mmcv 2.2.0 (ops_unit.json says how its inputs are made)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.layers.deform import deform_conv2d

CASES = [
    case
    for case in json.loads((Path(__file__).parent / "mmdet" / "ops_unit.json").read_text())["cases"]
    if "deform_conv2d" in case["op"]
]


def make(rule: dict) -> torch.Tensor:
    generator = np.random.Generator(np.random.PCG64(rule["seed"]))
    tensor = torch.from_numpy((rule["scale"] * generator.standard_normal(rule["shape"])).astype(np.float32))
    return tensor.sigmoid() if rule.get("sigmoid") else tensor


def check(name: str, tensor: torch.Tensor, golden: dict) -> None:
    """1e-4 of the standard deviation, the tolerance the recording's README states, on the samples and the moments."""
    values = tensor.detach().double().flatten().numpy()
    count = values.size
    picked = values if golden.get("all") else values[np.linspace(0, count - 1, min(64, count)).round().astype(int)]
    assert list(tensor.shape) == golden["shape"], name
    tolerance = 1e-4 * golden["std"]
    np.testing.assert_allclose(picked, golden["values"], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(values.mean(), golden["mean"], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(values.std(), golden["std"], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: case["op"] + "-g{groups}-o{deform_groups}".format(**case["args"])
)
def test_deform_conv2d(case):
    inputs = {name: make(rule) for name, rule in case["inputs"].items()}
    direction = next(inputs.pop(name) for name in list(inputs) if name.startswith("r "))
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    result = deform_conv2d(
        leaves["x"],
        leaves["offset"],
        leaves["weight"],
        leaves.get("bias"),
        case["args"]["stride"],
        case["args"]["padding"],
        case["args"]["dilation"],
        leaves.get("mask"),
    )
    check("y", result, case["outputs"]["y"])
    (result * direction).sum().backward()
    for name, leaf in leaves.items():
        check(name, leaf.grad, case["outputs"][f"grad_{name}"])


def test_all_eight_recorded_cases_are_run():
    assert len(CASES) == 8
