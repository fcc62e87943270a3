"""Builders only: importing this package registers every model."""

from . import (
    atss,
    centernet,
    deformable_detr,
    detr,
    efficientdet,
    fcos,
    pafnet,
    pafnet_lite,
    rcnn,
    reppoints,
    retinanet,
    ttfnet,
    yolor,
    yolov4,
)

__all__ = [
    "atss",
    "centernet",
    "deformable_detr",
    "detr",
    "efficientdet",
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
