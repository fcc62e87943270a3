"""Targets, losses, gradients and decoding of heat maps against numbers recorded from PaddleDetection 2.6.0 (`rules` in
the file: PCG64(s) normal(shape) is Generator(PCG64(s)).standard_normal(shape) in float32)."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headway.heads.heatmap import HeatmapHead, HeatmapRaw
from headway.losses import gaussian_focal, giou
from headway.select import select
from headway.targets import TTFTargets, ttf_targets
from headway.types import Target

RECORDED = json.loads((Path(__file__).parent / "paddle" / "ttf_components.json").read_text())
TARGETS, LOSSES, DECODE = RECORDED["targets"], RECORDED["losses"], RECORDED["decode"]
BATCHES = [name for name, case in LOSSES.items() if "targets" in case]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32))


def target_of(name: str) -> Target:
    case = TARGETS[name]
    return Target(torch.tensor(case["boxes"], dtype=torch.float32).view(-1, 4), torch.tensor(case["labels"]).long())


def encode(name: str) -> TTFTargets:
    target, side = target_of(name), TARGETS[name]["image_size"] // 4
    return ttf_targets(target.boxes, target.labels, (side, side), TARGETS[name]["num_classes"])


def head(num_classes: int, max_candidates: int = 100, **arguments: Any) -> HeatmapHead:
    module = HeatmapHead(nn.Identity(), nn.Identity(), num_classes=num_classes, **arguments)
    module.max_candidates = max_candidates
    return module


def non_zero(values: Tensor) -> tuple[list[int], Tensor]:
    index = values.flatten().nonzero().squeeze(1)
    return index.tolist(), values.flatten()[index]


# -------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("name", TARGETS)
def test_encoder(name):
    """The same cells exactly, the values to 1e-5 relative."""
    case, encoded = TARGETS[name], encode(name)
    for recorded, ours in ((case["heatmap"], encoded.heatmap), (case["reg_weight"], encoded.weight)):
        index, values = non_zero(ours)
        assert index == recorded["index"]
        torch.testing.assert_close(values, torch.tensor(recorded["value"]), rtol=1e-5, atol=0)
    owned = encoded.owner >= 0
    assert non_zero(owned)[0] == case["box_target"]["index_hw"]
    assert encoded.owner[owned].tolist() == case["box_target"]["box_of_cell"]


def test_encoder_by_the_numbers():
    """Three boxes on 128x128: peaks, cells per class and per box, sums, and one row of the first Gaussian."""
    encoded = encode("three_classes")
    assert (encoded.heatmap == 1).nonzero().tolist() == [[0, 15, 12], [1, 12, 12], [2, 0, 0]]
    assert encoded.heatmap.count_nonzero(dim=(1, 2)).tolist() == [121, 9, 1]
    torch.testing.assert_close(encoded.heatmap.sum((1, 2)), torch.tensor([21.017776, 1.6146036, 1.0]))
    assert encoded.owner[encoded.owner >= 0].bincount().tolist() == [112, 9, 1]
    assert encoded.weight.count_nonzero() == 122
    torch.testing.assert_close(encoded.weight.sum(), torch.tensor(17.526361))
    row = torch.tensor([0.0243, 0.0925, 0.2621, 0.5515, 0.8618, 1, 0.8618, 0.5515, 0.2621, 0.0925, 0.0243])
    torch.testing.assert_close(encoded.heatmap[0, 15, 7:18], row, atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------------------------------- losses
def inputs_of(case: dict[str, Any]) -> tuple[Tensor, Tensor, list[Target]]:
    """Logits PCG64(11) - 2 + shift, distances |PCG64(12)| * 16, and the targets, as the rules of the case say."""
    batch, side = len(case["targets"]), case["image_size"] // 4
    shift = float(case["hm_logits"].rsplit("+", 1)[1])
    logits = normal(11, batch, case["num_classes"], side, side) - 2 + shift
    distances = normal(12, batch, 4, side, side).abs() * 16
    return logits.requires_grad_(), distances.requires_grad_(), [target_of(name) for name in case["targets"]]


@pytest.mark.parametrize("ags", ["off", "paddle"])
@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients(name, ags):
    """With attention-guided sampling as it was released the same numbers, bit for bit those without."""
    case = LOSSES[name]
    logits, distances, targets = inputs_of(case)
    raw = HeatmapRaw(logits, distances, None, torch.tensor([[128, 128]] * len(targets)))
    losses = head(case["num_classes"], ags=ags).loss(raw, targets)
    recorded = case["loss" if ags == "off" else "ags_as_shipped"]
    assert losses.terms["heatmap"].item() == pytest.approx(recorded["hm_loss"], rel=1e-5)
    assert losses.terms["box"].item() == pytest.approx(recorded["wh_loss"], rel=1e-5)
    assert torch.equal(losses.total, head(case["num_classes"]).loss(raw, targets).total)

    losses.total.backward()
    wanted = case["grad_hm"]
    picked = logits.grad.flatten()[np.linspace(0, logits.numel() - 1, 32).round().astype(int)]
    torch.testing.assert_close(picked, torch.tensor(wanted["values"]), rtol=1e-4, atol=1e-5 * wanted["std"])
    assert logits.grad.mean().item() == pytest.approx(wanted["mean"], rel=1e-5, abs=1e-12)
    assert logits.grad.abs().max().item() == pytest.approx(wanted["absmax"], rel=1e-5)
    wanted = case["grad_wh"]
    picked = distances.grad.flatten()[wanted["index"]]
    torch.testing.assert_close(picked, torch.tensor(wanted["value"]), rtol=1e-4, atol=1e-8)
    assert distances.grad.count_nonzero() == wanted["nonzero"]
    assert distances.grad.sum().item() == pytest.approx(wanted["sum"], rel=1e-4, abs=1e-7)


def test_focal_with_values_close_to_one():
    """0.999 and 0.6 are not positives; the recorded sum is divided by the one that is."""
    case = LOSSES["focal_tiny"]
    logits = torch.tensor(case["logits"]).view(case["shape"]).requires_grad_()
    loss = gaussian_focal(logits, torch.tensor(case["target"]).view(case["shape"])).sum()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor(case["grad"]), rtol=1e-4, atol=1e-6)


def test_focal_by_the_numbers():
    """Every p = 0.01: 4.5145407 per positive of the three boxes, 0.00308746 with nothing on 3x32x32. Every p at the
    clip: 9.208498, the sign of a collapsed map."""
    flat, far = torch.full((3, 32, 32), -math.log(99)), torch.full((3, 32, 32), -50.0)
    heatmap = encode("three_classes").heatmap
    assert gaussian_focal(flat, heatmap).sum().item() / 3 == pytest.approx(4.5145407, rel=1e-6)
    assert gaussian_focal(flat, torch.zeros_like(flat)).sum().item() == pytest.approx(0.00308746, rel=1e-5)
    assert gaussian_focal(far, heatmap).sum().item() / 3 == pytest.approx(9.208498, rel=1e-6)


def test_giou():
    """Row 3, a point against a point, has a value but no gradient to compare. Row 7 is left out: an inverted box, which
    distances of at least zero cannot make."""
    case = LOSSES["giou"]
    predicted = torch.tensor(case["pred"]).requires_grad_()
    loss = giou(predicted, torch.tensor(case["target"]))
    torch.testing.assert_close(loss[:7], torch.tensor(case["one_minus_giou"])[:7])
    loss.sum().backward()
    rows = [0, 1, 2, 4, 5, 6]
    torch.testing.assert_close(predicted.grad[rows], torch.tensor(case["grad"])[rows], rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- decode
def raw_of(case: dict[str, Any]) -> HeatmapRaw:
    if "hm_points_cyx_logit" in case:
        logits = torch.full(case["shape"], case["hm_background"])
        for label, y, x, logit in case["hm_points_cyx_logit"]:
            logits[0, label, y, x] = logit
        distances = torch.full((1, 4, *case["shape"][2:]), case["wh"])
    elif "wh" in case:
        logits, distances = normal(21, 2, 4, 16, 16) * 2 - 1, normal(22, 2, 4, 16, 16).abs() * 10
    else:
        logits, distances = torch.full((1, 3, 8, 8), -10.0), torch.zeros(1, 4, 8, 8)
    return HeatmapRaw(logits, distances, None, torch.tensor([[1000, 1000]] * len(logits)))


@pytest.mark.parametrize("name", DECODE)
def test_decode(name):
    """Every recorded detection is found, and no other; boxes are clipped at the left and top, which upstream's are not,
    and divided by the recorded scale (y, x). Rows are label, score, x1, y1, x2, y2."""
    case = DECODE[name]
    raw = raw_of(case)
    found = select(
        head(raw.heatmap.shape[1], max_candidates=case["k"]).decode(raw), score_threshold=0.01, nms_iou=None,
        drop_empty=False,
    )  # fmt: skip
    for image, (detections, recorded) in enumerate(zip(found, case["detections"], strict=True)):
        y, x = case["scale_factor_yx"][image] if recorded else (1, 1)
        boxes = detections.boxes / torch.tensor([x, y, x, y])
        ours = torch.cat([detections.labels[:, None], detections.scores[:, None], boxes], 1)
        wanted = torch.tensor(recorded).view(-1, 6)
        wanted[:, 2:] = wanted[:, 2:].clamp(min=0)
        assert len(ours) == len(wanted)
        ours, wanted = (
            torch.tensor(sorted(rows.tolist(), key=lambda r: (-round(r[1], 5), *r[2:]))) for rows in (ours, wanted)
        )
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-4)
