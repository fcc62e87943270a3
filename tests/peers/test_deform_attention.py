"""Our deformable attention with the weights of transformers' gives its output and its gradients."""

import pytest
import torch
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention

from headway.layers.deform_attention import DeformableAttention

SHAPES = [(7, 9), (4, 5), (2, 3), (1, 2)]
CELLS = sum(height * width for height, width in SHAPES)
NAMES = {
    "sampling_offsets": "sampling_offsets",
    "attention_weights": "scores",
    "value_proj": "value",
    "output_proj": "output",
}


def pair(channels=32, heads=4, points=3):
    config = DeformableDetrConfig(d_model=channels, num_feature_levels=len(SHAPES))
    theirs = DeformableDetrMultiscaleDeformableAttention(config, num_heads=heads, n_points=points).double()
    ours = DeformableAttention(channels, heads, len(SHAPES), points).double()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {}
    for key, value in theirs.state_dict().items():
        name, kind = key.rsplit(".", 1)
        state[f"{NAMES[name]}.{kind}"] = value
    ours.load_state_dict(state)
    return theirs, ours


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_output_and_gradients(coordinates, masked):
    theirs, ours = pair()
    query, memory = (torch.randn(2, n, 32, dtype=torch.float64, requires_grad=True) for n in (11, CELLS))
    reference = torch.rand(2, 11, len(SHAPES), coordinates, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, CELLS) < 0.7 if masked else None
    expected, _ = theirs(
        query,
        attention_mask=mask,
        encoder_hidden_states=memory,
        reference_points=reference,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=SHAPES,
    )
    result = ours(query, reference, memory, SHAPES, mask)
    torch.testing.assert_close(result, expected)
    seen = torch.randn_like(expected)
    wanted = [query, memory, reference]
    mine = torch.autograd.grad((result * seen).sum(), [*wanted, *ours.parameters()])
    other = torch.autograd.grad((expected * seen).sum(), [*wanted, *theirs.parameters()])
    for a, b in zip(mine, other):
        assert a.any()
        torch.testing.assert_close(a, b)
