"""What `claims.py` trains: rows, and the claims that compare them."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

# All rows, unless they say otherwise. What is known of microscopy: no up or down, one magnification.
BUDGET: dict[str, Any] = {
    "recipe": "small", "epochs": 8, "batch_size": 8, "input_size": (192, 256), "vertical_flip": 0.5,
    "scale": (0.75, 1.35), "precision": "bf16", "validate_every": 2, "learning_rate": 1.5e-3,
}  # fmt: skip
# Heads of separable or 1x1 convolutions: fewer weights behind each output, which AdamW moves by the same steps.
FASTER: dict[str, Any] = {**BUDGET, "learning_rate": 5e-3}
PEOPLE: dict[str, Any] = {**BUDGET, "vertical_flip": 0.0, "scale": (0.6, 1.4)}
LITE, R18 = "tf_efficientnet_lite0", "resnet18"
IMAGENET: dict[str, Any] = {"backbone.weights": True}
FPN: dict[str, Any] = {**IMAGENET, "fpn.channels": 64}
BLOCKS: dict[str, Any] = {"dyhead.blocks": 2}
REGIONS: dict[str, Any] = {
    "backbone.strides": (8, 16, 32), "fpn.levels": 4, "anchor_scale": 4.0, "hidden": 256, "rpn_samples": 128,
    "roi_samples": 128, "pre_nms": (500, 300), "proposals": (300, 300),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One training. teacher: the row whose checkpoint of the same seed it learns from."""

    model: str
    arguments: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=lambda: BUDGET)
    data: str = "bccd"
    teacher: str = ""


@dataclass(frozen=True)
class Claim:
    """pairs: (row, reference). effects: (name, rows with a thing, the same rows without it), of which the means are
    compared. paper: what the paper reports for it; gain: the least gain in AP that it reports, in 0..1, which an
    interval has to exclude for "does not hold here"; gains: of single rows or effects, where they differ. metrics: AP,
    or at single overlaps "ap50" to "ap95"."""

    number: str
    text: str
    paper: str
    gain: float
    pairs: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...] = ("ap",)
    effects: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()
    gains: dict[str, float] = field(default_factory=dict)


_PLAIN = ("atss", "fcos", "retinanet", "reppoints", "faster_rcnn", "cascade_rcnn", "ttfnet", "efficientdet", "yolov4")
ROWS: dict[str, Row] = {
    "atss": Row(f"{LITE}/fpn/atss", FPN),
    "dyhead atss": Row(f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS),
    "dyhead atss, published start": Row(f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS | {"dyhead.start": "all"}),
}
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "fcos": FPN, "retinanet": FPN, "reppoints": FPN, "faster_rcnn": FPN | REGIONS, "cascade_rcnn": FPN | REGIONS,
}  # fmt: skip
for _head, _given in _ARGUMENTS.items():
    ROWS[_head] = Row(f"{LITE}/fpn/{_head}", _given)
    ROWS[f"dyhead {_head}"] = Row(f"{LITE}/fpn/dyhead/{_head}", _given | BLOCKS)
for _head in ("faster_rcnn", "cascade_rcnn"):
    ROWS[f"dyhead {_head}, task attention on regions"] = Row(
        f"{LITE}/fpn/dyhead/{_head}", _ARGUMENTS[_head] | BLOCKS | {"dyhead.task": False, "task_attention": True}
    )
ROWS["ttfnet"] = Row(f"{LITE}/upsample/ttfnet", IMAGENET)
ROWS["dyhead ttfnet"] = Row(f"{LITE}/dyhead_upsample/ttfnet", IMAGENET)
_QUICK_NORMS = IMAGENET | {"norm_momentum": 0.1}
ROWS["efficientdet"] = Row(f"{LITE}/bifpn/efficientdet", _QUICK_NORMS, FASTER)
ROWS["dyhead efficientdet"] = Row(f"{LITE}/bifpn/dyhead/efficientdet", _QUICK_NORMS | BLOCKS, FASTER)
ROWS["efficientdet, norms as published"] = Row(f"{LITE}/bifpn/efficientdet", IMAGENET, FASTER)
ROWS["yolov4"] = Row(f"{LITE}/fpn/yolov4", FPN)
ROWS["dyhead yolov4"] = Row(f"{LITE}/fpn/dyhead/yolov4", FPN | BLOCKS)

# The towers of RetinaNet and RepPoints, which have no norm as published.
_NO_NORMS = {"tower_norm": False}
ROWS["retinanet, no norms"] = Row(f"{LITE}/fpn/retinanet", FPN | _NO_NORMS)
_PUBLISHED = _NO_NORMS | {"center_init": True}
ROWS["reppoints, published start, norms in its towers"] = Row(f"{LITE}/fpn/reppoints", FPN | {"center_init": True})
ROWS["reppoints, as published"] = Row(f"{LITE}/fpn/reppoints", FPN | _PUBLISHED)
ROWS["dyhead reppoints, as published"] = Row(f"{LITE}/fpn/dyhead/reppoints", FPN | BLOCKS | _PUBLISHED)
ROWS["dyhead retinanet, towers kept"] = Row(f"{LITE}/fpn/dyhead/retinanet", FPN | BLOCKS | {"tower_depth": 4})
ROWS["dyhead retinanet, towers kept, no norms"] = Row(
    f"{LITE}/fpn/dyhead/retinanet", FPN | BLOCKS | {"tower_depth": 4} | _NO_NORMS
)

# The attentions, and the number of blocks.
_ATTENTIONS = {"L": "scale", "S": "spatial", "C": "task"}
_LETTERS = [
    "".join(letter for letter, on in zip(_ATTENTIONS, flags) if on) for flags in product((False, True), repeat=3)
]


def _attending(letters: str) -> str:
    """The row of ATSS behind a Dynamic Head with these attentions."""
    return "dyhead atss" if letters == "LSC" else f"dyhead atss, {letters or 'none'}"


def _effect(letter: str) -> str:
    """The name of what one attention does on the mean of the rows with it."""
    return f"{_ATTENTIONS[letter]} ({letter}), mean of the four rows with it"


for _letters in _LETTERS[:-1]:
    _off = {f"dyhead.{name}": letter in _letters for letter, name in _ATTENTIONS.items()}
    ROWS[_attending(_letters)] = Row(f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS | _off)
for _blocks in (1, 4, 6):
    ROWS[f"dyhead atss, {_blocks} block{'s' * (_blocks > 1)}"] = Row(
        f"{LITE}/fpn/dyhead/atss", FPN | {"dyhead.blocks": _blocks}
    )
ROWS["dyhead atss, paper's form"] = Row(f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS | {"dyhead.form": "paper"})
ROWS["dyhead atss, paper's form, finest"] = Row(
    f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS | {"dyhead.form": "paper", "dyhead.common_size": "finest"}
)
for _mode in ("resize", "upsample_first"):
    ROWS[f"dyhead atss, {_mode}"] = Row(f"{LITE}/fpn/dyhead/atss", FPN | BLOCKS | {"dyhead.high_offset": _mode})

# Without the task attention, before other heads.
_NO_TASK = ("fcos", "retinanet", "faster_rcnn", "cascade_rcnn")
for _head in _NO_TASK:
    ROWS[f"dyhead {_head}, LS"] = Row(
        f"{LITE}/fpn/dyhead/{_head}", _ARGUMENTS[_head] | BLOCKS | {"dyhead.task": False}
    )  # fmt: skip

# A longer budget, and people.
LONG: dict[str, Any] = {**BUDGET, "epochs": 24, "validate_every": 4}
for _name in ("atss", "dyhead atss"):
    ROWS[f"{_name}, 24 epochs"] = Row(ROWS[_name].model, ROWS[_name].arguments, LONG)
    ROWS[f"{_name}, people"] = Row(ROWS[_name].model, ROWS[_name].arguments, PEOPLE, "coco-person")

# Where a cascade is better, and what one threshold does.
for _iou in (0.6, 0.7):
    ROWS[f"faster_rcnn at {_iou}"] = Row(f"{LITE}/fpn/faster_rcnn", FPN | REGIONS | {"ious": (_iou,)})

# Deformable convolution in a ResNet, of which no weights are packaged: random ones, smaller pictures, more epochs.
RANDOM: dict[str, Any] = {**BUDGET, "epochs": 12, "validate_every": 3, "input_size": (144, 192)}
for _label, _dcn in (
    ("", {}), (", dcn v1", {"dcn": ("c4", "c5"), "dcn_version": 1}), (", dcn v2", {"dcn": ("c4", "c5")}),
):  # fmt: skip
    for _head, _given in (("retinanet", _NO_NORMS), ("atss", {})):
        ROWS[f"{_head} r18{_label}"] = Row(f"{R18}/fpn/{_head}", {"fpn.channels": 64, **_given, **_dcn}, RANDOM)

# PAFNet's tricks, at an epoch number where regularisation can pay.
_TRICKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({}, {}), ", AGS": ({"ags": "gaussian"}, {}), ", CutMix": ({}, {"cutmix": 1.0, "plain_epochs": 4}),
    ", GridMask": ({}, {"gridmask": 0.5}), ", no EMA": ({}, {"ema": 0.0}),
}  # fmt: skip
for _label, (_given, _settings) in _TRICKS.items():
    ROWS[f"pafnet_lite{_label}"] = Row(f"{LITE}/lite_upsample/pafnet_lite", IMAGENET | _given, LONG | _settings)
ROWS["ttfnet, deformable head"] = Row(f"{LITE}/upsample/ttfnet", IMAGENET | {"deformable_head": True})

# Distillation of PAFNet-Lite, from a TTFNet as long trained.
ROWS["ttfnet, 24 epochs"] = Row(f"{LITE}/upsample/ttfnet", IMAGENET, LONG)
ROWS["pafnet_lite, distilled"] = replace(ROWS["pafnet_lite"], teacher="ttfnet, 24 epochs")

# Implicit knowledge.
for _label, _given in (
    ("", {}), (", no implicit", {"align": None, "refine": None}), (", align only", {"refine": None}),
    (", refine only", {"align": None}), (", mul and add", {"align": "mul", "refine": "add"}),
    (", concat", {"align": "concat"}), (", network", {"implicit": "network"}), (", factors", {"implicit": "factors"}),
):  # fmt: skip
    ROWS[f"yolor{_label}"] = Row(f"{LITE}/fpn/yolor", FPN | _given)
ROWS["retinanet, implicit"] = Row(f"{LITE}/fpn/retinanet", FPN | {"align": "add", "refine": "mul"})
for _label, _given in ((", no implicit", {"align": None, "refine": None}), ("", {})):
    for _task, _tasks in (("tags", {"tags": True}), ("embeddings", {"embedding": 64})):
        ROWS[f"yolor with {_task}{_label}"] = Row(f"{LITE}/fpn/yolor", FPN | _given | _tasks)

# Compound scaling: EfficientNet-Lite0 to 2 have the widths and depths of B0 to B2, from which D0 to D2 are made.
_D = {0: (64, 3, 3, 192), 1: (88, 4, 3, 240), 2: (112, 5, 3, 288)}


def _scaled(backbone: int, neck: int, side: int) -> Row:
    channels, cells, depth, _ = _D[neck]
    given = {**IMAGENET, "bifpn.channels": channels, "cells": cells, "tower_depth": depth, "norm_momentum": 0.1}
    size = {"input_size": (_D[side][3], _D[side][3] * 4 // 3 // 16 * 16)}
    return Row(f"tf_efficientnet_lite{backbone}/bifpn/efficientdet", given, FASTER | size)


for _number in _D:
    ROWS[f"D{_number}"] = _scaled(_number, _number, _number)
ROWS["D0, backbone of D2"] = _scaled(2, 0, 0)
ROWS["D0, neck and head of D2"] = _scaled(0, 2, 0)
ROWS["D0, pictures of D2"] = _scaled(0, 0, 2)
ROWS["bifpn atss"] = Row(f"{LITE}/bifpn/atss", IMAGENET)

# Transformers as backbones, beside "atss r18": from random weights too.
ROWS["atss swin nano"] = Row("swin_nano_patch4_window7/fpn/atss", {"fpn.channels": 64}, RANDOM)
ROWS["atss vit tiny"] = Row("vit_tiny_patch16/simple_pyramid/atss", {"simple_pyramid.channels": 64}, RANDOM)

# Sets of objects.
_SET: dict[str, Any] = {
    **IMAGENET, "level_projection.levels": 3, "level_projection.channels": 128, "heads": 4, "encoder_layers": 1,
    "decoder_layers": 3, "feedforward": 512, "queries": 100, "dropout": 0.0, "refine_boxes": True, "two_stage": True,
}  # fmt: skip
ROWS["deformable_detr"] = Row(f"{LITE}/level_projection/deformable_detr", _SET, LONG)
ROWS["deformable_detr, one to many"] = Row(
    f"{LITE}/level_projection/deformable_detr", _SET | {"many": 300, "repeats": 4}, LONG
)
ROWS["detr"] = Row(f"{LITE}/project/detr", {
    **IMAGENET, "project.channels": 128, "heads": 4, "encoder_layers": 3, "decoder_layers": 3, "feedforward": 512,
    "dropout": 0.0,
}, LONG)  # fmt: skip

# Rows whose layers say where to read: at a tenth of the rate, the default of "small"; some at the full rate too, as all
# of them were trained before.
_FULL = ", offsets at the full rate"
_READING = [
    name for name, row in ROWS.items()
    if ("dyhead" in row.model and row.arguments.get("dyhead.spatial", True))
    or {"dcn", "deformable_head"} & row.arguments.keys() or "deformable_detr" in row.model
]  # fmt: skip
_BOTH = (*(f"dyhead {head}" for head in ("atss", "ttfnet", "faster_rcnn", "cascade_rcnn")), "ttfnet, deformable head")
for _name in _READING:
    for _label, _rate in (("", 0.1), *(((_FULL, 1.0),) if _name in _BOTH else ())):
        ROWS[_name + _label] = replace(ROWS[_name], settings=ROWS[_name].settings | {"offset_lr_factor": _rate})

# At the rate that "small" had before.
_SLOW = ", at 6e-4"
_RATED = (
    *(name for head in _PLAIN if head != "efficientdet" for name in (head, f"dyhead {head}")),
    *(f"{name}, {what}" for what in ("24 epochs", "people") for name in ("atss", "dyhead atss")), "pafnet_lite",
    "atss r18",
)  # fmt: skip
for _name in _RATED:
    ROWS[_name + _SLOW] = replace(ROWS[_name], settings=ROWS[_name].settings | {"learning_rate": 6e-4})

# At further rates; with smaller batches, where AdamW's rate follows their root; a transformer at the rate of the rest.
_FURTHER = {
    **dict.fromkeys(("atss", "cascade_rcnn", "ttfnet"), 3e-3),
    **dict.fromkeys(("yolov4", "dyhead yolov4", "yolor", "yolor, factors"), 5e-3),
}  # fmt: skip
for _name, _rate in _FURTHER.items():
    ROWS[f"{_name}, at {_rate:g}"] = replace(ROWS[_name], settings=ROWS[_name].settings | {"learning_rate": _rate})
ROWS["efficientdet, at 0.0015"] = replace(ROWS["efficientdet"], settings=BUDGET)
for _label, _power in (("", 0.5), (", rate by the ratio", 1.0)):
    _settings = {"batch_size": 2, "learning_rate": 1.5e-3 * (2 / 8) ** _power, "base_batch_size": 0}
    ROWS[f"atss, batches of 2{_label}"] = replace(ROWS["atss"], settings=BUDGET | _settings)
ROWS["atss vit tiny, one rate"] = replace(ROWS["atss vit tiny"], settings=RANDOM | {"attention_lr_factor": 1.0})

# It left the library (docs/attention.md); its runs are of 257c622, at the rate before.
ROWS["fullhead atss"] = Row(
    f"{LITE}/fpn/fullhead/atss", FPN | {"fullhead.blocks": 2}, BUDGET | {"learning_rate": 6e-4}
)  # fmt: skip

_FORMS = ("", ", align only", ", refine only", ", mul and add", ", concat", ", network", ", factors")
CLAIMS: tuple[Claim, ...] = (
    Claim("1", "Dynamic Head in front of any head", "+1.2 to +3.2 AP (COCO, 12 epochs)", 0.012, (
        *((f"dyhead {head}", head) for head in _PLAIN),
        ("dyhead retinanet", "retinanet, no norms"), ("dyhead reppoints, as published", "reppoints, as published"),
        ("dyhead cascade_rcnn, task attention on regions", "cascade_rcnn"),
        ("dyhead faster_rcnn, task attention on regions", "faster_rcnn"),
        ("dyhead atss, published start", "atss"), ("dyhead yolov4, at 0.005", "yolov4, at 0.005"),
        ("dyhead atss, people", "atss, people"), ("dyhead atss, 24 epochs", "atss, 24 epochs"),
    )),
    Claim("2a", "each of the three attentions, against the block without any",
          "scale +0.9, spatial +2.4, task +1.3, scale and spatial +2.6, all three +3.6 AP (ATSS R50)", 0.009, (
        *((_attending(letters), "dyhead atss, none") for letters in _LETTERS[1:]),
    ), effects=tuple(
        (_effect(letter), *(tuple(_attending(letters) for letters in _LETTERS if (letter in letters) == on)
                            for on in (True, False))) for letter in "LSC"
    ), gains={
        **{name(letter): gain for letter, gain in (("S", 0.024), ("C", 0.013)) for name in (_attending, _effect)},
        _attending("LS"): 0.026, _attending("LSC"): 0.036,
    }),
    Claim("2b", "more blocks, the paper's form, other readings of the offsets",
          "6 blocks are best, 2 give +0.5 over the towers; of its form and the offsets nothing", 0.0, (
        ("dyhead atss, 1 block", "dyhead atss"), ("dyhead atss, 4 blocks", "dyhead atss"),
        ("dyhead atss, 6 blocks", "dyhead atss"), ("dyhead atss, paper's form", "dyhead atss"),
        ("dyhead atss, paper's form, finest", "dyhead atss"), ("dyhead atss, paper's form, finest", "atss"),
        ("dyhead atss, resize", "dyhead atss"), ("dyhead atss, upsample_first", "dyhead atss"),
    )),
    Claim("2c", "without the task attention, before other heads", "it adds +1.0 AP to the other two (ATSS R50)", 0.0, (
        ("dyhead atss, LS", "dyhead atss"), *((f"dyhead {head}, LS", f"dyhead {head}") for head in _NO_TASK),
        ("dyhead atss, LS", "atss"), *((f"dyhead {head}, LS", head) for head in _NO_TASK),
    )),
    Claim("10", "full attention over level, space and channel",
          "none, it was an idea of this library and has left it, see docs/attention.md", 0.0, (
        ("fullhead atss", f"dyhead atss{_SLOW}"), ("fullhead atss", f"atss{_SLOW}"),
    )),
    Claim("11", "a set of objects, and one-to-many matching in its training",
          "Deformable DETR 44.5 AP after 50 epochs, DETR 42.0 after 500; of one-to-many matching none at hand", 0.0, (
        ("deformable_detr", "detr"), ("deformable_detr, one to many", "deformable_detr"),
        ("deformable_detr", "atss, 24 epochs"), ("deformable_detr, one to many", "atss, 24 epochs"),
    )),
    Claim("3a", "a cascade over Faster R-CNN, AP", "+2.9 AP (R50, 12 epochs, mmdetection 3.3.0)", 0.029, (
        ("cascade_rcnn", "faster_rcnn"),
    )),
    Claim("3b", "the same, by overlap", "most of the gain is at high overlaps", 0.0, (
        ("cascade_rcnn", "faster_rcnn"),
    ), ("ap50", "ap60", "ap70", "ap75", "ap80", "ap90")),
    Claim("3c", "training at an overlap of 0.5, against a higher one", "one high threshold alone is worse", 0.0, (
        ("faster_rcnn", "faster_rcnn at 0.6"), ("faster_rcnn", "faster_rcnn at 0.7"),
    )),
    Claim("7a", "implicit knowledge on YOLOR and on a dense head",
          "align +0.1, refine 0.0 to +0.2, both +0.2 AP (YOLOv4-CSP-fast); dense heads 0.0 to +0.2", 0.001, (
        *((f"yolor{form}", "yolor, no implicit") for form in _FORMS),
        ("yolor, at 0.005", "yolov4, at 0.005"), ("yolor, factors, at 0.005", "yolov4, at 0.005"),
        ("retinanet, implicit", "retinanet"),
    )),
    Claim("7b", "implicit knowledge for joint tasks", "+0.4 AP beside tags, +0.2 beside embeddings", 0.002, (
        ("yolor with tags", "yolor with tags, no implicit"),
        ("yolor with embeddings", "yolor with embeddings, no implicit"),
    )),
    Claim("8a", "compound scaling", "D1 +5.9, D2 +9.2 AP over D0 (34.3, 40.2, 43.5)", 0.059, (
        ("D1", "D0"), ("D2", "D0"),
    )),
    Claim("8b", "all dimensions at once, against one of them", "scaling one dimension is behind", 0.0, (
        ("D2", "D0, backbone of D2"), ("D2", "D0, neck and head of D2"), ("D2", "D0, pictures of D2"),
    )),
    Claim("8c", "BiFPN over a feature pyramid", "+4.1 AP (EfficientNet-B3, 40.3 to 44.4, its table 4)", 0.041, (
        ("bifpn atss", "atss"),
    )),
    Claim("4", "deformable convolution in the backbone", "v1 +3.9 AP (Faster R-CNN R50, mmdetection 3.3.0)", 0.039, (
        *((f"{head} r18, dcn {version}", f"{head} r18") for head in ("atss", "retinanet") for version in ("v1", "v2")),
    )),
    Claim("9", "transformers as backbones", "Swin-T +2.7 AP over R50 (Mask R-CNN 3x, 41.0 to 43.7)", 0.027, (
        ("atss swin nano", "atss r18"), ("atss vit tiny", "atss r18"),
    )),
    Claim("5", "PAFNet's tricks", "one figure for all of them, none for each that could be found", 0.0, (
        *((f"pafnet_lite, {trick}", "pafnet_lite") for trick in ("AGS", "CutMix", "GridMask")),
        ("pafnet_lite", "pafnet_lite, no EMA"), ("ttfnet, deformable head", "ttfnet"),
    )),
    Claim("6", "distillation of PAFNet-Lite", "named in the paper, never released; no figure", 0.0, (
        ("pafnet_lite, distilled", "pafnet_lite"),
    )),
    Claim("13", "norms in towers that have none as published, before and behind a Dynamic Head; other starts",
          "RepPoints +1.1 AP (38.1 with norms in neck and head, mmdetection); of the rest none", 0.0, (
        ("retinanet", "retinanet, no norms"), ("reppoints", "reppoints, as published"),
        ("reppoints, published start, norms in its towers", "reppoints, as published"),
        ("dyhead retinanet, towers kept, no norms", "dyhead retinanet"),
        ("dyhead retinanet, towers kept", "dyhead retinanet"),
        ("dyhead reppoints", "dyhead reppoints, as published"),
        ("efficientdet", "efficientdet, norms as published"),
    )),
    Claim("12", "offsets that learn at a tenth of the rate, against the full one",
          "done in deformable convolution v2 and Deformable DETR, of which no comparison is at hand", 0.0,
          tuple((name, name + _FULL) for name in _BOTH)),
    Claim("14a", "a learning rate of 1.5e-3, against 6e-4", "none, a setting of this library", 0.0,
          tuple((name, name + _SLOW) for name in _RATED)),
    Claim("14b", "further rates, against the default", "none, a setting of this library", 0.0, (
        *((f"{name}, at {rate:g}", name) for name, rate in _FURTHER.items()),
        ("efficientdet", "efficientdet, at 0.0015"),
        ("atss, batches of 2", "atss, batches of 2, rate by the ratio"),
        ("atss vit tiny", "atss vit tiny, one rate"),
    )),
)  # fmt: skip
