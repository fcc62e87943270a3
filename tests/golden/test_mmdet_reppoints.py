"""RepPoints, plain and with GroupNorm in neck and head, against numbers recorded from mmdet 3.3.0 on filled-in weights.

As in `test_mmdet_dense`. These two files were recorded with torchvision's deformable convolution and NMS in the place
of mmcv's, and without repeating the run to measure its noise: those entries are RetinaNet's.
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
from headway.heads.reppoints import RepPointsRaw, points_to_boxes
from headway.types import Frame, Target

CASES = {"reppoints_r50_fpn": "reppoints_r50_fpn.mmdet", "reppoints_r50_fpn_gn": "reppoints_r50_fpn.mmdet_gn"}
SIZES = torch.tensor([[256, 320]])


class Run(NamedTuple):
    """One golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    model: headway.Detector
    target: Target
    stages: dict[str, Tensor]
    raw: RepPointsRaw

    def check(self, name: str, tensor: Tensor) -> None:
        try:
            compare.check_checkpoint(self.golden["checkpoints"][name], tensor.detach().contiguous().numpy())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.fixture(scope="module", params=CASES)
def run(request) -> Run:
    golden = compare.load(request.param)
    fill.check_fill(golden)
    model = headway.create_model(CASES[request.param]).eval()
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "mmdet", model))
    model.normalize = torch.nn.Identity()  # the golden input is normalised
    stages: dict[str, Tensor] = {}
    hook = model.backbone.body.layer1.register_forward_hook(lambda _, __, x: stages.update({"backbone.C2": x}))
    maps = model.backbone(torch.from_numpy(fill.make_input()))
    hook.remove()
    stages |= {f"backbone.C{i}": x for i, x in enumerate(maps, start=3)}
    maps = model.neck(maps)
    stages |= {f"neck.P{i}": x for i, x in enumerate(maps, start=3)}
    target = Target(torch.tensor(golden["targets"]["boxes"]), torch.tensor(golden["targets"]["labels"]))
    return Run(golden, model, target, stages, model.head(maps, Frame(SIZES, (256, 320))))


def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_backbone_and_neck_maps(run):
    recorded = {name for name in run.golden["checkpoints"] if name.split(".")[0] in ("backbone", "neck")}
    assert recorded == set(run.stages)
    for name, tensor in run.stages.items():
        run.check(name, tensor)


def test_head_outputs_priors_and_decoded_boxes(run):
    raw, start, checked = run.raw, 0, set()
    boxes = points_to_boxes(raw.pts_refine, "moment", raw.moment) * raw.priors.stride[:, None] + raw.priors.boxes
    decoded = clip(boxes, SIZES)
    for i, count in enumerate(raw.priors.level_sizes, start=3):
        level = slice(start, start + count)
        start += count
        height, width = run.stages[f"neck.P{i}"].shape[-2:]
        for name in ("cls", "pts_init", "pts_refine"):
            per_cell = getattr(raw, name)[:, level].reshape(1, height, width, -1)
            run.check(f"head.{name}.P{i}", per_cell.permute(0, 3, 1, 2))
        run.check(f"head.priors.P{i}", raw.priors.boxes[level, :2])
        run.check(f"head.decoded.P{i}", decoded[0, level])
        checked |= {f"head.{name}.P{i}" for name in ("cls", "pts_init", "pts_refine", "priors", "decoded")}
    assert checked == {name for name in run.golden["checkpoints"] if name.startswith("head.")}


def test_detections(run):
    (found,) = run.model.detect(torch.from_numpy(fill.make_input()))
    hit, expected = compare.match_detections(run.golden["detections"], found.boxes, found.scores, found.labels)
    assert hit == expected == len(found) == 100


def test_assignment_of_both_steps(run):
    head, raw, truth = run.model.head, run.raw, run.target.boxes
    refined = raw.priors._replace(boxes=head.init_boxes(raw)[0])
    for name, matched in (
        ("init", head.init_assign(raw.priors, truth)),
        ("refine", head.refine_assign(refined, truth)),
    ):
        (call,) = run.golden["train"]["assign"][f"bbox_head.{name}_assigner"]
        positive = (matched >= 0).nonzero().squeeze(1)
        assert len(matched) == call["num_priors"]
        assert positive.tolist() == call["pos_index"]
        assert matched[positive].tolist() == call["pos_gt"]
        assert int((matched == IGNORE).sum()) == call["num_ignore"]


def test_training_losses_and_gradients(run):
    """The recorded run had batch norms in eval mode and every parameter trainable."""
    train = run.golden["train"]
    losses = run.model.loss(run.raw, [run.target])
    assert {name.removeprefix("loss_") for name in train["losses"]} == set(losses.terms)
    for name, values in train["losses"].items():
        ours = losses.terms[name.removeprefix("loss_")].item()
        assert ours == pytest.approx(float(np.sum(values)), rel=1e-4), name
    assert losses.total.item() == pytest.approx(train["total"], rel=1e-4)

    run.model.requires_grad_(True).zero_grad()
    losses.total.backward(retain_graph=True)
    gradients = {name: p.grad.double() for name, p in run.model.named_parameters()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert norm == pytest.approx(train["grad_norm"], rel=1e-3)
    names = upstream_names(run)
    assert set(names.values()) == set(train["grads"])
    compare.check_train(train, {}, {names[name]: (g.norm().item(), g.sum().item()) for name, g in gradients.items()})


def upstream_names(run: Run) -> dict[str, str]:
    """Our parameter names -> mmdet's: number the upstream tensors, convert them, and see which number lies where."""
    shapes = {**run.golden["state_dict"], **run.golden["int_buffers"]}
    order = list(shapes)
    numbered = {name: torch.full(tuple(shapes[name]), float(i)) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "mmdet", run.model)
    return {name: order[int(converted[name].flatten()[0])] for name, _ in run.model.named_parameters()}
