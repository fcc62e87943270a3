"""Deformable ResNet-50 (v1 and v2 in C3 to C5) against the maps recorded from mmdet 3.3.0 on filled-in weights."""

from typing import Any, NamedTuple

import compare
import fill
import pytest
import torch
from torch import Tensor, nn

from headway.backbones.timm import TimmBackbone, timm_backbone
from headway.convert import mmdet
from headway.convert.rules import apply_rules
from headway.layers.deform import DeformableConv2d

VERSIONS = {"faster_rcnn_r50_dconv_c3_c5_fpn": 1, "faster_rcnn_r50_mdconv_c3_c5_fpn": 2}


class Trunk(nn.Module):
    """A backbone at the place where a detector has it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


class Run(NamedTuple):
    golden: dict[str, Any]
    backbone: TimmBackbone
    maps: list[Tensor]


@pytest.fixture(scope="module", params=VERSIONS)
def run(request) -> Run:
    golden = compare.load(request.param)
    fill.check_fill(golden)
    backbone = timm_backbone(
        "resnet50", strides=(4, 8, 16, 32), dcn=("c3", "c4", "c5"), dcn_version=VERSIONS[request.param]
    ).eval()
    trunk = Trunk(backbone)
    state = {k: v for k, v in fill.fill_state_dict(golden).items() if k.startswith("backbone.")}
    trunk.load_state_dict(apply_rules(mmdet.backbone_rules(backbone), state, trunk, "mmdet"))
    with torch.no_grad():
        return Run(golden, backbone, backbone(torch.from_numpy(fill.make_input())))


def test_maps(run):
    for name, x in zip(("C2", "C3", "C4", "C5"), run.maps, strict=True):
        compare.check_checkpoint(run.golden["checkpoints"][f"backbone.{name}"], x.contiguous().numpy())


def test_the_deformable_layers_are_those_of_the_recording(run):
    ours = {n.removeprefix("body."): m for n, m in run.backbone.named_modules() if isinstance(m, DeformableConv2d)}
    theirs = {n.removeprefix("backbone."): m for n, m in run.golden["modules"].items() if "DeformConv2dPack" in m}
    assert set(ours) == set(theirs)
    assert len(ours) == 13
    for name, layer in ours.items():
        conv = layer.conv
        assert f" k{conv.weight.shape[2]} s{conv.stride[0]} p{conv.padding[0]}" in theirs[name]


def test_parameters_of_the_backbone(run):
    shapes = run.golden["state_dict"].items()
    expected = sum(
        torch.Size(shape).numel() for name, shape in shapes if name.startswith("backbone.") and "running_" not in name
    )
    assert sum(p.numel() for p in run.backbone.parameters()) == expected
