"""Implicit values on the heads of every family: built by name, folded exactly, kept by a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from headway.models.implicit import add_implicit
from torch import Tensor, nn

import headway
from headway.errors import HeadwayError
from headway.layers.implicit import Implicit, ImplicitConv2d, ImplicitLinear
from headway.types import Target

FAMILIES: dict[str, tuple[dict[str, Any], int]] = {  # arguments that make it small, predictions in its head
    "retinanet_r18_fpn": ({"channels": 64}, 2),
    "atss_r18_fpn_dyhead": ({"channels": 32, "blocks": 1}, 3),
    "fcos_r18_fpn": ({"channels": 64}, 3),
    "reppoints_r18_fpn": ({"channels": 64}, 3),
    "faster_rcnn_r18_fpn": ({"channels": 32, "hidden": 32, "proposals": (20, 20)}, 4),
    "cascade_rcnn_r18_fpn_dyhead_roi": ({"channels": 32, "proposals": (20, 20)}, 8),
    "ttfnet_r18": ({"planes": (32, 32, 16), "deformable": False}, 2),
    "pafnet_lite": ({}, 2),
    "centernet_r18": ({}, 3),
    "yolov4_csp": ({"depth": 0.33, "width": 0.125}, 3),
    "yolor_p6": ({"depth": 0.2, "width": 0.125}, 4),
}


def build(name: str, **arguments: Any) -> headway.Detector:
    """A small one with norms and implicit values that do something: N(0, 0.5) around the start."""
    torch.manual_seed(0)
    model = headway.create_model(name, num_classes=2, **FAMILIES[name][0], **arguments).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.25)
        elif isinstance(module, Implicit):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def implicit_ones(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, Implicit | ImplicitConv2d | ImplicitLinear)]


def outputs(raw: Any) -> list[Tensor]:
    """The tensors that predictions give, without what is chosen by them (a cascade's regions)."""
    if hasattr(raw, "maps"):
        return list(raw.maps)
    if hasattr(raw, "rpn"):
        raw = raw.rpn
    fields = ("cls", "box", "quality", "heatmap", "offset", "pts_init", "pts_refine")
    return [getattr(raw, field) for field in fields if isinstance(getattr(raw, field, None), Tensor)]


PICTURE = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_folds_exactly(name):
    model = build(name, align="add", refine="mul")
    wrapped = [m for m in model.modules() if isinstance(m, ImplicitConv2d | ImplicitLinear)]
    assert len(wrapped) == FAMILIES[name][1]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = headway.fuse(model)
    assert not implicit_ones(folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        plain, fast, again = outputs(model(PICTURE)), outputs(folded(PICTURE)), outputs(headway.fuse(folded)(PICTURE))
        assert len(plain) >= 2
        for a, b, c in zip(plain, fast, again):
            torch.testing.assert_close(b, a, atol=1e-4 * max(1.0, a.abs().max().item()), rtol=1e-4)
            assert torch.equal(b, c)
        for head, folded_head in zip(getattr(model.head, "heads", ()), getattr(folded.head, "heads", ())):
            pooled = torch.randn(5, 32, 7, 7)
            for a, b in zip(head(pooled), folded_head(pooled)):
                torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implicit", ["vector", "network", "factors"])
@pytest.mark.parametrize("align", ["add", "mul", "concat"])
def test_operators_and_models_on_a_convolution_of_3x3(align, implicit):
    """Without norms to fold, so to 1e-5: RetinaNet's predictions are 3x3 and shared by the levels."""
    model = build("retinanet_r18_fpn", align=align, refine="add", implicit=implicit)
    folded = headway.fuse(model).head
    features = [torch.randn(2, 64, s, s) for s in (8, 4, 2, 1, 1)]
    sizes = torch.tensor([[64, 64]] * 2)
    with torch.no_grad():
        plain, fast = model.head(features, sizes), folded(features, sizes)
    torch.testing.assert_close(fast.cls, plain.cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.box, plain.box, atol=1e-5, rtol=0)


def test_a_network_without_norms_folds_too():
    model = build("retinanet_r18_fpn", align="add")
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity() if not hasattr(child, "act") else child.act)
    folded = headway.fuse(model)
    assert not implicit_ones(folded)
    with torch.no_grad():
        torch.testing.assert_close(folded(PICTURE).cls, model(PICTURE).cls, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "ttfnet_r18", "faster_rcnn_r18_fpn", "yolor_p6"])
def test_detect_uses_folded_layers_and_follows_a_changed_value(name):
    model = build(name, align="add", refine="add")
    path, own = next((n, m) for n, m in model.head.named_modules() if isinstance(m, ImplicitConv2d))
    head = model._folded_parts()[2]
    assert not implicit_ones(head)
    assert implicit_ones(model.head)
    bias = head.get_submodule(path).bias.clone()
    with torch.no_grad():
        own.refine.value.add_(1)
    torch.testing.assert_close(model._folded_parts()[2].get_submodule(path).bias, bias + 1)


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "ttfnet_r18", "yolor_p6"])
def test_the_exported_graph_of_a_fused_model_has_nothing_implicit(name):
    model = build(name, align="add", refine="mul", implicit="network")
    plain = torch.export.export(model, (PICTURE,))
    fused = headway.fuse(model)
    exported = torch.export.export(fused, (PICTURE,))
    names = [spec.target for spec in exported.graph_signature.input_specs if spec.target]
    assert any(".align." in n for n in (s.target or "" for s in plain.graph_signature.input_specs))
    assert not [n for n in names if any(part in n for part in ("align", "refine", "prior", "linear", "value"))]
    with torch.no_grad():
        for a, b in zip(outputs(exported.module()(PICTURE)), outputs(fused(PICTURE))):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "cascade_rcnn_r18_fpn_dyhead_roi", "centernet_r18"])
@pytest.mark.parametrize("align", ["add", "concat"])
def test_a_checkpoint_comes_back_with_its_values(name, align, tmp_path):
    model = build(name, align=align, refine="mul", implicit="factors")
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert {k: v for k, v in again.card.arguments.items() if k in ("align", "refine", "implicit")} == {
        "align": align, "refine": "mul", "implicit": "factors",
    }  # fmt: skip
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert len(state) == len(model.state_dict())


def test_what_is_added_to_a_yolov4_is_what_its_builder_makes(tmp_path):
    options = {"num_classes": 2, "depth": 0.33, "width": 0.125}
    added = add_implicit(headway.create_model("yolov4_csp", **options))
    built = headway.create_model("yolov4_csp", **options, align="add", refine="mul")
    assert added.card.arguments == {**built.card.arguments, "implicit": "vector"}
    assert {k: v.shape for k, v in added.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    again = headway.load(headway.save(added, tmp_path / "m.safetensors"))
    assert torch.equal(again.head.predictions[2].align.value, added.head.predictions[2].align.value)


def test_added_later_it_comes_back_too(tmp_path):
    torch.manual_seed(0)
    model = headway.create_model("retinanet_r18_fpn", num_classes=2, channels=64).eval()
    with torch.no_grad():
        before = outputs(model(PICTURE))
        after = outputs(add_implicit(model, align=None, refine="mul")(PICTURE))
    factor = model.head.cls.refine.value.view(9, 2)
    expected = (before[0].view(1, -1, 9, 2) * factor).view_as(before[0])
    torch.testing.assert_close(after[0], expected)
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert torch.equal(again.head.cls.refine.value, model.head.cls.refine.value)
    with pytest.raises(HeadwayError, match="implicit values already"):
        add_implicit(model)


def test_every_value_is_trained():
    for name in ("retinanet_r18_fpn", "ttfnet_r18", "faster_rcnn_r18_fpn"):
        model = build(name, align="add", refine="mul").train()
        target = Target(torch.tensor([[10.0, 10.0, 60.0, 70.0], [40.0, 5.0, 120.0, 80.0]]), torch.tensor([1, 0]))
        sum(model.loss(model(PICTURE, None, [target]), [target]).terms.values()).backward()
        values = [(n, p) for n, p in model.named_parameters() if n.endswith(".value")]
        assert len(values) == 2 * FAMILIES[name][1]
        assert not [n for n, p in values if p.grad is None or not p.grad.abs().sum() > 0]


def test_wrong_requests_are_refused():
    with pytest.raises(HeadwayError, match="align"):
        headway.create_model("retinanet_r18_fpn", align="plus")
    with pytest.raises(HeadwayError, match="refine"):
        headway.create_model("retinanet_r18_fpn", refine="concat")
    with pytest.raises(HeadwayError, match="implicit"):
        headway.create_model("retinanet_r18_fpn", align="add", implicit="matrix")
