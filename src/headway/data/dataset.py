"""What every reader returns: the records of one split, in original-image pixels, with one class map.

The readers (`coco`, `voc`, `yolo`) turn each format's conventions into these at the border; nothing after them knows
which format a data set came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .depth import white_of_files

if TYPE_CHECKING:
    from torch import Tensor

    from .sample import Sample


@dataclass(frozen=True, slots=True)
class Record:
    """One image and its annotations.

    image_id: COCO's id, or the running number from 1 for formats without ids.
    size: (height, width) as the annotation file states it, or of the picture where the file does not (YOLO); None if
    unknown.
    boxes: [M, 4] float32 xyxy in pixels of the upright picture; labels: [M] int64 in 0..C-1; crowd: [M] bool;
    areas: [M] float32, the annotated area (a segment's in COCO), else the box's.
    source: gives the picture where it is in no file; `path` then is a name for messages.
    ids: [M] int64, which object each box shows, where the data set says so (`track_id` of COCO's videos): the same
    object has the same number in every picture of the split. All records of a split have them, or none.
    """

    image_id: int
    path: Path
    size: tuple[int, int] | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    source: Callable[[], Sample] | None = None
    ids: NDArray[np.int64] | None = None

    def sample(self, white: int | None = None) -> Sample:
        """The picture and its boxes, in tensors. white: as of `read_image`.

        Raises: DataError for a picture that cannot be read.
        """
        from .image import read_image

        if self.source is not None:
            return self.source().to_tensors(str(self.path))[0]
        return self.with_picture(read_image(self.path, white=white))

    def with_picture(self, image: Tensor) -> Sample:
        """The boxes in tensors, with a picture [3, H, W] at hand."""
        from .sample import Sample, tensor_of

        return Sample(image, tensor_of(self.boxes), tensor_of(self.labels), tensor_of(self.crowd))


@dataclass(frozen=True, slots=True)
class DetectionData:
    """One split of a data set.

    format: "coco", "voc", "yolo", or "samples" for a Dataset of samples; `reason`: by what structure it was recognised.
    class_names: by label; category_ids: the data set's own id by label (COCO), or label + 1.
    """

    name: str
    root: Path
    format: str
    records: Sequence[Record]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    reason: str = ""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_boxes(self) -> int:
        return sum(len(record.boxes) for record in self.records)

    @property
    def num_crowd(self) -> int:
        """Crowd regions, which are among the boxes."""
        return sum(int(record.crowd.sum()) for record in self.records)

    def white(self) -> int | None:
        """Of its 16-bit pictures the value that is white, see `depth`; None without such pictures."""
        return white_of_files([record.path for record in self.records if record.source is None])

    @property
    def most_boxes(self) -> int:
        """In one picture, without crowd regions."""
        return max((int((~record.crowd).sum()) for record in self.records), default=0)

    def card_fields(self, max_detections: int = 100) -> dict[str, Any]:
        """What a model that is trained on this split has on its card: `category_ids`, `white`, and `max_detections`,
        twice the most boxes of a picture where that is more than the model's own.
        """
        cap = max(max_detections, 2 * self.most_boxes)
        return {"category_ids": tuple(self.category_ids), "white": self.white(), "max_detections": cap}

    def subset(self, indices: list[int], name: str) -> DetectionData:
        """The records at `indices`, as a split of its own."""
        return replace(self, name=name, records=[self.records[i] for i in indices])
