"""What was found in one picture, and its way into other tools.

found = model.predict("photo.jpg")
found[0]                               # the best: Detection(box, score, label, name)
found[found.scores > 0.5].plot().save("photo_boxes.jpg")
found.filter(classes=["cell"]).to_pandas()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .boxes import clip
from .errors import HeadwayError
from .findings import Detection as Detection
from .findings import Findings
from .options import labels_of

if TYPE_CHECKING:
    from .types import Meta


@dataclass(slots=True, repr=False)
class Detections(Findings):
    """Final detections of one picture, best first.

    boxes [N, 4] xyxy pixels; scores [N]; labels [N] int64; names: class names by label; extras: [N, ...] tensors;
    tags: [T] scores of the whole picture's tags, or None.
    source: the picture in which they were found, a path or [3, H, W] uint8 pixels, or None.
    size: the (height, width) of that picture, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    extras: dict[str, Tensor] = field(default_factory=dict)
    tags: Tensor | None = None
    source: Any = None
    size: tuple[int, int] | None = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> Detections:
        """The same with every tensor of detections changed alike."""
        extras = {name: change(values) for name, values in self.extras.items()}
        boxes, scores, labels = map(change, (self.boxes, self.scores, self.labels))
        return replace(self, boxes=boxes, scores=scores, labels=labels, extras=extras)

    def filter(
        self, *, threshold: float | Sequence[float] | None = None, classes: Sequence[str | int] | None = None
    ) -> Detections:
        """Those that score more than `threshold` and are of one of `classes` (names or labels); None: any.

        threshold: for all classes, or one by label.

        Raises: HeadwayError for a class name that is not known.
        """
        keep = torch.ones_like(self.labels, dtype=torch.bool)
        if isinstance(threshold, Sequence):
            keep &= self.scores > self.scores.new_tensor(threshold)[self.labels]
        elif threshold is not None:
            keep &= self.scores > threshold
        if classes is not None:
            keep &= torch.isin(self.labels, self.labels.new_tensor(labels_of(classes, self.names, nameless=True)))
        return self[keep]

    def to(self, device: torch.device | str) -> Detections:
        """The same with every tensor on `device`."""
        tags = None if self.tags is None else self.tags.to(device)
        return replace(self._each(lambda values: values.to(device)), tags=tags)

    def to_original(self, meta: Meta) -> Detections:
        """The same detections in the pixels of the original picture, clipped to it."""
        affine = self.boxes.new_tensor(meta.affine)
        boxes = (self.boxes - affine[2:].repeat(2)) / affine[:2].repeat(2)
        clipped = clip(boxes, self.boxes.new_tensor(meta.original_size))
        source = (meta.path or None) if self.source is None else self.source
        return replace(self, boxes=clipped, source=source, size=meta.original_size)

    def plot(self, image: Any = None) -> Any:
        """The picture with its boxes, a new PIL picture.

        image: a picture in any form that `predict` takes; None: the picture in which they were found.
        Raises: HeadwayError when there is no picture.
        """
        from .drawing import draw_boxes

        image = self.source if image is None else image
        if image is None:
            raise HeadwayError("these detections do not know their picture: give it, as in plot('photo.jpg')")
        # By name: the core does not know the readers of data.
        pixels = import_module(".predict.sources", __package__).read_picture(image).pixels
        return draw_boxes(pixels, self.boxes, self.labels, self.names, scores=self.scores)
