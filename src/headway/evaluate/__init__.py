"""Detections against ground truth: COCO metrics, running a model over a data set, mistakes, and the report.

The package can be called: `headway.evaluate(model, data)` is `headway.evaluate.api.evaluate`.
"""

from .. import vision  # noqa: F401  (torchvision without the compiler, before a reader of data imports it)
from ..callable_package import make_callable
from .coco import ClassMetrics, Metrics, evaluate
from .errors_api import errors
from .kinds import Tide, tide
from .matching import match
from .run import detect_dataset, evaluate_model, measure

__all__ = [
    "ClassMetrics", "Metrics", "Tide", "detect_dataset", "errors", "evaluate", "evaluate_model", "match", "measure",
    "tide",
]  # fmt: skip

make_callable(__name__, "api", "evaluate")
