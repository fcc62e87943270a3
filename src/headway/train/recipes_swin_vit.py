"""Published schedules of detectors on Swin and ViT, one function each with its source; `recipes.py` lists them all."""

from __future__ import annotations

from .config import TrainConfig


def swin_1x() -> TrainConfig:
    """Detectors on Swin, 12 epochs of COCO at 16 images: AdamW 1e-4, weight decay 0.05, 1000 steps of linear warm-up, a
    tenth of the rate after 8 and 11 (Mask R-CNN on Swin-T 42.7 box AP).

    Source: mmdetection 3.3.0, configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py, with `backbone_weights=True`. Its
    RetinaNet keeps `mmdet_1x`. The authors' own 1x has the augmentation of `swin_3x` (Cascade R-CNN on Swin-T 48.1 AP).
    Differs: decay reaches neither norms nor tables of positions, as there, but no bias either.
    """
    return TrainConfig(
        epochs=12, batch_size=16, optimizer="adamw", learning_rate=1e-4, base_batch_size=16, weight_decay=0.05,
        clip_grad=0.0, schedule="multistep", milestones=(8, 11), gamma=0.1, warmup_steps=1000, warmup_factor=0.001,
        ema=0.0, preset="mmdet", drop_empty=True,
    )  # fmt: skip


def swin_3x() -> TrainConfig:
    """`swin_1x` for 36 epochs at drawn sizes and crops, a tenth of the rate after 27 and 33 (Cascade R-CNN on Swin-T
    50.4, Swin-S 51.9, Swin-B 51.9 AP).

    Source: SwinTransformer/Swin-Transformer-Object-Detection (ed8d4d8), configs/swin; mmdetection 3.3.0,
    configs/swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py.
    """
    return swin_1x().changed(
        epochs=36, milestones=(27, 33), preset="detr", input_size=(800, 1333), sizes=tuple(range(480, 801, 32))
    )


def dyhead_swin_t_2x() -> TrainConfig:
    """ATSS with DyHead on Swin-T, 24 epochs of COCO at 32 images, drawn sizes: AdamW 1e-4, weight decay 0.05, a tenth
    of the rate after 16 and 21 (49.8 AP).

    Source: the authors' configuration (arXiv 2106.08322; 90,000 steps of 32, drops at 60,000 and 80,000, short sides
    640 to 800).
    """
    return swin_1x().changed(
        epochs=24, batch_size=32, base_batch_size=32, milestones=(16, 21), preset="multiscale",
        input_size=(800, 1333), sizes=tuple(range(640, 801, 32)),
    )  # fmt: skip


def dyhead_swin_l_2x() -> TrainConfig:
    """ATSS with DyHead on Swin-L, 24 epochs of COCO at 16 images, short sides of 480 to 1200 and long ones up to 2000:
    AdamW 5e-5, weight decay 0.05, a tenth of the rate after 16 and 22 (56.2 AP).

    Source: mmdetection 3.3.0, configs/dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py (12 epochs of a data set
    repeated twice, drops after 8 and 11 of them).
    """
    return swin_1x().changed(
        epochs=24, learning_rate=5e-5, milestones=(16, 22), warmup_steps=500, preset="multiscale",
        input_size=(1200, 2000), sizes=tuple(range(480, 1201, 8)),
    )  # fmt: skip


def vitdet_100e() -> TrainConfig:
    """ViTDet-B, 100 epochs of COCO at 64 images of 1024x1024, zoomed by 0.1 to 2: AdamW 1e-4, weight decay 0.1, each
    block at 0.7 times the rate of the next, a tenth of it after 89 and 96 (Cascade R-CNN 54.0, Mask R-CNN 51.6 box AP).

    Source: detectron2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py (184,375 steps, drops at 163,889 and
    177,546), from MAE weights (`backbone_weights=True`), fp16 (`precision="fp16"` on a GPU).
    Differs: zooms are drawn by their logarithm, there evenly; relative positions are not decayed.
    """
    return TrainConfig(
        epochs=100, batch_size=64, optimizer="adamw", learning_rate=1e-4, base_batch_size=64, weight_decay=0.1,
        layer_lr_factor=0.7, clip_grad=0.0, schedule="multistep", milestones=(89, 96), gamma=0.1, warmup_steps=250,
        warmup_factor=0.001, ema=0.0, preset="small", scale=(0.1, 2.0), colour=0.0, input_size=(1024, 1024),
        drop_empty=True,
    )  # fmt: skip


SWIN_VIT = (swin_1x, swin_3x, dyhead_swin_t_2x, dyhead_swin_l_2x, vitdet_100e)
