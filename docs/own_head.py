"""An own head in thirty lines, behind a Dynamic Head: built by a path, trained, evaluated, saved and loaded."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import headway
from headway.assign import fcos_points
from headway.boxes import clip, decode_ltrb
from headway.heads.parts import flatten, match
from headway.losses import giou, sigmoid_focal
from headway.priors import point_grid
from headway.types import Candidates, Frame, Levels, Losses, Priors, Target


class PointsRaw(NamedTuple):
    """cls [B, A, C] logits; box [B, A, 4] distances in pixels; points of all levels; sizes [B, 2] of the pictures."""

    cls: Tensor
    box: Tensor
    points: Priors
    sizes: Tensor


@headway.register_head("points", wants={"strides": (8, 16, 32), "levels": 3, "dyhead.blocks": 2})
class Points(nn.Module):
    """Class scores and four distances from every cell of a pyramid.

    keep: boxes of a picture, best first.
    """

    def __init__(self, inputs: Levels, *, num_classes: int, keep: int = 300) -> None:
        super().__init__()
        self.strides, self.num_classes, self.keep = inputs.strides, num_classes, keep
        self.card = {"nms_iou": 0.5}
        self.cls = nn.Conv2d(inputs.channels[0], num_classes, 3, padding=1)
        self.box = nn.Conv2d(inputs.channels[0], 4, 3, padding=1)
        nn.init.constant_(self.cls.bias, -4.6)  # a score of 0.01
        nn.init.constant_(self.box.bias, 1.0)

    def forward(self, features: list[Tensor], frame: Frame, targets: list[Target] | None = None) -> PointsRaw:
        cls = torch.cat([flatten(self.cls(x), self.num_classes) for x in features], 1)
        box = torch.cat([flatten(self.box(x), 4).exp() * s for x, s in zip(features, self.strides)], 1)
        sizes = [(x.shape[2], x.shape[3]) for x in features]
        points = point_grid(sizes, self.strides, cls.device, center_offset=0.5)
        return PointsRaw(cls.float(), box.float(), points, frame.sizes)

    def decode(self, raw: PointsRaw) -> Candidates:
        scores, labels = raw.cls.sigmoid().max(2)
        scores, best = scores.topk(min(self.keep, scores.shape[1]))
        boxes = clip(decode_ltrb(raw.points.boxes, raw.box), raw.sizes)
        return Candidates(boxes.gather(1, best[..., None].expand(-1, -1, 4)), scores, labels.gather(1, best))

    def loss(self, raw: PointsRaw, targets: list[Target]) -> Losses:
        ends = [8 * s for s in self.strides[:-1]]
        ranges = tuple(zip([-1, *ends], [*ends, float("inf")]))
        found = match(targets, lambda _, boxes: fcos_points(raw.points, boxes, ranges=ranges, center_radius=1.5))
        count = found.counts.sum().clamp(min=1)
        boxes = decode_ltrb(raw.points.boxes, raw.box)[found.positive]
        cls = sigmoid_focal(raw.cls.flatten(0, 1), found.labels.flatten()).sum() / count
        return Losses({"cls": cls, "box": giou(boxes, found.truth).sum() / count}, {"positives": found.counts.mean()})


def main(folder: Path, epochs: int = 2) -> tuple[list[float], headway.Detector]:
    """Train on the shipped pictures of blood cells, evaluate, save into `folder`, load, and detect."""
    torch.manual_seed(0)
    data = Path(headway.__file__).parent / "assets" / "bccd-mini"
    model = headway.create_model("resnet18/fpn/dyhead/points", class_names=["RBC", "WBC", "Platelets"],
                                 input_size=(160, 160), **{"fpn.channels": 32, "blocks": 1})  # fmt: skip
    run = headway.train(model, data, epochs=epochs, learning_rate=2e-3, warmup_steps=2, out=folder / "points")
    print(headway.evaluate(run.best, data))
    again = headway.load(run.best)
    print(again.predict(data / "val" / "BloodImage_00000.jpg", threshold=0.05))
    return [row["train_loss"] for row in run.curve], again


if __name__ == "__main__":
    main(Path("runs"))
