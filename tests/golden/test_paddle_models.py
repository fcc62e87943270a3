"""PAFNet, PAFNet-Lite and TTFNet against numbers recorded from PaddleDetection 2.6.0 on filled-in weights.

Tolerances are those of the recording's README: 1e-4 of the standard deviation of a map, 1e-5 relative for a loss, 2e-3
(or 10 times its recorded noise) for the gradient norm of a parameter; in training mode 1e-3, 1e-4, and 1e-5 for a
running statistic.
"""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import compare
import fill
import pytest
import torch
from torch import Tensor, nn

import headway
from headway.convert import from_upstream
from headway.heads.heatmap import HeatmapRaw
from headway.targets import ttf_targets
from headway.types import Detections, Meta, Target

CASES = {
    "pafnet_lite_mobilenet_v3_20x_coco": "pafnet_lite.paddle",
    "pafnet_10x_coco": "pafnet.paddle",
    "ttfnet_darknet53_1x_coco": "ttfnet_darknet53.paddle",
}
TERMS = {"hm_loss": "heatmap", "wh_loss": "box"}


class Run(NamedTuple):
    """One golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    model: headway.Detector
    targets: list[Target]
    stages: dict[str, Tensor]
    raw: HeatmapRaw

    @property
    def side(self) -> int:
        return self.golden["input"]["shape"][-1]


@pytest.fixture(scope="module", params=CASES)
def run(request) -> Run:
    golden = json.loads((Path(__file__).parent / "paddle" / f"{request.param}.json").read_text())
    fill.check_fill(golden)
    model = headway.create_model(CASES[request.param]).eval()
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "paddle", model))
    model.normalize = nn.Identity()  # the golden input is normalised
    targets = [Target(torch.tensor(t["boxes"]), torch.tensor(t["labels"])) for t in golden["targets"]]
    stages, raw = forward(model, images_of(golden["input"]["shape"]))
    return Run(golden, model, targets, stages, raw)


def images_of(shape: list[int]) -> Tensor:
    return torch.from_numpy(fill.make_input(shape))


def forward(model: headway.Detector, images: Tensor) -> tuple[dict[str, Tensor], HeatmapRaw]:
    """Every recorded stage by its name, and the raw output, whose maps keep their gradients."""
    stages: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, x, name=f"neck.{kind}{i}": stages.update({name: x}))
        for kind in ("upsample", "shortcut")
        for i, module in enumerate(getattr(model.neck, f"{kind}s"))
    ]
    hooks.append(
        model.backbone.register_forward_hook(
            lambda _, __, maps: stages.update({f"backbone.C{i}": x for i, x in enumerate(maps, start=2)})
        )
    )
    hooks.append(model.neck.register_forward_hook(lambda _, __, maps: stages.update({"neck": maps[0]})))
    raw = model(images)
    for hook in hooks:
        hook.remove()
    raw.heatmap.retain_grad()
    raw.box.retain_grad()
    return {**stages, "head.hm": raw.heatmap, "head.wh": raw.box}, raw


def check(recorded: dict[str, Any], tensor: Tensor, name: str, tolerance: float = 1e-4) -> None:
    """`compare.check_checkpoint` for any number of recorded values."""
    values = tensor.detach().contiguous().numpy().reshape(-1)
    assert list(tensor.shape) == recorded["shape"], name
    bound = max(tolerance, 5 * recorded.get("noise", 0.0)) * recorded["std"]
    found = values[fill.sample_index(values.size, len(recorded["values"]))]
    assert abs(found - recorded["values"]).max() <= bound, name
    assert abs(values.mean(dtype="float64") - recorded["mean"]) <= bound, name
    assert abs(values.std(dtype="float64") - recorded["std"]) <= bound, name


# --------------------------------------------------------------------------------------------------------- inference
def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_every_stage(run):
    assert set(run.golden["checkpoints"]) == set(run.stages)
    for name, tensor in run.stages.items():
        check(run.golden["checkpoints"][name], tensor, name)


def compare_all(recorded: dict[str, Any], found: Detections) -> None:
    hit, expected = compare.match_detections(recorded, found.boxes, found.scores, found.labels)
    assert hit == expected == len(found) == 100


def test_detections(run):
    """Also in the pixels of a picture twice as high and 1.25 times as wide, to which ours are then clipped."""
    (found,) = run.model.detect(images_of(run.golden["input"]["shape"]))
    compare_all(run.golden["detections"], found)
    scaled = run.golden["detections_scaled"]
    scale_y, scale_x = scaled["scale_factor_yx"]
    height, width = run.side / scale_y, run.side / scale_x
    boxes = torch.tensor(scaled["boxes"])
    clipped = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    assert (clipped != boxes).any(), "some box reaches beyond the picture"
    meta = Meta(0, "", (height, width), (scale_x, scale_y, 0.0, 0.0))
    compare_all({**scaled, "boxes": clipped.tolist()}, found.to_original(meta))


# ---------------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("number", [0, 1])
def test_targets(run, number):
    recorded, target = run.golden["targets"][number]["encoded"], run.targets[number]
    encoded = ttf_targets(target.boxes, target.labels, (run.side // 4, run.side // 4), 80)
    assert (encoded.heatmap == 1).nonzero().tolist() == recorded["heatmap"]["peaks"]
    for name, ours in (("heatmap", encoded.heatmap), ("reg_weight", encoded.weight)):
        theirs = recorded[name]
        assert ours.count_nonzero() == theirs["nonzero"]
        assert ours.sum().item() == pytest.approx(theirs["sum"], rel=1e-5)
        torch.testing.assert_close(ours.flatten()[theirs["index"]], torch.tensor(theirs["value"]), rtol=1e-5, atol=1e-9)
    boxes = recorded["box_target"]
    rows = target.boxes.tolist()
    assert {tuple(row): n for row, n in zip(boxes["boxes"], boxes["cells"])} == {
        tuple(row): int((encoded.owner == i).sum()) for i, row in enumerate(rows)
    }
    assert [rows[i] for i in encoded.owner.flatten()[boxes["index_hw"]].tolist()] == boxes["value"]


def test_losses_and_gradients(run):
    """In eval mode, on the first image. A parameter has no gradient exactly where it had none upstream: the affine
    parameters of PAFNet's 55 backbone norms, Darknet-53 up to stride 2."""
    train = run.golden["train"]
    losses = run.model.loss(run.raw, run.targets[:1])
    assert {name: losses.terms[ours].item() for name, ours in TERMS.items()} == pytest.approx(train["losses"], rel=1e-5)
    run.model.zero_grad()
    losses.total.backward(retain_graph=True)
    check(train["d_hm"], run.raw.heatmap.grad, "d_hm")
    check_box_gradient(train["d_wh"], run.raw.box)
    ours = {name: p.grad for name, p in run.model.named_parameters()}
    names = upstream_names(run)
    assert {names[name] for name in ours} == set(train["grads"])
    assert {names[name] for name, g in ours.items() if g is None} == {n for n, g in train["grads"].items() if g is None}
    found = {names[name]: (g.norm().item(), g.sum().item()) for name, g in ours.items() if g is not None}
    compare.check_train(train, {}, found)
    total = sum(norm**2 for norm, _ in found.values()) ** 0.5
    assert total == pytest.approx(train["grad_norm"], rel=1e-3)


def check_box_gradient(recorded: dict[str, Any], box: Tensor) -> None:
    """Where a predicted box has no height or no width, upstream's GIoU has a gradient at the kink and ours none; the
    ReLU in front lets neither through. Elsewhere they agree."""
    width, height = box.detach()[0].unflatten(0, (2, 2)).sum(0)
    flat = ((width == 0) | (height == 0)).sum().item()
    gradient = box.grad
    assert flat < 0.1 * width.numel()
    assert abs(int(gradient.count_nonzero()) - recorded["nonzero"]) <= 4 * flat
    if not flat:
        assert gradient.sum().item() == pytest.approx(recorded["sum"], rel=1e-4)
    found, expected = gradient.flatten()[recorded["index"]], torch.tensor(recorded["value"])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


def upstream_names(run: Run) -> dict[str, str]:
    """Our names -> upstream's: number the upstream tensors, convert them, and see which number lies where."""
    order = list(run.golden["state_dict"])
    numbered = {name: torch.tensor(float(i)).expand(run.golden["state_dict"][name]) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "paddle", run.model)
    return {k: order[int(v.flatten()[0])] for k, v in converted.items() if not k.endswith("num_batches_tracked")}


def test_a_step_in_training_mode(run):
    """A batch of two, with the norms as the published training had them: PAFNet's backbone frozen, all others moving.

    Paddle keeps the biased running variance: of n values it adds (n - 1) / n of what torch adds.
    """
    train, model = run.golden["train_native"], copy.deepcopy(run.model).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, x, name=name: counts.update({name: x[0].numel() // x[0].shape[1]})
            )
    stages, raw = forward(model, images_of([2, 3, run.side, run.side]))
    for name, recorded in train["checkpoints"].items():
        check(recorded, stages[name], name, 1e-3)
    losses = model.loss(raw, run.targets)
    assert {name: losses.terms[ours].item() for name, ours in TERMS.items()} == pytest.approx(train["losses"], rel=1e-4)
    buffers = {n: b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))}
    moved = [name for name, value in buffers.items() if not torch.equal(value, before[name])]
    assert len(moved) == train["bn_buffers_changed"]
    assert len(buffers) - len(moved) == train["bn_buffers_unchanged"]
    ours = {theirs: name for name, theirs in upstream_names(run).items()}
    for name, values in train["buffers_after_one_step"].items():
        place = ours[name]
        step = buffers[place] - 0.9 * before[place]
        if place.endswith("running_var"):
            count = counts[place.removesuffix(".running_var")]
            step = step * (count - 1) / count
        found = 0.9 * before[place] + step
        torch.testing.assert_close(found[: len(values)], torch.tensor(values), rtol=0, atol=1e-5)
