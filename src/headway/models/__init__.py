"""Builders only: importing this package registers every model."""

from . import atss, centernet, fcos, pafnet, pafnet_lite, rcnn, reppoints, retinanet, ttfnet, yolor, yolov4

__all__ = [
    "atss",
    "centernet",
    "fcos",
    "pafnet",
    "pafnet_lite",
    "rcnn",
    "reppoints",
    "retinanet",
    "ttfnet",
    "yolor",
    "yolov4",
]
