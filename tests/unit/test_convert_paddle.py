"""`.pdparams` files, read without running what is in them, and the names of PaddleDetection and ZJULearning/ttfnet."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headway
from headway.convert import from_upstream, read_upstream
from headway.errors import CheckpointError

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import fill  # noqa: E402

REAL = GOLDEN / "paddle" / "pafnet_lite_wh_head.pdparams"
WEIGHT = "ttf_head.wh_head.head.weight"


# --------------------------------------------------------------------------------------------------- the file itself
def test_a_real_file_holds_the_arrays_that_were_saved():
    """Written by paddle.save: 42 tensors of the Lite box branch, and a dictionary of names that is left out. The arrays
    follow the rule of the golden files; the two adjusted ones are those of the prediction."""
    found = read_upstream(REAL)
    assert len(found) == 42
    plain = {name for name in found if not name.startswith("ttf_head.wh_head.head.")}
    assert len(found) - len(plain) == 2
    for name in plain:
        value = found[name]
        assert value.dtype == torch.float32
        np.testing.assert_array_equal(value.numpy(), fill.fill_array(name, value.shape, version=2))
    assert found[WEIGHT].shape == (4, 24, 1, 1)


def test_the_same_content_in_the_protocols_of_old_pythons(tmp_path):
    expected = read_upstream(REAL)
    for protocol in (2, 3, 5):
        path = tmp_path / f"{protocol}.pdparams"
        content = {name: value.numpy() for name, value in expected.items()} | {
            "StructuredToParameterName@@": {"a": "b"}
        }
        path.write_bytes(pickle.dumps(content, protocol))
        found = read_upstream(path)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), protocol


class Hostile:
    """Makes a folder when unpickled by anything that obeys pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["value", "beside an array", "key"])
def test_a_file_that_calls_anything_is_refused_and_nothing_is_run(tmp_path, place, protocol):
    hostile = Hostile(tmp_path / "ran")
    content = {
        "value": {"a": hostile},
        "beside an array": {"a": np.ones(2, np.float32), "b": [{"c": hostile}]},
        "key": {(hostile,): np.ones(2, np.float32)},
    }[place]
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(content, protocol))
    reason = r"a\.pdparams is no checkpoint that can be read safely: expected a file of paddle\.save.*names \w+\.mkdir"
    with pytest.raises(CheckpointError, match=reason):
        read_upstream(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the marker works"


class Lying:
    """An array that claims another shape than its bytes have, or objects in place of numbers."""

    def __init__(self, shape: tuple[int, ...], kind: str, content: bytes) -> None:
        self.parts = (shape, kind, content)

    def __reduce__(self):
        shape, kind, content = self.parts
        rebuild, arguments = np.ones(1).__reduce__()[:2]
        return (rebuild, arguments, (1, shape, np.dtype(kind), False, content))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (Lying((4,), "<f4", bytes(8)), r"an array of shape \(4,\) in 8 bytes"),
        (Lying((10**12,), "<f4", bytes(8)), r"an array of shape \(1000000000000,\) in 8 bytes"),
        (Lying((-2,), "<f4", bytes(8)), r"an array of shape \(-2,\) in 8 bytes"),
        (Lying((1,), "O", bytes(8)), "an array of 'O8' where little-endian numbers were expected"),
        (Lying((2,), ">f4", bytes(8)), "an array of 'f4' where little-endian numbers were expected"),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(array, reason, tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"a": array}))
    with pytest.raises(CheckpointError, match=reason):
        read_upstream(path)


@pytest.mark.parametrize("size", [0, 1, 200, 20_000, 32_000])
def test_a_truncated_file_is_refused(size, tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(REAL.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"expected a file of paddle\.save"):
        read_upstream(path)


@pytest.mark.parametrize("content", [[], {}, {"a": 1}, {"a": "text"}])
def test_a_file_without_arrays_is_refused(content, tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_upstream(path)


# --------------------------------------------------------------------------------------------------- PaddleDetection
@pytest.fixture(scope="module")
def pafnet() -> tuple[headway.Detector, dict[str, list[int]]]:
    """The network without weights, and the names and shapes that the original has."""
    golden = json.loads((GOLDEN / "paddle" / "pafnet_10x_coco.json").read_text())
    with torch.device("meta"):
        return headway.create_model("pafnet.paddle"), golden["state_dict"]


def numbered(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Every tensor filled with its place in the list."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def test_paddle_names_that_are_easily_confused(pafnet):
    """Written out by hand: the deep stem, both kinds of shortcut, plain and deformable 3x3s, the doubled index."""
    model, shapes = pafnet
    converted = from_upstream(numbered(shapes), "paddle", model)
    place = {name: i for i, name in enumerate(shapes)}
    for ours, theirs in (
        ("backbone.body.conv1.0.weight", "backbone.conv1.conv1_1.conv.weight"),
        ("backbone.body.conv1.4.running_mean", "backbone.conv1.conv1_2.norm._mean"),
        ("backbone.body.conv1.6.weight", "backbone.conv1.conv1_3.conv.weight"),
        ("backbone.body.bn1.running_var", "backbone.conv1.conv1_3.norm._variance"),
        ("backbone.body.layer1.0.downsample.1.weight", "backbone.res2.res2a.short.conv.weight"),
        ("backbone.body.layer3.0.downsample.2.bias", "backbone.res4.res4a.short.conv.norm.bias"),
        ("backbone.body.layer1.2.conv2.weight", "backbone.res2.res2c.branch2b.conv.weight"),
        ("backbone.body.layer3.5.conv2.conv.weight", "backbone.res4.res4f.branch2b.conv.weight"),
        ("backbone.body.layer4.1.conv2.conv_offset.bias", "backbone.res5.res5b.branch2b.conv_offset.bias"),
        ("neck.upsamples.0.conv.conv.bias", "neck.upsample.0.dcn.conv_dcn.bias"),
        ("neck.upsamples.2.norm.running_mean", "neck.upsample.2.bn._mean"),
        ("neck.shortcuts.2.conv1.weight", "neck.shortcut.2.shortcut.shortcut.2.conv.1.weight"),
        ("head.heatmap.conv1.conv.weight", "ttf_head.hm_head.feat.conv.1.conv_dcn.weight"),
        ("head.box.conv0.conv_offset.bias", "ttf_head.wh_head.feat.conv.0.conv_offset.bias"),
        ("head.heatmap.out.bias", "ttf_head.hm_head.head.bias"),
        ("head.box.out.weight", "ttf_head.wh_head.head.weight"),
    ):
        assert converted[ours].flatten()[0] == place[theirs], ours


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("neck.upsample.1.dcn.conv_dcn.bias"), r"not filled: neck\.upsamples\.1\.conv\.conv\.bias$"),
        (
            lambda s: s.update({"neck.upsample.3.bn.bias": torch.zeros(1)}),
            r"lacks: .* -> neck\.upsamples\.3\.norm\.bias$",
        ),
        (lambda s: s.update({"epoch": torch.zeros(1)}), "1 upstream keys unmapped: epoch$"),
        (
            lambda s: s.update({"neck.shortcut.2.shortcut.shortcut.1.conv.0.bias": torch.zeros(64)}),
            "1 upstream keys unmapped: neck.shortcut.2.shortcut.shortcut.1.conv.0.bias$",
        ),
        (
            lambda s: s.update({"ttf_head.hm_head.head.bias": torch.zeros(20)}),
            r"another shape: ttf_head\.hm_head\.head\.bias \(20,\) -> head\.heatmap\.out\.bias \(80,\);",
        ),
    ],
)
def test_paddle_is_strict_both_ways(pafnet, change, reason):
    model, shapes = pafnet
    state = numbered(shapes)
    change(state)
    with pytest.raises(CheckpointError, match=reason):
        from_upstream(state, "paddle", model)


def test_the_weights_of_another_family_are_not_taken(pafnet):
    """A Darknet-53 checkpoint in PAFNet: upstream loads it in silence and detects nothing (PaddleDetection #3677)."""
    shapes = json.loads((GOLDEN / "paddle" / "ttfnet_darknet53_1x_coco.json").read_text())["state_dict"]
    with pytest.raises(
        CheckpointError, match=r"268 mapped keys that the model lacks.*318 keys of the model not filled"
    ):
        from_upstream(numbered(shapes), "paddle", pafnet[0])


# -------------------------------------------------------------------------------------------------------- ZJU's TTFNet
def zju_name(key: str, box_convs: int) -> str:
    """Our key -> the authors', by their modules' names, written out by hand."""
    parts = key.split(".")
    leaf = parts[-1]
    if parts[2].startswith("stem_conv1"):
        return f"backbone.stem.{parts[3]}.{leaf}"
    if parts[2].startswith("stages_"):
        layer = f"backbone.layer{int(parts[2][7:]) + 1}"
        if parts[3] == "conv_down":
            return f"{layer}.0.{parts[4]}.{leaf}"
        return f"{layer}.{int(parts[4]) + 1}.body.{int(parts[5][4:]) - 1}.{parts[6]}.{leaf}"
    if parts[0] == "backbone":
        return key.replace("backbone.body.", "backbone.")
    if parts[1] == "upsamples":
        rest = {"norm": "1", "conv": "0"}[parts[3]] + (".conv_offset_mask" if "conv_offset" in key else "")
        return f"bbox_head.deconv_layers.{parts[2]}.{rest}.{leaf}"
    if parts[1] == "shortcuts":
        return f"bbox_head.shortcut_layers.{parts[2]}.layers.{2 * int(parts[3][4:])}.{leaf}"
    branch = {"heatmap": "hm", "box": "wh"}[parts[1]]
    depth = {"hm": 2, "wh": box_convs}[branch]
    place = f"{depth}" if parts[2] == "out" else f"{parts[2][4:]}.conv"
    return f"bbox_head.{branch}.{place}.{leaf}"


@pytest.mark.parametrize(("name", "box_convs"), [("ttfnet_r18", 1), ("ttfnet_r34", 2), ("ttfnet_darknet53", 2)])
def test_the_authors_names_come_back_whole(name, box_convs):
    with torch.device("meta"):
        model = headway.create_model(f"{name}.ttfnet")
    ours = {k: torch.tensor(float(i)).expand(v.shape) for i, (k, v) in enumerate(model.state_dict().items())}
    theirs = {zju_name(k, box_convs): v for k, v in ours.items() if not k.endswith("num_batches_tracked")}
    for i in range(3):  # held by their ShortcutConv2d, never called
        theirs[f"bbox_head.shortcut_layers.{i}.shortcut.weight"] = torch.zeros(1)
    converted = from_upstream(theirs, "ttfnet", model)
    assert set(converted) == set(ours)
    for key, value in ours.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(converted[key], value), key
    renamed = {k.replace("conv_offset_mask", "conv_offset"): v for k, v in theirs.items()}  # mmdetection 1.0
    assert renamed.keys() != theirs.keys()
    again = from_upstream(renamed, "ttfnet", model)
    assert all(torch.equal(again[k], v) for k, v in converted.items())
    with pytest.raises(CheckpointError, match=r"unmapped: bbox_head\.extra$"):
        from_upstream({**theirs, "bbox_head.extra": torch.zeros(1)}, "ttfnet", model)


def test_the_authors_corners_are_aligned():
    with torch.device("meta"):
        zju, paddle = (headway.create_model(f"ttfnet_darknet53.{tag}") for tag in ("ttfnet", "paddle"))
    assert [step.align_corners for step in zju.neck.upsamples] == [True] * 3
    assert [step.align_corners for step in paddle.neck.upsamples] == [False] * 3
    assert {m.negative_slope for m in zju.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
