"""DETR against transformers' DetrForObjectDetection with random weights: outputs, matching, losses of every layer.

With `auxiliary_loss` transformers 5.23 hands each decoder layer's output to the next one normalised, which neither the
published code nor mmdetection do; so the networks run without it, and each layer is watched.
"""

import pytest
import torch
from torch import Tensor

import headway
from headway.assign import NEGATIVE
from headway.boxes import to_cxcywh
from headway.convert import from_upstream
from headway.heads.set_loss import SetWeights, match_sets, set_cost
from headway.types import Target

transformers = pytest.importorskip("transformers")
object_detection = pytest.importorskip("transformers.loss.loss_for_object_detection")

CLASSES, LAYERS = 7, 3
SMALL = {"channels": 64, "heads": 4, "encoder_layers": 2, "decoder_layers": LAYERS, "feedforward": 96, "queries": 20}
NAMES = {"loss_ce": ("cls", 1), "loss_bbox": ("box", 5), "loss_giou": ("giou", 2)}


def pair(dc5: bool = False):
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        num_labels=CLASSES, use_timm_backbone=True, use_pretrained_backbone=False, backbone="resnet18", d_model=64,
        encoder_layers=2, decoder_layers=LAYERS, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=96, decoder_ffn_dim=96, num_queries=20, dilation=dc5,
    )  # fmt: skip
    theirs = transformers.DetrForObjectDetection(config).eval()
    constants = {name: b for name, b in theirs.named_buffers() if b.is_floating_point()}
    with torch.no_grad():  # as drawn by default all queries give the same box
        for name, tensor in (*constants.items(), *theirs.named_parameters()):
            if tensor.dim() > 1:
                tensor.normal_(std=1.0 if "query" in name else tensor[0].numel() ** -0.5)
            elif name.endswith(("weight", "running_var")):
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(std=0.1)
    name = "detr_r50_dc5" if dc5 else "detr_r50"
    ours = headway.create_model(name, backbone="resnet18", num_classes=CLASSES, **SMALL).eval()
    ours.load_state_dict(from_upstream(theirs.state_dict(), "hf", ours))
    ours.normalize = torch.nn.Identity()
    return ours, theirs


def batch(padded: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [2, 3, H, W], zero in their padding, their sizes and upstream's mask of pixels."""
    images = torch.randn(len(sizes), 3, *padded, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(len(sizes), *padded, dtype=torch.int64)
    for i, (height, width) in enumerate(sizes):
        mask[i, :height, :width] = 1
    return images * mask[:, None], torch.tensor(sizes), mask


BATCHES = {
    "multiples of 32": ((96, 160), [(96, 160), (64, 96)]),
    "padded to the largest": ((133, 171), [(133, 97), (70, 171)]),
    "a cell's edge": ((130, 130), [(130, 102), (79, 130)]),
    "padded beyond all": ((150, 190), [(97, 128), (33, 161)]),
    "whole": ((75, 101), [(75, 101), (75, 101)]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_outputs_of_a_padded_batch(name):
    ours, theirs = pair()
    images, sizes, mask = batch(*BATCHES[name])
    layers: list[Tensor] = []
    for layer in theirs.model.decoder.layers:
        layer.register_forward_hook(lambda _, __, x: layers.append(x))
    with torch.no_grad():
        expected, raw = theirs(images, mask), ours(images, sizes)
        hidden = [theirs.model.decoder.layernorm(x) for x in layers]
    assert expected.pred_boxes.std(1).mean() > 0.003
    for i, x in enumerate(hidden):
        torch.testing.assert_close(raw.cls[i], theirs.class_labels_classifier(x), atol=2e-5, rtol=0)
        torch.testing.assert_close(raw.box[i], theirs.bbox_predictor(x).sigmoid(), atol=2e-6, rtol=0)
    torch.testing.assert_close(raw.cls[-1], expected.logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(raw.box[-1], expected.pred_boxes, atol=2e-6, rtol=0)


def test_outputs_with_a_dilated_last_stage():
    ours, theirs = pair(dc5=True)
    images, sizes, mask = batch((97, 130), [(97, 130), (60, 100)])
    with torch.no_grad():
        expected, raw = theirs(images, mask), ours(images, sizes)
    torch.testing.assert_close(raw.cls[-1], expected.logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(raw.box[-1], expected.pred_boxes, atol=2e-6, rtol=0)


def test_postprocessing():
    """Boxes in pixels; theirs are not clipped."""
    ours, theirs = pair()
    images, sizes, mask = batch((96, 160), [(96, 160), (64, 96)])
    processor = transformers.DetrImageProcessor()
    with torch.no_grad():
        rows = processor.post_process_object_detection(theirs(images, mask), threshold=0.0, target_sizes=sizes)
    found = ours.detect(images, sizes, score_threshold=0.0)
    for row, mine, (height, width) in zip(rows, found, sizes.tolist()):
        order = row["scores"].argsort(descending=True)
        clipped = row["boxes"][order].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        torch.testing.assert_close(mine.scores, row["scores"][order], atol=1e-5, rtol=0)
        assert mine.labels.tolist() == row["labels"][order].tolist()
        torch.testing.assert_close(mine.boxes, clipped, atol=1e-3, rtol=0)


# --------------------------------------------------------------------------------------------------- other names
FACEBOOK = {  # of transformers' names those of facebookresearch/detr, in the order in which they are exchanged
    "model.backbone.model.": "backbone.0.body.",
    "model.input_projection": "input_proj",
    "model.query_position_embeddings": "query_embed",
    "class_labels_classifier": "class_embed",
    "bbox_predictor": "bbox_embed",
    "model.decoder.layernorm": "transformer.decoder.norm",
    "model.": "transformer.",
    "mlp.fc": "linear",
    "o_proj": "out_proj",
    "encoder_attn_layer_norm": "norm2",
    "self_attn_layer_norm": "norm1",
    "encoder_attn": "multihead_attn",
}


def facebook_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        last = "norm2" if "encoder.layers" in key else "norm3"
        key = key if "backbone" in key else key.replace("final_layer_norm", last)
        for theirs, other in FACEBOOK.items():
            key = key.replace(theirs, other)
        renamed[key] = tensor
    for place in [key.removesuffix("q_proj.weight") for key in renamed if key.endswith("q_proj.weight")]:
        for leaf in ("weight", "bias"):
            joined = torch.cat([renamed.pop(f"{place}{name}_proj.{leaf}") for name in "qkv"])
            renamed[f"{place}in_proj_{leaf}"] = joined
    return renamed


def test_facebooks_names_and_those_of_version_4():
    ours, theirs = pair()
    state = theirs.state_dict()
    expected = ours.state_dict()
    facebook = facebook_names(state)
    assert "transformer.decoder.layers.2.multihead_attn.in_proj_weight" in facebook
    assert "transformer.encoder.layers.1.linear2.bias" in facebook
    older = {
        key.replace("backbone.model", "backbone.conv_encoder.model")
        .replace("mlp.", "")
        .replace("o_proj", "out_proj"): v
        for key, v in state.items()
    }
    for source, names in (("detr", facebook), ("hf", older)):
        converted = from_upstream(names, source, ours)
        assert set(converted) == set(expected)
        for name, tensor in converted.items():
            assert torch.equal(tensor, expected[name]), name


# ---------------------------------------------------------------------------------------------- matching and losses
def truths(sizes: Tensor, counts: list[int]) -> tuple[list[Target], list[dict[str, Tensor]]]:
    """Random boxes in both forms: pixels, and cxcywh in parts of the picture."""
    generator = torch.Generator().manual_seed(2)
    targets, rows = [], []
    for size, count in zip(sizes, counts):
        whole = size.flip(0).repeat(2)
        low, high = torch.rand(2, count, 2, generator=generator).sort(0).values
        boxes = torch.cat([low, high], 1) * whole
        labels = torch.randint(CLASSES, (count,), generator=generator)
        targets.append(Target(boxes, labels))
        rows.append({"boxes": to_cxcywh(boxes) / whole, "class_labels": labels})
    return targets, rows


def outputs(queries: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    cls = 2 * torch.randn(LAYERS, 2, queries, CLASSES + 1, generator=generator)
    return cls, torch.rand(LAYERS, 2, queries, 4, generator=generator) * 0.5 + 0.2


def test_costs_and_matching(monkeypatch):
    """Their costs of the whole batch are what reaches scipy, image by image."""
    cls, box = outputs()
    targets, rows = truths(torch.tensor([[100, 150], [80, 60]]), [5, 3])
    costs: list[Tensor] = []
    solve = object_detection.linear_sum_assignment
    monkeypatch.setattr(object_detection, "linear_sum_assignment", lambda c: (costs.append(c), solve(c))[1])
    matcher = object_detection.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    pairs = matcher({"logits": cls[0], "pred_boxes": box[0]}, rows)
    labels, boxes = [t.labels for t in targets], [row["boxes"] for row in rows]
    matched = match_sets(cls[:1], box[:1], labels, boxes, SetWeights(), "softmax")[0]
    for i, (queries, objects) in enumerate(pairs):
        mine = set_cost(cls[0, i], box[0, i], labels[i], boxes[i], SetWeights())
        torch.testing.assert_close(mine, costs[i], atol=2e-6, rtol=1e-5)
        assert (matched[i] != NEGATIVE).nonzero().squeeze(1).tolist() == queries.tolist()
        assert matched[i][queries].tolist() == objects.tolist()


@pytest.mark.parametrize("counts", [[5, 3], [4, 0], [15, 2], [0, 0]])
def test_losses_of_every_layer(counts):
    """Also with more objects than queries, and with none at all."""
    model = headway.create_model("detr_r50", backbone="resnet18", num_classes=CLASSES, **SMALL)
    sizes = torch.tensor([[100, 150], [80, 60]])
    cls, box = outputs()
    targets, rows = truths(sizes, counts)
    config = transformers.DetrConfig(num_labels=CLASSES, auxiliary_loss=True, decoder_layers=LAYERS)
    total, terms, _ = object_detection.ForObjectDetectionLoss(
        cls[-1], rows, cls.device, box[-1], config, outputs_class=cls, outputs_coord=box
    )
    raw = headway.heads.detr.DetrRaw(cls, box, sizes)
    losses = model.loss(raw, targets)
    assert len(losses.terms) == 3 * LAYERS
    for theirs, (mine, weight) in NAMES.items():
        for suffix in ("", *(f"_{i}" for i in range(LAYERS - 1))):
            expected = terms[theirs + suffix].item() * weight
            assert losses.terms[mine + suffix].item() == pytest.approx(expected, rel=2e-5, abs=1e-6), mine + suffix
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-5)


def test_gradients_through_the_network():
    """Of the last layer's terms."""
    ours, theirs = pair()
    images, sizes, mask = batch((96, 128), [(96, 100), (64, 128)])
    targets, rows = truths(sizes, [4, 2])
    theirs(images, mask, labels=rows).loss.backward()
    terms = ours.loss(ours(images, sizes), targets).terms
    sum(terms[name] for name, _ in NAMES.values()).backward()
    for mine, other in (
        (ours.head.queries.weight, theirs.model.query_position_embeddings.weight),
        (ours.head.encoder[0].attention.key.weight, theirs.model.encoder.layers[0].self_attn.k_proj.weight),
        (ours.neck.conv.weight, theirs.model.input_projection.weight),
        (ours.head.box[0].weight, theirs.bbox_predictor.layers[0].weight),
    ):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4 * other.grad.abs().max().item())
