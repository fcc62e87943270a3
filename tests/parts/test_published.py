"""Parameters, multiply-adds, map sizes and anchors of the published models, on the meta device."""

import pytest
import torch

import headway
from headway.layers.deform import DeformableConv2d
from headway.profile import count_macs, count_parameters

HEADS_WITH_PYRAMID = ("atss", "fcos", "retinanet", "reppoints")


def build(name: str, **arguments) -> headway.Detector:
    with torch.device("meta"):
        return headway.create_model(name, **arguments).to("meta")  # the statistics of the pixels have values


# name, arguments, parameters and, where some are frozen, those that are trained
COUNTS = [
    ("atss_r50_fpn_dyhead", {}, 39_071_682, None),
    ("atss_r50_fpn_dyhead", {"frozen_stages": 1}, 39_071_682, 38_846_338),
    ("atss_r50_fpn_dyhead", {"kernel": 1}, 38_897_602, None),
    ("atss_r50_fpn", {"frozen_stages": 1}, 32_295_322, 32_069_978),
    ("retinanet_r50_fpn", {}, 37_968_692, None),
    ("fcos_r50_fpn", {}, 32_297_370, None),
    ("fcos_r50_fpn", {"improved": False, "norm": "frozen", "frozen_stages": 1}, 32_295_322, 32_019_802),
    ("reppoints_r50_fpn", {}, 36_845_494, None),
    ("reppoints_r50_fpn", {"frozen_stages": 1}, 36_845_494, 36_620_150),
    # A norm has 2 x 256 parameters where a bias has 256: 8 convolutions of the neck and 6 of the towers.
    ("reppoints_r50_fpn", {"fpn_norm": "group", "tower_norm": True}, 36_849_078, None),
    ("reppoints_r50_fpn", {"transform": "minmax"}, 36_845_492, None),
    # Deformable stages: 1,286,172 more in R101.
    ("reppoints_r101_fpn", {}, 55_837_622, None),
    ("reppoints_r101_fpn", {"dcn": ("c3", "c4", "c5"), "dcn_version": 1}, 55_837_622 + 1_286_172, None),
    ("faster_rcnn_r50_fpn", {}, 41_753_056, None),
    ("faster_rcnn_r50_fpn", {"frozen_stages": 1}, 41_753_056, 41_527_712),
    ("faster_rcnn_r101_fpn", {}, 60_745_184, None),
    ("cascade_rcnn_r50_fpn", {"frozen_stages": 1}, 69_394_766, 69_169_422),
    ("cascade_rcnn_r101_fpn", {}, 88_386_894, None),
    ("faster_rcnn_r50_fpn_dconv", {}, 42_333_898, None),
    ("faster_rcnn_r50_fpn_mdconv", {}, 42_624_319, None),
    ("faster_rcnn_r101_fpn_dconv", {}, 60_745_184 + 1_286_172, None),
    ("pafnet_lite", {}, 3_401_242, None),
    ("pafnet_lite", {"num_classes": 20}, 3_398_302, None),
    ("pafnet_lite", {"num_classes": 1}, 3_397_371, None),
    ("centernet_r18", {"deformable": False}, 14_219_092, None),
    # A bias and 27 * (9 * inputs + 1) of the offsets for each of the three 3x3 convolutions.
    ("centernet_r18", {}, 14_219_092 + 256 + 128 + 64 + 27 * (9 * (512 + 256 + 128) + 3), None),
    ("pafnet", {}, 33_779_984, None),
    ("pafnet", {"norm": "frozen"}, 33_779_984, 33_726_736),
    ("pafnet", {"dcn": (), "deformable_head": False}, 32_831_237, None),
    ("pafnet", {"num_classes": 20}, 33_772_244, None),
    ("pafnet", {"num_classes": 1}, 33_769_793, None),
    ("ttfnet_darknet53", {}, 45_732_485, None),
]


@pytest.mark.parametrize(("name", "arguments", "total", "trainable"), COUNTS)
def test_parameters(name, arguments, total, trainable):
    model = build(name, **arguments)
    assert count_parameters(model) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (trainable or total)


@pytest.mark.parametrize(("name", "arguments", "size", "macs", "error"), [
    ("pafnet_lite", {}, 320, 0.780e9, 0.01),
    ("pafnet", {}, 512, 41.06e9, 2e-4),
    ("ttfnet_darknet53", {}, 512, 49.04e9, 2e-4),
    # counted by other software (the published ones in billions are 2.54 and 410)
    ("efficientdet_d0", {"num_classes": 90}, 512, 2.492e9, 3e-4),
    ("efficientdet_d7x", {"num_classes": 90}, 1536, 407.628e9, 2e-6),
])  # fmt: skip
def test_multiply_adds(name, arguments, size, macs, error):
    assert count_macs(build(name, **arguments), (size, size)) == pytest.approx(macs, rel=error)


@pytest.mark.parametrize("name", [n for n in headway.list_models() if n.startswith(HEADS_WITH_PYRAMID)])
def test_every_model_with_a_dense_head_has_five_levels(name):
    raw = build(name).eval()(torch.zeros(1, 3, 800, 1088, device="meta"))
    per_cell = 9 if "retinanet" in name else 1
    assert len(raw.priors.level_sizes) == 5
    assert raw.priors.level_sizes[0] == 100 * 136 * per_cell
    assert raw.cls.shape == (1, sum(raw.priors.level_sizes), 80)


@pytest.mark.parametrize("name", [n for n in headway.list_models() if n.startswith(("ttfnet", "pafnet", "centernet"))])
def test_every_heat_map_is_of_stride_4(name):
    raw = build(name).eval()(torch.zeros(1, 3, 384, 512, device="meta"))
    assert raw.heatmap.shape == (1, 80, 96, 128)
    assert raw.box.shape == (1, 4 if raw.offset is None else 2, 96, 128)


@pytest.mark.parametrize(
    "name",
    ["atss_swin_l_fpn_dyhead", "cascade_rcnn_swin_t_fpn", "atss_vit_b_hybrid", "detr_r101_dc5", "efficientdet_d7x",
     "deformable_detr_r50_two_stage"],
)  # fmt: skip
def test_large_models_take_odd_sizes(name):
    assert count_macs(build(name), (97, 131)) > 1e9


@pytest.mark.parametrize(("name", "rows", "strides"), [
    ("yolor_csp", 25_200, (8, 16, 32)),
    ("yolor_p6", 102_000, (8, 16, 32, 64)),
    ("yolor_d6", 102_000, (8, 16, 32, 64)),
    ("yolov4_p7", 196_416, (8, 16, 32, 64, 128)),
])  # fmt: skip
def test_rows_of_grid_heads(name, rows, strides):
    """Three anchors in 80, 40 and 20 cells squared; in 160 to 20; four in 192 to 12."""
    model = build(name).eval()
    raw = model(torch.zeros(1, 3, *model.card.input_size, device="meta"))
    assert model.head.strides == strides
    assert model.head.rows(raw).shape == (1, rows, 85)
    assert model.card.pad_multiple == strides[-1]


def test_efficientdet_by_part():
    model = build("efficientdet_d0.effdet")
    head = model.head
    parts = [(model.backbone, 3_595_388), (model.neck, 196_281)]
    for tower, prediction, count in ((head.cls_tower, head.cls, 69_354), (head.box_tower, head.box, 19_044)):
        assert count_parameters(tower) + count_parameters(prediction) == count
    for part, count in parts:
        assert count_parameters(part) == count


@pytest.mark.parametrize(("size", "count"), [("d0", 49_104), ("d1", 76_725), ("d5", 306_900), ("d7x", 442_260)])
def test_anchors_of_efficientdet(size, count):
    model = build(f"efficientdet_{size}")
    side, strides = model.card.input_size[0], model.head.strides
    priors = model.head.make_priors([(-(-side // s),) * 2 for s in strides], strides, torch.device("cpu"))
    assert len(priors.boxes) == count
    assert model.card.pad_multiple == strides[-1]
    assert priors.boxes[0].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]


def test_where_pafnet_is_deformable():
    """All 13 3x3 convolutions of C3 to C5, the neck's three steps, two in each branch; none where arguments say so."""
    places = [n for n, m in build("pafnet").named_modules() if isinstance(m, DeformableConv2d)]
    none = build("pafnet", dcn=(), deformable=False, deformable_head=False)
    parts = [".".join(name.split(".")[:3]) for name in places]
    assert {part: parts.count(part) for part in parts} == {
        "backbone.body.layer2": 4, "backbone.body.layer3": 6, "backbone.body.layer4": 3,
        "neck.upsamples.0": 1, "neck.upsamples.1": 1, "neck.upsamples.2": 1,
        "head.heatmap.conv0": 1, "head.heatmap.conv1": 1, "head.box.conv0": 1, "head.box.conv1": 1,
    }  # fmt: skip
    assert not any(isinstance(m, DeformableConv2d) for m in none.modules())


WITH_DYHEAD = [n for n in headway.list_models("*_dyhead") if n.startswith(HEADS_WITH_PYRAMID) and "_r" not in n]


@pytest.mark.parametrize("name", [n for n in WITH_DYHEAD if n.removesuffix("_dyhead") in headway.list_models()])
def test_dynamic_head_costs_the_same_on_every_backbone(name):
    """Parameters less those without it, as on a ResNet-50 (mmdetection's ATSS 32,295,322 and with DyHead 39,071,682);
    RetinaNet's sixth level comes from the last map without it, and from the fifth level with it."""
    resnet = f"{name.split('_')[0]}_r50_fpn_dyhead"
    width = {"channels": 256, "extra_levels": "on_output"} if "retinanet" in name else {"channels": 256}
    with_it, without = (
        [count_parameters(build(n, **width, **extra)) for n in names]
        for names, extra in (
            ((name, resnet), {"blocks": 6}),
            ((name.removesuffix("_dyhead"), resnet.removesuffix("_dyhead")), {}),
        )
    )
    assert with_it[0] - without[0] == with_it[1] - without[1]
