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

    from .columns import Columns
    from .sample import Sample
    from .tar import InTar


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
    content: gives the bytes of the picture file where it lies in another one (a tar shard); `path` then is a name too.
    """

    image_id: int
    path: Path
    size: tuple[int, int] | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    source: Callable[[], Sample] | None = None
    content: InTar | None = None
    ids: NDArray[np.int64] | None = None

    def sample(self, white: int | None = None) -> Sample:
        """The picture and its boxes, in tensors. white: as of `read_image`.

        Raises: DataError for a picture that cannot be read.
        """
        if self.source is not None:
            return self.source().to_tensors(str(self.path))[0]
        return self.with_picture(self.read(white))

    def read(self, white: int | None = None) -> Tensor:
        """`read_image` of the picture file. Raises: DataError."""
        from .image import read_image

        return read_image(self.path, data=None if self.content is None else self.content(), white=white)

    def header(self) -> tuple[tuple[int, int], int]:
        """`image_header` of the picture file. Raises: DataError."""
        from .image import image_header

        return image_header(self.path, data=None if self.content is None else self.content())

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
    def columns(self) -> Columns | None:
        """The records' arrays, of a large data set; None where each record is an object."""
        from .columns import Columns

        return self.records if isinstance(self.records, Columns) else None

    @property
    def in_memory(self) -> bool:
        """Whether a picture is in no file."""
        return self.columns is None and any(record.source for record in self.records)

    def box_counts(self) -> NDArray[np.int64]:
        """[N] boxes of each record, crowd regions among them."""
        if (columns := self.columns) is not None:
            return columns.box_counts
        return np.array([len(record.boxes) for record in self.records], np.int64)

    def of_boxes(self, name: str) -> NDArray[Any]:
        """`boxes`, `labels`, `crowd` or `areas` of all records, in their order."""
        if (columns := self.columns) is not None:
            return columns.of_boxes(name)
        empty = getattr(_NO_BOXES, name)
        return np.concatenate([empty, *(getattr(record, name) for record in self.records)])

    @property
    def num_boxes(self) -> int:
        return int(self.box_counts().sum())

    @property
    def num_crowd(self) -> int:
        """Crowd regions, which are among the boxes."""
        return int(self.of_boxes("crowd").sum())

    def white(self) -> int | None:
        """Of its 16-bit pictures the value that is white, see `depth`; None without such pictures."""
        if (columns := self.columns) is not None:
            return white_of_files(columns.deep_paths())
        return white_of_files([r.path for r in self.records if r.source is None and r.content is None])

    @property
    def most_boxes(self) -> int:
        """In one picture, without crowd regions."""
        counts = self.box_counts()
        owner = np.repeat(np.arange(len(counts)), counts)[~self.of_boxes("crowd")]
        return int(np.bincount(owner, minlength=1).max())

    def card_fields(self, max_detections: int = 100) -> dict[str, Any]:
        """What a model that is trained on this split has on its card: `category_ids`, `white`, and `max_detections`,
        twice the most boxes of a picture where that is more than the model's own.
        """
        cap = max(max_detections, 2 * self.most_boxes)
        return {"category_ids": tuple(self.category_ids), "white": self.white(), "max_detections": cap}

    def subset(self, indices: list[int], name: str) -> DetectionData:
        """The records at `indices`, as a split of its own."""
        columns = self.columns
        records = [self.records[i] for i in indices] if columns is None else columns.take(indices)
        return replace(self, name=name, records=records)


_NO_BOXES = Record(
    0, Path(), None, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.float32)
)
