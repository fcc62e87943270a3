"""Faster R-CNN, also on deformable backbones, and Cascade R-CNN against numbers recorded from mmdet 3.3.0.

As in `test_mmdet_dense`: each stage on our own input, tolerances of the recording's README. The recorded samplers took
everything, hence `rpn_samples` and `roi_samples`. `fixed` are recorded regions, on which no proposal or suppression
decides anything.
"""

from typing import Any, NamedTuple

import compare
import fill
import numpy as np
import pytest
import torch
from torch import Tensor

import headway
from headway.assign import IGNORE
from headway.boxes import clip
from headway.convert import from_upstream
from headway.heads.two_stage import StageRaw, TwoStageRaw
from headway.types import Frame, Losses, Target

CASES = {
    "faster_rcnn_r50_fpn": "faster_rcnn_r50_fpn.mmdet",
    "cascade_rcnn_r50_fpn": "cascade_rcnn_r50_fpn.mmdet",
    "faster_rcnn_r50_dconv_c3_c5_fpn": "faster_rcnn_r50_fpn_dconv.mmdet",
    "faster_rcnn_r50_mdconv_c3_c5_fpn": "faster_rcnn_r50_fpn_mdconv.mmdet",
}
SIZES = torch.tensor([[256, 320]])


class Run(NamedTuple):
    """One golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    model: headway.Detector
    target: Target
    stages: dict[str, Tensor]  # backbone and neck maps by their recorded names
    raw: TwoStageRaw  # with targets
    fixed: tuple[StageRaw, ...]  # with targets, on the recorded regions

    @property
    def maps(self) -> list[Tensor]:
        return [x for name, x in self.stages.items() if name.startswith("neck.")]

    def check(self, name: str, tensor: Tensor) -> None:
        try:
            compare.check_checkpoint(self.golden["checkpoints"][name], tensor.detach().contiguous().numpy())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def regions(golden: dict[str, Any]) -> tuple[Tensor, Tensor]:
    rois = torch.tensor(golden["fixed_rois"], dtype=torch.float32)[None]
    return rois, torch.ones(rois.shape[:2], dtype=torch.bool)


@pytest.fixture(scope="module", params=CASES)
def run(request) -> Run:
    golden = compare.load(request.param)
    fill.check_fill(golden)
    model = headway.create_model(CASES[request.param], rpn_samples=None, roi_samples=None).eval()
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "mmdet", model))
    model.normalize = torch.nn.Identity()  # the golden input is normalised
    target = Target(torch.tensor(golden["targets"]["boxes"]), torch.tensor(golden["targets"]["labels"]))
    maps = model.backbone(torch.from_numpy(fill.make_input()))
    stages = {f"backbone.C{i}": x for i, x in enumerate(maps, start=2)}
    maps = model.neck(maps)
    stages |= {f"neck.P{i}": x for i, x in enumerate(maps, start=2)}
    fixed = model.head.refine(maps, *regions(golden), SIZES, [target])
    return Run(golden, model, target, stages, model.head(maps, Frame(SIZES, (256, 320)), [target]), fixed)


def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_backbone_and_neck_maps(run):
    assert {n for n in run.golden["checkpoints"] if n.split(".")[0] in ("backbone", "neck")} == set(run.stages)
    for name, tensor in run.stages.items():
        run.check(name, tensor)


def test_rpn_outputs_priors_and_decoded_boxes(run):
    raw, start, checked = run.raw.rpn, 0, set()
    decoded = clip(run.model.head.rpn.coder.decode(raw.priors.boxes[None], raw.box), SIZES)
    for i, count in enumerate(raw.priors.level_sizes, start=2):
        level = slice(start, start + count)
        start += count
        height, width = run.stages[f"neck.P{i}"].shape[-2:]
        for name, values in (("cls", raw.cls), ("bbox", raw.box)):
            run.check(f"rpn.{name}.P{i}", values[:, level].reshape(1, height, width, -1).permute(0, 3, 1, 2))
        run.check(f"rpn.priors.P{i}", raw.priors.boxes[level])
        run.check(f"rpn.decoded.P{i}", decoded[0, level])
        checked |= {f"rpn.{name}.P{i}" for name in ("cls", "bbox", "priors", "decoded")}
    assert checked == {name for name in run.golden["checkpoints"] if name.startswith("rpn.")}


def test_proposals(run):
    """As a set: the recording's README leaves near-ties at the end of its hundred open."""
    with torch.no_grad():
        found = run.model.head.rpn.propose(run.raw.rpn, training=False)
    recorded = run.golden["proposals"]
    assert int(found.valid.sum()) == recorded["n"]
    apart = (torch.tensor(recorded["boxes"])[:, None] - found.boxes[0, :120]).abs().amax(-1)
    score = (torch.tensor(recorded["scores"])[:, None] - found.scores[0, :120].sigmoid()).abs()
    assert int(((apart < 0.02) & (score < 2e-4)).any(1).sum()) >= 98


def test_pooled_features_and_stage_outputs_on_fixed_regions(run):
    head, (rois, valid) = run.model.head, regions(run.golden)
    run.check("roi.feats", head.pool(run.maps, rois))
    checked = {"roi.feats"}
    first = run.fixed[0].regions._replace(rois=rois, valid=valid)
    for number in range(len(head.stages)):
        prefix = "roi" if len(head.stages) == 1 else f"roi.stage{number}"
        out = head.look(run.maps, first, number)
        run.check(f"{prefix}.cls", out.cls[0])
        run.check(f"{prefix}.bbox", out.box[0])
        checked |= {f"{prefix}.cls", f"{prefix}.bbox"}
    assert checked == {name for name in run.golden["checkpoints"] if name.startswith("roi.")}


def test_detections(run):
    """Through `detect`, so through the folded, channels-last backbone as well."""
    (found,) = run.model.detect(torch.from_numpy(fill.make_input()))
    hit, expected = compare.match_detections(run.golden["detections"], found.boxes, found.scores, found.labels)
    assert hit >= expected - 1
    assert expected == len(found) == 100


@pytest.mark.parametrize("part", ["train", "train_fixed_rois"])
def test_assignment(run, part):
    """The recording numbers regions without the ground truths, which stand in front of them here."""
    calls = run.golden[part]["assign"]
    if part == "train":
        (call,) = calls["rpn_head.assigner"]
        matched = run.raw.rpn.matched[0]
        assert matched[matched >= 0].tolist() == call["pos_gt"]
        border = run.model.head.rpn.options.rpn_border
        outside = len(matched) - call["num_priors"]  # anchors that the recording removed beforehand
        assert (outside > 0) == (border is not None)
        assert int((matched == IGNORE).sum()) == call["num_ignore"] + outside
        if border is None:
            assert (matched >= 0).nonzero().squeeze(1).tolist() == call["pos_index"]
    stages = run.raw.stages if part == "train" else run.fixed
    for number, stage in enumerate(stages):
        name = "roi_head.bbox_assigner" + (f"[{number}]" if len(stages) > 1 else "")
        (call,) = calls[name]
        matched, given = stage.regions.matched[0], stage.regions.truth[0]
        assert int(given.sum()) == len(run.target.boxes)
        others = matched[~given]
        assert len(others) == call["num_priors"]
        if number == 0:  # later stages of the recording have the positives of the one before in front
            assert (others >= 0).nonzero().squeeze(1).tolist() == call["pos_index"]
        assert sorted(others[others >= 0].tolist()) == sorted(call["pos_gt"])


@pytest.mark.parametrize("part", ["train_fixed_rois", "train"])
def test_training_losses_and_gradients(run, part):
    """The recorded run had batch norms in eval mode and every parameter trainable."""
    recorded, several = run.golden[part], len(run.fixed) > 1
    losses = run.model.loss(run.raw, [run.target])
    if part == "train_fixed_rois":
        losses = run.model.loss(run.raw._replace(stages=run.fixed), [run.target])
        losses = Losses({k: v for k, v in losses.terms.items() if not k.startswith("rpn")}, {})
    names = {"loss_rpn_cls": "rpn_cls", "loss_rpn_bbox": "rpn_box"}
    for number in range(len(run.fixed)):
        prefix, suffix = (f"s{number}.", str(number + 1)) if several else ("", "")
        names |= {f"{prefix}loss_cls": f"cls{suffix}", f"{prefix}loss_bbox": f"box{suffix}"}
    values = {names[name]: float(np.sum(v)) for name, v in recorded["losses"].items() if "acc" not in name}
    assert set(values) == set(losses.terms)
    for name, value in values.items():
        assert losses.terms[name].item() == pytest.approx(value, rel=1e-4), name
    assert losses.total.item() == pytest.approx(recorded["total"], rel=1e-4)

    run.model.requires_grad_(True).zero_grad()
    losses.total.backward(retain_graph=True)
    gradients = {n: p.grad.double() for n, p in run.model.named_parameters() if p.grad is not None}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert norm == pytest.approx(recorded["grad_norm"], rel=1e-3)
    upstream = upstream_names(run)
    recorded_names = {name for name, gradient in recorded["grads"].items() if gradient is not None}
    assert recorded_names <= {upstream[name] for name in gradients}
    both = {upstream[n]: (g.norm().item(), g.sum().item()) for n, g in gradients.items()}
    compare.check_train(recorded, {}, {name: both[name] for name in recorded_names})


def upstream_names(run: Run) -> dict[str, str]:
    """Our parameter names -> mmdet's: number the upstream tensors, convert them, and see which number lies where."""
    shapes = {**run.golden["state_dict"], **run.golden["int_buffers"]}
    order = list(shapes)
    numbered = {name: torch.full(tuple(shapes[name]), float(i)) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "mmdet", run.model)
    return {name: order[int(converted[name].flatten()[0])] for name, _ in run.model.named_parameters()}
