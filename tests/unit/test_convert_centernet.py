"""CenterNet's checkpoints: key names and shapes written out from the authors' modules, and their neck's arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headway
from headway.convert import from_upstream
from headway.errors import CheckpointError
from headway.models.weights import ROWS
from headway.necks.deconv import DlaUpNeck, IterativeUpsample, bilinear_deconv
from headway.types import Levels

CLASSES = 2


# ------------------------------------------------------------------------------------------- what the files contain
def norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.{leaf}": [width] for leaf in ("weight", "bias", "running_mean", "running_var")}


def deformable(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    """A DCN of DCNv2/dcn_v2.py: its own weight and bias, and the convolution of 18 offsets and 9 masks."""
    return {
        f"{name}.weight": [outputs, inputs, 3, 3],
        f"{name}.bias": [outputs],
        f"{name}.conv_offset_mask.weight": [27, inputs, 3, 3],
        f"{name}.conv_offset_mask.bias": [27],
    }


def branches(inputs: int, width: int) -> dict[str, list[int]]:
    keys = {}
    for name, outputs in (("hm", CLASSES), ("wh", 2), ("reg", 2)):
        keys |= {f"{name}.0.weight": [width, inputs, 3, 3], f"{name}.0.bias": [width]}
        keys |= {f"{name}.2.weight": [outputs, width, 1, 1], f"{name}.2.bias": [outputs]}
    return keys


def resnet_keys() -> dict[str, list[int]]:
    """resnet_dcn.py with 18 layers: torchvision's ResNet at the top, six layers a step."""
    keys = {"conv1.weight": [64, 3, 7, 7], **norm("bn1", 64)}
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            place, first = f"layer{layer}.{block}", layer > 1 and block == 0
            inputs = width // 2 if first else width
            keys |= {f"{place}.conv1.weight": [width, inputs, 3, 3], **norm(f"{place}.bn1", width)}
            keys |= {f"{place}.conv2.weight": [width, width, 3, 3], **norm(f"{place}.bn2", width)}
            if first:
                keys |= {f"{place}.downsample.0.weight": [width, inputs, 1, 1], **norm(f"{place}.downsample.1", width)}
    for i, (inputs, width) in enumerate(((512, 256), (256, 128), (128, 64))):
        keys |= {**deformable(f"deconv_layers.{6 * i}", inputs, width), **norm(f"deconv_layers.{6 * i + 1}", width)}
        keys |= {f"deconv_layers.{6 * i + 3}.weight": [width, width, 4, 4], **norm(f"deconv_layers.{6 * i + 4}", width)}
    return keys | branches(64, 64)


def ida_keys(name: str, width: int, inputs: list[int], factors: list[int]) -> dict[str, list[int]]:
    """IDAUp of pose_dla_dcn.py: a projection, a transposed convolution and a node for every map but the finest."""
    keys = {}
    for i, (channels, factor) in enumerate(zip(inputs, factors), start=1):
        for part, from_width in (("proj", channels), ("node", width)):
            keys |= deformable(f"{name}.{part}_{i}.conv", from_width, width)
            keys |= norm(f"{name}.{part}_{i}.actf.0", width)
        keys[f"{name}.up_{i}.weight"] = [width, 1, 2 * factor, 2 * factor]
    return keys


def dla_keys() -> dict[str, list[int]]:
    """pose_dla_dcn.py with 34 layers. The base has the names of timm's network, and what timm left out."""
    base = headway.create_model("centernet_dla34").backbone.body.state_dict()
    keys = {f"base.{k}": list(v.shape) for k, v in base.items() if not k.endswith("num_batches_tracked")}
    for level, width in ((3, 128), (4, 256)):
        keys |= {f"base.level{level}.project.0.weight": [width, width // 2, 1, 1]}
        keys |= norm(f"base.level{level}.project.1", width)
    keys |= {"base.fc.weight": [1000, 512, 1, 1], "base.fc.bias": [1000]}
    keys |= ida_keys("dla_up.ida_0", 256, [512], [2])
    keys |= ida_keys("dla_up.ida_1", 128, [256, 256], [2, 2])
    keys |= ida_keys("dla_up.ida_2", 64, [128, 128, 128], [2, 2, 2])
    keys |= ida_keys("ida_up", 64, [128, 256], [2, 4])
    return keys | branches(64, 256)


FILES = {"centernet_r18": resnet_keys, "centernet_dla34": dla_keys}
DROPPED = {"centernet_r18": 0, "centernet_dla34": 2 * 5 + 2}  # two unused projections with norms, the classifier


def filled(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in keys.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", FILES)
def test_the_authors_names_fill_every_key_and_no_more(name, prefix):
    model = headway.create_model(f"{name}.centernet", num_classes=CLASSES)
    upstream = filled({prefix + key: shape for key, shape in FILES[name]().items()})
    converted = from_upstream(upstream, "centernet", model)
    model.load_state_dict(converted)
    filled_in = sum(not k.endswith("num_batches_tracked") for k in converted)
    assert filled_in == len(upstream) - DROPPED[name]
    with pytest.raises(CheckpointError, match="1 upstream keys unmapped: hm_hp"):
        from_upstream({**upstream, "hm_hp.0.bias": torch.zeros(64)}, "centernet", model)
    upstream.pop(f"{prefix}reg.2.bias")
    with pytest.raises(CheckpointError, match=r"not filled: head\.offset\.out\.bias"):
        from_upstream(upstream, "centernet", model)


def test_every_tensor_lands_where_it_belongs():
    model = headway.create_model("centernet_r18.centernet", num_classes=CLASSES)
    upstream = filled(resnet_keys())
    converted = from_upstream(upstream, "centernet", model)
    for ours, theirs in {
        "backbone.body.layer3.0.downsample.0.weight": "layer3.0.downsample.0.weight",
        "neck.steps.0.conv.conv.conv.weight": "deconv_layers.0.weight",
        "neck.steps.0.conv.conv.conv_offset.bias": "deconv_layers.0.conv_offset_mask.bias",
        "neck.steps.1.conv.norm.running_var": "deconv_layers.7.running_var",
        "neck.steps.2.deconv.conv.weight": "deconv_layers.15.weight",
        "neck.steps.2.deconv.norm.bias": "deconv_layers.16.bias",
        "head.heatmap.conv0.weight": "hm.0.weight",
        "head.box.out.weight": "wh.2.weight",
    }.items():
        assert torch.equal(converted[ours], upstream[theirs]), ours


def test_mmdetections_deformable_variant():
    """No bias in the deformable layers, whose offset convolution is a child of theirs."""
    model = headway.create_model("centernet_r18.mmdet_dcn", num_classes=CLASSES)
    upstream = {}
    for key, shape in resnet_keys().items():
        place, _, leaf = key.rpartition(".")
        if place.startswith("deconv_layers"):
            _, number, *rest = place.split(".")
            layer, kind = divmod(int(number), 3)
            if kind == 0 and leaf == "bias" and not rest:
                continue
            middle = "bn" if kind == 1 else ".".join(["conv", *("conv_offset" for _ in rest)])
            key = f"neck.deconv_layers.{layer}.{middle}.{leaf}"
        elif place.split(".")[0] in ("hm", "wh", "reg"):
            branch = {"hm": "heatmap", "wh": "wh", "reg": "offset"}[place[:-2]]
            key = f"bbox_head.{branch}_head.{place[-1]}.{leaf}"
        else:
            key = f"backbone.{key}"
        upstream[key] = torch.rand(shape)
    converted = from_upstream(upstream, "mmdet", model)
    model.load_state_dict(converted)
    offset = "neck.deconv_layers.2.conv.conv_offset.weight"
    assert torch.equal(converted["neck.steps.1.conv.conv.conv_offset.weight"], upstream[offset])
    assert torch.equal(converted["neck.steps.1.deconv.conv.weight"], upstream["neck.deconv_layers.3.conv.weight"])


def test_every_tag_builds():
    rows = [row for row in ROWS if row.model.startswith(("centernet", "pafnet_lite"))]
    assert {row.name for row in rows} >= {"centernet_r18.mmdet", "centernet_dla34.centernet", "pafnet_lite.paddle"}
    for row in rows:
        with torch.device("meta"):
            model = headway.create_model(row.name)
        assert not model.head.clip_boxes
        assert not model.card.drop_empty


# ---------------------------------------------------------------------------------------------------- DLA's neck
def test_a_transposed_convolution_starts_as_bilinear_interpolation():
    """Away from the border, where zeros come in from outside."""
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    for factor in (2, 4):
        found = bilinear_deconv(3, factor)(x)
        expected = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
        assert found.shape == expected.shape
        inner = (..., slice(factor, -factor), slice(factor, -factor))
        torch.testing.assert_close(found[inner], expected[inner])


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_maps_are_joined_one_after_the_other():
    """Projections and nodes replaced by x / 2 and the enlargement by repetition: with maps 8 (fine), 4 and 16 the sums
    are (4 / 2 + 8) / 2 = 5, then (16 / 2 + 5) / 2 = 6.5; a map of 3 x 5 cells cuts the 4 x 6 of the coarser one."""
    join = IterativeUpsample(1, [1, 1], [2, 4])
    join.projects, join.nodes = (nn.ModuleList([Halve(), Halve()]) for _ in range(2))
    join.ups = nn.ModuleList(nn.Upsample(scale_factor=f) for f in (2, 4))
    maps = [torch.full((1, 1, *size), value) for size, value in (((3, 5), 8.0), ((2, 3), 4.0), ((1, 2), 16.0))]
    sums = join(maps)
    assert [tuple(x.shape[-2:]) for x in sums] == [(3, 5)] * 3
    assert [x.unique().tolist() for x in sums] == [[8.0], [5.0], [6.5]]


def test_the_neck_joins_all_maps_but_reads_the_coarsest_only_through_others():
    """The widths of each join: the finest's, and as inputs first the backbone's, then what has been joined before."""
    neck = DlaUpNeck(Levels((4, 8, 16, 32), (4, 8, 16, 32)))
    widths = [[p.conv.conv.weight.shape[:2] for p in join.projects] for join in [*neck.joins, neck.last]]
    assert widths == [[(16, 32)], [(8, 16), (8, 16)], [(4, 8), (4, 8), (4, 8)], [(4, 8), (4, 16)]]
    maps = [torch.randn(1, c, -(-97 // s), -(-131 // s)) for c, s in zip((4, 8, 16, 32), (4, 8, 16, 32))]
    (x,) = neck(maps)
    assert x.shape == (1, 4, 25, 33)
    with pytest.raises(ValueError, match="built for 4 maps, got 2"):
        neck(maps[:2])
