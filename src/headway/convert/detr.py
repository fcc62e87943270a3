"""The names of facebookresearch/detr (commit 29901c5, Apache-2.0) and of mmdetection's DETR to ours."""

from collections.abc import Mapping

from torch import Tensor, nn

from .rules import Rule

_W = r"(?P<w>weight|bias)"
# What stands in a layer beside its attentions, by dialect, of DETR and of Deformable DETR (one has other norms).
FACEBOOK_FEEDFORWARD = {"linear1": "feedforward.expand", "linear2": "feedforward.reduce"}
_MMDET_FEEDFORWARD = {r"ffn\.layers\.0\.0": "feedforward.expand", r"ffn\.layers\.1": "feedforward.reduce"}
MMDET_ENCODER = {r"norms\.0": "attention_norm", r"norms\.1": "feedforward_norm", **_MMDET_FEEDFORWARD}
MMDET_DECODER = {
    r"norms\.0": "self_norm", r"norms\.1": "cross_norm", r"norms\.2": "feedforward_norm", **_MMDET_FEEDFORWARD,
}  # fmt: skip
_HF_LAYER = {
    "final_layer_norm": "feedforward_norm",
    r"(?:mlp\.)?fc1": "feedforward.expand", r"(?:mlp\.)?fc2": "feedforward.reduce",
}  # fmt: skip
HF_ENCODER = {"self_attn_layer_norm": "attention_norm", **_HF_LAYER}
HF_DECODER = {"self_attn_layer_norm": "self_norm", "encoder_attn_layer_norm": "cross_norm", **_HF_LAYER}
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "(?:o|out)_proj": "output"}


def prepare(state_dict: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """torch.nn.MultiheadAttention keeps query, key and value in one tensor, `in_proj_weight`; ours are apart:
    `q_proj.weight`, `k_proj.weight`, `v_proj.weight`."""
    result: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        place, joined, leaf = key.rpartition("in_proj_")
        if joined and leaf in ("weight", "bias"):
            result |= {f"{place}{name}_proj.{leaf}": part for name, part in zip("qkv", tensor.chunk(3))}
        else:
            result[key] = tensor
    return result


def layer_rules(theirs: str, ours: str, attentions: Mapping[str, str], others: Mapping[str, str]) -> list[Rule]:
    """Of numbered layers. theirs: a pattern and ours the place of the list of layers; attentions, others: patterns
    inside a layer -> our names, of attention modules (split as by `prepare`) and of plain layers."""
    inside = {rf"{a}\.{p}": f"{place}.{q}" for a, place in attentions.items() for p, q in _PROJECTIONS.items()}
    return [
        Rule(rf"{theirs}\.(?P<i>\d+)\.{pattern}\.{_W}", rf"{ours}.\g<i>.{target}.\g<w>")
        for pattern, target in (inside | dict(others)).items()
    ]


def plain_rules(names: Mapping[str, str]) -> list[Rule]:
    """Of single layers: patterns -> our names, each with weight and bias."""
    return [Rule(rf"{pattern}\.{_W}", rf"{target}.\g<w>") for pattern, target in names.items()]


def rules(_: nn.Module) -> list[Rule]:
    """facebookresearch/detr's table."""
    return [
        Rule(r"backbone\.0\.body\.(.+)", r"backbone.body.\1"),
        Rule(r"query_embed\.weight", "head.queries.weight"),
        *plain_rules({"input_proj": "neck.conv", "class_embed": "head.cls"}),
        *plain_rules({rf"bbox_embed\.layers\.{i}": f"head.box.{2 * i}" for i in range(3)}),
        *layer_rules(
            r"transformer\.encoder\.layers", "head.encoder", {"self_attn": "attention"},
            {"norm1": "attention_norm", "norm2": "feedforward_norm", **FACEBOOK_FEEDFORWARD},
        ),
        *layer_rules(
            r"transformer\.decoder\.layers", "head.decoder",
            {"self_attn": "self_attention", "multihead_attn": "cross_attention"},
            {"norm1": "self_norm", "norm2": "cross_norm", "norm3": "feedforward_norm", **FACEBOOK_FEEDFORWARD},
        ),
        *plain_rules({r"transformer\.decoder\.norm": "head.decoder_norm"}),
    ]  # fmt: skip


def mmdet_rules(_: nn.Module) -> list[Rule]:
    """mmdetection 3.3.0's table (Apache-2.0)."""
    return [
        Rule(r"backbone\.(.+)", r"backbone.body.\1"),
        Rule(r"query_embedding\.weight", "head.queries.weight"),
        *plain_rules({r"neck\.convs\.0\.conv": "neck.conv", r"bbox_head\.fc_cls": "head.cls"}),
        *plain_rules({r"bbox_head\.reg_ffn\.layers\.0\.0": "head.box.0", r"decoder\.post_norm": "head.decoder_norm"}),
        *plain_rules({r"bbox_head\.reg_ffn\.layers\.1": "head.box.2", r"bbox_head\.fc_reg": "head.box.4"}),
        *layer_rules(r"encoder\.layers", "head.encoder", {r"self_attn\.attn": "attention"}, MMDET_ENCODER),
        *layer_rules(
            r"decoder\.layers", "head.decoder",
            {r"self_attn\.attn": "self_attention", r"cross_attn\.attn": "cross_attention"}, MMDET_DECODER,
        ),
    ]  # fmt: skip
