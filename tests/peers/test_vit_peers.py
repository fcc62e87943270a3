"""The plain ViT against transformers' VitDetBackbone, timm's classifiers and its hybrid, on random weights."""

import re

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import VitDetBackbone, VitDetConfig

from headway.backbones.vit import PatchEmbed, ViT, from_timm, make_vit


def spread(model: nn.Module) -> nn.Module:
    """Everything away from its start, so that no table is zero and no norm the identity."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise * (0.2 if parameter.dim() > 1 else 0.1) + (parameter.data if parameter.dim() == 1 else 0)
    return model.eval()


def vitdet_names(state: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("embeddings.").replace("projection.", "patch_embed.proj.")
        key = re.sub(r"encoder\.layer\.(\d+)\.attention", r"blocks.\1.attn", key)
        key = re.sub(r"encoder\.layer\.(\d+)\.", r"blocks.\1.", key)
        if key == "position_embeddings":
            key, value = "pos_embed", value[:, 1:].unflatten(1, grid)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("size", [(96, 96), (160, 112)])
def test_vitdet(relative, size):
    """Windows of 4 on maps of 6x6 and 10x7, global blocks whose tables were made for 6x6, positions of 3x3."""
    torch.manual_seed(0)
    config = VitDetConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=96, pretrain_image_size=48,
        patch_size=16, window_size=4, window_block_indices=[0, 2], use_relative_position_embeddings=relative,
        drop_path_rate=0.0, out_features=["stage4"],
    )  # fmt: skip
    theirs = spread(VitDetBackbone(config))
    ours = ViT(
        PatchEmbed(3, 32, 16), channels=32, depth=4, heads=4, window=4, global_blocks=(1, 3), grid=(3, 3),
        relative_grid=6 if relative else 0,
    ).eval()  # fmt: skip
    ours.load_state_dict(vitdet_names(theirs.state_dict(), (3, 3)))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(images).feature_maps[0], ours(images)[0]
    assert found.shape == (2, 32, size[0] // 16, size[1] // 16)
    assert (found - expected).abs().max() < 1e-5 * expected.std()


def test_parameters_of_vitdet_base():
    """transformers keeps a position for the class token that nothing uses."""
    with torch.device("meta"):
        ours = make_vit("vitdet_base")
    assert sum(p.numel() for p in ours.parameters()) == 85_889_024 - 768


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_timm_classifier(name):
    """All blocks global; timm's blocks without the class token."""
    torch.manual_seed(0)
    theirs = spread(timm.create_model(name, num_classes=0, img_size=64, depth=2))
    ours = ViT(PatchEmbed(3, 192, 16), channels=192, depth=2, heads=3, window=0, grid=(4, 4)).eval()
    ours.load_state_dict(from_timm(theirs.state_dict(), ours))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = theirs.patch_embed(images)
        tokens = tokens + theirs.pos_embed[:, -tokens.shape[1] :]
        expected = theirs.blocks(tokens).transpose(1, 2).unflatten(2, (4, 4))
        found = ours(images)[0]
    assert (found - expected).abs().max() < 1e-5 * expected.std()


def test_timm_hybrid():
    """Tokens are the map of a ResNetV2-50 of three stages."""
    name = "vit_base_r50_s16_224"
    with torch.device("meta"):
        ours, whole = make_vit(name).eval(), timm.create_model(name, num_classes=0)
    assert set(from_timm(whole.state_dict(), ours)) == set(ours.state_dict())
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, depth=1).patch_embed.eval()
    embed = ours.patch_embed.to_empty(device="cpu")
    embed.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs.proj(theirs.backbone(images)), embed(images).permute(0, 3, 1, 2)
    assert found.shape == (2, 768, 4, 6)
    assert torch.equal(found, expected)
