"""An exported file over a whole data set, picture by picture in runs of one shape."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ..data.dataset import DetectionData
from ..runtime import Runtime
from ..runtime.found import Array
from .run import Measured, match_classes

_AHEAD = 8  # runs whose pictures are read together, so that those of one shape go together


def measure_exported(
    runtime: Runtime,
    data: DetectionData,
    *,
    batch_size: int = 8,
    max_detections: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **views: Any,
) -> Measured:
    """Every image of `data` through the file; arguments and result as of `run.measure`.

    views: tiles and overlap, as of `Runtime.predict`.

    Raises: HeadwayError when boxes of `data` are of classes the file does not know; DataError for a broken picture.
    """
    categories = match_classes(runtime.names, data)
    labels = [label for label, category in enumerate(categories) if category is not None]
    white = runtime.card.get("white") or data.white()
    rows: dict[int, list[dict[str, Any]]] = {}
    seconds = 0.0
    pictures = enumerate(_pictures(data, white))
    ahead = 1 if views.get("tiles") else _AHEAD
    while window := list(islice(pictures, (runtime.batch or batch_size) * ahead)):
        window.sort(key=lambda pair: pair[1].shape)
        start = time.perf_counter()
        found = runtime([pixels for _, pixels in window], batch_size=batch_size, **views)
        seconds += time.perf_counter() - start
        for (index, _), one in zip(window, found):
            kept = one if max_detections is None else one[:max_detections]
            rows[index] = kept.filter(classes=labels).to_coco(data.records[index].image_id, categories)
        if progress is not None:
            progress(len(rows), len(data))
    return Measured([row for index in sorted(rows) for row in rows[index]], seconds=seconds)


def _pictures(data: DetectionData, white: int | None) -> Iterator[Array]:
    """[H, W, 3] uint8 of every record."""
    for record in data.records:
        yield record.sample(white).image.permute(1, 2, 0).numpy()
