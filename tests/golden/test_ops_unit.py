"""Deformable convolutions, RoIAlign and NMS against numbers recorded from mmcv 2.2.0 (ops_unit.json says how its inputs
are made)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.boxes import clip, decode_delta, encode_delta
from headway.layers.deform import deform_conv2d
from headway.layers.roi_align_cpu import sampled_roi_align
from headway.select import nms_per_class, soft_nms_per_class

RECORDED = json.loads((Path(__file__).parent / "mmdet" / "ops_unit.json").read_text())["cases"]
CASES = [case for case in RECORDED if "deform_conv2d" in case["op"]]
ROI_ALIGN = [case for case in RECORDED if case["op"] == "roi_align"]
CODER = [case for case in RECORDED if case["op"] == "delta_xywh"]
NMS = [case for case in RECORDED if "nms" in case["op"] and case["args"].get("method") != "naive"]


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


@pytest.mark.parametrize("case", ROI_ALIGN, ids=lambda case: "-".join(map(str, case["args"].values())))
def test_roi_align(case):
    arguments = case["args"]
    found = sampled_roi_align(
        make(case["inputs"]["x"]), torch.tensor(case["inputs"]["rois"]), tuple(arguments["output_size"]),
        arguments["spatial_scale"], arguments["sampling_ratio"], arguments["aligned"],
    )  # fmt: skip
    check("y", found.contiguous(), case["outputs"]["y"])


def recorded_boxes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """150 boxes, scores and labels, by the recording's rule."""
    generator = np.random.Generator(np.random.PCG64(3000))
    corner, size = generator.uniform(0, 200, (150, 2)), generator.uniform(10, 90, (150, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + size], 1).astype(np.float32))
    scores = torch.from_numpy(generator.uniform(0, 1, 150).astype(np.float32))
    return boxes, scores, torch.from_numpy(generator.integers(0, 4, 150))


@pytest.mark.parametrize("case", NMS, ids=lambda case: "-".join(map(str, (case["op"], *case["args"].values()))))
def test_nms(case):
    """Soft-NMS's "naive" method is plain NMS, with another name."""
    boxes, scores, labels = recorded_boxes()
    labels = labels if case["op"] == "batched_nms" else torch.zeros_like(labels)
    arguments = case["args"]
    if case["op"] == "soft_nms":
        kept, found = soft_nms_per_class(
            boxes, scores, labels, arguments["iou_threshold"], arguments["method"],
            sigma=arguments["sigma"], low=arguments["min_score"],
        )  # fmt: skip
        np.testing.assert_allclose(found[kept].numpy(), case["scores"], rtol=1e-4)
    else:
        kept = nms_per_class(boxes, scores, labels, arguments["iou_threshold"])
    assert kept.tolist() == case["keep"]


@pytest.mark.parametrize("case", CODER, ids=lambda case: "-".join(map(str, case["args"].values())))
def test_delta_coder(case):
    boxes, (height, width) = recorded_boxes()[0], case["args"]["max_shape"]
    stds = case["args"]["target_stds"]
    deltas = make(case["inputs"]["deltas"]) * case["inputs"]["deltas"]["extra_factor"]
    check("encode", encode_delta(boxes[:40], boxes[40:80], stds), case["outputs"]["encode"])
    decoded = decode_delta(boxes[:40], deltas, stds)
    if case["args"].get("clip_border", True):
        decoded = clip(decoded, torch.tensor([height, width]))
    check("decode", decoded, case["outputs"]["decode"])


def test_every_recorded_case_is_run():
    assert (len(CASES), len(ROI_ALIGN), len(NMS), len(CODER)) == (8, 8, 6, 3)
    assert len(RECORDED) == 8 + 8 + 6 + 3 + 1  # and the naive soft-NMS
