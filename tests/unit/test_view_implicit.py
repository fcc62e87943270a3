"""The numbers of `headway view implicit`."""

from __future__ import annotations

import pytest
import torch

import headway
from headway.errors import HeadwayError
from headway.layers.implicit import Implicit
from headway.view.implicit import to_dict, vectors


def test_a_yolor_level_by_level():
    """Three anchors with 4 + 1 + 2 outputs; every value is set to its place."""
    model = headway.create_model("yolor_s", num_classes=2)
    for module in model.modules():
        if isinstance(module, Implicit):
            module.value.data.copy_(torch.arange(module.channels).view(1, -1, 1, 1))
    found = vectors(model)
    assert [(v.stride, v.position, v.operator, len(v.values)) for v in found] == [
        (8, "align", "add", 128), (8, "refine", "mul", 21), (16, "align", "add", 256), (16, "refine", "mul", 21),
        (32, "align", "add", 512), (32, "refine", "mul", 21),
    ]  # fmt: skip
    assert [v.start for v in found[:2]] == [0.0, 1.0]
    refined = found[1]
    assert refined.values_of("objectness").tolist() == [4, 11, 18]
    assert refined.values_of("class").tolist() == [5, 6, 12, 13, 19, 20]
    assert refined.values_of("box").tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 17]
    assert found[0].roles == ()
    row = to_dict(found)[1]
    assert row["values"] == list(range(21))
    assert (row["mean"], row["min"], row["max"]) == (10.0, 0.0, 20.0)
    assert row["std"] == pytest.approx(((21**2 - 1) / 12) ** 0.5)  # of the whole numbers 0..20
    assert {role: numbers["mean"] for role, numbers in row["by_role"].items()} == {
        "box": 8.5, "objectness": 11.0, "class": 12.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("fcos_r18_fpn", {"head.cls": "class", "head.box": "box", "head.centerness": "other"}),
        (
            "faster_rcnn_r18_fpn",
            {
                "head.rpn.cls": "objectness",
                "head.rpn.box": "box",
                "head.heads.0.cls": "class",
                "head.heads.0.box": "box",
            },
        ),
        ("centernet_r18", {"heatmap": "class", "box": "box", "offset": "box"}),
    ],
)
def test_roles_of_other_heads(name, roles):
    model = headway.create_model(name, num_classes=3, refine="add", implicit="network")
    found = vectors(model)
    assert [next(role for part, role in roles.items() if part in v.layer) for v in found] == [
        v.roles[0][0] for v in found
    ]
    assert len(found) == len(roles)
    for vector in found:
        assert vector.roles == ((vector.roles[0][0], 0, len(vector.values)),)
        assert vector.stride is None
        module = model.get_submodule(f"{vector.layer}.refine")
        torch.testing.assert_close(vector.values, module.linear(module.prior).flatten().detach())


def test_a_model_without_is_refused():
    with pytest.raises(HeadwayError, match="retinanet_r18_fpn has no implicit values: train a YOLOR"):
        vectors(headway.create_model("retinanet_r18_fpn", num_classes=2, channels=32))
