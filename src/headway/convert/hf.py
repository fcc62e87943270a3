"""The names of Hugging Face's transformers 5 (Apache-2.0), and of its files from version 4, to ours."""

from torch import nn

from ..heads.deformable_detr import DeformableDetrHead
from .deformable_detr import hf_rules as deformable_detr_rules
from .deformable_detr import name_once as prepare  # noqa: F401  (read by `from_upstream`)
from .detr import HF_DECODER, HF_ENCODER, layer_rules, plain_rules
from .rules import Rule


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`, a DETR or Deformable DETR on a backbone of timm's."""
    if isinstance(model.head, DeformableDetrHead):
        return deformable_detr_rules(model)
    return [
        Rule(r"model\.backbone\.(?:conv_encoder\.)?model\.(.+)", r"backbone.body.\1"),
        Rule(r"model\.query_position_embeddings\.weight", "head.queries.weight"),
        *plain_rules({r"model\.input_projection": "neck.conv", "class_labels_classifier": "head.cls"}),
        *plain_rules({rf"bbox_predictor\.layers\.{i}": f"head.box.{2 * i}" for i in range(3)}),
        *layer_rules(r"model\.encoder\.layers", "head.encoder", {"self_attn": "attention"}, HF_ENCODER),
        *layer_rules(
            r"model\.decoder\.layers", "head.decoder",
            {"self_attn": "self_attention", "encoder_attn": "cross_attention"}, HF_DECODER,
        ),
        *plain_rules({r"model\.decoder\.layernorm": "head.decoder_norm"}),
    ]  # fmt: skip
