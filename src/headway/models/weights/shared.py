"""What the published checkpoints of several families have in common."""

from collections.abc import Mapping
from typing import Any

from ..published import WeightsRow

RGB: dict[str, Any] = {"score_threshold": 0.05}
CAFFE: dict[str, Any] = {**RGB, "channels": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
EVAL: dict[str, Any] = {"norm": "eval"}
OFFICIAL: dict[str, Any] = {
    "norm": "frozen", "stride_in_1x1": True, "relu_before_extra": True, "zero_init_offset": False, "deform_bias": True,
}  # fmt: skip
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
DETECTRON2_TRUNK: dict[str, Any] = {
    "norm": "frozen", "frozen_stages": 1, "stride_in_1x1": True, "clip_shrink": False, "keep_owner": True,
}  # fmt: skip


def mmdet(
    model: str,
    tag: str,
    config: str,
    end: str,
    ap: float,
    arguments: Mapping[str, Any] = EVAL,
    card: Mapping[str, Any] = RGB,
) -> WeightsRow:
    """A row of mmdetection's zoo. config: folder and name of its configuration, which the file has too, with `end`."""
    url = f"https://download.openmmlab.com/mmdetection/v2.0/{config}/{config.split('/')[1]}{end}.pth"
    return WeightsRow(model, tag, "mmdet", arguments, card, url, end[-8:], metrics={"AP": ap})


def detectron2(
    model: str, tag: str, file: str, ap: float, arguments: Mapping[str, Any], card: Mapping[str, Any] = CAFFE
) -> WeightsRow:
    """A row of detectron2's zoo. file: ends in six digits of its MD5."""
    return WeightsRow(
        model, tag, "detectron2", arguments, card, f"{DETECTRON2}{file}.pkl", licence="CC-BY-SA-3.0",
        metrics={"AP": ap}, md5=file[-6:],
    )  # fmt: skip


def torchvision(
    model: str, tag: str, file: str, ap: float, arguments: Mapping[str, Any], card: Mapping[str, Any], **more: Any
) -> WeightsRow:
    """A row of torchvision's zoo. file: ends in eight digits of its SHA-256."""
    url = f"https://download.pytorch.org/models/{file}.pth"
    return WeightsRow(model, tag, "torchvision", arguments, card, url, file[-8:], "BSD-3-Clause", {"AP": ap}, **more)
