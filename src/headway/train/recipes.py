"""Training schedules by name: one function each, with its source.

A recipe is a `TrainConfig` with literal numbers; `recipes.dyhead_1x().changed(batch_size=4)` adapts one, and the linear
rule then adapts its learning rate.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HeadwayError, nearest
from .config import TrainConfig


def small() -> TrainConfig:
    """From random weights on a few hundred pictures, on a CPU: batch norms that train, AdamW, one cosine, EMA.

    Source: own; `benchmarks/results/bccd.md` has what it reaches, by `benchmarks/bccd.py`.
    """
    return TrainConfig(
        epochs=60, batch_size=8, optimizer="adamw", learning_rate=6e-4, base_batch_size=8, weight_decay=0.05,
        clip_grad=10.0, schedule="cosine", warmup_steps=200, warmup_factor=0.001, final_factor=0.01, ema=0.998,
        preset="small", cache="ram",
    )  # fmt: skip


def mmdet_1x() -> TrainConfig:
    """12 epochs of COCO at 16 images per step, one-stage detectors (RetinaNet, FCOS, ATSS).

    Source: mmdetection 3.3.0, configs/_base_/schedules/schedule_1x.py with the learning rate of the one-stage
    configs: SGD 0.01 at 16 images, momentum 0.9, weight decay 1e-4 on everything, linear warm-up over 500 steps from
    0.001, a tenth after epochs 8 and 11; pictures without boxes left out. FCOS's configs also clip gradients at 35
    (`clip_grad=35`).
    Differs: the warm-up reaches the full rate at step 500, there at step 499.
    """
    return TrainConfig(
        epochs=12, batch_size=16, optimizer="sgd", learning_rate=0.01, base_batch_size=16, momentum=0.9,
        weight_decay=1e-4, decay_norm_and_bias=True, clip_grad=0.0, schedule="multistep", milestones=(8, 11), gamma=0.1,
        warmup_steps=500, warmup_factor=0.001, ema=0.0, preset="mmdet",
        drop_empty=True,
    )  # fmt: skip


def mmdet_2x() -> TrainConfig:
    """24 epochs of COCO: `mmdet_1x` with a tenth of the rate after epochs 16 and 22.

    Source: mmdetection 3.3.0, configs/_base_/schedules/schedule_2x.py.
    """
    return mmdet_1x().changed(epochs=24, milestones=(16, 22))


def dyhead_1x() -> TrainConfig:
    """ATSS with DyHead: SGD 0.01 at 16 images, 12 epochs of COCO.

    Source: mmdetection 3.3.0, configs/dyhead/atss_r50_fpn_dyhead_1x_coco.py (4 GPUs of 4 images, 43.3 AP); the
    released code's 1x is the same length (90,000 steps of 16, rate 0.01, steps at 60,000 and 80,000), arXiv 2106.08322.
    """
    return mmdet_1x()


def rcnn_1x() -> TrainConfig:
    """Faster and Cascade R-CNN, 12 epochs of COCO: `mmdet_1x` at twice the rate.

    Source: mmdetection 3.3.0, configs/_base_/schedules/schedule_1x.py (SGD 0.02 at 16 images; 37.4 and 40.3 AP), with
    `frozen_stages=1`, `norm="eval"` and ImageNet weights in the model. detectron2's 1x is 90,000 steps of 16 at 0.02.
    """
    return mmdet_1x().changed(learning_rate=0.02)


def rcnn_20e() -> TrainConfig:
    """`rcnn_1x` for 20 epochs, a tenth of the rate after 16 and 19 (Cascade R-CNN 41.0 AP).

    Source: mmdetection 3.3.0, configs/_base_/schedules/schedule_20e.py.
    """
    return rcnn_1x().changed(epochs=20, milestones=(16, 19))


def rcnn_2x() -> TrainConfig:
    """`rcnn_1x` for 24 epochs, a tenth of the rate after 16 and 22 (Faster R-CNN 38.4 AP).

    Source: mmdetection 3.3.0, configs/_base_/schedules/schedule_2x.py.
    """
    return rcnn_1x().changed(epochs=24, milestones=(16, 22))


def rcnn_3x() -> TrainConfig:
    """`rcnn_1x` for 36 epochs at drawn sizes, a tenth of the rate after 27 and 33 (Faster R-CNN 40.3 AP).

    Source: mmdetection 3.3.0, configs/common/ms_3x_coco.py: three repeats of 12 epochs, steps at 9 and 11 of them.
    Differs: the short side is drawn in steps of 32 from 480 to 800, there any from 640 to 800.
    """
    return rcnn_1x().changed(epochs=36, milestones=(27, 33), preset="multiscale")


def reppoints_1x() -> TrainConfig:
    """RepPoints, 12 epochs of COCO: `mmdet_1x`, which is SGD 0.01 at 16 images (37.0 AP; 38.1 with GroupNorm).

    Source: mmdetection 3.3.0, configs/reppoints/reppoints-moment_r50_fpn_1x_coco.py.
    """
    return mmdet_1x()


def reppoints_2x() -> TrainConfig:
    """`reppoints_1x` for 24 epochs, a tenth of the rate after 16 and 22 (38.6 AP with GroupNorm).

    Source: mmdetection 3.3.0, configs/reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py.
    """
    return mmdet_2x()


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    f.__name__: f
    for f in (
        small, mmdet_1x, mmdet_2x, dyhead_1x, rcnn_1x, rcnn_20e, rcnn_2x, rcnn_3x, reppoints_1x, reppoints_2x,
    )
}  # fmt: skip


def recipe(name: str) -> TrainConfig:
    """A schedule by name. Raises: HeadwayError naming the nearest known ones."""
    if name not in RECIPES:
        raise HeadwayError(f"unknown recipe {name!r}; {nearest(name, RECIPES)} (known: {', '.join(RECIPES)})")
    return RECIPES[name]()
