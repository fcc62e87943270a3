"""`headway data anchors`: anchors for the boxes of a data set, beside those that a model has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..errors import HeadwayError
from . import common
from .common import UsageError, say, show, show_json, table
from .data import OfDataset

if TYPE_CHECKING:
    from ..detector import Detector


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors(OfDataset):
    """Anchors for a YOLO model by k-means on a data set's boxes, and what share of the boxes its own and these reach.

    An anchor can learn a box whose sides differ from its own by less than a factor, 4. The last line is an option of
    `headway train`.
    """

    model: Annotated[str, arg(metavar="MODEL")] = "yolor_csp"
    """A registered model with anchors (`headway models yolo`), a checkpoint or a run folder."""
    input_size: tuple[int, int] | None = None
    """(short, long) side that no picture exceeds, as in the training to come. Default: the model's own."""
    split: str = ""
    """Whose boxes. Default: the training split."""
    seed: int = 0
    """Of the starts of k-means."""

    def run(self) -> int:
        if self.input_size is not None and not 0 < self.input_size[0] <= self.input_size[1]:
            raise UsageError(f"--input-size is (short, long) with 0 < short <= long, got {self.input_size}")

        from ..assign import ANCHOR_RATIO
        from ..data import anchors

        splits = self.splits()
        if self.split and self.split not in splits:
            raise UsageError(f"{self.path} has no split {self.split!r}, it has {', '.join(splits)}")
        data = splits[self.split] if self.split else splits.get("train", next(iter(splits.values())))
        model = _model(self.model)
        own, limit = model.head.anchors, ANCHOR_RATIO
        input_size = self.input_size or model.card.input_size
        sides = anchors.box_sides(data, input_size)
        before = anchors.anchor_fit(sides, anchors.flat(own.tolist()), limit)
        clustered = anchors.cluster_anchors(sides, own.shape[0] * own.shape[1], limit=limit, seed=self.seed)
        found = anchors.by_level(clustered, own.shape[0])
        after = anchors.anchor_fit(sides, anchors.flat(found), limit)
        argument = f"anchors={json.dumps(found, separators=(',', ':'))}"
        if self.json:
            show_json(
                {"path": self.path, "split": data.name, "model": self.model, "input_size": input_size,
                 "boxes": len(sides), "factor": limit, "before": before._asdict(), "after": after._asdict(),
                 "anchors": found, "set": argument}
            )  # fmt: skip
            return 0
        size = "x".join(map(str, input_size))
        boxes = f"{len(sides)} boxes of {len(data)} pictures"
        show(f"{data.name}: {boxes} at {size}, anchors within a factor of {limit:g}\n")
        rows: list[tuple[Any, ...]] = [
            (name, f"{fit.recall:.4f}", f"{fit.best_ratio:.4f}", f"{fit.matches:.2f}")
            for name, fit in ((f"{self.model} (before)", before), ("k-means (after)", after))
        ]
        show(table(("anchors", "recall", "mean best ratio", "anchors per box"), rows, right=(1, 2, 3)))
        for stride, level in zip(model.head.strides, found):
            show(f"stride {stride}: " + "  ".join(f"{width:g},{height:g}" for width, height in level))
        if after.fitness <= before.fitness:
            say("the model's own anchors fit these boxes as well: keep them")
        show(f"--set '{argument}'")
        return 0


def _model(name: str) -> Detector:
    """The model whose anchors are asked for. Raises: HeadwayError for one without."""
    from ..factory import create_model
    from ..heads.yolo import YoloHead

    model = common.load_model(name) if common.is_path(name) else create_model(name)
    if not isinstance(model.head, YoloHead):
        raise HeadwayError(
            f"{name} has no anchors of YOLO's kind; name a YOLOv4 or YOLOR model (`headway models yolo`)"
        )
    return model
