"""Distillation: its terms against numbers by hand and torchvision, what it adds to a run, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import generalized_box_iou

from headway.detector import Detector
from headway.errors import HeadwayError
from headway.factory import create_model
from headway.heads.heatmap import HeatmapHead, open_distances, set_prior
from headway.registry import register_head
from headway.train import TrainConfig
from headway.train.distill import Distiller, Knowledge, box_map, distillation_terms
from headway.train.fit import TrainingStopped, fit
from headway.train.log import read_rows
from headway.types import Levels

from .tiny import NAMES, STRIDE, make_data, make_model


@register_head("heat_tiny")
def heat_tiny(inputs: Levels, *, num_classes: int, style: str = "ltrb", shift: float = 0.0) -> HeatmapHead:
    """Heat map and box on the tiny backbone's map. shift: moves the mean of the normalisation."""
    heatmap = nn.Conv2d(inputs.channels[0], num_classes, 3, padding=1)
    set_prior(heatmap, 0.01)
    box = nn.Conv2d(inputs.channels[0], 4 if style == "ltrb" else 2, 3, padding=1)
    if style == "ltrb":
        open_distances(box)
    head = HeatmapHead(heatmap, box, num_classes=num_classes, stride=STRIDE, style=style)  # type: ignore[arg-type]
    mean = (123.675 + shift, 116.28, 103.53)
    head.card = {"mean": mean, "input_size": (64, 64), "pad_multiple": 8, "nms_iou": None}
    return head


def build(seed: int = 0, class_names: Sequence[str] = NAMES, **arguments: Any) -> Detector:
    torch.manual_seed(seed)
    return create_model("train_tiny_body/heat_tiny", class_names=class_names, dropout=0.0, **arguments)


SETTINGS: dict[str, Any] = {
    "epochs": 2, "batch_size": 4, "base_batch_size": 0, "learning_rate": 0.01, "preset": "none", "device": "cpu",
    "log_every": 2, "warmup_steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learned a little on 16 pictures."""
    folder = tmp_path_factory.mktemp("teacher")
    config = TrainConfig(**SETTINGS | {"epochs": 25, "out": folder / "run"})
    return fit(build(7), make_data(folder / "data", 16), None, config) / "last.safetensors"


# ---------------------------------------------------------------------------------------------------------- terms
def one_cell(score: float, logit: float, box: list[float], taught: list[float]) -> dict[str, float]:
    """One image, one class, one cell."""
    logits = torch.full((1, 1, 1, 1), logit)
    knowledge = Knowledge(torch.full((1, 1, 1, 1), score), torch.tensor(taught).view(1, 4, 1, 1))
    terms = distillation_terms(logits, torch.tensor(box).view(1, 4, 1, 1), knowledge)
    return {name: term.item() for name, term in terms.items()}


def test_terms_by_hand() -> None:
    """t 0.8, p 0.5 (logit 0): (0.3)^2 ln 2 = 0.0624. Boxes 0 0 10 10 and 0 0 10 20: IoU and GIoU 0.5."""
    terms = one_cell(0.8, 0.0, [0, 0, 10, 10], [0, 0, 10, 20])
    assert terms["distill_heatmap"] == pytest.approx(0.09 * math.log(2), rel=1e-5)
    assert terms["distill_box"] == pytest.approx(0.5, rel=1e-5)


def test_an_unsure_teacher_teaches_no_box() -> None:
    """Below 0.1 there is no peak and no box; the scores still count, divided by 1."""
    terms = one_cell(0.05, 0.0, [0, 0, 10, 10], [0, 0, 10, 20])
    assert terms["distill_heatmap"] == pytest.approx(0.45**2 * math.log(2), rel=1e-5)
    assert terms["distill_box"] == 0


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator).requires_grad_()
    corner = torch.rand(2, 2, 6, 5, generator=generator) * 20
    boxes = torch.cat([corner, corner + 5], 1).requires_grad_()
    terms = distillation_terms(logits, boxes, Knowledge(logits.detach().sigmoid(), boxes.detach()))
    assert terms["distill_heatmap"].item() == pytest.approx(0, abs=1e-9)
    assert terms["distill_box"].item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(terms["distill_heatmap"], logits)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("peaks_only", [False, True])
def test_boxes_are_weighted_by_the_teachers_confidence(peaks_only: bool) -> None:
    """Against torchvision's generalised IoU, cell by cell."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(2, 3, 6, 5, generator=generator) ** 4
    boxes, taught = (
        torch.cat([c := 20 * torch.rand(2, 2, 6, 5, generator=generator), c + 3 + c.flip(1)], 1) for _ in range(2)
    )
    term = distillation_terms(torch.zeros_like(scores), boxes, Knowledge(scores, taught), peaks_only=peaks_only)
    total = weights = count = 0.0
    for b in range(2):
        for y in range(6):
            for x in range(5):
                best = scores[b, :, y, x].max().item()
                around = scores[b, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].flatten(1).amax(1)
                peak = ((scores[b, :, y, x] == around) & (around >= 0.1)).sum().item()
                count += peak
                if best < 0.1 or (peaks_only and not peak):
                    continue
                overlap = generalized_box_iou(boxes[b, :, y, x][None], taught[b, :, y, x][None]).item()
                total, weights = total + best * (1 - overlap), weights + best
    assert term["distill_box"].item() == pytest.approx(total / weights, rel=1e-5)
    each = (scores - 0.5).square() * F.binary_cross_entropy(torch.full_like(scores, 0.5), scores, reduction="none")
    assert term["distill_heatmap"].item() == pytest.approx(each.sum().item() / count, rel=1e-5)


@pytest.mark.parametrize("style", ["ltrb", "center"])
def test_the_box_map_holds_what_decode_reads(style: str) -> None:
    model = build(style=style).eval()
    raw = model(torch.rand(2, 3, 40, 56))
    raw = raw._replace(box=raw.box.abs() + 1)
    boxes = box_map(model.head, raw).flatten(2).transpose(1, 2)
    decoded = model.decode(raw)
    for b in range(2):
        for box in decoded.boxes[b][decoded.scores[b] > 0]:
            limit = boxes.new_tensor([56, 40, 56, 40])
            assert ((boxes[b].clamp(min=0).minimum(limit) - box).abs().amax(1) < 1e-4).any()


# ------------------------------------------------------------------------------------------------------- teachers
def test_teacher_is_frozen_and_normalises_by_itself() -> None:
    """Two teachers of one network whose normalisation differs know different things; neither is ever trained."""
    student, images, sizes = build(1), torch.rand(2, 3, 64, 64), torch.tensor([[64, 64]] * 2)
    known = []
    for shift in (0.0, 60.0):
        distiller = Distiller(build(0, shift=shift).train(), student, heatmap_weight=1.0, box_weight=1.0)
        assert not distiller.teacher.training
        before = {k: v.clone() for k, v in distiller.teacher.state_dict().items()}
        terms = distiller(student(images, sizes), images, sizes)
        sum(terms.values()).backward()  # type: ignore[union-attr]
        assert all(p.grad is None for p in distiller.teacher.parameters())
        assert all(torch.equal(v, before[k]) for k, v in distiller.teacher.state_dict().items())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
        known.append(distiller.ask(images, sizes, (8, 8)).scores)
    assert not torch.equal(*known)


def test_a_teacher_of_another_stride_is_brought_to_the_students_map() -> None:
    """Twice as fine: scores are means of their four cells, boxes are those of the cells themselves."""
    teacher, images, sizes = build(0), torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    distiller = Distiller(teacher, build(1), heatmap_weight=1.0, box_weight=1.0)
    own, half = (distiller.ask(images, sizes, size) for size in ((8, 8), (4, 4)))
    torch.testing.assert_close(half.scores, F.avg_pool2d(own.scores, 2))
    assert half.boxes.shape == (1, 4, 4, 4)
    every = own.boxes.flatten(2)[0].T
    assert all((every == box).all(1).any() for box in half.boxes.flatten(2)[0].T)


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    weights = {"heatmap_weight": 1.0, "box_weight": 1.0}
    with pytest.raises(HeadwayError, match="teacher train_tiny_body/train_tiny_head has a TinyHead: use CenterNet"):
        Distiller(make_model(), build(), **weights)
    with pytest.raises(HeadwayError, match="student train_tiny_body/train_tiny_head has a TinyHead"):
        Distiller(build(), make_model(), **weights)
    with pytest.raises(
        HeadwayError, match=r"student predicts 3 classes \(red, green, blue\), the teacher 2 \(c0, c1\)"
    ):
        Distiller(build(class_names=("c0", "c1")), build(), **weights)
    config = TrainConfig(**SETTINGS, out=tmp_path / "run", teacher=str(tmp_path / "none.safetensors"))
    with pytest.raises(HeadwayError, match="no checkpoint or run folder at"):
        fit(build(), make_data(tmp_path / "data", 8), None, config)
    assert not config.out.exists()
    with pytest.raises(HeadwayError, match="distill_box must be at least 0"):
        config.changed(distill_box=-1.0)


# ----------------------------------------------------------------------------------------------------------- runs
def settings(folder: Path, teacher: Path | None, **changes: Any) -> TrainConfig:
    return TrainConfig(**SETTINGS | {"out": folder, "teacher": teacher and str(teacher)} | changes)


def test_terms_appear_in_the_log_and_fall(tmp_path: Path, teacher_file: Path) -> None:
    data = make_data(tmp_path / "data", 16)
    folder = fit(build(3), data, None, settings(tmp_path / "run", teacher_file, epochs=20, learning_rate=0.003))
    rows = [r for r in read_rows(folder / "metrics.jsonl") if r["kind"] == "step"]
    for row in rows:
        parts = [row[f"loss/{name}"] for name in ("heatmap", "box", "distill_heatmap", "distill_box")]
        assert row["loss"] == pytest.approx(sum(parts), rel=1e-4)
    for name in ("distill_heatmap", "distill_box"):
        assert rows[-1][f"loss/{name}"] < 0.6 * rows[0][f"loss/{name}"], name
    taught, alone = (load_file(p / "last.safetensors") for p in (folder, fit(
        build(3), data, None, settings(tmp_path / "alone", None, epochs=20, learning_rate=0.003)
    )))  # fmt: skip
    assert any(not torch.equal(taught[k], alone[k]) for k in taught)


def test_weights_of_zero_are_no_teacher(tmp_path: Path, teacher_file: Path) -> None:
    """Bit for bit, also with dropout drawing from the same generator."""
    data, runs = make_data(tmp_path / "data", 12), []
    off = {"distill_heatmap": 0.0, "distill_box": 0.0}
    for name, teacher, changes in (("plain", None, {}), ("zero", teacher_file, off)):
        model = build(3)
        model.backbone.body[-1].p = 0.2
        runs.append(
            load_file(fit(model, data, None, settings(tmp_path / name, teacher, **changes)) / "last.safetensors")
        )
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    folder = fit(build(3), data, None, settings(tmp_path / "half", teacher_file, distill_box=0.0))
    row = read_rows(folder / "metrics.jsonl")[0]
    assert "loss/distill_heatmap" in row
    assert "loss/distill_box" not in row


def test_a_stopped_run_goes_on_with_its_teacher(tmp_path: Path, teacher_file: Path, monkeypatch: Any) -> None:
    import os
    import signal

    data, config = make_data(tmp_path / "data", 12), settings(tmp_path / "stopped", teacher_file)
    whole = fit(build(3), data, None, config.changed(out=tmp_path / "whole"))
    model = build(3)
    original, calls = model.head.loss, [0]

    def loss(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(model.head, "loss", loss)
    with pytest.raises(TrainingStopped):
        fit(model, data, None, config)
    with pytest.raises(HeadwayError, match=r"teacher: .* -> None"):
        fit(build(3), data, None, config.changed(teacher=None), resume=True)
    resumed = fit(build(5), data, None, config, resume=True)
    one, other = load_file(whole / "last.safetensors"), load_file(resumed / "last.safetensors")
    assert all(torch.equal(one[k], other[k]) for k in one)
