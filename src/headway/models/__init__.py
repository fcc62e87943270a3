"""Builders only: importing this package registers every model."""

from . import atss, fcos, retinanet

__all__ = ["atss", "fcos", "retinanet"]
