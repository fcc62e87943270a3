"""DETR, on a whole picture and on a padded one, against numbers recorded from mmdet 3.3.0 on filled-in weights, as in
`test_mmdet_dense`."""

import math
from typing import Any, NamedTuple

import compare
import fill
import pytest
import torch
from torch import Tensor, nn

import headway
from headway.assign import NEGATIVE
from headway.boxes import to_cxcywh
from headway.convert import from_upstream
from headway.heads.detr import DetrRaw
from headway.heads.set_loss import SetWeights, match_sets
from headway.layers.attention import sine_positions, valid_cells
from headway.types import Target

LAYERS = 6


class Run(NamedTuple):
    """The golden file, our model with its weights, its input, and what came out."""

    golden: dict[str, Any]
    model: headway.Detector
    images: Tensor
    sizes: Tensor
    stages: dict[str, Tensor]
    raw: DetrRaw


@pytest.fixture(scope="module", params=["detr_r50", "detr_r50.padded"])
def run(request) -> Run:
    golden = compare.load(request.param)
    fill.check_fill(golden)
    model = headway.create_model("detr_r50.mmdet").eval().requires_grad_(True)  # as recorded
    model.load_state_dict(from_upstream(fill.fill_state_dict(golden), "mmdet", model))
    model.normalize = nn.Identity()  # the golden input is normalised
    images, sizes = torch.from_numpy(fill.make_input()), torch.tensor([golden["input"]["img_shape"]])
    height, width = sizes[0].tolist()
    images[:, :, height:] = images[:, :, :, width:] = 0
    stages: dict[str, Tensor] = {}
    watched = {"neck.P5": model.neck.conv, "detr.encoder": model.head.encoder[-1]}
    hooks = [
        part.register_forward_hook(lambda _, __, x, name=name: stages.update({name: x}))
        for name, part in watched.items()
    ]
    norms: list[Tensor] = []
    hooks.append(model.head.decoder_norm.register_forward_hook(lambda _, __, x: norms.append(x)))
    hooks.append(model.backbone.register_forward_hook(lambda _, __, maps: stages.update({"backbone.C5": maps[-1]})))
    raw = model(images, sizes)
    for hook in hooks:
        hook.remove()
    stages["detr.pos_embed"] = sine_positions(valid_cells(sizes, (256, 320), (8, 10)), 256)
    stages |= {f"detr.decoder{i}": x for i, x in enumerate(norms)}
    return Run(golden, model, images, sizes, stages | {"head.cls": raw.cls, "head.bbox": raw.box}, raw)


def test_parameter_count(run):
    assert sum(p.numel() for p in run.model.parameters()) == run.golden["num_params"]


def test_every_stage(run):
    assert set(run.stages) == set(run.golden["checkpoints"])
    for name, tensor in run.stages.items():
        try:
            compare.check_checkpoint(run.golden["checkpoints"][name], tensor.detach().contiguous().numpy())
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def test_detections(run):
    (found,) = run.model.detect(run.images, run.sizes)
    hit, expected = compare.match_detections(run.golden["detections"], found.boxes, found.scores, found.labels)
    assert hit == expected == len(found) == 100


def target_of(golden: dict[str, Any]) -> Target:
    return Target(torch.tensor(golden["targets"]["boxes"]), torch.tensor(golden["targets"]["labels"]))


def test_matching(run):
    target, (height, width) = target_of(run.golden), run.sizes[0].tolist()
    truth = to_cxcywh(target.boxes) / torch.tensor([width, height, width, height])
    matched = match_sets(run.raw.cls, run.raw.box, [target.labels], [truth], SetWeights(), "softmax")[:, 0]
    calls = run.golden["train"]["assign"]["bbox_head.assigner"]
    assert len(calls) == len(matched) == LAYERS
    for call, layer in zip(calls, matched):
        positive = (layer != NEGATIVE).nonzero().squeeze(1)
        assert positive.tolist() == call["pos_index"]
        assert layer[positive].tolist() == call["pos_gt"]


def test_losses_and_gradients(run):
    """Of all layers. Upstream keeps the projections of queries, keys and values in one tensor."""
    losses, train = run.model.loss(run.raw, [target_of(run.golden)]), run.golden["train"]
    ours = {"loss_cls": "cls", "loss_bbox": "box", "loss_iou": "giou"}
    names = ours | {f"d{i}.{theirs}": f"{mine}_{i}" for i in range(LAYERS - 1) for theirs, mine in ours.items()}
    assert set(names.values()) == set(losses.terms)
    assert set(names) == set(train["losses"])
    compare.check_train(train, {theirs: losses.terms[mine].item() for theirs, mine in names.items()})
    assert losses.total.item() == pytest.approx(train["total"], rel=1e-4)

    run.model.zero_grad()
    losses.total.backward(retain_graph=True)
    shapes = run.golden["state_dict"]
    order = list(shapes)
    numbered = {name: torch.full(shapes[name], float(i)) for i, name in enumerate(order)}
    converted = from_upstream(numbered, "mmdet", run.model)
    squares: dict[str, float] = {}
    for name, parameter in run.model.named_parameters():
        upstream = order[int(converted[name].flatten()[0])]
        squares[upstream] = squares.get(upstream, 0.0) + parameter.grad.double().square().sum().item()
    assert set(squares) == set(train["grads"])
    compare.check_train(train, {}, {name: (math.sqrt(square), 0.0) for name, square in squares.items()})
    assert math.sqrt(sum(squares.values())) == pytest.approx(train["grad_norm"], rel=1e-3)
