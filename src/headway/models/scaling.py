"""EfficientDet's compound scaling (arXiv 1911.09070, section 4.2), as a path and its arguments.

Numbers as released: google/automl, efficientdet/hparams_config.py, through rwightman/efficientdet-pytorch 0.4.1,
effdet/config/model_config.py (both Apache-2.0).
"""

from typing import Any

_DROP_PATH = 0.2
# Where the released models leave the formula. The largest two share D6's widths and depths.
_D7: dict[str, Any] = {"input_size": (1536, 1536), "bifpn.channels": 384, "cells": 8, "fusion": "sum"}
_EXCEPTIONS: dict[int, dict[str, Any]] = {
    2: {"bifpn.channels": 112},
    4: {"bifpn.channels": 224},
    5: {"input_size": (1280, 1280), "cells": 7},
    6: {"cells": 8, "fusion": "sum"},
    7: {**_D7, "anchor_scale": 5.0},
    8: {**_D7, "tower_depth": 5, "bifpn.levels": 6},
}
_BACKBONES = {7: 6, 8: 7}


def compound_scaling(coefficient: int, *, published: bool = True) -> tuple[str, dict[str, Any]]:
    """Path and arguments of EfficientDet-D0 to D7 by their coefficient; 8 is D7x.

    Formula: EfficientNet-B of the same number, 64 * 1.35^c channels to the nearest multiple of 8, 3 + c cells, towers
    of 3 + c // 3 convolutions, pictures of 512 + 128 c pixels. published: with the exceptions of the released models,
    which from D2 on are many; else the formula alone.

    Raises: ValueError for a coefficient out of 0..8.
    """
    if not 0 <= coefficient <= 8:
        raise ValueError(f"the compound coefficient must be 0..8 (8 is D7x), got {coefficient}")
    side = 512 + 128 * coefficient
    arguments = {
        "backbone.drop_path": _DROP_PATH,
        "input_size": (side, side),
        "bifpn.channels": 8 * round(64 * 1.35**coefficient / 8),
        "cells": 3 + coefficient,
        "tower_depth": 3 + coefficient // 3,
    }
    number = _BACKBONES.get(coefficient, coefficient) if published else coefficient
    exceptions = _EXCEPTIONS.get(coefficient, {}) if published else {}
    return f"tf_efficientnet_b{number}/bifpn/efficientdet", {**arguments, **exceptions}


def scaled(width: float = 1.0, depth: float = 1.0, resolution: float = 1.0) -> tuple[str, dict[str, Any]]:
    """Path and arguments of EfficientDet-D0 with every part scaled by the same factors (EfficientNet's rule, arXiv
    1905.11946, equation 3).

    width: of the channels of backbone, BiFPN and head, in multiples of 8; depth: of the layers of the backbone, the
    cells and the towers; resolution: of the side of the picture, 512, in multiples of 32.
    """
    layers, side = max(1, round(3 * depth)), max(1, round(512 * resolution / 32)) * 32
    return "efficientnet/bifpn/efficientdet", {
        "backbone.width": width,
        "backbone.depth": depth,
        "bifpn.channels": max(8, 8 * round(8 * width)),
        "cells": layers,
        "tower_depth": layers,
        "input_size": (side, side),
    }
