"""Implicit values on every registered head: built by arguments, trained, folded, kept by a checkpoint."""

import grid
import pytest
import torch
from grid import images_of, leaves, loss_of, small, target
from torch import nn

import headway
from headway.errors import HeadwayError
from headway.implicit import add_implicit
from headway.layers.implicit import Implicit, ImplicitConv2d, ImplicitLinear

# Predictions in a head: of one level, of each level, or of each decoder layer.
PREDICTIONS = {
    "atss": 3, "cascade_rcnn": 8, "centernet": 3, "deformable_detr": 2, "detr": 2, "efficientdet": 2, "faster_rcnn": 4,
    "fcos": 3, "pafnet": 2, "pafnet_lite": 2, "reppoints": 3, "retinanet": 2, "ttfnet": 2, "yolor": 3, "yolov4": 3,
}  # fmt: skip


def build(head: str, path: str | None = None, **arguments) -> headway.Detector:
    """A small one whose implicit values do something: N(0, 0.5) around the start."""
    model = grid.prepared(small(path or grid.natural(head), **arguments))
    for value in implicit_ones(model):
        with torch.no_grad():
            for parameter in value.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def implicit_ones(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, Implicit)]


def wrapped(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, ImplicitConv2d | ImplicitLinear)]


@pytest.mark.parametrize(("head", "align"), [
    *((head, "add") for head in grid.heads()),
    *((head, "concat") for head in ("detr", "deformable_detr")),  # whose layers read [L, B, Q, C] and [B, Q, C]
])  # fmt: skip
def test_on_every_head_they_train_a_step_fold_and_come_back(head, align, tmp_path):
    model = build(head, align=align, refine="mul")
    assert len(wrapped(model)) == PREDICTIONS.get(head, len(wrapped(model))) > 0
    boxes = target(grid.EVERYWHERE)
    loss_of(model.train(), images_of(2), [boxes, boxes]).total.backward()
    values = [p for value in implicit_ones(model) for p in value.parameters()]
    assert len(values) == 2 * len(wrapped(model))
    assert all(p.grad is not None and p.grad.any() for p in values)
    before = {key: value.clone() for key, value in model.eval().state_dict().items()}
    folded = headway.fuse(model)
    assert not wrapped(folded)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found, expected = (grid.candidates_of(network, images_of(1)) for network in (folded, model))
    assert grid.strangers(found, expected) <= 1
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("implicit", ["vector", "network", "factors"])
@pytest.mark.parametrize("align", ["add", "mul", "concat"])
def test_operators_and_models_on_a_convolution_of_3x3(align, implicit, tmp_path):
    """RetinaNet's predictions are 3x3 and shared by the levels; nothing else of its head folds. Its towers have no norm
    here: over a cell or four a norm makes the rounding of the folded ones large."""
    model = build("retinanet", align=align, refine="add", implicit=implicit, tower_norm=False)
    folded = headway.fuse(model).head
    features = [torch.randn(2, 32, s, s) for s in (8, 4, 2, 1, 1)]
    sizes = torch.tensor([[64, 64]] * 2)
    with torch.no_grad():
        plain, fast = model.head(features, sizes), folded(features, sizes)
    torch.testing.assert_close(fast.cls, plain.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast.box, plain.box, atol=1e-5, rtol=1e-5)
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    kept = {key: again.card.arguments[key] for key in ("align", "refine", "implicit")}
    assert kept == {"align": align, "refine": "add", "implicit": implicit}
    with torch.no_grad():
        assert torch.equal(again.head(features, sizes).cls, plain.cls)


def test_a_network_without_norms_folds_too():
    model = build("retinanet", align="add")
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    folded = headway.fuse(model)
    assert not implicit_ones(folded)
    with torch.no_grad():
        torch.testing.assert_close(folded(images_of(1)).cls, model(images_of(1)).cls, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["retinanet", "ttfnet", "yolor"])
def test_the_exported_graph_of_a_fused_model_has_nothing_implicit(head):
    model = build(head, align="add", refine="mul", implicit="network")
    fused = headway.fuse(model)
    plain, exported = (torch.export.export(network, (images_of(1),)) for network in (model, fused))
    targets = [[s.target or "" for s in graph.graph_signature.input_specs] for graph in (plain, exported)]
    assert any(".align." in name for name in targets[0])
    assert not [n for n in targets[1] if any(part in n for part in ("align", "refine", "prior", "linear", "value"))]
    with torch.no_grad():
        for a, b in zip(leaves(exported.module()(images_of(1))), leaves(fused(images_of(1))), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_what_is_added_to_a_yolov4_is_what_its_builder_makes():
    added, built = add_implicit(grid.compose(small("toy/pan/yolov4"))), grid.compose(small("toy/pan/yolor"))
    assert {k: v.shape for k, v in added.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}


def test_added_later_they_multiply_what_comes_out_and_come_back(tmp_path):
    model = build("retinanet")
    with torch.no_grad():
        before = model(images_of(1)).cls
        after = add_implicit(model, align=None, refine="mul")(images_of(1)).cls
    factor = model.head.cls.refine.value.view(9, grid.CLASSES)
    torch.testing.assert_close(after, (before.view(1, -1, 9, grid.CLASSES) * factor).view_as(before))
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert torch.equal(again.head.cls.refine.value, model.head.cls.refine.value)
    with pytest.raises(HeadwayError, match="implicit values already"):
        add_implicit(model)


@pytest.mark.parametrize("arguments", [
    {"align": "plus"}, {"refine": "concat"}, {"align": "add", "implicit": "matrix"},
])  # fmt: skip
def test_wrong_requests_are_refused(arguments):
    with pytest.raises(HeadwayError, match=[*arguments][-1]):
        headway.compose("toy/fpn/retinanet", arguments)
