"""A detector as the one graph that is exported."""

import torch
from torch import Tensor

from headway.detector import Detector


class Exportable(torch.nn.Module):
    """Forward and decode as one graph."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidates = self.model.decode(self.model(images, sizes))
        return candidates.boxes, candidates.scores, candidates.labels
