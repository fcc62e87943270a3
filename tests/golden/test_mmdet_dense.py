"""RetinaNet, FCOS and ATSS, without and with DyHead, against numbers recorded from mmdet 3.3.0 on filled-in weights.

Every stage is compared on the input of the stage before it in our own network, so an error shows where it arises. The
tolerances are those of the recording's README: 1e-4 of the standard deviation of a map, 1e-4 relative for a loss, 1e-3
for the norm of the whole gradient, 2e-3 (or 10 times its recorded noise) for that of one parameter.
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
from headway.types import Frame, Target

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "retinanet_r50_fpn": ("retinanet_r50_fpn.mmdet", {}),
    "fcos_r50_caffe_fpn_gn": ("fcos_r50_fpn.mmdet", {}),
    "fcos_r50_caffe_fpn_gn_center_normbbox_centeronreg_giou": ("fcos_r50_fpn.mmdet_improved", {}),
    "atss_r50_fpn": ("atss_r50_fpn.mmdet", {}),
    "atss_r50_fpn_dyhead": ("atss_r50_fpn_dyhead.mmdet", {}),
    "atss_r50_fpn_dyhead.crop": ("atss_r50_fpn_dyhead.mmdet", {"high_offset": "crop"}),
    "atss_r50_caffe_fpn_dyhead": ("atss_r50_fpn_dyhead.mmdet_caffe", {}),
    "retinanet_swin_t_fpn": ("retinanet_swin_t_fpn.mmdet", {}),
}
SIZES = torch.tensor([[256, 320]])


class Run(NamedTuple):
    """One golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    model: headway.Detector
    stages: dict[str, Tensor]
    raw: Any

    def check(self, name: str, tensor: Tensor) -> None:
        try:
            compare.check_checkpoint(self.golden["checkpoints"][name], tensor.detach().contiguous().numpy())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def levels(maps: list[Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.P{i}": x for i, x in enumerate(maps, start=3)}


@pytest.fixture(scope="module", params=CASES)
def run(request) -> Run:
    golden = compare.load(request.param)
    fill.check_fill(golden)
    tag, arguments = CASES[request.param]
    model = headway.create_model(tag, **arguments).eval()
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "mmdet", model))
    model.normalize = torch.nn.Identity()  # the golden input is normalised
    stages: dict[str, Tensor] = {}
    if "backbone.C2" in golden["checkpoints"]:  # a ResNet's
        hook = model.backbone.body.layer1.register_forward_hook(lambda _, __, x: stages.update({"backbone.C2": x}))
    maps = model.backbone(torch.from_numpy(fill.make_input()))
    if "backbone.C2" in golden["checkpoints"]:
        hook.remove()
    stages |= {f"backbone.C{i}": x for i, x in enumerate(maps, start=3)}
    chain = list(model.neck) if isinstance(model.neck, torch.nn.Sequential) else [model.neck]
    maps = chain[0](maps)
    stages |= levels(maps, "neck")
    for i, block in enumerate(chain[1].blocks if len(chain) > 1 else []):
        maps = block(maps)
        stages |= levels(maps, f"dyhead.block{i}")
    return Run(golden, model, stages, model.head(maps, Frame(SIZES, (256, 320))))


def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_backbone_neck_and_dyhead_maps(run):
    recorded = {name for name in run.golden["checkpoints"] if name.split(".")[0] in ("backbone", "neck", "dyhead")}
    assert recorded == set(run.stages)
    for name, tensor in run.stages.items():
        run.check(name, tensor)


def test_head_outputs_priors_and_decoded_boxes(run):
    raw, start = run.raw, 0
    decoded = clip(run.model.head.coder.decode(raw.priors.boxes[None], raw.box), SIZES)
    checked = set()
    for i, count in enumerate(raw.priors.level_sizes):
        level = slice(start, start + count)
        start += count
        height, width = run.stages[f"neck.P{i + 3}"].shape[-2:]
        for name, values in (("cls", raw.cls), ("bbox", raw.box), ("centerness", raw.quality)):
            if values is not None:
                per_cell = values[:, level].reshape(1, height, width, -1)
                checked.add(f"head.{name}.P{i + 3}")
                run.check(f"head.{name}.P{i + 3}", per_cell.permute(0, 3, 1, 2))
        coordinates = run.golden["checkpoints"][f"head.priors.P{i + 3}"]["shape"][1]  # points are recorded as (x, y)
        run.check(f"head.priors.P{i + 3}", raw.priors.boxes[level, :coordinates])
        run.check(f"head.decoded.P{i + 3}", decoded[0, level])
        checked |= {f"head.priors.P{i + 3}", f"head.decoded.P{i + 3}"}
    assert checked == {name for name in run.golden["checkpoints"] if name.startswith("head.")}


def test_detections(run):
    """Through `detect`, so through the folded, channels-last backbone as well."""
    (found,) = run.model.detect(torch.from_numpy(fill.make_input()))
    hit, expected = compare.match_detections(run.golden["detections"], found.boxes, found.scores, found.labels)
    assert hit == expected == len(found) == 100


def target_of(golden: dict[str, Any]) -> Target:
    return Target(torch.tensor(golden["targets"]["boxes"]), torch.tensor(golden["targets"]["labels"]))


def test_assignment(run):
    """mmdet records what its assigner objects returned; FCOS has none."""
    calls = run.golden["train"]["assign"].get("bbox_head.assigner", [])
    assert bool(calls) == (not run.golden["name"].startswith("fcos"))
    matched = run.model.head.assign(run.raw.priors, target_of(run.golden).boxes)
    for call in calls:
        assert len(matched) == call["num_priors"]
        positive = (matched >= 0).nonzero().squeeze(1)
        assert positive.tolist() == call["pos_index"]
        assert matched[positive].tolist() == call["pos_gt"]
        assert len(positive) == call["num_pos"]
        assert int((matched == IGNORE).sum()) == call["num_ignore"]


def test_training_losses_and_gradients(run):
    """The recorded run had batch norms in eval mode and every parameter trainable."""
    train, target = run.golden["train"], target_of(run.golden)
    losses = run.model.loss(run.raw, [target])
    ours = {"loss_cls": "cls", "loss_bbox": "box", "loss_centerness": "centerness"}
    assert {ours[name] for name in train["losses"]} == set(losses.terms)
    for name, values in train["losses"].items():
        assert losses.terms[ours[name]].item() == pytest.approx(float(np.sum(values)), rel=1e-4), name
    assert losses.total.item() == pytest.approx(train["total"], rel=1e-4)

    run.model.requires_grad_(True).zero_grad()
    losses.total.backward(retain_graph=True)
    gradients = {name: p.grad.double() for name, p in run.model.named_parameters()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert norm == pytest.approx(train["grad_norm"], rel=1e-3)
    names = upstream_names(run)
    assert set(names) == set(gradients)
    compare.check_train(train, {}, {names[name]: (g.norm().item(), g.sum().item()) for name, g in gradients.items()})


def upstream_names(run: Run) -> dict[str, str]:
    """Our parameter names -> mmdet's: number the upstream tensors, convert them, and see which number lies where."""
    shapes = {**run.golden["state_dict"], **run.golden["int_buffers"]}
    order = list(shapes)
    numbered = {name: torch.full(tuple(shapes[name]), float(i)) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "mmdet", run.model)
    return {name: order[int(converted[name].flatten()[0])] for name, _ in run.model.named_parameters()}
