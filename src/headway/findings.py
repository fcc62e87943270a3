"""What was found in one picture, in the forms of other tools; with tensors (`Detections`) or arrays (`runtime.Found`).

Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import index as as_integer
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

from .errors import HeadwayError

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Detection(NamedTuple):
    """One object. box: x1, y1, x2, y2 in pixels; label: 0..C-1; name: of its class."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


class Prediction(NamedTuple):
    """One file of `predict_paths`. A file that could not be read has neither image nor detections, but the reason in
    `error`. image: its pixels, upright, uint8: a tensor [3, H, W], of an exported file an array [H, W, 3]; detections:
    `Detections`, of an exported file `Found`."""

    path: Path
    image: Any
    detections: Any
    error: str = ""


class Findings:
    """boxes [N, 4] xyxy pixels; scores [N]; labels [N]; names: class names by label; tags: [T] scores of the whole
    picture's tags, or None; source: the picture in which they were found; size: its (height, width), or None."""

    __slots__ = ()
    boxes: Any
    scores: Any
    labels: Any
    names: tuple[str, ...]
    tags: Any
    source: Any
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __iter__(self) -> Iterator[Detection]:
        """Each detection, best first."""
        for (x1, y1, x2, y2), score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist()):
            yield Detection((x1, y1, x2, y2), score, label, self.name_of(label))

    def __repr__(self) -> str:
        """As in: 3 detections in photo.jpg (2 cell, 1 platelet), best 0.93"""
        where = f" in {self.source}" if isinstance(self.source, (str, Path)) else ""
        if not len(self):
            return f"<no detections{where}>"
        counts = Counter(self.name_of(label) for label in self.labels.tolist()).most_common()
        shown = ", ".join(f"{count} {name}" for name, count in counts[:5]) + (", ..." if len(counts) > 5 else "")
        noun = "detection" if len(self) == 1 else "detections"
        return f"<{len(self)} {noun}{where} ({shown}), best {float(self.scores.max()):.2f}>"

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: Any) -> Self: ...
    def __getitem__(self, index: Any) -> Detection | Self:
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

    def _each(self, change: Callable[[Any], Any]) -> Self:
        """The same with every array of detections changed alike."""
        raise NotImplementedError

    def name_of(self, label: int) -> str:
        """The class name of a label, or its number where no name is known."""
        return self.names[label] if label < len(self.names) else str(label)

    def plot(self, image: Any = None) -> Any:
        """The picture with its boxes, a new PIL picture."""
        raise NotImplementedError

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
            xyxy=_array(self.boxes),
            confidence=_array(self.scores),
            class_id=_array(self.labels),
            data={"class_name": [self.name_of(i) for i in self.labels.tolist()]},
        )

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with x1, y1, x2, y2, score, label, name (needs pandas)."""
        import pandas

        boxes = pandas.DataFrame(_array(self.boxes), columns=["x1", "y1", "x2", "y2"])
        names = [self.name_of(label) for label in self.labels.tolist()]
        return boxes.assign(score=_array(self.scores), label=_array(self.labels), name=names)


def _array(values: Any) -> Any:
    """A tensor of any device, or an array."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()
