"""The paths that the contract is held against, made from what is registered, and small pictures and targets for them.

A new part needs one row of `SMALL` where its defaults are too large for a test. Without a row it is tested with its
defaults, a head behind the first neck it can read.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import headway
from headway.detector import Detector
from headway.errors import HeadwayError
from headway.registry import find_part
from headway.types import Candidates, Levels, Losses, Target

CLASSES = 3
SIZE = (64, 96)
_SET = {"heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 48, "queries": 9}
_REGIONS = {"hidden": 48, "pre_nms": (200, 100), "proposals": (60, 60), "anchor_scale": 2.0}

# Arguments that make a part small. Of a head, "behind" is the neck of its paper.
SMALL: dict[str, dict[str, Any]] = {
    "bifpn": {"channels": 32, "cells": 1},
    "deconv": {"planes": (32, 16, 16)},
    "dyhead": {"blocks": 1},
    "dyhead_upsample": {"channels": 32, "blocks": 1, "planes": (24, 16, 16)},
    "fpn": {"channels": 32},
    "level_projection": {"channels": 32},
    "pan": {"channels": 32, "blocks": 1},
    "project": {"channels": 32},
    "simple_pyramid": {"channels": 32},
    "upsample": {"planes": (24, 16, 16)},
    "lite_upsample": {"planes": (24, 16, 16)},
    "atss": {"behind": "fpn", "tower_depth": 1},
    "cascade_rcnn": {"behind": "fpn", **_REGIONS},
    "centernet": {"behind": "deconv", "head_width": 16},
    "deformable_detr": {"behind": "level_projection", "points": 2, **_SET},
    "detr": {"behind": "project", **_SET},
    "efficientdet": {"behind": "bifpn", "tower_depth": 1},
    "faster_rcnn": {"behind": "fpn", **_REGIONS},
    "fcos": {"behind": "fpn", "tower_depth": 1},
    "pafnet": {"behind": "upsample"},
    "pafnet_lite": {"behind": "lite_upsample"},
    "reppoints": {"behind": "fpn", "tower_depth": 1},
    "retinanet": {"behind": "fpn", "tower_depth": 1},
    "ttfnet": {"behind": "upsample"},
    "yolor": {"behind": "pan"},
    "yolov4": {"behind": "pan"},
    "csp_darknet": {"depth": 0.1, "width": 0.125},
    "efficientnet": {"width": 0.25, "depth": 0.25},
}

# Further forms of a part that have layers of their own: the head they are held with, and arguments.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "atss, kernel of 1": ("toy/fpn/dyhead/atss", {"kernel": 1}),
    "fcos of the first paper": ("toy/fpn/fcos", {"improved": False}),
    "retinanet without norms": ("toy/fpn/retinanet", {"tower_norm": False, "box_loss": "giou"}),
    "reppoints, minmax": ("toy/fpn/reppoints", {"transform": "minmax", "init_assign": "max_iou"}),
    "faster rcnn, task attention": ("toy/fpn/dyhead/faster_rcnn", {"dyhead.task": False, "task_attention": True}),
    "cascade rcnn, convolutions": (
        "toy/fpn/cascade_rcnn", {"box_convs": 1, "box_fcs": 1, "box_norm": "batch", "class_agnostic": False}
    ),
    "yolor, all that is implicit": ("toy/pan/yolor", {"align": "concat", "refine": "add", "implicit": "factors"}),
    "yolor of four levels": ("toy/fpn/yolor", {"fpn.levels": 4, "align": "mul", "refine": None}),
    "deformable detr, one level": (
        "toy/level_projection/deformable_detr", {"levels": 1, "backbone.strides": (32,)}
    ),
    "deformable detr, refined": ("toy/level_projection/deformable_detr", {"refine_boxes": True}),
    "deformable detr, two stages": (
        "toy/level_projection/deformable_detr", {"refine_boxes": True, "two_stage": True}
    ),
}  # fmt: skip


@headway.register_backbone("toy")
class Toy(nn.Module):
    """A convolution for each halving of the picture: a backbone of a test's size."""

    def __init__(self, *, strides: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        widths = (3, 8, 8, 12, 16, 24)[: max(strides).bit_length()]
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU())
            for a, b in pairwise(widths)
        )
        self.levels = Levels(strides, tuple(widths[stride.bit_length() - 1] for stride in strides))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = {}
        for number, step in enumerate(self.steps):
            x = maps[2 ** (number + 1)] = step(x)
        return [maps[stride] for stride in self.levels.strides]


class Case(NamedTuple):
    """A path and the arguments that make it small."""

    path: str
    arguments: dict[str, Any]


def small(path: str, **more: Any) -> Case:
    """The path with the rows of its parts. more: further arguments, which win."""
    backbone, *necks, head = path.split("/")
    arguments = {f"backbone.{k}": v for k, v in SMALL.get(backbone, {}).items()}
    for kind, part in [*(("neck", neck) for neck in necks), ("head", head)]:
        known = find_part(kind, part).options
        arguments |= {f"{part}.{k}": v for k, v in SMALL.get(part, {}).items() if k in known}
    for key in more:  # `levels` is the same as `fpn.levels`
        arguments = {k: v for k, v in arguments.items() if k.rpartition(".")[2] != key}
    return Case(path, {**arguments, **more})


def natural(head: str, backbone: str = "toy") -> str:
    """The path of a head behind the neck of its row, else behind the first that it can read."""
    if "behind" in SMALL.get(head, {}):
        return f"{backbone}/{SMALL[head]['behind']}/{head}"
    for neck in ["fpn", "upsample", *headway.list_parts("neck")]:
        try:
            with torch.device("meta"):
                compose(small(path := f"{backbone}/{neck}/{head}"))
        except HeadwayError:
            continue
        return path
    raise AssertionError(f"no neck that is registered can be read by {head}")


def heads() -> list[str]:
    """Every registered head."""
    return headway.list_parts("head")


def chains() -> list[str]:
    """Every neck, those that keep what they read behind `fpn`, and the pairs that are used together."""
    necks = [n for n in headway.list_parts("neck") if n != "dyhead"]
    behind = [f"{n}/dyhead" for n in ("fpn", "bifpn", "pan", "simple_pyramid", "level_projection")]
    return [*necks, *behind, "fpn/bifpn", "fpn/pan", "fpn/upsample", "pan/upsample", "simple_pyramid/upsample",
            "fpn/dyhead/upsample"]  # fmt: skip


def compose(case: Case, **more: Any) -> Detector:
    return headway.compose(case.path, {**case.arguments, **more}, num_classes=CLASSES)


# ------------------------------------------------------------------------------------------------ pictures, networks
def images_of(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def target(boxes: Iterable, labels: list[int] | None = None, crowd: list[bool] | None = None) -> Target:
    """labels: by default 0, 1, 2, 0, ..."""
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    classes = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels)
    return Target(boxes, classes, None if crowd is None else torch.tensor(crowd))


# Boxes of every size at three places; those of the coarsest levels reach beyond the picture.
EVERYWHERE = [
    [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    for side in (9, 16, 32, 64, 128, 256, 512, 1024, 2048)
    for x, y in ((20, 20), (48, 32), (76, 50))
]


def prepared(case: Case) -> Detector:
    """A network whose norms have seen pictures, whose predictions are spread and in which nothing starts at zero: no
    gradient vanishes and few scores tie."""
    torch.manual_seed(0)
    model = compose(case)
    for name, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02 if "offset" in name else 0.1)
        if name.endswith("gate.bias"):  # a scale gate lies behind a ReLU
            nn.init.constant_(parameter, 0.1)
        if name == "head.box.bias":  # FCOS's distances too
            nn.init.constant_(parameter, 1.0)
    for layer in model.head.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() in (2, 4) and weight.std() < 0.08:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
    with torch.no_grad():
        model.train()(images_of(4))
    for norm in norms:
        norm.momentum = 0.0  # what a test does in training mode leaves no trace
    return model.eval()


def loss_of(model: Detector, images: Tensor, targets: list[Target]) -> Losses:
    """Forward and loss; what a head draws is the same for every call."""
    torch.manual_seed(0)
    return model.loss(model(images, None, targets), targets)


def candidates_of(model: nn.Module, images: Tensor, sizes: Tensor | None = None) -> Candidates:
    with torch.no_grad():
        return model.decode(model(images, sizes))


def leaves(raw: Any) -> list[Tensor]:
    """Every tensor of a raw output."""
    return [x for x in tree_leaves(raw) if isinstance(x, Tensor)]


def strangers(found: Candidates, expected: Candidates, image: int = 0, other: int = 0, far: float = 0.05) -> int:
    """How many candidates have no partner of their class within `far` pixels and far / 1000 of their score. Near ties
    may stand in another order, so positions do not count."""
    rows = [
        torch.cat([c.boxes[i].float(), c.scores[i, :, None].float() * 1000, c.labels[i, :, None] * 1000.0], 1)
        for c, i in ((found, image), (expected, other))
    ]
    assert rows[0].shape == rows[1].shape
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    return max(int((distance.min(d).values > far).sum()) for d in (0, 1))


class Exportable(nn.Module):
    """Forward and decode as one graph."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidates = self.model.decode(self.model(images, sizes))
        return candidates.boxes, candidates.scores, candidates.labels
