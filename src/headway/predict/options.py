"""What may be asked of a prediction, from a detector or from an exported file."""

from typing import Any

from ..errors import check_number


def check_options(batch_size: int, threshold: float | None, max_detections: int | None, nms_iou: Any = None) -> None:
    """Raises: HeadwayError."""
    check_number("batch_size", batch_size, 1, whole=True)
    if threshold is not None:
        check_number("threshold", threshold, 0, 1)
    if max_detections is not None:
        check_number("max_detections", max_detections, 1, whole=True)
    if nms_iou is not None and nms_iou != "card":
        check_number("nms_iou (None: no suppression)", nms_iou, 0, 1)
