"""Our Deformable DETR with the weights of transformers' gives its maps, boxes and losses."""

import pytest
import torch
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

import headway
from headway.boxes import to_cxcywh
from headway.convert import from_upstream
from headway.types import Target

CLASSES = 5
FORMS = {
    "plain": {},
    "single scale": {"num_feature_levels": 1},
    "refined": {"with_box_refine": True},
    "two stages": {"with_box_refine": True, "two_stage": True},
}
SIZES = [(160, 131), (97, 192)]  # of a batch padded to 160 x 192


def build(form: str) -> tuple[DeformableDetrForObjectDetection, headway.detector.Detector]:
    """Theirs with every tensor drawn, so that no zero hides a difference, and ours with the same."""
    torch.manual_seed(0)
    config = DeformableDetrConfig(
        backbone="resnet18", d_model=64, encoder_attention_heads=4, decoder_attention_heads=4, encoder_layers=2,
        decoder_layers=3, encoder_ffn_dim=96, decoder_ffn_dim=96, encoder_n_points=3, decoder_n_points=3,
        num_queries=12, two_stage_num_proposals=12, num_labels=CLASSES, class_cost=2, auxiliary_loss=True,
        **FORMS[form],
    )  # fmt: skip
    theirs = DeformableDetrForObjectDetection(config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in theirs.state_dict().items():
        if "backbone" in name:  # drawn already, but for norms that start at zero
            tensor += 0.5 if name.endswith("bn2.weight") and not tensor.any() else 0
            continue
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    two = FORMS[form]
    ours = headway.create_model(
        "deformable_detr_r50", backbone="resnet18", num_classes=CLASSES, levels=config.num_feature_levels,
        strides=(8, 16, 32)[-config.num_feature_levels :], channels=64, heads=4, points=3, encoder_layers=2,
        decoder_layers=3, feedforward=96, queries=12,
        refine_boxes="with_box_refine" in two, two_stage="two_stage" in two,
    ).eval()  # fmt: skip
    ours.load_state_dict(from_upstream(theirs.state_dict(), "hf", ours))
    ours.normalize = torch.nn.Identity()
    return theirs, ours


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, the mask of their pixels and their sizes."""
    generator = torch.Generator().manual_seed(2)
    images, mask = torch.zeros(2, 3, 160, 192), torch.zeros(2, 160, 192, dtype=torch.long)
    for i, (height, width) in enumerate(SIZES):
        images[i, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        mask[i, :height, :width] = 1
    return images, mask, torch.tensor(SIZES)


def targets() -> list[Target]:
    boxes = [[[10.0, 20, 60, 80], [5, 5, 130, 150], [70, 30, 90, 90]], [[100, 10, 180, 90]]]
    return [Target(torch.tensor(b), torch.arange(len(b)) + i) for i, b in enumerate(boxes)]


def as_theirs(targets: list[Target], sizes: Tensor) -> list[dict[str, Tensor]]:
    whole = sizes.flip(1).repeat(1, 2)
    return [{"class_labels": t.labels, "boxes": to_cxcywh(t.boxes) / size} for t, size in zip(targets, whole)]


@pytest.fixture(scope="module", params=FORMS)
def pair(request):
    return build(request.param)


def test_every_layers_logits_and_boxes(pair):
    theirs, ours = pair
    images, mask, sizes = batch()
    with torch.no_grad():
        expected = theirs(images, mask, labels=as_theirs(targets(), sizes))
        raw = ours(images, sizes)
    layers = [*expected.auxiliary_outputs, {"logits": expected.logits, "pred_boxes": expected.pred_boxes}]
    assert raw.cls.shape == (3, 2, 12, CLASSES)
    torch.testing.assert_close(raw.cls, torch.stack([layer["logits"] for layer in layers]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(raw.box, torch.stack([layer["pred_boxes"] for layer in layers]), atol=5e-6, rtol=1e-5)
    assert raw.cls.std() > 0.1
    assert raw.box.std() > 0.05
    if expected.enc_outputs_class is not None:
        torch.testing.assert_close(raw.proposal_cls, expected.enc_outputs_class, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(raw.proposal_box, expected.enc_outputs_coord_logits.sigmoid(), atol=5e-6, rtol=1e-5)


def test_losses_and_gradients(pair):
    """Ours are weighted, theirs not; only the class loss has another weight there (1)."""
    theirs, ours = pair
    images, mask, sizes = batch()
    expected = theirs(images, mask, labels=as_theirs(targets(), sizes))
    losses = ours.loss(ours(images, sizes), targets())
    weights = {"cls": ("loss_ce", 2), "box": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    layers = ["", "_0", "_1"]
    for name, (their_name, weight) in weights.items():
        for layer in layers:
            torch.testing.assert_close(losses.terms[name + layer], weight * expected.loss_dict[their_name + layer])
    seen = {
        "backbone.body.layer2.0.conv1.weight": "model.backbone.model.layer2.0.conv1.weight",
        "head.encoder.0.attention.sampling_offsets.weight": "model.encoder.layers.0.self_attn.sampling_offsets.weight",
        "head.decoder.1.self_attention.key.weight": "model.decoder.layers.1.self_attn.k_proj.weight",
    }
    total = sum(losses.terms[name + layer] for name in weights for layer in layers)
    wanted = sum(weight * expected.loss_dict[name + layer] for name, weight in weights.values() for layer in layers)
    mine = torch.autograd.grad(total, [dict(ours.named_parameters())[name] for name in seen])
    other = torch.autograd.grad(wanted, [dict(theirs.named_parameters())[name] for name in seen.values()])
    for a, b in zip(mine, other):
        assert a.any()
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "flags", "parameters"),
    [
        ("deformable_detr_r50", {}, 40_069_665),
        ("deformable_detr_r50_refine", {"with_box_refine": True}, 40_849_660),
        ("deformable_detr_r50_two_stage", {"with_box_refine": True, "two_stage": True}, 41_181_529),
    ],
)
def test_published_size(name, flags, parameters):
    """The authors' table has 40, 41 and 41 million. Norms of the backbone are constants in both. With refinement but
    without proposals transformers ties the six class layers, which the original copies."""
    with torch.device("meta"):
        theirs = DeformableDetrForObjectDetection(DeformableDetrConfig(num_labels=91, **flags))
        ours = headway.create_model(name, num_classes=91)
    tied = 5 * (256 * 91 + 91) if name.endswith("refine") else 0
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(p.numel() for p in theirs.parameters()) == parameters - tied
