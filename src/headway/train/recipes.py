"""Training schedules by name: a table, each row with its source.

A row is another row and what differs from it. `recipe("dyhead_1x").changed(batch_size=4)` adapts one, and its
learning rate then follows the images of a step. "small" is `TrainConfig` as it is, the default from random weights and
from an ImageNet backbone ("small_light" for EfficientDet and YOLO); "finetune" is the default from the weights of a
whole detector.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import HeadwayError, nearest
from ..models import MODELS
from ..resolve import resolve_model
from .config import TrainConfig

if TYPE_CHECKING:
    from ..detector import Detector


def _row(base: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return base, settings


# Beside each row: its source, the AP published for it, what must be set in the model, and what differs here; of COCO,
# where nothing else is said. "mmdet" is mmdetection 3.3.0.
_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    # From a trained detector: a rate that does not undo what it knows, a slower backbone, a short warm-up, and a
    # validation of the start.
    "finetune": _row(
        "", epochs=30, learning_rate=1e-4, backbone_lr_factor=0.1, attention_lr_factor=1.0, warmup_steps=50,
        validate_start=True,
    ),
    # AdamW moves every weight by about the rate at each step, so a layer with few weights behind each output, separable
    # or 1x1, moves its output least. From ImageNet weights, 8 epochs: `benchmarks/results/claims.md`, 14b.
    "small_light": _row("", learning_rate=5e-3),
    # No recipe: what the published schedules have in common, unless they say otherwise.
    "coco": _row(
        "", batch_size=16, base_batch_size=16, optimizer="sgd", learning_rate=0.01, weight_decay=1e-4, clip_grad=0.0,
        offset_lr_factor=1.0, attention_lr_factor=1.0, schedule="multistep", gamma=0.1, warmup_steps=500, ema=0.0,
        preset="mmdet", drop_empty=True, cache="none",
    ),
    # RetinaNet, FCOS (whose configs add `clip_grad=35`) and ATSS.
    # Source: mmdet, configs/_base_/schedules/schedule_1x.py with the learning rate of the one-stage configs.
    # Differs: the warm-up reaches the full rate at step 500, there at step 499.
    "mmdet_1x": _row("coco", epochs=12, decay_norm_and_bias=True, milestones=(8, 11)),
    # Source: mmdet, configs/_base_/schedules/schedule_2x.py.
    "mmdet_2x": _row("mmdet_1x", epochs=24, milestones=(16, 22)),
    # ATSS with DyHead, 43.3 AP.
    # Source: mmdet, configs/dyhead/atss_r50_fpn_dyhead_1x_coco.py; the 1x of the released code (arXiv 2106.08322) has
    # the same rate, length and drops.
    "dyhead_1x": _row("mmdet_1x"),
    # Faster R-CNN 37.4 and Cascade R-CNN 40.3 AP, with `frozen_stages=1`, `norm="eval"` and ImageNet weights.
    # Source: mmdet, configs/_base_/schedules/schedule_1x.py. detectron2's 1x has the same rate and length.
    "rcnn_1x": _row("mmdet_1x", learning_rate=0.02),
    # Cascade R-CNN 41.0 AP. Source: mmdet, configs/_base_/schedules/schedule_20e.py.
    "rcnn_20e": _row("rcnn_1x", epochs=20, milestones=(16, 19)),
    # Faster R-CNN 38.4 AP. Source: mmdet, configs/_base_/schedules/schedule_2x.py.
    "rcnn_2x": _row("rcnn_1x", epochs=24, milestones=(16, 22)),
    # Faster R-CNN 40.3 AP. Source: mmdet, configs/common/ms_3x_coco.py: three repeats of 12 epochs.
    # Differs: the short side is drawn in steps of 32 from 480 to 800, there any from 640 to 800.
    "rcnn_3x": _row("rcnn_1x", epochs=36, milestones=(27, 33), preset="multiscale"),
    # RepPoints 37.0 AP, 38.1 with GroupNorm. Source: mmdet, configs/reppoints/reppoints-moment_r50_fpn_1x_coco.py.
    "reppoints_1x": _row("mmdet_1x"),
    # 38.6 AP with GroupNorm. Source: mmdet, configs/reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py.
    "reppoints_2x": _row("mmdet_2x"),
    # TTFNet, R18 25.9 and Darknet-53 32.9 AP, with `frozen_stages=1` and ImageNet weights. Darknet-53 has
    # `batch_size=96, base_batch_size=96, learning_rate=0.015`.
    # Source: arXiv 1909.00700, 4.1, and ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_1x.py.
    # Differs: pictures keep their ratio, there they are squeezed to a square; the scales of norms are decayed there.
    "ttfnet_1x": _row(
        "coco", epochs=12, batch_size=128, learning_rate=0.016, base_batch_size=128, weight_decay=4e-4,
        bias_lr_factor=2.0, clip_grad=35.0, milestones=(9, 11), warmup_factor=0.2, input_size=(512, 512),
    ),
    # R18 28.1, R34 31.3, Darknet-53 35.1 AP. Source: ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_2x.py.
    "ttfnet_2x": _row("ttfnet_1x", epochs=24, milestones=(18, 22)),
    # R18 31.8, R34 35.3, Darknet-53 39.3 AP. Source: ZJULearning/ttfnet, configs/ttfnet/ttfnet_r18_aug_10x.py.
    "ttfnet_10x": _row("ttfnet_1x", epochs=120, milestones=(90, 110), preset="ssd", sizes=(512,)),
    # PAFNet. Source: the paper's setting (arXiv 2104.13534: 15,000 steps of 96 images, drops at 11,250 and 13,750,
    # which is a tenth of the released 150,000-step configuration), otherwise as `pafnet_10x`.
    "pafnet_1x": _row("pafnet_10x", epochs=12, batch_size=96, base_batch_size=96, milestones=(9, 11), plain_epochs=2),
    # PAFNet, 39.8 AP as released, from distilled ImageNet weights (SSLD) with `norm="frozen"`.
    # Source: PaddleDetection 2.0, configs/ttfnet/_base_/optimizer_10x.yml and pafnet_reader.yml.
    # Differs: timm has no SSLD weights of ResNet-D (`docs/settings.md` names what there is); of the biases only those
    # of shortcuts, upsampling and the heads' last layers have twice the rate there; CutMix leaves hidden boxes out
    # here, and was a no-op in the static releases and absent from 2.2 on, so its share in the 39.8 AP is unknown; the
    # EMA starts from the weights, there from zero with a correction. What `ssd` changes stands in `data/augment`.
    "pafnet_10x": _row(
        "coco", epochs=120, batch_size=144, learning_rate=0.015, base_batch_size=144, weight_decay=4e-4,
        bias_lr_factor=2.0, milestones=(80, 110), warmup_factor=0.2, ema=0.9998, preset="ssd", input_size=(512,
        512), sizes=(416, 448, 480, 512, 544, 576, 608, 640, 672), cutmix=1.0, plain_epochs=20,
    ),
    # PAFNet-Lite, 23.9 AP as released. `teacher` adds knowledge distillation, which was never released for it.
    # Source: PaddleDetection 2.0, configs/ttfnet/_base_/optimizer_20x.yml and pafnet_lite_reader.yml; the probability
    # of GridMask is the default of ppdet/data/transform/operators.py, reached after 300,000 steps, the whole training.
    # Differs: the backbone's rates there rise with depth from a quarter to three quarters and its weight decay is 1e-5,
    # here it has one rate, a half, and the common decay; CutMix as in `pafnet_10x`.
    "pafnet_lite_20x": _row(
        "pafnet_10x",
        epochs=240, batch_size=96, base_batch_size=96, milestones=(160, 220), warmup_steps=1000, clip_grad=35.0,
        backbone_lr_factor=0.5, ema=0.0, input_size=(320, 320), sizes=(320, 352, 384, 416, 448, 480, 512),
        plain_epochs=40, gridmask=0.7,
    ),
    # CenterNet, R18 25.9 AP, 29.5 with deformable convolutions.
    # Source: mmdet, configs/centernet/centernet_r18_8xb16-crop512-140e_coco.py (28 epochs, data repeated five times).
    # Differs: the authors train with Adam at 5e-4 (xingyizhou/CenterNet, same length and drops); both crop 512x512 at
    # 0.6 to 1.3 times the size around a box, here `ssd` zooms and crops at one size.
    "centernet_140e": _row(
        "coco", epochs=140, batch_size=128, learning_rate=0.02, base_batch_size=128, decay_norm_and_bias=True,
        clip_grad=35.0, milestones=(90, 120), warmup_steps=1000, preset="ssd", sizes=(512,), input_size=(512, 512),
    ),
    # DETR, R50 39.9 AP, with `backbone_weights=True`, constant batch norms (the model's default) and `frozen_stages=1`.
    # Source: mmdet, configs/detr/detr_r50_8xb2-150e_coco.py.
    "detr_150e": _row(
        "coco", epochs=150, optimizer="adamw", learning_rate=1e-4, decay_norm_and_bias=True, backbone_lr_factor=0.1,
        clip_grad=0.1, milestones=(100,), warmup_steps=0, preset="detr",
    ),
    # Source: facebookresearch/detr (commit 29901c5), main.py; arXiv 2005.12872, 4.1, whose ablations are trained so.
    # The rate there does not follow the number of images: the paper's 64 have it as well as the code's 16.
    "detr_300e": _row("detr_150e", epochs=300, milestones=(200,), base_batch_size=0, drop_empty=False),
    # R50 42.0, its DC5 form 43.3, R101 43.5, its DC5 form 44.9 AP. Source: arXiv 2005.12872, 4.1 and table 1.
    "detr_500e": _row("detr_300e", epochs=500, batch_size=64, milestones=(400,)),
    # Deformable DETR, R50 44.5, refined 46.2, in two stages 46.9 AP, with `backbone_weights=True`.
    # Source: fundamentalvision/Deformable-DETR (commit 48092c5), main.py and README.md; arXiv 2010.04159, 5; mmdet,
    # configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py, is the same.
    "deformable_detr_50e": _row(
        "detr_300e", epochs=50, batch_size=32, learning_rate=2e-4, base_batch_size=32, offset_lr_factor=0.1,
        milestones=(40,),
    ),
    # Swin-T in Mask R-CNN 42.7 box AP, with `backbone_weights=True`. RetinaNet on Swin keeps `mmdet_1x`.
    # Source: mmdet, configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py. The authors' own 1x has the augmentation of
    # `swin_3x` (Cascade R-CNN on Swin-T 48.1 AP).
    # Differs: decay reaches neither norms nor tables of positions, as there, but no bias either.
    "swin_1x": _row(
        "coco", epochs=12, optimizer="adamw", learning_rate=1e-4, weight_decay=0.05, milestones=(8, 11),
        warmup_steps=1000,
    ),
    # Cascade R-CNN on Swin-T 50.4, Swin-S 51.9, Swin-B 51.9 AP.
    # Source: SwinTransformer/Swin-Transformer-Object-Detection (ed8d4d8), configs/swin; mmdet,
    # configs/swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py.
    "swin_3x": _row(
        "swin_1x",
        epochs=36, milestones=(27, 33), preset="detr", input_size=(800, 1333), sizes=tuple(range(480, 801, 32)),
    ),
    # ATSS with DyHead on Swin-T, 49.8 AP. Source: the authors' configuration (arXiv 2106.08322).
    "dyhead_swin_t_2x": _row(
        "swin_1x", epochs=24, batch_size=32, base_batch_size=32, milestones=(16, 21), preset="multiscale",
        input_size=(800, 1333), sizes=tuple(range(640, 801, 32)),
    ),
    # ATSS with DyHead on Swin-L, 56.2 AP.
    # Source: mmdet, configs/dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py (12 epochs, data repeated twice).
    "dyhead_swin_l_2x": _row(
        "swin_1x", epochs=24, learning_rate=5e-5, milestones=(16, 22), warmup_steps=500, preset="multiscale",
        input_size=(1200, 2000), sizes=tuple(range(480, 1201, 8)),
    ),
    # ViTDet-B, Cascade R-CNN 54.0, Mask R-CNN 51.6 box AP, from MAE weights (`backbone_weights=True`), fp16.
    # Source: detectron2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py (184,375 steps, drops at 163,889 and
    # 177,546).
    # Differs: zooms are drawn by their logarithm, there evenly; relative positions are not decayed.
    "vitdet_100e": _row(
        "coco", epochs=100, batch_size=64, optimizer="adamw", learning_rate=1e-4, base_batch_size=64, weight_decay=0.1,
        layer_lr_factor=0.7, milestones=(89, 96), warmup_steps=250, preset="small", scale=(0.1, 2.0),
        colour=0.0, input_size=(1024, 1024),
    ),
    # EfficientDet-D0 34.3, D3 46.8, D6 52.1 AP, with ImageNet weights (`backbone_weights=True`) and norms over all
    # devices (`sync_bn=True`).
    # Source: arXiv 1911.09070, 5.1, and google/automl, efficientdet/hparams_config.py and det_model_fn.py; the paper
    # has 128 images a step, and so twice the rate.
    # Differs: zooms are drawn by their logarithm, there evenly; boxes of which a crop leaves less than 30% are left
    # out; the cosine begins after the warm-up, there with it.
    "efficientdet_300e": _row(
        "coco", epochs=300, batch_size=64, learning_rate=0.08, base_batch_size=64, weight_decay=4e-5, clip_grad=10.0,
        schedule="cosine", warmup_steps=0, warmup_epochs=1.0, warmup_factor=0.1, final_factor=0.0, ema=0.9998,
        preset="small", scale=(0.1, 2.0), colour=0.0, drop_empty=False,
    ),
    # EfficientDet-D7 53.4, D7x 54.4 AP. Source: google/automl, efficientdet/hparams_config.py.
    "efficientdet_600e": _row("efficientdet_300e", epochs=600),
    # YOLOR-P6 (51.9 AP) and its larger kin from random weights. YOLOv4-P5, -P6 and -P7 are trained at 896, 1280 and
    # 1536 (`input_size`, arXiv 2011.08036).
    # Source: arXiv 2105.04206 and the values of WongKinYiu/yolor (main 3ca250a), scratch.1280. The rate holds for a
    # loss that is a sum over the images, as the YOLO head's is: so it is not scaled by the batch (`base_batch_size=0`),
    # but the weight decay is, and accumulated batches add up.
    # Differs: the number of accumulated batches does not rise during the warm-up.
    "yolor_300e": _row(
        "coco", epochs=300, batch_size=64, sum_batches=True, base_batch_size=0, momentum=0.937, nesterov=True,
        weight_decay=5e-4, decay_batch_size=64, schedule="cosine_epochs", final_factor=0.2, warmup_steps=1000,
        warmup_epochs=3.0, warmup_factor=0.0, bias_warmup=10.0, momentum_warmup=0.8, ema=0.9999,
        ema_warmup=2000, preset="yolo", input_size=(1280, 1280), scale=(0.5, 1.5), translate=0.5,
        drop_empty=False,
    ),
    # The second phase of YOLOR, from the checkpoint of `yolor_300e`: the rate jumps from 0.002 to 0.004.
    # Source: README and schedule.png of WongKinYiu/yolor (main 3ca250a), finetune.1280. Nothing is frozen.
    # Differs: optimizer state and EMA counter start anew; there they go on from the saved epoch 298.
    "yolor_finetune_125e": _row(
        "yolor_300e", epochs=125, schedule_start=300, schedule_epochs=450, warmup_steps=0, warmup_epochs=0.0,
        bias_warmup=None, momentum_warmup=None, mosaic9=1.0, scale=(0.2, 1.8), mixup=0.2,
    ),
    # The third phase, from the checkpoint of `yolor_finetune_125e` (P6 52.5 AP); source and differences as there.
    "yolor_finetune_25e": _row("yolor_finetune_125e", epochs=25, schedule_start=425, mosaic9=0.0),
    # YOLOv4-CSP (48.0 AP, arXiv 2105.04206, table 3), YOLOR-CSP and their X forms.
    # Source: scratch.640 of WongKinYiu/yolor (main 3ca250a), whose weights of the loss are box 0.05, objectness 0.7 and
    # classes 0.3.
    "yolov4_csp_300e": _row("yolor_300e", input_size=(640, 640), scale=(0.1, 1.9), translate=0.1),
    # The second phase of YOLOv4-P5 to -P7, from the checkpoint of `yolor_300e`.
    # Source: arXiv 2011.08036 and WongKinYiu/ScaledYOLOv4 (yolov4-large, 6768003). Differs: as `yolor_finetune_125e`,
    # whose cosine over 450 epochs is assumed here.
    "yolov4_large_finetune_150e": _row("yolor_finetune_125e", epochs=150, mosaic9=0.0),
    # YOLOR-S. Source: scratch.s of WongKinYiu/yolor (paper 10efdf7).
    "yolor_s_300e": _row("yolov4_csp_300e", scale=(0.5, 1.5)),
}  # fmt: skip

_LIGHT_HEADS = ("efficientdet", "yolov4", "yolor")  # of the parts with such layers those that were measured
RECIPES = ("small", *(name for name in _ROWS if name != "coco"))


def recipe(name: str) -> TrainConfig:
    """A schedule by name. Raises: HeadwayError naming the nearest known ones."""
    if name not in RECIPES:
        raise HeadwayError(f"unknown recipe {name!r}; {nearest(name, RECIPES)} (known: {', '.join(RECIPES)})")
    settings: dict[str, Any] = {}
    while name in _ROWS:
        name, differences = _ROWS[name]
        settings = differences | settings
    return TrainConfig(**settings)


def recipe_for(model: str | os.PathLike[str] | Detector, *, random: bool = False) -> str:
    """The name of the recipe for what a model starts from: "finetune" from the weights of a whole detector (a file, a
    run folder, a tag), else "small", or "small_light" for EfficientDet and YOLO. random: a tag starts without its
    weights."""
    if isinstance(model, (str, os.PathLike)):
        found = resolve_model(model)
        trained, name = found.kind == "file" or (found.kind == "tag" and not random), found.name
    else:
        trained, name = bool(model.card.training), model.card.model
    if trained:
        return "finetune"
    base = name.partition(".")[0]
    head = (MODELS[base][0] if base in MODELS else name).rpartition("/")[2]
    return "small_light" if head in _LIGHT_HEADS else "small"
