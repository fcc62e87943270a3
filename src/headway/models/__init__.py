"""Builders only: importing this package registers every model."""

from . import atss, fcos, rcnn, reppoints, retinanet

__all__ = ["atss", "fcos", "rcnn", "reppoints", "retinanet"]
