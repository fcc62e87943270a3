"""Training schedules by name: one function each, with its source.

A recipe is a `TrainConfig` with literal numbers; `recipes.dyhead_1x().changed(batch_size=4)` adapts one, and the linear
rule then adapts its learning rate.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HeadwayError, nearest
from .config import TrainConfig
from .recipes_efficientdet import EFFICIENTDET
from .recipes_swin_vit import SWIN_VIT


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


def ttfnet_1x() -> TrainConfig:
    """TTFNet, 12 epochs of COCO at 512x512: SGD 0.016 at 128 images, a fifth of it at the first of 500 warm-up steps, a
    tenth after epochs 9 and 11; biases at twice the rate (R18 25.9, Darknet-53 32.9 AP).

    Source: arXiv 1909.00700, 4.1, and ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_1x.py, with `frozen_stages=1` and
    ImageNet weights in the model. Darknet-53 has 96 images: `batch_size=96, base_batch_size=96, learning_rate=0.015`.
    Differs: pictures keep their ratio, there they are squeezed to a square; the scales of norms are decayed there.
    """
    return TrainConfig(
        epochs=12, batch_size=128, optimizer="sgd", learning_rate=0.016, base_batch_size=128, momentum=0.9,
        weight_decay=4e-4, bias_lr_factor=2.0, clip_grad=35.0, schedule="multistep", milestones=(9, 11), gamma=0.1,
        warmup_steps=500, warmup_factor=0.2, ema=0.0, preset="mmdet", input_size=(512, 512), drop_empty=True,
    )  # fmt: skip


def ttfnet_2x() -> TrainConfig:
    """`ttfnet_1x` for 24 epochs, a tenth of the rate after 18 and 22 (R18 28.1, R34 31.3, Darknet-53 35.1 AP).

    Source: ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_2x.py.
    """
    return ttfnet_1x().changed(epochs=24, milestones=(18, 22))


def ttfnet_10x() -> TrainConfig:
    """`ttfnet_1x` for 120 epochs with SSD's augmentation at one size, a tenth of the rate after 90 and 110 (R18 31.8,
    R34 35.3, Darknet-53 39.3 AP).

    Source: ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_aug_10x.py.
    """
    return ttfnet_1x().changed(epochs=120, milestones=(90, 110), preset="ssd", sizes=(512,))


def pafnet_1x() -> TrainConfig:
    """PAFNet, 12 epochs of COCO at drawn sizes around 512: SGD 0.015 at 96 images, a tenth after epochs 9 and 11, EMA.

    Source: the paper's setting (arXiv 2104.13534: 15,000 steps of 96 images, drops at 11,250 and 13,750, which is a
    tenth of the released 150,000-step configuration), otherwise as `pafnet_10x`.
    """
    return pafnet_10x().changed(epochs=12, batch_size=96, base_batch_size=96, milestones=(9, 11), plain_epochs=2)


def pafnet_10x() -> TrainConfig:
    """PAFNet, 120 epochs of COCO at drawn sizes around 512: SGD 0.015 at 144 images, a fifth of it at the first of 500
    warm-up steps, a tenth after epochs 80 and 110, EMA 0.9998, CutMix up to epoch 100 (39.8 AP as released).

    Source: PaddleDetection 2.0, configs/ttfnet/_base_/optimizer_10x.yml and pafnet_reader.yml. The released backbone
    starts from distilled ImageNet weights (SSLD) with its batch norms frozen: `norm="frozen"` in the model.
    Differs: timm has no SSLD weights of ResNet-D (`docs/training.md` names what there is); of the biases only those of
    shortcuts, upsampling and the heads' last layers have twice the rate there; CutMix leaves hidden boxes out here, and
    was a no-op in the static releases and absent from 2.2 on, so its share in the 39.8 AP is unknown; the EMA starts
    from the weights, there from zero with a correction. What `ssd` changes stands in `data/transforms.py`.
    """
    return TrainConfig(
        epochs=120, batch_size=144, optimizer="sgd", learning_rate=0.015, base_batch_size=144, momentum=0.9,
        weight_decay=4e-4, bias_lr_factor=2.0, clip_grad=0.0, schedule="multistep", milestones=(80, 110), gamma=0.1,
        warmup_steps=500, warmup_factor=0.2, ema=0.9998, preset="ssd", input_size=(512, 512),
        sizes=(416, 448, 480, 512, 544, 576, 608, 640, 672), cutmix=1.0, plain_epochs=20, drop_empty=True,
    )  # fmt: skip


def pafnet_lite_20x() -> TrainConfig:
    """PAFNet-Lite, 240 epochs of COCO at drawn sizes from 320: SGD 0.015 at 96 images, a fifth of it at the first of
    1000 warm-up steps, a tenth after epochs 160 and 220, CutMix up to epoch 200, GridMask up to 0.7 (23.9 AP as
    released). `teacher` adds knowledge distillation, which was never released for it.

    Source: PaddleDetection 2.0, configs/ttfnet/_base_/optimizer_20x.yml and pafnet_lite_reader.yml; the probability of
    GridMask is the default of ppdet/data/transform/operators.py, reached after 300,000 steps, the whole training.
    Differs: the backbone's rates there rise with depth from a quarter to three quarters and its weight decay is 1e-5,
    here it has one rate, a half, and the common decay; CutMix as in `pafnet_10x`.
    """
    return pafnet_10x().changed(
        epochs=240, batch_size=96, base_batch_size=96, milestones=(160, 220), warmup_steps=1000, clip_grad=35.0,
        backbone_lr_factor=0.5, ema=0.0, input_size=(320, 320), sizes=(320, 352, 384, 416, 448, 480, 512),
        plain_epochs=40, gridmask=0.7,
    )  # fmt: skip


def centernet_140e() -> TrainConfig:
    """CenterNet, 140 epochs of COCO at 512x512: SGD 0.02 at 128 images, a tenth after epochs 90 and 120 (R18 25.9 AP,
    29.5 with deformable convolutions).

    Source: mmdetection 3.3.0, configs/centernet/centernet_r18_8xb16-crop512-140e_coco.py (28 epochs of a data set
    repeated five times).
    Differs: the authors train with Adam at 5e-4 (xingyizhou/CenterNet, same length and drops); both crop 512x512 at 0.6
    to 1.3 times the size around a box, here `ssd` zooms and crops at one size.
    """
    return TrainConfig(
        epochs=140, batch_size=128, optimizer="sgd", learning_rate=0.02, base_batch_size=128, momentum=0.9,
        weight_decay=1e-4, decay_norm_and_bias=True, clip_grad=35.0, schedule="multistep", milestones=(90, 120),
        gamma=0.1, warmup_steps=1000, warmup_factor=0.001, ema=0.0, preset="ssd", sizes=(512,), input_size=(512, 512),
        drop_empty=True,
    )  # fmt: skip


def detr_150e() -> TrainConfig:
    """DETR, 150 epochs of COCO at 16 images: AdamW 1e-4 (backbone 1e-5), weight decay 1e-4 on everything, a tenth of
    the rate after 100, gradients clipped at 0.1, drawn sizes and crops (R50 39.9 AP).

    Source: mmdetection 3.3.0, configs/detr/detr_r50_8xb2-150e_coco.py, with `backbone_weights=True`, constant batch
    norms (the model's default) and `frozen_stages=1`.
    """
    return TrainConfig(
        epochs=150, batch_size=16, optimizer="adamw", learning_rate=1e-4, base_batch_size=16, weight_decay=1e-4,
        decay_norm_and_bias=True, backbone_lr_factor=0.1, clip_grad=0.1, schedule="multistep", milestones=(100,),
        gamma=0.1, warmup_steps=0, ema=0.0, preset="detr", drop_empty=True,
    )  # fmt: skip


def detr_300e() -> TrainConfig:
    """`detr_150e` for 300 epochs, a tenth of the rate after 200, with pictures without boxes as well.

    Source: facebookresearch/detr (commit 29901c5), main.py; arXiv 2005.12872, 4.1, whose ablations are trained so. The
    rate there does not follow the number of images: the paper's 64 have it as well as the code's 16.
    """
    return detr_150e().changed(epochs=300, milestones=(200,), base_batch_size=0, drop_empty=False)


def detr_500e() -> TrainConfig:
    """`detr_300e` for 500 epochs at 64 images, a tenth of the rate after 400 (R50 42.0, its DC5 form 43.3, R101 43.5,
    its DC5 form 44.9 AP).

    Source: arXiv 2005.12872, 4.1 and table 1.
    """
    return detr_300e().changed(epochs=500, batch_size=64, milestones=(400,))


def deformable_detr_50e() -> TrainConfig:
    """Deformable DETR, 50 epochs of COCO at 32 images: AdamW 2e-4 (backbone, sampling offsets and reference points
    2e-5), weight decay 1e-4 on everything, a tenth of the rate after 40, gradients clipped at 0.1, drawn sizes and
    crops (R50 44.5, refined 46.2, in two stages 46.9 AP).

    Source: fundamentalvision/Deformable-DETR (commit 48092c5), main.py and README.md; arXiv 2010.04159, 5; mmdetection
    3.3.0, configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py, is the same. With `backbone_weights=True`.
    """
    return detr_300e().changed(
        epochs=50, batch_size=32, learning_rate=2e-4, base_batch_size=32, offset_lr_factor=0.1, milestones=(40,)
    )


def yolor_300e() -> TrainConfig:
    """YOLOR-P6 and its larger kin from random weights, 300 epochs of COCO at 1280x1280 and 64 images: SGD 0.01 with
    Nesterov's momentum 0.937, warmed up over 3 epochs (biases from ten times the rate, momentum from 0.8), half a
    cosine by epochs to a fifth, mosaics of four zoomed by 0.5 to 1.5 and shifted by up to half, EMA (P6 51.9 AP).

    Source: arXiv 2105.04206 and the values of WongKinYiu/yolor (main 3ca250a), scratch.1280. YOLOv4-P5, -P6 and -P7
    are trained at 896, 1280 and 1536 (`input_size`, arXiv 2011.08036).
    The rate holds for a loss that is a sum over the images, as the YOLO head's is: so it is not scaled by the batch
    (`base_batch_size=0`), but the weight decay is, and accumulated batches add up.
    Differs: the number of accumulated batches does not rise during the warm-up.
    """
    return TrainConfig(
        epochs=300, batch_size=64, sum_batches=True, optimizer="sgd", learning_rate=0.01, base_batch_size=0,
        momentum=0.937, nesterov=True, weight_decay=5e-4, decay_batch_size=64, clip_grad=0.0,
        schedule="cosine_epochs", final_factor=0.2, warmup_steps=1000, warmup_epochs=3.0, warmup_factor=0.0,
        bias_warmup=10.0, momentum_warmup=0.8, ema=0.9999, ema_warmup=2000,
        preset="yolo", input_size=(1280, 1280), scale=(0.5, 1.5), translate=0.5,
    )  # fmt: skip


def yolor_finetune_125e() -> TrainConfig:
    """The second phase of YOLOR, from the checkpoint of `yolor_300e`: 125 epochs of mosaics of nine, zoomed by 0.2 to
    1.8, a fifth of them blended, on the part from epoch 300 of a cosine over 450: the rate jumps from 0.002 to 0.004.

    Source: README and schedule.png of WongKinYiu/yolor (main 3ca250a), finetune.1280. Nothing is frozen.
    Differs: optimizer state and EMA counter start anew; there they go on from the saved epoch 298.
    """
    return yolor_300e().changed(
        epochs=125, schedule_start=300, schedule_epochs=450, warmup_steps=0, warmup_epochs=0.0, bias_warmup=None,
        momentum_warmup=None, mosaic9=1.0, scale=(0.2, 1.8), mixup=0.2,
    )  # fmt: skip


def yolor_finetune_25e() -> TrainConfig:
    """The third phase of YOLOR, from the checkpoint of `yolor_finetune_125e`: the last 25 of its 450 epochs, mosaics of
    four again (P6 52.5 AP).

    Source and differences: as `yolor_finetune_125e`.
    """
    return yolor_finetune_125e().changed(epochs=25, schedule_start=425, mosaic9=0.0)


def yolov4_csp_300e() -> TrainConfig:
    """YOLOv4-CSP, YOLOR-CSP and their X forms: `yolor_300e` at 640x640, zoomed by 0.1 to 1.9 and shifted by up to a
    tenth (YOLOv4-CSP 48.0 AP, arXiv 2105.04206, table 3).

    Source: scratch.640 of WongKinYiu/yolor (main 3ca250a), whose weights of the loss are box 0.05, objectness 0.7 and
    classes 0.3.
    """
    return yolor_300e().changed(input_size=(640, 640), scale=(0.1, 1.9), translate=0.1)


def yolov4_large_finetune_150e() -> TrainConfig:
    """The second phase of YOLOv4-P5 to -P7, from the checkpoint of `yolor_300e`: 150 epochs zoomed by 0.2 to 1.8, a
    fifth of the pictures blended.

    Source: arXiv 2011.08036 and WongKinYiu/ScaledYOLOv4 (yolov4-large, 6768003). Differs: as
    `yolor_finetune_125e`, whose cosine over 450 epochs is assumed here.
    """
    return yolor_finetune_125e().changed(epochs=150, mosaic9=0.0)


def yolor_s_300e() -> TrainConfig:
    """YOLOR-S: `yolor_300e` at 640x640, zoomed by 0.5 to 1.5 and shifted by up to a tenth.

    Source: scratch.s of WongKinYiu/yolor (paper 10efdf7).
    """
    return yolov4_csp_300e().changed(scale=(0.5, 1.5))


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    f.__name__: f
    for f in (
        small, mmdet_1x, mmdet_2x, dyhead_1x, rcnn_1x, rcnn_20e, rcnn_2x, rcnn_3x, reppoints_1x, reppoints_2x,
        ttfnet_1x, ttfnet_2x, ttfnet_10x, pafnet_1x, pafnet_10x, pafnet_lite_20x, centernet_140e,
        detr_150e, detr_300e, detr_500e, deformable_detr_50e, *SWIN_VIT, *EFFICIENTDET,
        yolor_300e, yolor_finetune_125e, yolor_finetune_25e, yolov4_csp_300e, yolov4_large_finetune_150e, yolor_s_300e,
    )
}  # fmt: skip


def recipe(name: str) -> TrainConfig:
    """A schedule by name. Raises: HeadwayError naming the nearest known ones."""
    if name not in RECIPES:
        raise HeadwayError(f"unknown recipe {name!r}; {nearest(name, RECIPES)} (known: {', '.join(RECIPES)})")
    return RECIPES[name]()
