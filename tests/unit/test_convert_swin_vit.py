"""Published files of detectors on Swin and ViT: their names, written out by hand from the modules they come from, fill
every tensor of ours. Built without memory."""

import pytest
import torch
from torch import Tensor

import headway
from headway.convert import from_upstream
from headway.errors import CheckpointError


def shaped(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def affine(name: str, out: int, *rest: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *rest), f"{name}.bias": (out,)}


def mmdet_swin(dims: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...], window: int, first: int):
    """mmdet/models/backbones/swin.py of 3.3.0, with norms from map `first` on."""
    shapes = affine("backbone.patch_embed.projection", dims[0], 3, 4, 4) | affine("backbone.patch_embed.norm", dims[0])
    for stage, (dim, depth, head) in enumerate(zip(dims, depths, heads)):
        for block in range(depth):
            place = f"backbone.stages.{stage}.blocks.{block}."
            shapes |= affine(place + "norm1", dim) | affine(place + "norm2", dim)
            shapes[place + "attn.w_msa.relative_position_bias_table"] = ((2 * window - 1) ** 2, head)
            shapes[place + "attn.w_msa.relative_position_index"] = (window**2, window**2)
            shapes |= affine(place + "attn.w_msa.qkv", 3 * dim, dim) | affine(place + "attn.w_msa.proj", dim, dim)
            shapes |= affine(place + "ffn.layers.0.0", 4 * dim, dim) | affine(place + "ffn.layers.1", dim, 4 * dim)
        if stage < 3:
            shapes |= affine(f"backbone.stages.{stage}.downsample.norm", 4 * dim)
            shapes[f"backbone.stages.{stage}.downsample.reduction.weight"] = (2 * dim, 4 * dim)
        if stage >= first:
            shapes |= affine(f"backbone.norm{stage}", dim)
    return shapes


def dyhead_block(place: str) -> dict[str, tuple[int, ...]]:
    """mmdet/models/necks/dyhead.py."""
    shapes = affine(place + "spatial_conv_offset", 27, 256, 3, 3)
    for level in ("high", "mid", "low"):
        shapes[f"{place}spatial_conv_{level}.conv.weight"] = (256, 256, 3, 3)
        shapes |= affine(f"{place}spatial_conv_{level}.norm", 256)
    shapes |= affine(place + "scale_attn_module.1", 1, 256, 1, 1)
    shapes |= affine(place + "task_attn_module.conv1.conv", 64, 256, 1, 1)
    return shapes | affine(place + "task_attn_module.conv2.conv", 1024, 64, 1, 1)


def test_the_published_dynamic_head_on_swin_l():
    """configs/dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py: heads of 1x1 convolutions and no towers."""
    shapes = mmdet_swin((192, 384, 768, 1536), (2, 2, 18, 2), (6, 12, 24, 48), 12, first=1)
    for i, channels in enumerate((384, 768, 1536)):
        shapes |= affine(f"neck.0.lateral_convs.{i}.conv", 256, channels, 1, 1)
    for i in range(5):
        shapes |= affine(f"neck.0.fpn_convs.{i}.conv", 256, 256, 3, 3)
    for i in range(6):
        shapes |= dyhead_block(f"neck.1.dyhead_blocks.{i}.")
    for name, out in (("atss_cls", 80), ("atss_reg", 4), ("atss_centerness", 1)):
        shapes |= affine(f"bbox_head.{name}", out, 256, 1, 1)
    shapes |= {f"bbox_head.scales.{i}.scale": () for i in range(5)}
    with torch.device("meta"):
        model = headway.create_model("atss_swin_l_fpn_dyhead.mmdet")
    state = from_upstream(shaped(shapes), "mmdet", model)
    assert set(state) == set(model.state_dict())
    assert model.card.input_size == (1200, 2000)
    assert model.card.pad_multiple == 128


def test_the_authors_cascade_on_swin():
    """A Cascade Mask R-CNN of SwinTransformer/Swin-Transformer-Object-Detection: the classifier's names for the
    backbone, mmdetection's for the rest, shared by Faster R-CNN's heavy head."""
    theirs = mmdet_swin((96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24), 7, first=0)
    renames = (
        ("patch_embed.projection", "patch_embed.proj"), ("backbone.stages.", "backbone.layers."), (".w_msa.", "."),
        ("ffn.layers.0.0", "mlp.fc1"), ("ffn.layers.1", "mlp.fc2"),
    )  # fmt: skip
    shapes = {}
    for name, shape in theirs.items():
        for old, new in renames:
            name = name.replace(old, new)
        shapes[name] = shape
    for i, channels in enumerate((96, 192, 384, 768)):
        shapes |= affine(f"neck.lateral_convs.{i}.conv", 256, channels, 1, 1)
        shapes |= affine(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)
    shapes |= affine("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= affine("rpn_head.rpn_cls", 3, 256, 1, 1) | affine("rpn_head.rpn_reg", 12, 256, 1, 1)
    for stage in range(3):
        place = f"roi_head.bbox_head.{stage}."
        for i in range(4):
            shapes[f"{place}shared_convs.{i}.conv.weight"] = (256, 256, 3, 3)
            shapes |= affine(f"{place}shared_convs.{i}.bn", 256)
            shapes |= {f"{place}shared_convs.{i}.bn.running_{kind}": (256,) for kind in ("mean", "var")}
            shapes[f"{place}shared_convs.{i}.bn.num_batches_tracked"] = ()
        shapes |= affine(place + "shared_fcs.0", 1024, 256 * 49)
        shapes |= affine(place + "fc_cls", 81, 1024) | affine(place + "fc_reg", 320, 1024)
    shapes |= affine("roi_head.mask_head.0.convs.0.conv", 256, 256, 3, 3)
    with torch.device("meta"):
        model = headway.create_model("cascade_rcnn_swin_t_fpn.swin")
    assert set(from_upstream(shaped(shapes), "swin", model)) == set(model.state_dict())


def vitdet(stages: int) -> dict[str, tuple[int, ...]]:
    """detectron2/modeling/backbone/vit.py and what projects/ViTDet builds on it."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.net.pos_embed": (1, 197, 768)}
    shapes |= affine("backbone.net.patch_embed.proj", 768, 3, 16, 16)
    for i in range(12):
        place, side = f"backbone.net.blocks.{i}.", 64 if i in (2, 5, 8, 11) else 14
        shapes |= affine(place + "norm1", 768) | affine(place + "norm2", 768)
        shapes |= affine(place + "attn.qkv", 2304, 768) | affine(place + "attn.proj", 768, 768)
        shapes |= {f"{place}attn.rel_pos_{axis}": (2 * side - 1, 64) for axis in "hw"}
        shapes |= affine(place + "mlp.fc1", 3072, 768) | affine(place + "mlp.fc2", 768, 3072)
    up = {"backbone.simfp_2.0.weight": (768, 384, 2, 2), "backbone.simfp_2.0.bias": (384,)}
    up |= affine("backbone.simfp_2.1", 384)
    up |= {"backbone.simfp_2.3.weight": (384, 192, 2, 2), "backbone.simfp_2.3.bias": (192,)}
    up |= {"backbone.simfp_3.0.weight": (768, 384, 2, 2), "backbone.simfp_3.0.bias": (384,)}
    shapes |= up
    for level, lateral, channels in ((2, 4, 192), (3, 1, 384), (4, 0, 768), (5, 1, 768)):
        for number, kernel, width in ((lateral, 1, channels), (lateral + 1, 3, 256)):
            place = f"backbone.simfp_{level}.{number}."
            shapes[place + "weight"] = (256, width, kernel, kernel)
            shapes |= affine(place + "norm", 256)
    for i in range(2):
        shapes |= affine(f"proposal_generator.rpn_head.conv.conv{i}", 256, 256, 3, 3)
    shapes |= affine("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    shapes |= affine("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    for stage in range(stages):
        number = f".{stage}" if stages > 1 else ""
        for i in range(1, 5):
            shapes[f"roi_heads.box_head{number}.conv{i}.weight"] = (256, 256, 3, 3)
            shapes |= affine(f"roi_heads.box_head{number}.conv{i}.norm", 256)
        shapes |= affine(f"roi_heads.box_head{number}.fc1", 1024, 256 * 49)
        shapes |= affine(f"roi_heads.box_predictor{number}.cls_score", 81, 1024)
        shapes |= affine(f"roi_heads.box_predictor{number}.bbox_pred", 320 if stages == 1 else 4, 1024)
    return shapes | affine("roi_heads.mask_head.mask_fcn1.norm", 256)


@pytest.mark.parametrize(("tag", "stages"), [("faster_rcnn_vit_b.detectron2", 1), ("cascade_rcnn_vit_b.detectron2", 3)])
def test_vitdet_of_detectron2(tag, stages):
    with torch.device("meta"):
        model = headway.create_model(tag)
    state = from_upstream(shaped(vitdet(stages)), "detectron2", model)
    assert set(state) == set(model.state_dict())
    assert model.card.pad_multiple == 1024


def test_positions_of_a_class_token_are_left_out():
    model = headway.create_model("faster_rcnn_vit_tiny", num_classes=2)
    table = torch.randn(1, 197, 192)
    classifier = {
        key.removeprefix("backbone."): v for key, v in model.state_dict().items() if key.startswith("backbone")
    }
    classifier |= {"pos_embed": table, "cls_token": torch.zeros(1, 1, 192), "norm.weight": torch.zeros(192)}
    state = from_upstream(classifier, "timm", model)
    assert torch.equal(state["backbone.pos_embed"], table[:, 1:].view(1, 14, 14, 192))
    with pytest.raises(CheckpointError, match=r"mapped keys that the model lacks: blocks\.0\.ls1\.gamma"):
        from_upstream({**classifier, "blocks.0.ls1.gamma": torch.ones(192)}, "timm", model)
