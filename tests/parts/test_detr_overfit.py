"""DETR learns two painted pictures by heart, from random weights."""

import pytest
import torch

import headway
from headway.boxes import aligned_iou
from headway.types import Target


@pytest.mark.slow
def test_learns_two_pictures():
    """Two rectangles each, one bright in red, one in green, of eight queries; the others say "no object"."""
    torch.manual_seed(0)
    model = headway.create_model(
        "detr_tiny", num_classes=2, channels=64, encoder_layers=1, decoder_layers=2, feedforward=128, queries=8,
        dropout=0.0,
    ).train()  # fmt: skip
    images, targets = torch.rand(2, 3, 64, 96) * 0.2, []
    for i, image in enumerate(images):
        boxes = torch.tensor([[6, 6, 40, 40], [50, 14, 86, 50]]) + 6 * i
        for channel, (x1, y1, x2, y2) in zip(image, boxes.tolist()):
            channel[y1:y2, x1:x2] = 0.9
        targets.append(Target(boxes.float(), torch.tensor([0, 1])))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=1e-4)
    losses = []
    for _ in range(80):
        loss = model.loss(model(images), targets).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    found = model.eval().detect(images, score_threshold=0.5)
    for mine, target in zip(found, targets):
        order = mine.labels.argsort()
        assert mine.labels[order].tolist() == [0, 1]
        assert aligned_iou(mine.boxes[order], target.boxes).min() > 0.75
