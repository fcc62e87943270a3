"""Published checkpoints of EfficientDet: the authors' (google/automl), as effdet 0.4.1 carries them for PyTorch."""

from typing import Any

from ..classes import COCO_NAMES_BY_ID
from ..published import WeightsRow

_RELEASE = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"
_BY_ID: dict[str, Any] = {"num_classes": 90}  # COCO's ids 1 to 90, some of which no object has
_CARD: dict[str, Any] = {
    "score_threshold": 0.0, "drop_empty": False, "class_names": COCO_NAMES_BY_ID[1:],
    "category_ids": tuple(range(1, 91)),
}  # fmt: skip
_HALF: dict[str, Any] = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
# trained by effdet's author on timm's backbones, padded as PyTorch does
_TORCH: dict[str, Any] = {**_BY_ID, "bias": False, "symmetric": True}

# AP of D0 to D7x: the authors', with soft NMS.
_AUTHORS = {
    "d0": ("tf_efficientdet_d0_34-f153e0cf", 0.343),
    "d1": ("tf_efficientdet_d1_40-a30f94af", 0.402),
    "d2": ("tf_efficientdet_d2_43-8107aa99", 0.435),
    "d3": ("tf_efficientdet_d3_47-0b525f35", 0.468),
    "d4": ("tf_efficientdet_d4_49-f56376d9", 0.493),
    "d5": ("tf_efficientdet_d5_51-c79f9be6", 0.512),
    "d6": ("tf_efficientdet_d6_52-4eda3773", 0.521),
    "d7": ("tf_efficientdet_d7_53-6d1d7a95", 0.534),
    "d7x": ("tf_efficientdet_d7x-f390b87c", 0.544),
}
# trained with adversarial pictures and AutoAugment (google/automl, efficientdet/Det-AdvProp.md)
_ADVERSARIAL = {
    "d0": "tf_efficientdet_d0_ap-d0cdbd0a",
    "d1": "tf_efficientdet_d1_ap-7721d075",
    "d2": "tf_efficientdet_d2_ap-a2995c19",
    "d3": "tf_efficientdet_d3_ap-e4a2feab",
    "d4": "tf_efficientdet_d4_ap-f601a5fc",
    "d5": "tf_efficientdet_d5_ap-3673ae5d",
}

ROWS = (
    *(
        WeightsRow(
            f"efficientdet_{size}", "effdet", "effdet", _BY_ID, _CARD, f"{_RELEASE}{file}.pth", file[-8:],
            metrics={"AP": ap},
        )
        for size, (file, ap) in _AUTHORS.items()
    ),
    *(
        WeightsRow(
            f"efficientdet_{size}", "effdet_ap", "effdet", _BY_ID, {**_CARD, **_HALF}, f"{_RELEASE}{file}.pth",
            file[-8:],
        )
        for size, file in _ADVERSARIAL.items()
    ),
    WeightsRow(
        "efficientdet_lite0", "effdet", "effdet", _BY_ID, {**_CARD, **_HALF},
        f"{_RELEASE}tf_efficientdet_lite0-dfacfc78.pth", "dfacfc78", metrics={"AP": 0.264},
    ),
    WeightsRow(
        "efficientdet_d0", "effdet_torch", "effdet", {**_TORCH, "backbone": "efficientnet_b0", "drop_path": 0.1}, _CARD,
        f"{_RELEASE}efficientdet_d0-f3276ba8.pth", "f3276ba8",
    ),
    WeightsRow(
        "efficientdet_d1", "effdet_torch", "effdet", {**_TORCH, "backbone": "efficientnet_b1"}, _CARD,
        f"{_RELEASE}efficientdet_d1-bb7e98fe.pth", "bb7e98fe",
    ),
)  # fmt: skip
