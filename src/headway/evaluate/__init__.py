"""Detections against ground truth: COCO metrics, running a model over a data set, mistakes, and the report."""

from .coco import ClassMetrics, Metrics, evaluate

__all__ = ["ClassMetrics", "Metrics", "evaluate"]
