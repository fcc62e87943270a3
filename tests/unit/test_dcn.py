"""Deformable stages in timm's ResNets: which layers change, that they start as the plain network, what is refused."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import headway
from headway import profile
from headway.backbones.timm import timm_backbone
from headway.convert import from_upstream
from headway.errors import HeadwayError
from headway.layers.deform import DeformableConv2d, DeformConv2d

C3_TO_C5 = ("c3", "c4", "c5")


def layers(module: nn.Module) -> dict[str, DeformableConv2d]:
    return {name: m for name, m in module.named_modules() if isinstance(m, DeformableConv2d)}


def visible(backbone: nn.Module) -> nn.Module:
    """timm starts the last norm of each residual branch at zero, which would hide the branch."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Offsets of about a pixel and running statistics that are not 0 and 1, as after training."""
    generator = torch.Generator().manual_seed(seed)
    visible(module)
    with torch.no_grad():
        for layer in layers(module).values():
            layer.conv_offset.weight.normal_(0, 0.02, generator=generator)
            layer.conv_offset.bias.normal_(0, 0.5, generator=generator)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.running_var.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0, 0.1, generator=generator)
    return module


@pytest.mark.parametrize(
    ("name", "version", "count", "extra"),
    [
        ("resnet50", 1, 13, 580_842),
        ("resnet50", 2, 13, 871_263),
        ("resnet101", 1, 30, 1_286_172),
        ("resnet101", 2, 30, 1_929_258),
        ("resnext101_64x4d", 1, 30, 5_143_068),
    ],
)
def test_published_counts_and_extra_parameters(name, version, count, extra):
    """R50 and R101 by mmdetection's models. By hand: an offset convolution of C channels has 9 C * 18 weights and 18
    biases; R101 has 4, 23 and 3 blocks of 128, 256 and 512 channels: 162 * (4 * 128 + 23 * 256 + 3 * 512) + 30 * 18 =
    1,286,172, half as much again with masks, and ResNeXt-101 64x4d four times the channels: 4 * 1,285,632 + 540."""
    with torch.device("meta"):
        plain, ours = timm_backbone(name), timm_backbone(name, dcn=C3_TO_C5, dcn_version=version)
    assert len(layers(ours)) == count
    assert profile.count_parameters(ours) - profile.count_parameters(plain) == extra
    assert set(layers(ours)) == {
        f"body.layer{stage}.{i}.conv2" for stage in (2, 3, 4) for i in range(len(getattr(plain.body, f"layer{stage}")))
    }


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet50", {}),
        ("resnet50", {"stride_in_1x1": True}),
        ("resnet50d", {}),
        ("resnext50_32x4d", {}),
        ("seresnet50", {}),
        ("resnetaa50", {}),
        ("resnet18", {}),
        ("wide_resnet50_2", {}),
    ],
)
def test_version_1_starts_as_the_plain_network_with_its_weights(name, arguments):
    """The weights of the plain network stand where they stood, so pretrained ones survive."""
    torch.manual_seed(0)
    plain = visible(timm_backbone(name, **arguments)).eval()
    torch.manual_seed(0)
    ours = visible(timm_backbone(name, dcn=("c2", *C3_TO_C5), dcn_version=1, **arguments)).eval()
    expected = dict(plain.named_parameters())
    renamed = {k.replace("conv2.conv.", "conv2."): v for k, v in ours.named_parameters() if "conv_offset" not in k}
    assert set(renamed) == set(expected)
    moved = plain.state_dict()
    ours.load_state_dict({k: moved.get(k.replace("conv2.conv.", "conv2."), v) for k, v in ours.state_dict().items()})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(plain(images), ours(images)):
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
    before = dict(plain.named_modules())
    for path, layer in layers(ours).items():
        conv = before[path]
        assert (layer.conv.stride, layer.conv.padding, layer.conv.dilation) == (
            conv.stride, conv.padding, conv.dilation,
        )  # fmt: skip
        assert layer.conv.weight.shape == conv.weight.shape  # so the groups of ResNeXt stay too
        assert layer.conv.bias is None
        assert not layer.conv_offset.weight.any()
        assert not layer.conv_offset.bias.any()


def test_the_weights_that_timm_loaded_are_kept(monkeypatch):
    """What `weights=True` brings stands in the network before the stages become deformable."""
    import timm

    pretrained = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pretrained)
    monkeypatch.setattr("headway.backbones.timm._out_of_reach", lambda name: "")
    expected = {k: v.clone() for k, v in pretrained.state_dict().items()}
    backbone = timm_backbone("resnet18", weights=True, dcn=("c4", "c5"))
    kept = {k.removeprefix("body.").replace("conv2.conv.", "conv2."): v for k, v in backbone.state_dict().items()}
    for key, value in expected.items():
        assert torch.equal(kept[key], value), key


def test_version_2_starts_as_half_of_each_convolution():
    torch.manual_seed(0)
    layer = layers(timm_backbone("resnet18", dcn=("c5",)))["body.layer4.1.conv2"]
    x = torch.randn(1, 512, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x), 0.5 * nn.functional.conv2d(x, layer.conv.weight, padding=1), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_layer_with_stride_equals_torchvision(name, groups):
    """The first layer of C4 strides; mmcv joins the first and second third of the channels to offsets and takes the
    last third for the mask, whatever the number of offset groups."""
    torch.manual_seed(0)
    layer = layers(shaken(timm_backbone(name, dcn=("c4",), dcn_groups=groups)))["body.layer3.0.conv2"]
    x = torch.randn(2, layer.conv_offset.in_channels, 12, 14)
    with torch.no_grad():
        first, second, mask = layer.conv_offset(x).chunk(3, 1)
        offset = torch.cat([first, second], 1)
        expected = deform_conv2d(x, offset, layer.conv.weight, stride=2, padding=1, mask=mask.sigmoid())
        assert offset.shape[1] == 18 * groups
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_basic_blocks_change_their_second_convolution():
    backbone = timm_backbone("resnet34", dcn=("c5",))
    assert set(layers(backbone)) == {f"body.layer4.{i}.conv2" for i in range(3)}
    assert all(layer.conv.stride == (1, 1) for layer in layers(backbone).values())
    assert backbone.body.layer4[0].conv1.stride == (2, 2)


def test_frozen_stages_stay_frozen_and_the_others_learn_their_offsets():
    torch.manual_seed(0)
    backbone = visible(timm_backbone("resnet18", dcn=("c2", "c5"), frozen_stages=1)).train()
    sum((x * torch.randn_like(x)).sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert {path.split(".")[1] for path in layers(backbone)} == {"layer1", "layer4"}
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("body.conv1", "body.bn1", "body.layer1"))
        assert (parameter.grad is None) == frozen, name
        if "conv_offset" in name and not frozen:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("resnet18", {"dcn": ("c6",)}, r"dcn names the stage 'c6'; this backbone has c2, c3, c4, c5"),
        ("resnet18", {"dcn": ("c5",), "strides": (8, 16)}, r"'c5'; this backbone has c2, c3, c4$"),
        ("mobilenetv3_small_100", {"dcn": ("c5",)}, r"dcn=c5 needs .* blocks of timm's ResNets .* has none"),
        ("hrnet_w18_small", {"dcn": ("c4",)}, r"dcn=c4 needs .* blocks of timm's ResNets .* has none"),
        ("swin_tiny_patch4_window7_224", {"dcn": ("c5",)}, r"has none; choose such a one or leave dcn empty"),
        ("resnet18", {"dcn": ("c5",), "dcn_groups": 3}, r"dcn_groups must divide the 512 channels of stage c5, got 3"),
        ("resnet18", {"dcn": ("c5",), "dcn_groups": 0}, r"dcn_groups must divide the 512 channels of stage c5, got 0"),
    ],
)
def test_impossible_requests_say_what_there_is(name, arguments, reason):
    with pytest.raises(HeadwayError, match=reason), torch.device("meta"):
        timm_backbone(name, **arguments)


def test_a_stage_named_twice_is_one():
    with torch.device("meta"):
        assert len(layers(timm_backbone("resnet18", dcn=["c5", "c5"]))) == 2


@pytest.mark.parametrize("version", [1, 2])
def test_torch_export_equals_eager(version):
    torch.manual_seed(0)
    backbone = shaken(timm_backbone("resnet18", dcn=("c4", "c5"), dcn_version=version)).eval()
    images = torch.rand(1, 3, 64, 96)
    exported = torch.export.export(backbone, (images,)).module()
    with torch.no_grad():
        for a, b in zip(exported(images), backbone(images)):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------------------------------------- whole detectors
@pytest.fixture(scope="module", params=[1, 2])
def detector(request) -> headway.Detector:
    torch.manual_seed(0)
    arguments = {"num_classes": 2, "channels": 64, "input_size": (64, 96)}
    model = headway.create_model("retinanet_r18_fpn", dcn=("c4", "c5"), dcn_version=request.param, **arguments)
    shaken(model.backbone)
    return model.eval()


def test_norms_behind_deformable_layers_fold_exactly(detector):
    folded = headway.fuse(detector.backbone)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert sum(isinstance(m, DeformConv2d) and m.bias is not None for m in folded.modules()) == 4
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(folded(images), detector.backbone(images)):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_detect_equals_forward_and_decode(detector):
    from headway.select import select

    images, card = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)), detector.card
    found = detector.detect(images, score_threshold=0.0)[0]
    with torch.no_grad():
        candidates = detector.decode(detector(images))
    expected = select(
        candidates, score_threshold=0.0, class_threshold=0.0, nms_iou=card.nms_iou, max_detections=card.max_detections,
        names=card.class_names,
    )[0]  # fmt: skip
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
    gap = torch.full((1,), math.inf)  # two of nearly one score may stand the other way round
    gaps = torch.cat([gap, expected.scores[:-1] - expected.scores[1:], gap])
    apart = torch.minimum(gaps[:-1], gaps[1:]) > 1e-5
    assert apart.sum() > len(expected) / 2
    torch.testing.assert_close(found.boxes[apart], expected.boxes[apart], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_multiply_adds_are_those_of_the_plain_layer_and_of_its_offsets(version):
    """By hand, 64 x 96: C5 is 2 x 3 of 512 channels, its two offset convolutions cost 9 * 512 * 9 (version + 1) each
    per cell; the deformable sum itself costs what the plain convolution does."""
    with torch.device("meta"):
        plain = headway.create_model("retinanet_r18_fpn")
        ours = headway.create_model("retinanet_r18_fpn", dcn=("c5",), dcn_version=version)
    extra = profile.count_macs(ours, (64, 96)) - profile.count_macs(plain, (64, 96))
    assert extra == 2 * 6 * 9 * 512 * 9 * (version + 1)


def test_time_in_deformable_layers_of_the_backbone_is_seen(detector):
    timing = profile.time_detect(detector, torch.rand(1, 3, 64, 96), repeats=1)
    assert 0 < timing.deform < timing.parts["backbone"]


@pytest.mark.parametrize("name", ["retinanet_r50_fpn", "fcos_r50_fpn_dyhead", "atss_r50_fpn"])
def test_dense_builders_take_the_stages(name):
    with torch.device("meta"):
        model = headway.create_model(name, dcn=["c3", "c4", "c5"], dcn_version=1, dcn_groups=2)
    assert len(layers(model)) == 13
    assert layers(model)["backbone.body.layer2.0.conv2"].conv_offset.out_channels == 36


def test_a_checkpoint_keeps_the_stages(detector, tmp_path):
    again = headway.load(headway.save(detector, tmp_path / "small.safetensors"))
    assert set(layers(again)) == set(layers(detector)) != set()
    for key, value in detector.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_wrong_versions_are_refused_by_the_builder():
    with pytest.raises(HeadwayError, match=r"\(dcn_version=...\) must be .*Literal\[1, 2\].*, got 3"):
        headway.create_model("retinanet_r18_fpn", dcn="c5", dcn_version=3)


# --------------------------------------------------------------------------------------------------------- mmdetection
def to_mmdet(key: str, old: bool) -> str:
    """Our backbone's keys as mmdetection writes them, or as it did before mmcv 1.0 (`conv2_offset`)."""
    key = key.replace("backbone.body.", "backbone.").replace("conv2.conv.", "conv2.")
    return key.replace("conv2.conv_offset", "conv2_offset") if old else key


@pytest.mark.parametrize("old", [False, True])
def test_mmdetection_keys_of_both_ages(old):
    """The neck and the head take our own names here: only the backbone is in question."""
    torch.manual_seed(0)
    model = headway.create_model("retinanet_r18_fpn", num_classes=2, channels=32, dcn=("c4", "c5"))
    shaken(model.backbone)

    def upstream(key: str) -> str:
        if key.startswith("backbone."):
            return to_mmdet(key, old)
        place, _, leaf = key.partition(".")[2].rpartition(".")
        if key.startswith("head."):
            tower = place.split(".")
            if len(tower) == 3:
                kind, i, part = tower
                return f"bbox_head.{kind.replace('box', 'reg').replace('tower', 'convs')}.{i}." + (
                    f"{'gn' if part == 'norm' else part}.{leaf}"
                )
            return f"bbox_head.retina_{place.replace('box', 'reg')}.{leaf}"
        kind, i = place.split(".")
        number = int(i) + (3 if kind == "extras" else 0)
        return f"neck.{'lateral_convs' if kind == 'laterals' else 'fpn_convs'}.{number}.conv.{leaf}"

    state: dict[str, Tensor] = {upstream(k): v for k, v in model.state_dict().items()}
    converted = from_upstream(state, "mmdet", model)
    for key, value in model.state_dict().items():
        assert torch.equal(converted[key], value), key
