"""Builders only: importing this package registers every model."""

from . import atss, fcos, pafnet, rcnn, reppoints, retinanet, ttfnet

__all__ = ["atss", "fcos", "pafnet", "rcnn", "reppoints", "retinanet", "ttfnet"]
