"""What was found in one picture, and its way into other tools.

found = model.predict("photo.jpg")
found[0]                               # the best: Detection(box, score, label, name)
found[found.scores > 0.5].plot().save("photo_boxes.jpg")
found.filter(classes=["cell"]).to_pandas()
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from operator import index as as_integer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor

from .boxes import clip
from .errors import HeadwayError
from .options import labels_of

if TYPE_CHECKING:
    from .types import Meta

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Detection(NamedTuple):
    """One object. box: x1, y1, x2, y2 in pixels; label: 0..C-1; name: of its class."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(slots=True, repr=False)
class Detections:
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

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __iter__(self) -> Iterator[Detection]:
        """Each detection, best first."""
        for (x1, y1, x2, y2), score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist()):
            yield Detection((x1, y1, x2, y2), score, label, self.name_of(label))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: Any) -> Detections: ...
    def __getitem__(self, index: Any) -> Detection | Detections:
        """One detection for an integer; several for a slice, a mask or a list: `found[found.scores > 0.5]`."""
        if not isinstance(index, (slice, list, tuple)) and getattr(index, "ndim", 0) == 0:
            number = as_integer(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"detection {number} of {len(self)}")
            number %= len(self)
            return next(iter(self[number : number + 1]))
        if isinstance(index, slice):  # tensors know no step backwards
            index = list(range(len(self))[index])
        return self._each(lambda values: values[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Detections:
        """The same with every tensor of detections changed alike."""
        extras = {name: change(values) for name, values in self.extras.items()}
        boxes, scores, labels = map(change, (self.boxes, self.scores, self.labels))
        return replace(self, boxes=boxes, scores=scores, labels=labels, extras=extras)

    def __repr__(self) -> str:
        """As in: 3 detections in photo.jpg (2 cell, 1 platelet), best 0.93"""
        where = f" in {self.source}" if isinstance(self.source, (str, Path)) else ""
        if not len(self):
            return f"<no detections{where}>"
        counts = Counter(self.name_of(label) for label in self.labels.tolist()).most_common()
        shown = ", ".join(f"{count} {name}" for name, count in counts[:5]) + (", ..." if len(counts) > 5 else "")
        noun = "detection" if len(self) == 1 else "detections"
        return f"<{len(self)} {noun}{where} ({shown}), best {float(self.scores.max()):.2f}>"

    def name_of(self, label: int) -> str:
        """The class name of a label, or its number where no name is known."""
        return self.names[label] if label < len(self.names) else str(label)

    def filter(self, *, threshold: float | None = None, classes: Sequence[str | int] | None = None) -> Detections:
        """Those that score more than `threshold` and are of one of `classes` (names or labels); None: any.

        Raises: HeadwayError for a class name that is not known.
        """
        keep = torch.ones_like(self.labels, dtype=torch.bool)
        if threshold is not None:
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

    # ------------------------------------------------------------------------------------------------ other forms
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

    def save(self, path: str | Path) -> Path:
        """Write the picture with its boxes (.jpg, .png, ...), or the detections as .json or YOLO's .txt.

        Raises: HeadwayError for another ending.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        text = {".json": self.to_json, ".txt": self.to_yolo}.get(suffix)
        if text is None and suffix not in _PICTURES:
            raise HeadwayError(f"the ending of {path.name} must be .json, .txt or a picture's: {', '.join(_PICTURES)}")
        content = text() if text else self.plot()
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            content.save(path, **({"quality": 92} if suffix in (".jpg", ".jpeg", ".webp") else {}))
        return path

    def to_coco(self, image_id: int | str = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result entries (xywh). category_ids: data-set id by label; by default label + 1.

        Raises: HeadwayError for a label beyond `category_ids`.
        """
        rows = []
        if category_ids and len(self) and int(self.labels.max()) >= len(category_ids):
            raise HeadwayError(f"label {int(self.labels.max())} has no category: {len(category_ids)} ids were given")
        for (x1, y1, x2, y2), score, label, _ in self:
            category = category_ids[label] if category_ids else label + 1
            box = [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]
            rows.append({"image_id": image_id, "category_id": category, "bbox": box, "score": round(score, 6)})
        return rows

    def to_yolo(self, size: tuple[int, int] | None = None) -> str:
        """YOLO's label file: a line `label x_center y_center width height score` for each, in shares of the picture.

        size: (height, width) of the picture; None: as known. Raises: HeadwayError when it is not known.
        """
        size = size or self.size
        if size is None:
            raise HeadwayError("YOLO's boxes are shares of the picture, whose size is unknown here: give size=(H, W)")
        height, width = size
        lines = []
        for (x1, y1, x2, y2), score, label, _ in self:
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(label), *(f"{share:.6f}" for share in shares), f"{score:.6f}"]))
        return "".join(f"{line}\n" for line in lines)

    def to_json(self) -> str:
        """The picture's name and size, and box (xyxy), score, label and name of each detection, as JSON text."""
        rows = [
            {"box": [round(v, 3) for v in d.box], "score": round(d.score, 6), "label": d.label, "name": d.name}
            for d in self
        ]
        image = str(self.source) if isinstance(self.source, (str, Path)) else None
        size = list(self.size) if self.size else None
        result: dict[str, Any] = {"image": image, "size": size, "detections": rows}
        if self.tags is not None:
            result["tags"] = self.tag_scores()
        return json.dumps(result, indent=1, ensure_ascii=False) + "\n"

    def tag_scores(self) -> dict[str, float]:
        """Score of each tag of the picture by class name, best first; empty for a model without tags."""
        scores = zip(self.names, [] if self.tags is None else self.tags.tolist())
        return {name: round(score, 6) for name, score in sorted(scores, key=lambda pair: -pair[1])}

    def to_supervision(self) -> Any:
        """`supervision.Detections` (needs the supervision package)."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.float().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": [self.name_of(i) for i in self.labels.tolist()]},
        )

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with x1, y1, x2, y2, score, label, name (needs pandas)."""
        import pandas

        boxes = pandas.DataFrame(self.boxes.float().cpu().numpy(), columns=["x1", "y1", "x2", "y2"])
        names = [self.name_of(label) for label in self.labels.tolist()]
        return boxes.assign(score=self.scores.float().cpu().numpy(), label=self.labels.cpu().numpy(), name=names)
