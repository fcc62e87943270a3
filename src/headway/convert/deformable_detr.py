"""The names of fundamentalvision/Deformable-DETR (commit 48092c5), of Hugging Face's transformers and of mmdetection
3.3.0 (all Apache-2.0) for Deformable DETR to ours."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .detr import (
    FACEBOOK_FEEDFORWARD,
    HF_DECODER,
    HF_ENCODER,
    MMDET_DECODER,
    MMDET_ENCODER,
    layer_rules,
    plain_rules,
)
from .detr import prepare as split_projections
from .rules import Rule

_READING = {
    "sampling_offsets": "sampling_offsets", "attention_weights": "scores", "value_proj": "value",
    "output_proj": "output",
}  # fmt: skip
_SECOND_NAME = re.compile(r"(?:model|transformer)\.decoder\.((?:class|bbox)_embed\..+)")


def name_once(state_dict: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """Models that refine have their class and box layers a second time, inside the decoder; files may hold both names
    or either."""
    return {found[1] if (found := _SECOND_NAME.fullmatch(k)) else k: tensor for k, tensor in state_dict.items()}


def prepare(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """For `rules`: every tensor under one name, projections apart."""
    return split_projections(name_once(state_dict, model), model)


def rules(model: nn.Module) -> list[Rule]:
    """fundamentalvision's table."""
    encoder = {"norm1": "attention_norm", "norm2": "feedforward_norm", **FACEBOOK_FEEDFORWARD}
    decoder = {"norm1": "cross_norm", "norm2": "self_norm", "norm3": "feedforward_norm", **FACEBOOK_FEEDFORWARD}
    return [
        Rule(r"backbone\.0\.body\.(.+)", r"backbone.body.\1"),
        Rule(r"query_embed\.weight", "head.queries.weight"),
        Rule(r"transformer\.level_embed", "head.level"),
        *_layers(r"transformer\.{}\.layers", encoder, decoder, "cross_attn"),
        *_single(r"transformer\.", r"input_proj\.{}\.0", r"input_proj\.{}\.1", len(model.neck.projections)),
        *_outputs(model, "class_embed", r"bbox_embed\.{}\.layers\.{}", (0, 1, 2)),
    ]


def hf_rules(model: nn.Module) -> list[Rule]:
    """transformers' table, of version 5 and of files from version 4."""
    place = r"model\.input_proj\.{}\."
    return [
        Rule(r"model\.backbone\.(?:conv_encoder\.)?model\.(.+)", r"backbone.body.\1"),
        Rule(r"model\.query_position_embeddings\.weight", "head.queries.weight"),
        Rule(r"model\.level_embed", "head.level"),
        *_layers(r"model\.{}\.layers", HF_ENCODER, HF_DECODER, "encoder_attn"),
        *_single(r"model\.", place + "0", place + "1", len(model.neck.projections)),
        *_outputs(model, "class_embed", r"bbox_embed\.{}\.layers\.{}", (0, 1, 2)),
    ]


def mmdet_rules(model: nn.Module) -> list[Rule]:
    """mmdetection's table."""
    inputs = min(3, len(model.neck.projections))
    extras = {rf"neck\.extra_convs\.{i}": inputs + i for i in range(len(model.neck.projections) - inputs)}
    return [
        Rule(r"backbone\.(.+)", r"backbone.body.\1"),
        Rule(r"query_embedding\.weight", "head.queries.weight"),
        Rule(r"level_embed", "head.level"),
        *_layers(r"{}\.layers", MMDET_ENCODER, MMDET_DECODER, "cross_attn", r"self_attn\.attn"),
        *_single("", r"neck\.convs\.{}\.conv", r"neck\.convs\.{}\.gn", inputs),
        *plain_rules({rf"{theirs}\.conv": f"neck.projections.{i}.conv" for theirs, i in extras.items()}),
        *plain_rules({rf"{theirs}\.gn": f"neck.projections.{i}.norm" for theirs, i in extras.items()}),
        *_outputs(model, r"bbox_head\.cls_branches", r"bbox_head\.reg_branches\.{}\.{}", (0, 2, 4)),
    ]


def _layers(
    place: str, encoder: dict[str, str], decoder: dict[str, str], cross: str, self_attention: str = "self_attn"
) -> list[Rule]:
    """Of the transformer. place: pattern with a gap for "encoder" and "decoder"; cross, self_attention: theirs for the
    decoder's attentions."""
    own = {rf"self_attn\.{theirs}": f"attention.{ours}" for theirs, ours in _READING.items()}
    crossing = {rf"{cross}\.{theirs}": f"cross_attention.{ours}" for theirs, ours in _READING.items()}
    return [
        *layer_rules(place.format("encoder"), "head.encoder", {}, {**own, **encoder}),
        *layer_rules(
            place.format("decoder"), "head.decoder", {self_attention: "self_attention"}, {**crossing, **decoder}
        ),
    ]


def _single(place: str, conv: str, norm: str, count: int) -> list[Rule]:
    """The `count` projections of the maps, and where queries come from."""
    names = {conv.format(i): f"neck.projections.{i}.conv" for i in range(count)}
    names |= {norm.format(i): f"neck.projections.{i}.norm" for i in range(count)}
    names |= {
        rf"{place}reference_points(?:_fc)?": "head.reference_points",
        rf"{place}(?:enc_output|memory_trans_fc)": "head.proposal.0",
        rf"{place}(?:enc_output_norm|memory_trans_norm)": "head.proposal.1",
        rf"{place}pos_trans(?:_fc)?": "head.queries.0",
        rf"{place}pos_trans_norm": "head.queries.1",
    }
    return plain_rules(names)


def _outputs(model: nn.Module, cls: str, box: str, layers: tuple[int, int, int]) -> list[Rule]:
    """Class and box layers. box: pattern with gaps for the decoder layer and for `layers`. A model that does not refine
    has one of each, which upstream stands under every decoder layer's number."""
    count, copy = len(model.head.cls), "of every decoder layer the same tensors"
    names = {rf"{cls}\.{i}": f"head.cls.{i}" for i in range(count)}
    names |= {box.format(i, theirs): f"head.box.{i}.{2 * k}" for i in range(count) for k, theirs in enumerate(layers)}
    copies = [] if model.head.refine else [cls + r"\.\d+\..+", box.format(r"\d+", r"\d+") + r"\..+"]
    return [*plain_rules(names), *(Rule(pattern, None, reason=copy) for pattern in copies)]
