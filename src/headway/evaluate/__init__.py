"""Detections against ground truth: COCO metrics, running a model over a data set, mistakes, and the report."""

from .. import vision  # noqa: F401  (torchvision without the compiler, before a reader of data imports it)
from .coco import ClassMetrics, Metrics, evaluate
from .run import detect_dataset, evaluate_model, validation_loss

__all__ = ["ClassMetrics", "Metrics", "detect_dataset", "evaluate", "evaluate_model", "validation_loss"]
