"""Several views of a picture, tiles and augmented ones, as steps around a detector's passes.

picture -> windows (`tiles`) -> variants of each (`tta`) -> passes, all of one padded size together
        -> one set of boxes per window (`tta`) -> one set for the picture (`tiles`)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data.augment.resize import eval_transform, resize_affine
from ..data.batch import BatchItem
from ..data.windows import OVERLAP, Window, check_tiles
from ..detector import Detector
from ..errors import HeadwayError
from ..options import LOW
from ..select import nms_per_class
from ..types import Detections, Meta, ModelCard, Target
from .frames import chunks
from .tiles import join, views_of
from .tta import Variant, fuse_boxes, variants_of

_CANDIDATES = 5000  # of a view, best first, that suppression over all views looks at
_AT_ONCE = 64  # windows whose scaled pixels are held at a time; a map has thousands

Passes = Callable[[Sequence[BatchItem], dict[str, Any]], list[Detections]]


class Views:
    """Which views a picture has, and how what was found in them becomes one set of detections.

    tiles, overlap: as of `tiles.views_of`; tta: as of `tta.variants_of`.
    options: of `Detector.detect`: threshold, nms_iou and max_detections, which with tiles count for each view too.

    Raises: HeadwayError for a side, share or list that cannot be meant.
    """

    def __init__(
        self,
        model: Detector,
        options: dict[str, Any],
        tiles: int | bool | None = None,
        overlap: float = OVERLAP,
        tta: str | Iterable[str | float] | None = None,
    ) -> None:
        check_tiles(tiles, overlap)
        self.tiles, self.overlap, self.variants = tiles or None, overlap, variants_of(tta)
        card: ModelCard = model.card
        self.input_size, self.options = card.input_size, options
        self.nms_iou: float | None = card.nms_iou if options["nms_iou"] == "card" else options["nms_iou"]
        self.fuses = card.nms_iou is None or getattr(getattr(model, "head", None), "fuses_views", False)
        if self.fuses and options["nms_iou"] is None and card.nms_iou is not None and len(self.variants) > 1:
            raise HeadwayError("tta fuses what suppression left of each view of this model: leave nms_iou=None out")
        self._transforms = {v: eval_transform(self._size_of(v)) for v in self.variants}

    def _size_of(self, variant: Variant) -> tuple[int, int]:
        short, long = (max(1, round(side * variant.scale)) for side in self.input_size)
        return short, long

    def windows(self, size: Sequence[int]) -> list[Window]:
        """Those of a picture of `size` (height, width); the last one is the whole picture."""
        return views_of(size, self.tiles, self.overlap, self.input_size)

    def count(self, size: Sequence[int]) -> int:
        """Views of a picture of `size`; one alone is what a detector without these steps looks at."""
        return len(self.variants) * len(self.windows(size))

    def detect(self, pixels: Tensor, passes: Passes) -> Detections:
        """Of a picture [3, H, W], in its pixels. passes: detections of prepared views, in pixels of each window."""
        size = (pixels.shape[1], pixels.shape[2])
        windows = self.windows(size)
        each = []
        for some in chunks(windows, _AT_ONCE):
            samples = [self._sample(pixels, window, variant) for window in some for variant in self.variants]
            found = passes(samples, self._options_of_a_view())
            each += [self._merged(views, window) for views, window in zip(chunks(found, len(self.variants)), some)]
        return replace(each[0] if len(each) == 1 else self._joined(each, windows), size=size)

    def _sample(self, pixels: Tensor, window: Window, variant: Variant) -> BatchItem:
        part = pixels[:, window.y1 : window.y2, window.x1 : window.x2]
        scaled = self._transforms[variant](part)
        affine = resize_affine(window.size, scaled.shape[1:])
        target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return BatchItem(scaled.flip(2) if variant.flip else scaled, target, Meta(0, "", window.size, affine))

    def _options_of_a_view(self) -> dict[str, Any]:
        """Of `Detector.detect`: candidates where they are suppressed later, a low threshold where scores change."""
        if len(self.variants) == 1:
            return self.options
        if self.fuses:
            threshold = self.options["threshold"]
            return self.options | {"threshold": None if threshold is None else min(threshold, LOW)}
        return self.options | {"nms_iou": None, "max_detections": _CANDIDATES}

    def _merged(self, found: Sequence[Detections], window: Window) -> Detections:
        """Of the variants of one window, in pixels of the window."""
        if len(found) == 1:
            return found[0]
        found = [_mirrored(one, window) if v.flip else one for one, v in zip(found, self.variants)]
        every, view = _concatenated(found)
        tags = [one.tags for one in found if one.tags is not None]
        every = replace(every, tags=torch.stack(tags).mean(0) if tags else None)
        if not self.fuses:
            kept = nms_per_class(every.boxes, every.scores, every.labels, self.nms_iou)
            return every[kept[: self.options["max_detections"]]]
        boxes, scores, labels = (values.double().numpy() for values in (every.boxes, every.scores, every.labels))
        fused = fuse_boxes(boxes, scores, labels, view.numpy(), len(found), one_each=True)
        merged = _replaced(every, fused.boxes, fused.scores, fused.index)
        return merged.filter(threshold=self.options["threshold"])[: self.options["max_detections"]]

    def _joined(self, each: Sequence[Detections], windows: Sequence[Window]) -> Detections:
        """Of all windows, in pixels of the picture. Tags are those of the whole picture."""
        moved = [
            replace(one, boxes=one.boxes + one.boxes.new_tensor([w.x1, w.y1] * 2)) for one, w in zip(each, windows)
        ]
        every, _ = _concatenated(moved)
        parts = ([getattr(one, name).numpy() for one in moved] for name in ("boxes", "scores", "labels"))
        joined = join(windows, *parts)
        return _replaced(replace(every, tags=each[-1].tags), joined.boxes, joined.scores, joined.index)


def _mirrored(found: Detections, window: Window) -> Detections:
    """Back from the mirrored view."""
    x1, y1, x2, y2 = found.boxes.unbind(1)
    width = window.size[1]
    return replace(found, boxes=torch.stack([width - x2, y1, width - x1, y2], 1))


def _concatenated(found: Sequence[Detections]) -> tuple[Detections, Tensor]:
    """The detections of all views, one view after the other, and the view [N] of each."""
    view = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(one) for one in found]))
    boxes, scores, labels = (torch.cat([getattr(one, name) for one in found]) for name in ("boxes", "scores", "labels"))
    extras = {name: torch.cat([one.extras[name] for one in found]) for name in found[0].extras}
    return replace(found[0], boxes=boxes, scores=scores, labels=labels, extras=extras), view


def _replaced(every: Detections, boxes: Any, scores: Any, index: Any) -> Detections:
    """Rows `index` with other boxes and scores."""
    chosen = every[torch.from_numpy(index)]
    boxes, scores = (torch.from_numpy(values).to(chosen.boxes.dtype) for values in (boxes, scores))
    return replace(chosen, boxes=boxes, scores=scores)
