"""ImageNet weights by timm's names: which file is asked for, where its tensors go, how pictures are then normalised."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import headway as library

# (builder, backbone by its timm name, mean in 0..255, one of its tensors)
NAMED = [
    ("retinanet_r18_fpn", "resnet18d.ra4_e3600_r224_in1k", 127.5, "conv1.0.weight"),
    ("retinanet_r18_fpn", "resnet18d.ra2_in1k", 123.675, "conv1.0.weight"),
    ("pafnet_lite", "mobilenetv3_large_100.miil_in21k_ft_in1k", 0.0, "conv_stem.weight"),
    ("pafnet_lite", "mobilenetv3_large_100", 123.675, "conv_stem.weight"),
]


@pytest.mark.parametrize(("model", "backbone", "mean", "tensor"), NAMED)
def test_named_weights_arrive(
    monkeypatch: pytest.MonkeyPatch, model: str, backbone: str, mean: float, tensor: str
) -> None:
    """The download is replaced by a network with known weights; timm says which file it would have been."""
    torch.manual_seed(3)
    weights = timm.create_model(backbone).state_dict()
    asked: list[str] = []

    def fetch(source: str, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(source)
        return dict(weights)

    monkeypatch.setattr("headway.backbones.timm._out_of_reach", lambda name: "")
    for name in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{name}", fetch)
    detector = library.create_model(model, num_classes=2, backbone=backbone, backbone_weights=True)
    tag = timm.get_pretrained_cfg(backbone).tag
    assert [source.rpartition(".")[2] for source in asked] == [tag]
    body = {key.replace("_", "."): value for key, value in detector.backbone.body.state_dict().items()}
    assert torch.equal(body[tensor.replace("_", ".")], weights[tensor])
    assert detector.card.mean[0] == pytest.approx(mean)
    grey = torch.full((1, 3, 2, 2), detector.card.mean[0] / 255)
    assert detector.normalize(grey)[0, 0].abs().max() < 1e-6
    plain = library.create_model(model, num_classes=2, backbone=backbone)
    assert plain.card.mean[0] == 123.675
    assert len(asked) == 1


def test_the_names_in_the_documentation_exist() -> None:
    """Weights that docs/settings.md names for PAFNet and PAFNet-Lite."""
    known = set(timm.list_pretrained())
    assert {
        "resnet50d.ra4_e3600_r224_in1k", "resnet50d.ra2_in1k", "mobilenetv3_large_100.miil_in21k_ft_in1k",
        "hgnetv2_b4.ssld_stage2_ft_in1k", "mobilenetv3_large_100.ra4_e3600_r224_in1k",
    } <= known  # fmt: skip
    assert not [name for name in known if "ssld" in name and name.startswith(("resnet", "mobilenet"))]
