"""The graph that every target holds: uint8 pixels in, final detections out."""

import json
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..data.batch import to_model_input
from ..detector import Detector
from ..select import select_padded
from ..types import Batch

_ALL = 1_000_000
_READS = ("offset", "conv_offset")  # FCOS behind a Dynamic Head on BCCD: AP .403, .385 with them in int8, .391 without


class Form(NamedTuple):
    """size: (height, width) of the input; free: whether it may be any other as well, in multiples of the card's
    `pad_multiple`; batch: pictures per run."""

    size: tuple[int, int]
    free: bool
    batch: int | Literal["dynamic"]

    def example(self, multiple: int) -> tuple[Tensor, Tensor]:
        """Inputs to trace with: two pictures and two cells on every map, since the exporter keeps what is 1."""
        count = 2 if self.batch == "dynamic" else self.batch
        height, width = (max(side, -(-512 // multiple) * multiple) if self.free else side for side in self.size)
        return torch.zeros(count, 3, height, width, dtype=torch.uint8), torch.tensor([(height, width)] * count)

    def dynamic_shapes(self, multiple: int) -> tuple[dict[int, Any], dict[int, Any]]:
        """Of the two inputs, as `torch.export` takes them. Multiples: without them the formulas for the sizes of maps
        take minutes. `min` is not checked later."""
        many: dict[int, Any] = {0: torch.export.Dim("batch")} if self.batch == "dynamic" else {}
        least = -(-256 // multiple)
        sides = {i: multiple * torch.export.Dim(f"side{i}", min=least) for i in (2, 3)} if self.free else {}
        return {**many, **sides}, many


class Graph(nn.Module):
    """images [B, 3, H, W] uint8 RGB and sizes [B, 2] -> boxes [B, D, 4], scores [B, D], labels [B, D], best first.

    Padding, normalisation and selection are inside. Scores of 0 are padding. nms: False leaves out suppression and the
    limit on detections, so that D is the head's number of candidates.
    """

    def __init__(self, model: Detector, nms: bool) -> None:
        super().__init__()
        self.model, self.nms = model, nms

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        card = self.model.card
        pixels = to_model_input(Batch(images, sizes, [], [], card.pad_value), images.device)
        boxes, scores, labels = select_padded(
            self.model.decode(self.model(pixels, sizes)),
            class_threshold=card.score_threshold,
            nms_iou=card.nms_iou if self.nms else None,
            max_detections=card.max_detections if self.nms else _ALL,
            drop_empty=card.drop_empty,
        )
        return boxes, scores, labels

    def notes(self, form: Form, **more: Any) -> dict[str, str]:
        """What a file's metadata holds, as JSON by name: the card, and how it was exported."""
        # What stays float in int8, see `quantize`: predictors, and what says where a deformable convolution reads.
        floats = [f"head.{name}" for name in getattr(self.model.head, "predictors", ())]
        floats += [name for name, _ in self.model.named_modules() if name.rpartition(".")[2] in _READS]
        export = {
            "size": None if form.free else list(form.size), "batch": form.batch, "nms": self.nms, "floats": floats,
            "headway": __version__, "torch": torch.__version__, **more,
        }  # fmt: skip
        return {"card": json.dumps(self.model.card.to_dict()), "export": json.dumps(export)}
