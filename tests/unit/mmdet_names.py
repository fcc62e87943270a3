"""A RetinaNet's weights as mmdetection writes them."""

import torch
from torch import nn


def mmdet_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of our RetinaNet with a tower of one layer under mmdetection's names."""
    renames = [
        ("backbone.body.", "backbone."),
        ("neck.laterals.", "neck.lateral_convs."), ("neck.outputs.", "neck.fpn_convs."),
        ("head.cls_tower.0", "bbox_head.cls_convs.0"), ("head.box_tower.0", "bbox_head.reg_convs.0"),
        ("head.cls.", "bbox_head.retina_cls."), ("head.box.", "bbox_head.retina_reg."),
        ("neck.extras.0.", "neck.fpn_convs.3."), ("neck.extras.1.", "neck.fpn_convs.4."),
    ]  # fmt: skip
    upstream = {}
    for key, value in model.state_dict().items():
        (name,) = (new + key.removeprefix(old) for old, new in renames if key.startswith(old))
        if name.startswith("neck."):
            stem, leaf = name.rsplit(".", 1)
            name = f"{stem}.conv.{leaf}"
        upstream[name] = value
    return upstream
