"""A detector and a data set small enough that a whole training takes a second.

The head predicts, per cell of stride 8, class logits and a box as distances; its losses are plain torch, and it
divides by the boxes of all processes, as every head must.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from headway.data.dataset import DetectionData, Record
from headway.detector import Detector
from headway.factory import create_model
from headway.losses import reduce_mean
from headway.registry import register_backbone, register_head
from headway.types import Candidates, Frame, Levels, Losses, Target

NAMES = ("red", "green", "blue")
STRIDE = 8


class Raw(NamedTuple):
    logits: Tensor  # [B, C, h, w]
    sides: Tensor  # [B, 4, h, w] log of distances in strides


class TinyHead(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Conv2d(channels, classes, 3, padding=1)
        self.sides = nn.Conv2d(channels, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> Raw:
        return Raw(self.classes(features[0]), self.sides(features[0]) * self.scale)

    def decode(self, raw: Raw) -> Candidates:
        centres = self.centres(raw)
        sides = raw.sides.exp().flatten(2).transpose(1, 2) * STRIDE
        boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1).clamp(min=0)
        scores, labels = raw.logits.sigmoid().flatten(2).transpose(1, 2).max(-1)
        return Candidates(boxes, scores, labels)

    def loss(self, raw: Raw, targets: list[Target]) -> Losses:
        wanted = torch.zeros_like(raw.logits)
        distance = raw.sides.sum() * 0
        for index, target in enumerate(targets):
            for box, label in zip(target.boxes, target.labels):
                x, y = ((box[:2] + box[2:]) / 2 / STRIDE).long().tolist()
                x, y = min(x, raw.logits.shape[3] - 1), min(y, raw.logits.shape[2] - 1)
                wanted[index, label, y, x] = 1
                centre = torch.tensor([x + 0.5, y + 0.5], device=box.device) * STRIDE
                sides = (torch.cat([centre - box[:2], box[2:] - centre]).clamp(min=1) / STRIDE).log()
                distance = distance + F.l1_loss(raw.sides[index, :, y, x], sides)
        count = reduce_mean(wanted.sum()).clamp(min=1)
        classes = F.binary_cross_entropy_with_logits(raw.logits, wanted, reduction="sum") / count
        return Losses({"classes": classes, "boxes": distance / count}, {"positives_per_image": count / len(targets)})

    def centres(self, raw: Raw) -> Tensor:
        height, width = raw.logits.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return (torch.stack([x, y], -1).reshape(1, -1, 2).to(raw.logits) + 0.5) * STRIDE


class TinyBackbone(nn.Module):
    """Three strided convolutions; dropout makes the weights depend on the random generator."""

    def __init__(self, frozen_norm: bool, dropout: float) -> None:
        super().__init__()
        self.frozen_norm = frozen_norm
        self.levels = Levels((STRIDE,), (16,))
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip

    def train(self, mode: bool = True) -> TinyBackbone:
        super().train(mode)
        for module in self.modules():
            if self.frozen_norm and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.body(images)]


@register_backbone("train_tiny_body")
def tiny_body(*, frozen_norm: bool = False, dropout: float = 0.1) -> TinyBackbone:
    """Three strided convolutions."""
    return TinyBackbone(frozen_norm, dropout)


@register_head("train_tiny_head")
def tiny_head(inputs: Levels, *, num_classes: int) -> TinyHead:
    """Class logits and a box in every cell."""
    head = TinyHead(inputs.channels[0], num_classes)
    head.card = {"input_size": (64, 64), "pad_multiple": 8, "score_threshold": 0.1, "nms_iou": 0.5}
    return head


def make_model(seed: int = 0, **arguments: Any) -> Detector:
    """A tiny detector with seeded weights."""
    torch.manual_seed(seed)
    return create_model("train_tiny_body/train_tiny_head", class_names=NAMES, **arguments)


def make_data(folder: Path, count: int, *, seed: int = 0, size: int = 64, name: str = "train") -> DetectionData:
    """`count` square pictures with one to three coloured rectangles each, all of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_from = random.Random(seed)
    records = []
    for index in range(count):
        picture = Image.new("RGB", (size, size), (30, 30, 30))
        pen = ImageDraw.Draw(picture)
        boxes, labels = [], []
        for _ in range(draw_from.randint(1, 3)):
            width, height = draw_from.randint(12, 24), draw_from.randint(12, 24)
            x, y = draw_from.randint(0, size - width), draw_from.randint(0, size - height)
            label = draw_from.randrange(3)
            colour = [20, 20, 20]
            colour[label] = 230
            pen.rectangle((x, y, x + width - 1, y + height - 1), fill=tuple(colour))
            boxes.append((x, y, x + width, y + height))
            labels.append(label)
        path = folder / f"{name}{index:03}.png"
        if not path.exists():
            picture.save(path)
        array = np.array(boxes, dtype=np.float32)
        areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
        crowd = np.zeros(len(boxes), dtype=np.bool_)
        records.append(Record(index + 1, path, (size, size), array, np.array(labels), crowd, areas))
    return DetectionData(name, folder, "coco", records, NAMES, (1, 2, 3))
