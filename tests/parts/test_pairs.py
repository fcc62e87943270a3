"""Every neck in front of every head, and every kind of backbone: a pair trains, decodes and comes back from a file, or
is refused with the part, what it got, and what to put in front of it."""

import re

import grid
import pytest
import torch
from grid import candidates_of, images_of, leaves, small, target

import headway
from headway.errors import HeadwayError
from headway.registry import list_parts

# The part, what it says, what came, and what to do about it.
REFUSAL = re.compile(r"(\S+): (\w+) .*got strides [\d, ]+ with [\d, ]+ channels: .*\b(put|use|set|choose)\b .+")


def compose(path: str, **arguments) -> headway.Detector | None:
    """The model, or None where it is refused as it should be."""
    case = small(path, **arguments)
    try:
        return grid.compose(case)
    except HeadwayError as error:
        text = str(error)
    found = REFUSAL.fullmatch(text)
    assert found, f"no remedy in {text}"
    assert found[1] == path
    assert found[2] in path.split("/")
    assert found[2] in [*list_parts("neck"), *list_parts("head")]
    return None


def check(path: str, tmp_path) -> bool:
    """Train a step, decode odd sizes, and read the model back from a file; whether it was built."""
    torch.manual_seed(0)
    model = compose(path)
    if model is None:
        return False
    targets = [target([[10, 20, 60, 50], [30, 5, 80, 60]]), target([])]
    raw = model.train()(images_of(2), None, targets)
    losses = model.loss(raw, targets)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, g in gradients.items() if g is None or not torch.isfinite(g).all()] == []
    model.eval()
    for size in ((97, 131), (33, 64)):
        candidates = candidates_of(model, images_of(1, size))
        assert candidates.boxes.shape[1] == candidates.scores.shape[1] > 0
        assert (candidates.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    with torch.no_grad():
        ours, theirs = leaves(model(images_of(1))), leaves(again(images_of(1)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return True


@pytest.mark.parametrize("chain", grid.chains())
@pytest.mark.parametrize("head", grid.heads())
def test_every_neck_in_front_of_every_head(chain, head, tmp_path):
    """Heads of one map of stride 4 are built behind the necks that give it, the others behind every pyramid."""
    built = check(f"toy/{chain}/{head}", tmp_path)
    last = chain.rpartition("/")[2]
    gives_one_fine_map = "upsample" in last or last in ("deconv", "dla_up")
    if head in ("centernet", "ttfnet", "pafnet", "pafnet_lite"):
        assert built == gives_one_fine_map
    elif last in ("fpn", "bifpn", "pan", "dyhead", "simple_pyramid", "level_projection"):
        assert built


BACKBONES = (
    "resnet18", "csp_darknet", "efficientnet", "vit_tiny_patch16", "swin_nano_patch4_window7", "tf_efficientnet_lite0",
    "mobilenetv3_small_050", "expanded_mobilenetv3_large_100",
)  # fmt: skip
TRAINED = {
    "resnet18": (
        "fpn/dyhead/atss",
        "fpn/faster_rcnn",
        "deconv/centernet",
        "deconv/dyhead/fcos",
        "pan/yolor",
    ),
    "csp_darknet": ("pan/yolov4", "fpn/dyhead/fcos", "upsample/ttfnet", "simple_pyramid/atss", "project/detr"),
    "efficientnet": ("bifpn/efficientdet", "fpn/atss", "upsample/ttfnet", "simple_pyramid/fcos"),
    "vit_tiny_patch16": ("simple_pyramid/dyhead/atss", "simple_pyramid/cascade_rcnn", "simple_pyramid/upsample/ttfnet"),
    "swin_nano_patch4_window7": ("fpn/dyhead/retinanet", "level_projection/deformable_detr"),
    "tf_efficientnet_lite0": ("bifpn/dyhead/fcos", "pan/yolor"),
    "mobilenetv3_small_050": ("fpn/reppoints", "upsample/pafnet", "simple_pyramid/atss"),
    "expanded_mobilenetv3_large_100": ("lite_upsample/pafnet_lite", "fpn/atss"),
}


@pytest.mark.parametrize("path", [f"{backbone}/{rest}" for backbone in TRAINED for rest in TRAINED[backbone]])
def test_every_kind_of_backbone_trains(path, tmp_path):
    assert check(path, tmp_path)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_backbone_gives_is_read_or_refused(backbone):
    """A pyramid, a map of stride 4, and the set of one map; the head alone is among them."""
    built = []
    with torch.device("meta"):
        for chain in ("", "fpn/", "bifpn/", "pan/", "simple_pyramid/", "upsample/", "project/", "level_projection/"):
            for head in ("atss", "ttfnet", "yolov4"):
                if compose(f"{backbone}/{chain}{head}"):
                    built.append(chain + head)
    pyramid = "simple_pyramid" if "vit" in backbone else "fpn"
    assert f"{pyramid}/atss" in built
    assert "level_projection/atss" in built
    assert len(built) < 24


@pytest.mark.parametrize(("path", "arguments", "remedy"), [
    ("toy/fpn/atss", {"levels": 2}, r"fpn gives 2 maps, got strides 8, 16, 32 with .*: set fpn\.levels=3"),
    ("toy/bifpn/atss", {"levels": 2}, r"bifpn gives 2 maps, .*: set bifpn\.levels=3"),
    ("toy/level_projection/detr", {"levels": 1}, r"level_projection gives 1 maps, .*: set level_projection\.levels=3"),
    ("toy/upsample/ttfnet", {"planes": (8, 8)}, r"upsample has 2 widths \(8, 8\) .* got strides 4.*: set 3 planes"),
    ("toy/lite_upsample/ttfnet", {"planes": (8,)}, r"lite_upsample has 1 widths .*: set 3 planes"),
])  # fmt: skip
def test_numbers_that_do_not_fit_what_comes(path, arguments, remedy):
    with pytest.raises(HeadwayError, match=remedy):
        headway.compose(path, arguments)


def test_predictions_on_a_map_of_one_cell_with_norms_of_few_channels():
    """GroupNorm in groups of one channel has one value there, and torch refuses it in eval mode as well."""
    model = grid.compose(small("toy/fpn/atss", channels=32)).eval()
    assert candidates_of(model, images_of(1, (64, 64))).boxes.shape[0] == 1
    assert model.head.cls_tower[0].norm.num_groups == 16
    assert headway.compose("toy/fpn/atss").head.cls_tower[0].norm.num_groups == 32  # as published


@pytest.mark.parametrize(("path", "size"), [("bifpn/efficientdet", (128, 128)), ("fpn/atss", (32, 32))])
def test_one_small_picture_in_training_is_refused_with_what_to_do(path, size):
    """One value has no variance. Two pictures have one, and so has a picture of two cells."""
    model = grid.compose(small(f"toy/{path}")).train()
    with pytest.raises(HeadwayError, match=rf"1 picture of {size[0]} x {size[1]}.*batch of 2 and more, or larger"):
        model(images_of(1, size))
    model(images_of(2, size))
    model(images_of(1, (size[0], 2 * size[1])))
    model.eval()(images_of(1, size))
