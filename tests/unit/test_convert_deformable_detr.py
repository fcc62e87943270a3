"""Deformable DETR's published names: those of its authors and of mmdetection, written out here, fill a model."""

import re

import pytest
import torch
from torch import Tensor

import headway
from headway.convert import from_upstream
from headway.detector import Detector
from headway.errors import CheckpointError

SMALL = {
    "backbone": "resnet18", "num_classes": 3, "channels": 32, "heads": 2, "points": 2, "encoder_layers": 1,
    "decoder_layers": 2, "feedforward": 16, "queries": 5,
}  # fmt: skip
FORMS = {
    "plain": {},
    "single scale": {"levels": 1, "strides": (32,)},
    "refined": {"refine_boxes": True},
    "two stages": {"refine_boxes": True, "two_stage": True},
}
# Ours -> theirs, the first that matches; {i} is of a list.
READING = {"sampling_offsets": "sampling_offsets", "scores": "attention_weights", "value": "value_proj"}
OFFICIAL = [
    (r"backbone\.body\.(.+)", r"backbone.0.body.\1"),
    (r"neck\.projections\.(\d)\.conv\.(.+)", r"input_proj.\1.0.\2"),
    (r"neck\.projections\.(\d)\.norm\.(.+)", r"input_proj.\1.1.\2"),
    (r"head\.level", "transformer.level_embed"),
    (r"head\.queries\.weight", "query_embed.weight"),
    (r"head\.reference_points\.(.+)", r"transformer.reference_points.\1"),
    (r"head\.proposal\.0\.(.+)", r"transformer.enc_output.\1"),
    (r"head\.proposal\.1\.(.+)", r"transformer.enc_output_norm.\1"),
    (r"head\.queries\.0\.(.+)", r"transformer.pos_trans.\1"),
    (r"head\.queries\.1\.(.+)", r"transformer.pos_trans_norm.\1"),
    (r"head\.cls\.(\d)\.(.+)", r"class_embed.\1.\2"),
    (r"head\.box\.(\d)\.0\.(.+)", r"bbox_embed.\1.layers.0.\2"),
    (r"head\.box\.(\d)\.2\.(.+)", r"bbox_embed.\1.layers.1.\2"),
    (r"head\.box\.(\d)\.4\.(.+)", r"bbox_embed.\1.layers.2.\2"),
    *((rf"head\.encoder\.(\d)\.attention\.{a}\.(.+)", rf"transformer.encoder.layers.\1.self_attn.{b}.\2")
      for a, b in {**READING, "output": "output_proj"}.items()),
    *((rf"head\.decoder\.(\d)\.cross_attention\.{a}\.(.+)", rf"transformer.decoder.layers.\1.cross_attn.{b}.\2")
      for a, b in {**READING, "output": "output_proj"}.items()),
    (r"head\.decoder\.(\d)\.self_attention\.output\.(.+)", r"transformer.decoder.layers.\1.self_attn.out_proj.\2"),
    (r"head\.(encoder|decoder)\.(\d)\.feedforward\.expand\.(.+)", r"transformer.\1.layers.\2.linear1.\3"),
    (r"head\.(encoder|decoder)\.(\d)\.feedforward\.reduce\.(.+)", r"transformer.\1.layers.\2.linear2.\3"),
    (r"head\.encoder\.(\d)\.attention_norm\.(.+)", r"transformer.encoder.layers.\1.norm1.\2"),
    (r"head\.encoder\.(\d)\.feedforward_norm\.(.+)", r"transformer.encoder.layers.\1.norm2.\2"),
    (r"head\.decoder\.(\d)\.cross_norm\.(.+)", r"transformer.decoder.layers.\1.norm1.\2"),
    (r"head\.decoder\.(\d)\.self_norm\.(.+)", r"transformer.decoder.layers.\1.norm2.\2"),
    (r"head\.decoder\.(\d)\.feedforward_norm\.(.+)", r"transformer.decoder.layers.\1.norm3.\2"),
]  # fmt: skip
MMDET = [
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"neck\.projections\.3\.conv\.(.+)", r"neck.extra_convs.0.conv.\1"),
    (r"neck\.projections\.3\.norm\.(.+)", r"neck.extra_convs.0.gn.\1"),
    (r"neck\.projections\.(\d)\.conv\.(.+)", r"neck.convs.\1.conv.\2"),
    (r"neck\.projections\.(\d)\.norm\.(.+)", r"neck.convs.\1.gn.\2"),
    (r"head\.level", "level_embed"),
    (r"head\.queries\.weight", "query_embedding.weight"),
    (r"head\.reference_points\.(.+)", r"reference_points_fc.\1"),
    (r"head\.proposal\.0\.(.+)", r"memory_trans_fc.\1"),
    (r"head\.proposal\.1\.(.+)", r"memory_trans_norm.\1"),
    (r"head\.queries\.0\.(.+)", r"pos_trans_fc.\1"),
    (r"head\.queries\.1\.(.+)", r"pos_trans_norm.\1"),
    (r"head\.cls\.(\d)\.(.+)", r"bbox_head.cls_branches.\1.\2"),
    (r"head\.box\.(\d)\.(\d)\.(.+)", r"bbox_head.reg_branches.\1.\2.\3"),
    *((rf"head\.encoder\.(\d)\.attention\.{a}\.(.+)", rf"encoder.layers.\1.self_attn.{b}.\2")
      for a, b in {**READING, "output": "output_proj"}.items()),
    *((rf"head\.decoder\.(\d)\.cross_attention\.{a}\.(.+)", rf"decoder.layers.\1.cross_attn.{b}.\2")
      for a, b in {**READING, "output": "output_proj"}.items()),
    (r"head\.decoder\.(\d)\.self_attention\.output\.(.+)", r"decoder.layers.\1.self_attn.attn.out_proj.\2"),
    (r"head\.(encoder|decoder)\.(\d)\.feedforward\.expand\.(.+)", r"\1.layers.\2.ffn.layers.0.0.\3"),
    (r"head\.(encoder|decoder)\.(\d)\.feedforward\.reduce\.(.+)", r"\1.layers.\2.ffn.layers.1.\3"),
    (r"head\.encoder\.(\d)\.attention_norm\.(.+)", r"encoder.layers.\1.norms.0.\2"),
    (r"head\.encoder\.(\d)\.feedforward_norm\.(.+)", r"encoder.layers.\1.norms.1.\2"),
    (r"head\.decoder\.(\d)\.self_norm\.(.+)", r"decoder.layers.\1.norms.0.\2"),
    (r"head\.decoder\.(\d)\.cross_norm\.(.+)", r"decoder.layers.\1.norms.1.\2"),
    (r"head\.decoder\.(\d)\.feedforward_norm\.(.+)", r"decoder.layers.\1.norms.2.\2"),
]  # fmt: skip
PLACES = {"deformable_detr": "transformer.decoder.layers.{}.self_attn.", "mmdet": "decoder.layers.{}.self_attn.attn."}
LAYERS = {
    "deformable_detr": ("class_embed", "bbox_embed"),
    "mmdet": ("bbox_head.cls_branches", "bbox_head.reg_branches"),
}


def build(form: str, seed: int = 0) -> Detector:
    """Every tensor is drawn."""
    torch.manual_seed(seed)
    model = headway.create_model("deformable_detr_r50", **SMALL, **FORMS[form])
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            tensor.normal_()
    return model


def published(model: Detector, source: str) -> dict[str, Tensor]:
    """The model's tensors as `source` has them: projections of self-attention in one tensor; without refinement the
    same class and box layers for every decoder layer; with it, at the authors', a second time inside the decoder."""
    state = {}
    for key, tensor in model.state_dict().items():
        if re.search(r"self_attention\.(query|key|value)", key) or key.endswith("num_batches_tracked"):
            continue
        name = next(
            (re.sub(a, b, key) for a, b in (OFFICIAL if source == "deformable_detr" else MMDET) if re.fullmatch(a, key))
        )
        assert name not in state
        state[name] = tensor
    for i, layer in enumerate(model.head.decoder):
        parts = [layer.self_attention.query, layer.self_attention.key, layer.self_attention.value]
        place = PLACES[source].format(i)
        state[f"{place}in_proj_weight"] = torch.cat([part.weight for part in parts]).detach()
        state[f"{place}in_proj_bias"] = torch.cat([part.bias for part in parts]).detach()
    if not model.head.refine:
        for kind in LAYERS[source]:
            for key in [key for key in state if key.startswith(f"{kind}.0.")]:
                state[key.replace(f"{kind}.0.", f"{kind}.1.")] = state[key]
    elif source == "deformable_detr":
        copied = LAYERS[source] if model.head.two_stage else LAYERS[source][1:]
        state |= {f"transformer.decoder.{key}": tensor for key, tensor in state.items() if key.startswith(copied)}
    return state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", ["deformable_detr", "mmdet"])
def test_published_names_fill_the_model(form, source):
    drawn = build(form)
    converted = from_upstream(published(drawn, source), source, build(form, seed=1))
    expected = drawn.state_dict()
    assert set(converted) == set(expected)
    for key, tensor in converted.items():
        assert torch.equal(tensor, expected[key]), key


def test_refining_layers_are_read_under_either_name():
    model = build("refined")
    state = published(model, "deformable_detr")
    inside = {key for key in state if key.startswith("transformer.decoder.bbox_embed")}
    assert len(inside) == 12
    only_inside = {key: t for key, t in state.items() if not key.startswith("bbox_embed")}
    only_outside = {key: t for key, t in state.items() if key not in inside}
    whole = from_upstream(state, "deformable_detr", model)
    for part in (only_inside, only_outside):
        converted = from_upstream(part, "deformable_detr", model)
        assert all(torch.equal(converted[key], whole[key]) for key in whole)


def test_another_form_is_refused():
    """Of two decoder layers: proposals have a third class layer."""
    with pytest.raises(CheckpointError, match=r"8 upstream keys unmapped: class_embed\.2.*enc_output.*not filled"):
        from_upstream(published(build("two stages"), "deformable_detr"), "deformable_detr", build("refined"))
    with pytest.raises(CheckpointError, match=r"not filled: .*head\.cls\.2"):
        from_upstream(published(build("plain"), "mmdet"), "mmdet", build("two stages"))
