"""A model over a whole data set in several views of each picture: tiles, and test-time augmentation."""

from collections.abc import Callable
from typing import Any

from ..data.dataset import DetectionData
from ..detector import Detector, keeping_modes
from ..precision import Precision
from ..predict import Predictor
from .batches import WHOLE, Share
from .run import Measured, Progress, match_classes


def measure_views(
    model: Detector,
    data: DetectionData,
    *,
    batch_size: int = 8,
    precision: Precision = "fp32",
    max_detections: int | None = None,
    progress: Progress | None = None,
    share: Share = WHOLE,
    gather: Callable[[list[Any]], list[Any]] = list,
    **views: Any,
) -> Measured:
    """Every image of `data` through `Predictor`, as `headway predict` looks at it; the model stays where it is.

    views: tiles, overlap and tta, as of `Predictor`. The other arguments and the result are those of `run.measure`.
    Raises: HeadwayError when boxes of `data` are of classes the model does not know; DataError for a broken picture.
    """
    categories = match_classes(model.card.class_names, data)
    labels = [label for label, category in enumerate(categories) if category is not None]
    white = model.card.white or data.white()
    mine = range(share.rank, len(data), share.world)
    rows: dict[int, list[dict[str, Any]]] = {}
    with keeping_modes(model):
        # Of a tile the model's own; the evaluation takes the best of the picture.
        most = None if views.get("tiles") else max_detections
        predictor = Predictor(model, None, precision, batch_size, max_detections=most, white=white, **views)
        pictures = (data.records[index].sample(white).image for index in mine)
        for index, found in zip(mine, predictor.stream(pictures)):
            rows[index] = found.filter(classes=labels).to_coco(data.records[index].image_id, categories)  # type: ignore[arg-type]
            if progress is not None:
                progress(min(len(rows) * share.world, len(data)), len(data))
    for other in gather([rows]):
        rows |= other
    return Measured([row for index in sorted(rows) for row in rows[index]], seconds=predictor.seconds)
