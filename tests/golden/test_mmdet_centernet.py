"""CenterNet on ResNet-18 without deformable convolutions against numbers recorded from mmdet 3.3.0 on filled-in
weights, as in `test_mmdet_dense`."""

from typing import Any, NamedTuple

import compare
import fill
import pytest
import torch
from torch import Tensor, nn

import headway
from headway.convert import from_upstream
from headway.heads.heatmap import HeatmapRaw
from headway.types import Target

TERMS = {"loss_center_heatmap": "heatmap", "loss_wh": "size", "loss_offset": "offset"}


class Run(NamedTuple):
    """The golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    model: headway.Detector
    stages: dict[str, Tensor]
    raw: HeatmapRaw


@pytest.fixture(scope="module")
def run() -> Run:
    golden = compare.load("centernet_r18")
    fill.check_fill(golden)
    model = headway.create_model("centernet_r18.mmdet").eval()
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "mmdet", model))
    model.normalize = nn.Identity()  # the golden input is normalised
    stages: dict[str, Tensor] = {}
    hooks = [
        getattr(model.backbone.body, f"layer{i}").register_forward_hook(
            lambda _, __, x, name=f"backbone.C{i + 1}": stages.update({name: x})
        )
        for i in range(1, 5)
    ]
    hooks.append(model.neck.register_forward_hook(lambda _, __, maps: stages.update({"neck.P2": maps[0]})))
    raw = model(torch.from_numpy(fill.make_input()))
    for hook in hooks:
        hook.remove()
    heads = {"head.heatmap": raw.heatmap.sigmoid(), "head.wh": raw.box, "head.offset": raw.offset}
    return Run(golden, model, stages | heads, raw)


def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_every_stage(run):
    assert set(run.stages) == set(run.golden["checkpoints"])
    for name, tensor in run.stages.items():
        compare.check_checkpoint(run.golden["checkpoints"][name], tensor.detach().contiguous().numpy())


def test_detections(run):
    """Also of `detect`, whose backbone is folded. Some recorded boxes are upside down: nothing drops them there."""
    (found,) = run.model.detect(torch.from_numpy(fill.make_input()))
    hit, expected = compare.match_detections(run.golden["detections"], found.boxes, found.scores, found.labels)
    assert hit == expected == len(found) == 100


def test_losses_and_gradients(run):
    target = Target(torch.tensor(run.golden["targets"]["boxes"]), torch.tensor(run.golden["targets"]["labels"]))
    losses = run.model.loss(run.raw, [target])
    train = run.golden["train"]
    compare.check_train(train, {theirs: losses.terms[ours].item() for theirs, ours in TERMS.items()})
    assert set(losses.terms) == set(TERMS.values())
    run.model.zero_grad()
    losses.total.backward(retain_graph=True)
    order = list(run.golden["state_dict"])  # convert the numbers of the upstream tensors to see where each went
    numbered = {name: torch.tensor(float(i)).expand(run.golden["state_dict"][name]) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "mmdet", run.model)
    upstream = {k: order[int(v.flatten()[0])] for k, v in converted.items() if not k.endswith("num_batches_tracked")}
    gradients = {upstream[name]: (p.grad.norm().item(), 0.0) for name, p in run.model.named_parameters()}
    assert set(gradients) == set(train["grads"])
    compare.check_train(train, {}, gradients)
    total = sum(norm**2 for norm, _ in gradients.values()) ** 0.5
    assert total == pytest.approx(train["grad_norm"], rel=1e-3)
