"""YOLOR-CSP, -P6 and -W6 (cfg form) and -P6 (yaml form) against numbers recorded from the authors' programs, run as
black boxes on filled-in weights. Tolerances are the recording's own: every entry has its `atol`, losses their `rtol`.
"""

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import compare
import fill
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headway
from headway.boxes import decode_grid, to_cxcywh
from headway.convert import from_upstream
from headway.heads.yolo import YoloRaw
from headway.types import Target

CASES = {
    "yolor_csp": ("yolor_csp.cfg", "yolor_cfg"),
    "yolor_p6": ("yolor_p6.cfg", "yolor_cfg"),
    "yolor_w6": ("yolor_w6.cfg", "yolor_cfg"),
    "yolor-p6": ("yolor_p6.yaml", "yolor_yaml"),
}
TERMS = {"box": "box", "obj": "objectness", "cls": "class"}


class Run(NamedTuple):
    """One golden file, our model with its weights, and what came out on its input."""

    golden: dict[str, Any]
    source: str
    model: headway.Detector
    stages: dict[str, Tensor]
    raw: YoloRaw


@pytest.fixture(scope="module", params=CASES)
def run(request) -> Run:
    golden = json.loads((Path(__file__).parent / "yolor" / f"{request.param}.json").read_text())
    fill.check_fill(golden)
    name, source = CASES[request.param]
    model = headway.create_model(name).eval()
    state = fill.fill_state_dict(golden)
    state |= {k: torch.tensor(b["values"]).view(b["shape"]) for k, b in golden["float_buffers"].items()}
    model.load_state_dict(from_upstream(state, source, model))
    return Run(golden, source, model, *forward(model, pixels(golden["input"]["shape"])))


def pixels(shape: list[int]) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).uniform(0, 1, shape).astype(np.float32))


def places(model: headway.Detector) -> dict[str, str]:
    """The recorded points by the path of our module."""
    levels = len(model.head.convs)
    last_stem = str(len(model.backbone.stem) - 1)
    if model.backbone.residual is None:
        found, first = {f"backbone.stem.{last_stem}": "stem"}, 2
    else:
        found, first = {"backbone.stem.0": "stem", "backbone.stem.1": "down1", "backbone.residual": "stage1"}, 2
    for i in range(len(model.backbone.stages)):
        found |= {f"backbone.downs.{i}": f"down{i + first}", f"backbone.stages.{i}": f"stage{i + first}"}
    found["neck.spp"] = "spp"
    for i in range(levels - 1):
        level = levels + 1 - i  # the coarsest is 2 + levels, and the first node lies one below
        found[f"neck.tops.{i}"] = "pan.p3" if level == 3 else f"pan.td.p{level}"
        found[f"neck.bottoms.{i}"] = f"pan.p{i + 4}"
    return found | {f"head.convs.{i}": f"head.p{i + 3}" for i in range(levels)}


def forward(model: headway.Detector, images: Tensor) -> tuple[dict[str, Tensor], YoloRaw]:
    """Every recorded point by its name, and the raw output."""
    stages: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _, __, x, name=name: stages.update({name: x}))
        for path, name in places(model).items()
    ]
    raw = model(images)
    for hook in hooks:
        hook.remove()
    return stages | channels_first(raw), raw


def channels_first(raw: YoloRaw) -> dict[str, Tensor]:
    """The maps as the prediction convolutions give them, anchor-major."""
    return {f"raw.p{i}": x.permute(0, 1, 4, 2, 3).flatten(1, 2) for i, x in enumerate(raw.maps, start=3)}


def check(recorded: dict[str, Any], tensor: Tensor, name: str) -> None:
    """Sampled values within `atol`; mean and deviation within it, or within float rounding where it is smaller."""
    values = tensor.detach().float().cpu().contiguous().numpy().reshape(-1)
    assert list(tensor.shape) == recorded["shape"], name
    error = np.abs(values[fill.sample_index(values.size, len(recorded["values"]))] - recorded["values"]).max()
    assert error <= recorded["atol"], (name, error)
    assert abs(values.mean(dtype="float64") - recorded["mean"]) <= recorded["atol"], name
    assert abs(values.std(dtype="float64") - recorded["std"]) <= recorded["atol"], name


# --------------------------------------------------------------------------------------------------------- inference
def test_the_model_is_the_recorded_one(run):
    golden, model = run.golden, run.model
    assert sum(p.numel() for p in model.parameters()) == golden["n_params"]
    assert model.head.anchors.tolist() == golden["anchors_px"]
    assert list(model.head.strides) == golden["strides"]
    norms = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(golden["bn"]["eps"], golden["bn"]["momentum"])}


def test_every_point(run):
    assert set(run.golden["points"]) == set(run.stages)
    for name, tensor in run.stages.items():
        check(run.golden["points"][name], tensor, name)


def decoded(model: headway.Detector, raw: YoloRaw) -> tuple[Tensor, Tensor]:
    """[B, A, 4] x, y, w, h in pixels and [B, A, 1 + C] scores of every anchor."""
    rows, priors = model.head.rows(raw), model.head.priors(raw)
    boxes = decode_grid(priors.boxes, priors.stride, rows[..., :4])
    return to_cxcywh(boxes), rows[..., 4:].sigmoid()


def check_decoded(recorded: dict[str, Any], boxes: Tensor, scores: Tensor) -> None:
    parts = {"xy": boxes[..., :2], "wh": boxes[..., 2:], "obj": scores[..., 0], "cls": scores[..., 1:]}
    for name, tensor in parts.items():
        check(recorded[name], tensor, name)


def test_every_box(run):
    recorded = run.golden["decoded"]
    boxes, scores = decoded(run.model, run.raw)
    check_decoded(recorded, boxes, scores)
    for number, (x, y, w, h, objectness, best, probability) in recorded["rows"].items():
        place = 0, int(number)
        assert boxes[place][:2].tolist() == pytest.approx([x, y], abs=recorded["xy"]["atol"])
        assert boxes[place][2:].tolist() == pytest.approx([w, h], abs=recorded["wh"]["atol"])
        assert scores[place][0].item() == pytest.approx(objectness, abs=recorded["obj"]["atol"])
        assert scores[place][1 + int(best)].item() == pytest.approx(probability, abs=recorded["cls"]["atol"])
        assert scores[place][1:].max().item() == pytest.approx(probability, abs=recorded["cls"]["atol"])


def test_detections(run):
    """After suppression; `detect` runs a folded copy of the network."""
    recorded = run.golden["nms"]
    (found,) = run.model.detect(
        pixels(run.golden["input"]["shape"]), score_threshold=recorded["conf_thr"], nms_iou=recorded["iou_thr"],
        max_detections=recorded["max_det"],
    )  # fmt: skip
    assert len(found) == recorded["kept"]
    hit, listed = compare.match_detections(
        recorded, found.boxes, found.scores, found.labels, recorded["atol_box"], recorded["atol_score"]
    )
    assert hit >= recorded["stable_of_50"]
    assert listed == recorded["n_listed"]
    assert (found.scores[:50] - torch.tensor(recorded["scores"])).abs().max() <= recorded["atol_score"]


def test_the_card_is_the_published_one(run):
    card = run.model.card
    assert (card.nms_iou, card.score_threshold, card.max_detections) == (0.65, 0.001, 300)
    assert (card.mean, card.std, card.channels) == ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "rgb")


def test_enlarged_and_mirrored_passes(run):
    """The recorded test-time augmentation, of which every pass is the network on another size: the picture, mirrored
    and scaled to 0.83, and scaled to 0.67, padded to multiples of 32; boxes go back to the picture's pixels."""
    recorded = run.golden["tta"]
    images = pixels(recorded["input"])
    height, width = images.shape[-2:]
    boxes, scores = [], []
    for scale, mirrored in zip(recorded["scales"], recorded["flip_lr"]):
        view = images.flip(3) if mirrored else images
        if scale != 1:
            size = int(height * scale), int(width * scale)
            view = F.interpolate(view, size=size, mode="bilinear", align_corners=False)
            pad = [math.ceil(n * scale / 32) * 32 - m for n, m in zip((height, width), size)]
            view = F.pad(view, [0, pad[1], 0, pad[0]], value=0.447)
        with torch.no_grad():
            places, probabilities = decoded(run.model, run.model(view))
        places = places / scale
        if mirrored:
            places[..., 0] = width - places[..., 0]
        boxes.append(places)
        scores.append(probabilities)
    assert [1, sum(x.shape[1] for x in boxes), 85] == recorded["shape"]
    check_decoded(recorded, torch.cat(boxes, 1), torch.cat(scores, 1))


# ------------------------------------------------------------------------------------------------------------ folded
def test_folded_predictions(run):
    """The recorded tensors of W' = diag(M) W and b' = M (b + W A)."""
    folded = run.golden["fused"]["implicit_fold"]["folded"]
    assert len(folded) == len(run.model.head.predictions)
    for (name, recorded), prediction in zip(folded.items(), run.model.head.predictions):
        conv = prediction.folded()
        for leaf in ("weight", "bias"):
            check({"atol": 1e-5, **recorded[leaf]}, getattr(conv, leaf), f"{name}.{leaf}")


def test_the_fused_network_gives_the_same(run):
    """2e-4 of a map's standard deviation, with batch norms folded as well: the recording's bound."""
    fused = headway.fuse(run.model)
    assert not any("mplicit" in type(m).__name__ or isinstance(m, nn.BatchNorm2d) for m in fused.modules()) or (
        run.source == "yolor_yaml"  # no convolution stands right before the norm behind a concatenation
    )
    with torch.no_grad():
        raw = fused(pixels(run.golden["input"]["shape"]))
    for ours, theirs in zip(raw.maps, run.raw.maps):
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.std()
    for name, tensor in channels_first(raw).items():
        check(run.golden["points"][name], tensor, name)


# ---------------------------------------------------------------------------------------------------------- training
def images_of(run: Run, batch: int) -> YoloRaw:
    """The raw maps of one image, or of it and its mirror image."""
    if batch == 1:
        return run.raw
    images = pixels(run.golden["input"]["shape"])
    with torch.no_grad():
        return run.model(torch.cat([images, images.flip(3)]))


def targets_of(run: Run, case: dict[str, Any]) -> list[Target]:
    """Our targets, in pixels: numbers as they were written, before float32."""
    height, width = run.golden["input"]["shape"][-2:]
    targets = []
    for image in range(case["batch"]):
        rows = [[round(v, 6) for v in row[1:]] for row in case["targets"] if row[0] == image]
        boxes = [
            [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            for _, x, y, w, h in rows
        ]
        labels = torch.tensor([int(row[0]) for row in rows], dtype=torch.int64)
        targets.append(Target(torch.tensor(boxes).view(-1, 4), labels))
    return targets


ASSIGNMENTS = ["default", "integer_edge", "border", "duplicate", "empty", "batch2"]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_matched_cells(run, name):
    """As multisets of (image, anchor, y, x, class)."""
    case = run.golden["loss"]["cases"][name]
    assert set(run.golden["loss"]["cases"]) == set(ASSIGNMENTS)
    targets, raw = targets_of(run, case), images_of(run, case["batch"])
    matched = run.model.head.match(raw, targets)
    labels = torch.cat([t.labels for t in targets])
    for recorded, pairs in zip(case["matched"], matched.pairs, strict=True):
        columns = (matched.image[pairs.box], pairs.anchor, pairs.y, pairs.x, labels[pairs.box])
        found = Counter(map(tuple, torch.stack(columns, 1).tolist()))
        assert found.total() == recorded["n"]
        assert found == Counter(map(tuple, recorded["rows"]))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_losses(run, name):
    loss = run.golden["loss"]
    case = loss["cases"][name]
    found = run.model.loss(images_of(run, case["batch"]), targets_of(run, case))
    for theirs, ours in TERMS.items():
        assert found.terms[ours].item() == pytest.approx(case[theirs] * case["batch"], rel=loss["rtol"], abs=1e-9)
    assert found.total.item() == pytest.approx(case["total"], rel=loss["rtol"])


def upstream_names(run: Run) -> dict[str, str]:
    """Our names -> upstream's: number the upstream tensors, convert them, and see which number lies where."""
    order = list(run.golden["state_dict"])
    numbered = {name: torch.tensor(float(i)).expand(run.golden["state_dict"][name]) for i, name in enumerate(order)}
    converted = from_upstream(numbered, run.source, run.model)
    return {k: order[int(v.flatten()[0])] for k, v in converted.items() if not k.endswith("num_batches_tracked")}


def test_gradients(run):
    """Of the default case, in eval mode."""
    recorded, case = run.golden["grad"], run.golden["loss"]["cases"]["default"]
    run.model.zero_grad()
    raw = run.model(pixels(run.golden["input"]["shape"]))
    run.model.loss(raw, targets_of(run, case)).total.backward()
    ours = {theirs: run.model.get_parameter(name) for name, theirs in upstream_parameters(run).items()}
    for name, entry in recorded["tensors"].items():
        gradient = ours[name].grad
        check(entry, gradient, name)
        assert gradient.norm().item() == pytest.approx(entry["l2"], rel=1e-3)
    run.model.zero_grad()


def upstream_parameters(run: Run) -> dict[str, str]:
    parameters = dict(run.model.named_parameters())
    return {k: v for k, v in upstream_names(run).items() if k in parameters}


def test_a_step_in_training_mode(run):
    """Batch statistics of one image, and the running statistics after it."""
    recorded, model = run.golden["train"], copy.deepcopy(run.model).train()
    with torch.no_grad():
        _, raw = forward(model, pixels(run.golden["input"]["shape"]))
    for level, tensor in channels_first(raw).items():
        check(recorded["raw"][level.removeprefix("raw.")], tensor, level)
    losses = model.loss(raw, targets_of(run, run.golden["loss"]["cases"]["default"]))
    expected = recorded["loss_default"]
    for theirs, ours in TERMS.items():
        assert losses.terms[ours].item() == pytest.approx(expected[theirs], rel=expected["rtol"])
    assert losses.total.item() == pytest.approx(expected["sum"], rel=expected["rtol"])
    ours = {theirs: name for name, theirs in upstream_names(run).items()}
    buffers = dict(model.named_buffers())
    counters = 0
    for name, entry in recorded["running"].items():
        if name.endswith("num_batches_tracked"):
            counters += 1
            place = ours[name.replace("num_batches_tracked", "running_mean")]
            assert buffers[place.replace("running_mean", "num_batches_tracked")].item() == entry
        else:
            check(entry, buffers[ours[name]], name)
    assert counters
