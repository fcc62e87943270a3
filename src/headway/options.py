"""What may be asked of a prediction, from a detector or from an exported file."""

import math
from collections.abc import Sequence
from typing import Any

from .errors import HeadwayError, check_number, nearest

LOW = 0.001  # weakest score that is looked at, to advise a threshold where nothing passes it
FEW = 50  # pictures up to which folding batch norms costs more time than it saves (shipped model, one thread)
_ROUNDED = 2e-6  # validation counts scores that reach a threshold, of six decimals; options keep those above it


def check_options(batch_size: int, threshold: float | None, max_detections: int | None, nms_iou: Any = None) -> None:
    """Raises: HeadwayError."""
    check_number("batch_size", batch_size, 1, whole=True)
    if threshold is not None:
        check_number("threshold", threshold, 0, 1)
    if max_detections is not None:
        check_number("max_detections", max_detections, 1, whole=True)
    if nms_iou is not None and nms_iou != "card":
        check_number("nms_iou (None: no suppression)", nms_iou, 0, 1)


def best_thresholds(card: Any) -> tuple[float, ...]:
    """By label the threshold of its best F1 in validation; of a class without one that of all classes together.

    card: a ModelCard, or what an exported file has of it.
    Raises: HeadwayError where no validation left any.
    """
    overall = card.metrics.get("threshold")
    own = getattr(card, "thresholds", ())
    known = own if len(own) == len(card.class_names) else [None] * len(card.class_names)
    found = [overall if value is None else value for value in known]
    if not found or not all(isinstance(value, (int, float)) for value in found):
        raise HeadwayError(
            f"the card of {card.model or 'this model'} has no best threshold, which a training keeps from its "
            "validation; give a number, such as the one that `headway eval` prints"
        )
    return tuple(max(value - _ROUNDED, 0.0) for value in found)


def labels_of(classes: Sequence[str | int], names: Sequence[str], *, nameless: bool = False) -> list[int]:
    """Labels of classes given by name or label; of labels without a name only if `nameless`.

    Raises: HeadwayError for one that is not known.
    """
    if isinstance(classes, (str, int)):
        raise HeadwayError(f"classes is a list of names or labels, got {classes!r}: write [{classes!r}]")
    for item in classes:
        if isinstance(item, str) and item not in names:
            hint = nearest(item, names) or f"known are {', '.join(names[:20])}"
            raise HeadwayError(f"there is no class {item!r}; {hint}")
        elif not isinstance(item, str):
            check_number("a class's label", item, 0, math.inf if nameless else len(names) - 1, whole=True)
    return [names.index(item) if isinstance(item, str) else int(item) for item in classes]
