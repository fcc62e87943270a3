"""What an exported file found in one picture, as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.image import read_pixels
from ..errors import HeadwayError
from ..findings import Findings
from ..options import labels_of

Array = NDArray[Any]


@dataclass(slots=True, repr=False)
class Found(Findings):
    """Detections of one picture, best first: iterate over them, filter, plot, save, convert, as `headway.Detections`.

    boxes [N, 4] xyxy pixels; scores [N]; labels [N]; names: class names by label.
    source: the picture in which they were found, a path or [H, W, 3] uint8 pixels; size: its (height, width).
    """

    boxes: Array
    scores: Array
    labels: Array
    names: tuple[str, ...] = ()
    source: Any = None
    size: tuple[int, int] | None = None

    @property
    def tags(self) -> None:
        """An exported file gives boxes alone."""

    def _each(self, change: Callable[[Array], Array]) -> Found:
        return replace(self, boxes=change(self.boxes), scores=change(self.scores), labels=change(self.labels))

    def filter(
        self, *, threshold: float | Sequence[float] | None = None, classes: Sequence[str | int] | None = None
    ) -> Found:
        """Those that score more than `threshold` and are of one of `classes` (names or labels); None: any.

        threshold: for all classes, or one by label.

        Raises: HeadwayError for a class name that is not known.
        """
        keep = np.ones(len(self), bool)
        if threshold is not None:
            limits = np.asarray(threshold, np.float32)
            keep &= self.scores > (limits[self.labels] if limits.ndim else limits)
        if classes is not None:
            keep &= np.isin(self.labels, labels_of(classes, self.names))
        return self[keep]

    def plot(self, image: Any = None) -> Image.Image:
        """The picture with its boxes, a new PIL picture.

        image: a PIL picture, an array [H, W, 3] uint8 or a path; None: the picture in which they were found.
        Raises: HeadwayError when there is no picture.
        """
        from ..drawing import draw_boxes

        image = self.source if image is None else image
        if image is None:
            raise HeadwayError("these detections do not know their picture: give it, as in plot('photo.jpg')")
        if isinstance(image, (str, Path)):
            image = read_pixels(Path(image))
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return draw_boxes(picture, self.boxes, self.labels, self.names, scores=self.scores)
