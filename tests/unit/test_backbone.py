"""timm backbones: the declared contract, what is frozen, and how a wrong request is refused."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headway.backbones.timm import timm_backbone
from headway.errors import HeadwayError


def norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv3_small_100", "efficientnet_b0"])
def test_maps_have_the_declared_channels_and_strides(name):
    with torch.device("meta"):
        backbone = timm_backbone(name, strides=(4, 8, 16, 32))
        maps = backbone(torch.zeros(1, 3, 128, 192))
    assert backbone.strides == (4, 8, 16, 32)
    assert [tuple(x.shape) for x in maps] == [
        (1, c, 128 // s, 192 // s) for c, s in zip(backbone.channels, backbone.strides)
    ]


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("resnet18", (128, 256, 512), 11_176_512),
        ("resnet34", (128, 256, 512), 21_284_672),
        ("resnet50", (512, 1024, 2048), 23_508_032),
        ("resnet101", (512, 1024, 2048), 42_500_160),
        ("resnext101_64x4d", (512, 1024, 2048), 81_406_272),
    ],
)
def test_published_sizes(name, channels, parameters):
    """torchvision's resnet18, 34, 50, 101 and resnext101_64x4d without their classifiers."""
    with torch.device("meta"):
        backbone = timm_backbone(name)
    assert backbone.channels == channels
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@pytest.mark.parametrize("height", [63, 64, 65])
def test_odd_sizes_round_up(height):
    maps = timm_backbone("resnet18").eval()(torch.zeros(1, 3, height, 96))
    assert [x.shape[2] for x in maps] == [-(-height // s) for s in (8, 16, 32)]


@pytest.mark.parametrize(("stages", "names"), [(0, []), (1, ["conv1", "bn1", "layer1"]), (2, ["layer2"])])
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(stages, names):
    torch.manual_seed(0)
    backbone = timm_backbone("resnet18", frozen_stages=stages).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = ["conv1", "bn1", "layer1", "layer2"][: {0: 0, 1: 3, 2: 4}[stages]]
    assert set(names) <= set(frozen)
    for name, parameter in backbone.body.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in frozen), name
    for name, value in backbone.body.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[f"body.{name}"]) == (name.split(".")[0] in frozen), name


def test_frozen_stem_and_layer1_of_resnet50_are_the_published_225344():
    with torch.device("meta"):
        backbone = timm_backbone("resnet50", frozen_stages=1)
    assert sum(p.numel() for p in backbone.parameters() if not p.requires_grad) == 225_344


@pytest.mark.parametrize(
    ("mode", "statistics_move", "affine_trains"),
    [("batch", True, True), ("eval", False, True), ("frozen", False, False)],
)
def test_norm_modes(mode, statistics_move, affine_trains):
    torch.manual_seed(0)
    backbone = timm_backbone("resnet18", norm=mode)
    assert backbone.train() is backbone
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    for norm in norms(backbone):
        assert norm.training == statistics_move
        assert bool(norm.running_mean.any()) == statistics_move
        assert (norm.weight.grad is not None) == affine_trains
    assert all(p.grad is not None for n, p in backbone.named_parameters() if "conv" in n)
    assert not any(n.training for n in norms(backbone.eval()))


def test_norm_eps_reaches_every_batch_norm():
    assert {norm.eps for norm in norms(timm_backbone("resnet18", norm_eps=0.0))} == {0.0}
    assert {norm.eps for norm in norms(timm_backbone("resnet18"))} == {1e-5}


def test_stride_in_1x1_moves_the_stride_and_nothing_else():
    """Same weights, another network: the caffe form strides in the first 1x1 of stages 2 to 4."""
    usual, caffe = timm_backbone("resnet50"), timm_backbone("resnet50", stride_in_1x1=True)
    for stage in ("layer2", "layer3", "layer4"):
        first = getattr(caffe.body, stage)[0]
        assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
        plain = getattr(usual.body, stage)[0]
        assert (plain.conv1.stride, plain.conv2.stride) == ((1, 1), (2, 2))
    for norm in norms(usual):  # timm starts the last of each block at zero, which would hide the block
        nn.init.ones_(norm.weight)
    caffe.load_state_dict(usual.state_dict())
    x = torch.randn(1, 3, 64, 64)
    a, b = usual.eval()(x), caffe.eval()(x)
    assert [t.shape for t in a] == [t.shape for t in b]
    assert not torch.allclose(a[0], b[0])


def test_an_unknown_name_is_refused_with_near_ones():
    with pytest.raises(HeadwayError, match=r"timm has no backbone 'resnet5O'; did you mean .*resnet50"):
        timm_backbone("resnet5O")


def test_a_stride_that_is_not_there_is_refused():
    with pytest.raises(
        HeadwayError, match=r"resnet18 has maps of stride 2, 4, 8, 16, 32, not \(8, 64\): set backbone\.strides"
    ):
        timm_backbone("resnet18", strides=(8, 64))


def test_a_frozen_stem_has_no_gradient_but_goes_on_gathering_statistics():
    """Of Darknet-53 everything up to stride 2: twelve tensors, 3 + 3 + 6 (PaddleDetection's freeze_at: 0)."""
    torch.manual_seed(0)
    backbone = timm_backbone("darknet53", strides=(4,), frozen_stem=True).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 32, 32))[0].sum().backward()
    frozen = {name for name, p in backbone.body.named_parameters() if p.grad is None}
    assert len(frozen) == 12
    assert {name.split(".")[0] for name in frozen} == {"stem_conv1", "stages_0"}
    moved = [k for k, v in backbone.state_dict().items() if k.endswith("running_mean") and not v.equal(before[k])]
    assert len(moved) == sum(k.endswith("running_mean") for k in before)


def test_a_stem_without_a_map_of_stride_2_cannot_be_frozen():
    with pytest.raises(HeadwayError, match=r"\(no module of stride 2\); use frozen_stem=False"), torch.device("meta"):
        timm_backbone("swin_tiny_patch4_window7_224", frozen_stem=True)


@pytest.mark.parametrize(("slope", "expected"), [(None, 0.01), (0.1, 0.1)])
def test_the_slope_of_leaky_relus_reaches_every_one(slope, expected):
    """Darknet-53 has 52 convolutions, each with a leaky ReLU."""
    with torch.device("meta"):
        backbone = timm_backbone("darknet53", leaky_slope=slope)
    slopes = [m.negative_slope for m in backbone.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert slopes == [expected] * 52


@pytest.mark.parametrize("stages", [5, -1, 10**9])
def test_impossible_frozen_stages_are_refused(stages):
    with pytest.raises(HeadwayError, match=r"frozen_stages must be 0\.\.4, got"), torch.device("meta"):
        timm_backbone("resnet18", frozen_stages=stages)


def test_of_several_maps_of_one_stride_the_deepest_is_taken():
    """A plain transformer has stride 16 throughout; timm lists its last three maps."""
    with torch.device("meta"):
        backbone = timm_backbone("vit_tiny_patch16_224", strides=(16,))
    assert backbone.channels == (192,)
    assert backbone.body.feature_info.module_name() == ["blocks.11"]


def test_maps_of_channels_last_models_come_out_as_nchw():
    with torch.device("meta"):
        backbone = timm_backbone("swin_tiny_patch4_window7_224")
        maps = backbone(torch.zeros(1, 3, 224, 224))
    assert [tuple(x.shape) for x in maps] == [(1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7)]


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("hub unreachable\n" + 300 * "x")])
def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, error):
    create = timm.create_model

    def refuse(*arguments, pretrained=False, **options):
        if pretrained:
            raise error
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr("headway.backbones.timm._out_of_reach", lambda name: "")
    with pytest.raises(HeadwayError) as caught:
        timm_backbone("resnet18", weights=True)
    message = str(caught.value)
    assert str(error).splitlines()[0] in message
    assert "backbone.weights=false" in message
    assert 200 * "x" not in message
    assert "\n" not in message


def test_an_error_that_is_not_about_weights_is_not_disguised(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    timm_backbone("resnet18")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        timm_backbone("resnet18")


@pytest.mark.parametrize(("name", "size"), [("convit_tiny", (128, 160)), ("coat_lite_tiny", (64, 64))])
def test_a_network_of_one_size_says_so(name, size):
    """timm raises AssertionError here, RuntimeError there."""
    backbone = timm_backbone(name, strides=(16,)).eval()
    assert backbone(torch.rand(1, 3, 224, 224))[0].shape[2:] == (14, 14)
    with pytest.raises(HeadwayError, match=rf"{name} was made for pictures of 224x224 and does not read {size[0]}x"):
        backbone(torch.rand(1, 3, *size))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "mobilenetv2_050"])
def test_nested_stages_are_frozen_too(name):
    """EfficientNets and MobileNets keep their stages in one list: the second map of stride >= 4 ends stage 2."""
    backbone = timm_backbone(name, frozen_stages=2).train()
    blocks, info = backbone.body.blocks, [row for row in backbone.body.feature_info.info if row["reduction"] >= 4]
    end = int(info[1]["module"].split(".")[1])
    assert not any(p.requires_grad for p in [*backbone.body.conv_stem.parameters(), *blocks[: end + 1].parameters()])
    assert all(p.requires_grad for p in blocks[end + 1 :].parameters())
    assert not any(m.training for m in norms(blocks[: end + 1]))
    assert all(m.training for m in norms(blocks[end + 1 :]))
