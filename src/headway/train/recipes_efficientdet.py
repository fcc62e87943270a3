"""Published schedules of EfficientDet; `recipes.py` lists them all."""

from __future__ import annotations

from .config import TrainConfig


def efficientdet_300e() -> TrainConfig:
    """EfficientDet-D0 to D6, 300 epochs of COCO: SGD 0.08 at 64 images, a tenth of it at the first step of one epoch of
    warm-up, half a cosine to 0, weight decay 4e-5, EMA 0.9998, flips and pictures at 0.1 to 2 times the size (D0 34.3,
    D3 46.8, D6 52.1 AP).

    Source: arXiv 1911.09070, 5.1, and google/automl, efficientdet/hparams_config.py and det_model_fn.py; the paper has
    128 images a step, and so twice the rate. ImageNet weights (`backbone_weights=True`) and norms over all devices
    (`sync_bn=True`) belong to it.
    Differs: zooms are drawn by their logarithm, there evenly; boxes of which a crop leaves less than 30% are left out;
    the cosine begins after the warm-up, there with it.
    """
    return TrainConfig(
        epochs=300, batch_size=64, optimizer="sgd", learning_rate=0.08, base_batch_size=64, momentum=0.9,
        weight_decay=4e-5, clip_grad=10.0, schedule="cosine", warmup_steps=0, warmup_epochs=1.0, warmup_factor=0.1,
        final_factor=0.0, ema=0.9998, preset="small", scale=(0.1, 2.0), colour=0.0,
    )  # fmt: skip


def efficientdet_600e() -> TrainConfig:
    """EfficientDet-D7 and D7x: `efficientdet_300e` for 600 epochs (53.4 and 54.4 AP).

    Source: google/automl, efficientdet/hparams_config.py.
    """
    return efficientdet_300e().changed(epochs=600)


EFFICIENTDET = (efficientdet_300e, efficientdet_600e)
