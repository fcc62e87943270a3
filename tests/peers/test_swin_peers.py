"""Swin at any size against torchvision's and timm's, on random weights through our converters."""

from functools import lru_cache

import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

import headway
from headway.backbones.timm import SMALL, TimmBackbone, timm_backbone
from headway.convert import from_upstream
from headway.errors import CheckpointError

NAME = "swin_nano_patch4_window7"  # the smallest: the others differ from it in numbers only
BASE, CHANGES = SMALL[NAME]
STAGES = {8: 3, 16: 5, 32: 7}  # where torchvision's maps of these strides come from


def spread(model: nn.Module) -> nn.Module:
    """Position tables start near zero, biases at it and attention nearly even: move them, or no error would show."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "relative_position" in name or parameter.dim() == 1:
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
        elif "qkv" in name:
            parameter.data = 4 * parameter.data
    return model.eval()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return spread(
        torchvision.models.SwinTransformer(
            [4, 4], CHANGES["embed_dim"], list(CHANGES["depths"]), list(CHANGES["num_heads"]), [7, 7]
        )
    )


@pytest.fixture(scope="module")
def detector() -> headway.Detector:
    torch.manual_seed(1)
    return headway.create_model("atss_swin_nano_fpn", num_classes=3, channels=32).eval()


@lru_cache
def bare(form: str) -> TimmBackbone:
    return timm_backbone(NAME, swin_form=form, map_norms=False).eval()


def maps_of(model: headway.Detector, form: str, images: Tensor) -> list[Tensor]:
    """What the detector's body gives without the norms of its maps, in another form."""
    backbone = bare(form)
    backbone.body.load_state_dict(model.backbone.body.state_dict())
    return backbone(images)


def check(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    for ours, other in zip(found, expected, strict=True):
        assert ours.shape == other.shape
        assert (ours - other).abs().max() < tolerance * other.std()


@pytest.mark.parametrize("size", [(224, 224), (256, 320), (100, 132), (20, 480)])
def test_torchvision_at_any_size(theirs, detector, size):
    """torchvision drops what is left of a whole patch, so sizes are multiples of 4."""
    detector.load_state_dict(from_upstream(theirs.state_dict(), "torchvision", detector))
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x, maps = images, []
        for i, layer in enumerate(theirs.features):
            x = layer(x)
            if i in STAGES.values():
                maps.append(x.permute(0, 3, 1, 2))
        check(maps_of(detector, "torchvision", images), maps)
        official = maps_of(detector, "official", images)
        if min(size) > 224:  # every map is wider than a window
            check(official, maps)
        elif size == (224, 224):  # one window covers the last map: its second block shifts as detectors do
            check(official[:2], maps[:2])
            assert (official[2] - maps[2]).abs().max() > 0.01 * maps[2].std()


def test_timm_at_any_size(theirs, detector):
    """timm from torchvision's weights through ours: the two agree at 224 pixels, so the names are right; then timm at
    a size of no whole windows, in its own form."""
    detector.load_state_dict(from_upstream(theirs.state_dict(), "torchvision", detector))
    whole = timm.create_model(BASE, strict_img_size=False, always_partition=True, **CHANGES).eval()
    flat = {key.replace("layers_", "layers."): v for key, v in detector.backbone.body.state_dict().items()}
    missing = whole.load_state_dict(flat, strict=False)
    assert missing.unexpected_keys == []
    assert {key.split(".")[0] for key in missing.missing_keys} == {"norm", "head"}

    peer = timm.create_model(
        BASE, features_only=True, out_indices=(1, 2, 3), strict_img_size=False, always_partition=True, **CHANGES
    ).eval()
    peer.load_state_dict(detector.backbone.body.state_dict())
    detector.backbone.body.requires_grad_(False).apply(lambda m: [p.zero_() for p in m.parameters(recurse=False)])
    detector.load_state_dict(from_upstream(whole.state_dict(), "timm", detector))
    for size in ((224, 224), (200, 264)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            maps = [x.permute(0, 3, 1, 2) for x in peer(images)]
            check(maps_of(detector, "timm", images), maps)
            official = maps_of(detector, "official", images)
            if size == (224, 224):  # whole windows everywhere: no form differs
                check(official, maps)
            else:
                assert (official[0] - maps[0]).abs().max() > 0.01 * maps[0].std()


def test_the_rest_of_the_detector_stays(theirs, detector):
    state = from_upstream(theirs.state_dict(), "torchvision", detector)
    for key, value in detector.state_dict().items():
        if not key.startswith("backbone.body."):
            assert state[key] is value or torch.equal(state[key], value), key


def test_official_names(detector):
    """The authors' classifier, written from their names (microsoft/Swin-Transformer), through timm's own filter and
    through ours."""
    torch.manual_seed(0)
    whole = timm.create_model(BASE, **CHANGES)
    official = {}
    for key, value in whole.state_dict().items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        official[".".join(parts).replace("head.fc", "head")] = value
    official |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
    }
    by_timm = checkpoint_filter_fn({"model": official}, whole)
    ours = from_upstream(official, "swin", detector)
    for key, value in by_timm.items():
        if not key.startswith(("norm.", "head.")):
            place = "backbone.body." + key.replace("layers.", "layers_", 1)
            assert torch.equal(ours[place], value), key


def test_a_backbone_of_another_size_is_refused(detector):
    with torch.device("meta"):
        large = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    with pytest.raises(CheckpointError, match=r"mapped keys that the model lacks: .*keys of another shape"):
        from_upstream(large, "timm", detector)
