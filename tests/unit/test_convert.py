"""Converting published checkpoints: strict both ways, and reading pickles without running them."""

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import headway
from headway.convert import Rule, apply_rules, from_upstream, read_upstream, sources
from headway.detector import Detector
from headway.errors import CheckpointError, HeadwayError


# --------------------------------------------------------------------------------------------------- strictness
@pytest.fixture
def layer() -> nn.Module:
    """Keys conv.weight [2, 3, 1, 1], conv.bias [2], norm.weight [2], norm.bias, norm.running_*, num_batches_tracked."""
    return nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(2)})


RULES = [
    Rule(r"lin\.(weight|bias)", r"conv.\1"),
    Rule(r"bn\.(.+)", r"norm.\1"),
    Rule(r"optimizer\..*", None, reason="not part of the network"),
    Rule(r"stray\.(.+)", r"nowhere.\1"),
    Rule(r"twice\.bias", "conv.bias"),
    Rule(r"scaled\.bias", "conv.bias", transform=lambda t: 2 * t),
]


def upstream() -> dict[str, Tensor]:
    state = {"lin.weight": torch.arange(6.0).view(2, 3), "lin.bias": torch.tensor([7.0, 8])}
    return state | {f"bn.{k}": torch.ones(2) for k in ("weight", "bias", "running_mean", "running_var")}


def test_linear_becomes_a_1x1_convolution_and_counters_may_be_missing(layer):
    result = apply_rules(RULES, upstream() | {"optimizer.lr": torch.tensor(0.1)}, layer, "test")
    layer.load_state_dict(result)
    assert layer["conv"].weight[1, :, 0, 0].tolist() == [3, 4, 5]
    assert result["norm.num_batches_tracked"].item() == 0


def test_the_first_rule_that_matches_decides_and_transforms_apply(layer):
    state = upstream()
    state["scaled.bias"] = state.pop("lin.bias")
    assert apply_rules(RULES, state, layer, "test")["conv.bias"].tolist() == [14, 16]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update({"lin.weights": torch.zeros(1)}), r"1 upstream keys unmapped: lin\.weights$"),
        (lambda s: s.update({"a.lin.weight": torch.zeros(1)}), r"1 upstream keys unmapped: a\.lin\.weight$"),
        (
            lambda s: s.update({"stray.x": torch.zeros(1)}),
            r"1 mapped keys that the model lacks: stray\.x -> nowhere",
        ),
        (lambda s: s.update({"twice.bias": torch.zeros(2)}), r"model lacks: twice\.bias -> conv\.bias$"),
        (lambda s: s.pop("bn.bias"), r"1 keys of the model not filled: norm\.bias$"),
        (
            lambda s: s.update({"lin.weight": torch.zeros(3, 2)}),
            r"another shape: lin\.weight \(3, 2\) -> conv\.weight \(2, 3, 1, 1\)",
        ),
        (lambda s: s.clear(), r"6 keys of the model not filled: conv\.weight, .*, \.\.\.$"),
    ],
)
def test_whatever_does_not_fit_is_listed(layer, change, reason):
    state = upstream()
    change(state)
    with pytest.raises(CheckpointError, match=reason) as caught:
        apply_rules(RULES, state, layer, "test")
    assert "does not fit as test" in str(caught.value)


def test_all_problems_are_listed_at_once(layer):
    state = upstream() | {"odd": torch.zeros(1), "stray.x": torch.zeros(1)}
    del state["bn.weight"]
    with pytest.raises(CheckpointError, match=r"unmapped: odd; .*stray\.x.*; .*not filled: norm\.weight"):
        apply_rules(RULES, state, layer, "test")


def test_an_unknown_source_names_the_known():
    with pytest.raises(
        HeadwayError,
        match=r"unknown source 'mmdett'; did you mean mmdet.*known: centernet, .*detectron2, .*dynamichead, .*mmdet",
    ):
        from_upstream({}, "mmdett", nn.Module())
    assert sources() == sorted(sources())


# ------------------------------------------------------------------------------------------------- dynamichead
DCN = {"high": "0", "mid": "1", "low": "2"}


def official_name(key: str) -> str:
    """Our key -> the authors', by their modules' names, written out by hand."""
    parts = key.split(".")
    if key.startswith("backbone.body.layer"):
        stage, block, layer, leaf = int(parts[2][5:]) + 1, parts[3], parts[4], parts[-1]
        base = f"backbone.backbone.bottom_up.res{stage}.{block}"
        if layer == "downsample":
            return f"{base}.shortcut.{leaf}" if parts[5] == "0" else f"{base}.shortcut.norm.{leaf}"
        return f"{base}.{layer}.{leaf}" if layer.startswith("conv") else f"{base}.conv{layer[2:]}.norm.{leaf}"
    if key.startswith("backbone.body."):
        middle = "" if parts[2] == "conv1" else "norm."
        return f"backbone.backbone.bottom_up.stem.conv1.{middle}{parts[-1]}"
    if key.startswith("neck.0."):
        kind, index, leaf = parts[2], int(parts[3]), parts[4]
        name = {"laterals": f"fpn_lateral{index + 3}", "outputs": f"fpn_output{index + 3}"}
        return f"backbone.backbone.{name.get(kind, f'top_block.p{index + 6}')}.{leaf}"
    if key.startswith("neck.1."):
        base, rest, leaf = f"backbone.dyhead_tower.{parts[3]}", parts[4:-1], parts[-1]
        if rest == ["spatial", "offset"]:
            return f"{base}.offset.{leaf}"
        if rest[0] == "spatial":
            return f"{base}.DyConv.{DCN[rest[1]]}.{'conv' if rest[2] == 'conv' else 'bn'}.{leaf}"
        if rest[0] == "scale":
            return f"{base}.AttnConv.1.{leaf}"
        return f"{base}.relu.fc.{0 if rest[1] == 'reduce' else 2}.{leaf}"
    if parts[1] == "scales":
        return f"head.scales.{parts[2]}.scale"
    if parts[1] in ("cls_tower", "box_tower"):
        return f"head.{'cls' if parts[1] == 'cls_tower' else 'bbox'}_subnet.{2 * int(parts[2])}.{parts[-1]}"
    return f"head.{ {'cls': 'cls_logits', 'box': 'bbox_pred', 'centerness': 'centerness'}[parts[1]] }.{parts[-1]}"


def official_shape(name: str, tensor: Tensor) -> Tensor:
    """The authors' task attention is Linear, their scales are vectors of one."""
    if ".relu.fc." in name and name.endswith("weight"):
        return tensor.flatten(1)
    return tensor.view(1) if name.endswith(".scale") else tensor


def official_state(model: Detector) -> dict[str, Tensor]:
    state = {}
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            name = official_name(key)
            state[name] = official_shape(name, value)
    return state | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}


@pytest.fixture(scope="module")
def official_atss() -> Detector:
    torch.manual_seed(0)
    return headway.create_model("atss_r50_fpn_dyhead.official", num_classes=5, blocks=2, channels=32)


@pytest.fixture(scope="module")
def official_retinanet() -> Detector:
    torch.manual_seed(0)
    return headway.create_model("retinanet_r50_fpn_dyhead.official", num_classes=5, blocks=1, channels=32)


def test_the_authors_atss_comes_back_whole(official_atss):
    names = official_state(official_atss)
    assert len(names) == len({*names})
    for known in (
        "backbone.backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.backbone.bottom_up.res5.0.shortcut.norm.weight",
        "backbone.backbone.top_block.p7.bias",
        "backbone.dyhead_tower.1.DyConv.2.conv.bias",
        "backbone.dyhead_tower.1.relu.fc.2.weight",
        "head.cls_logits.weight",
    ):
        assert known in names
    converted = from_upstream(names, "dynamichead", official_atss)
    for key, value in official_atss.state_dict().items():
        assert torch.equal(converted[key], value), key


def test_the_authors_retinanet_has_the_same_anchors_in_another_order(official_retinanet):
    """detectron2 lists a cell's anchors by size, then ratio: 32, 32 * 2^(1/3), 32 * 2^(2/3) at stride 8, each with h/w
    1/2, 1, 2. Number the predictors' outputs in that order; each of our anchors must get its own number."""
    head, classes = official_retinanet.head, 5
    theirs = [
        ((size**2 / ratio) ** 0.5, (size**2 * ratio) ** 0.5)
        for size in (32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3))
        for ratio in (0.5, 1.0, 2.0)
    ]
    state = official_state(official_retinanet)
    assert "head.cls_subnet.6.weight" in state
    state["head.cls_score.bias"] = torch.tensor([100.0 * anchor + c for anchor in range(9) for c in range(classes)])
    state["head.cls_score.weight"] = state.pop("head.cls_logits.weight")
    state.pop("head.cls_logits.bias")
    state["head.bbox_pred.bias"] = torch.tensor([100.0 * anchor + c for anchor in range(9) for c in range(4)])
    converted = from_upstream(state, "dynamichead", official_retinanet)
    ours = head.make_priors([(1, 1)], (8,), torch.device("cpu")).boxes
    for i, (width, height) in enumerate((ours[:, 2:] - ours[:, :2]).tolist()):
        same = [j for j, shape in enumerate(theirs) if shape == pytest.approx((width, height), rel=1e-5)]
        assert len(same) == 1
        expected_cls = [100.0 * same[0] + c for c in range(classes)]
        assert converted["head.cls.bias"].view(9, classes)[i].tolist() == expected_cls
        assert converted["head.box.bias"].view(9, 4)[i].tolist() == [100.0 * same[0] + c for c in range(4)]


# ------------------------------------------------------------------------------------------------------ pickles
class Hostile:
    """Makes a folder when unpickled by anything that obeys pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def saved(content, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


FLAVOURS = {
    "float": torch.randn(3, 4),
    "half": torch.randn(3, 4).half(),
    "bfloat16": torch.randn(3, 4).bfloat16(),
    "double": torch.randn(3, 4).double(),
    "integer": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "parameter": nn.Parameter(torch.randn(2)),
    "transposed": torch.randn(3, 4).t(),
    "slice": torch.randn(5, 6)[1:4, ::2],
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 3}}, lambda s: {"model": s}]
)
def test_tensors_of_every_kind_come_back(tmp_path, legacy, wrap):
    found = read_upstream(saved(wrap(OrderedDict(FLAVOURS)), tmp_path / "a.pth", legacy=legacy))
    assert set(found) == set(FLAVOURS)
    for name, value in FLAVOURS.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_share_a_storage_still_agree(tmp_path, legacy):
    whole = torch.arange(10.0)
    found = read_upstream(saved({"whole": whole, "tail": whole[6:]}, tmp_path / "a.pth", legacy=legacy))
    assert found["tail"].tolist() == [6, 7, 8, 9]
    assert found["whole"].tolist() == list(range(10))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_pickle_is_run(tmp_path, legacy):
    """The newer form is read around the hostile object, the older one refused. torch itself, told to trust the file,
    runs it: the marker works."""
    content = {"state_dict": {"a": torch.ones(2)}, "meta": Hostile(tmp_path / "ran")}
    path = saved(content, tmp_path / "a.pth", legacy=legacy)
    if legacy:
        with pytest.raises(CheckpointError, match="no checkpoint that can be read safely"):
            read_upstream(path)
    else:
        assert read_upstream(path)["a"].tolist() == [1, 1]
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_other_peoples_classes_are_not_imported(tmp_path, monkeypatch):
    """A training state of a package that is not installed does not keep its tensors from being read."""
    (tmp_path / "vanished.py").write_text("class State:\n    def __init__(self):\n        self.step = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    import vanished

    path = saved({"model": {"a": torch.ones(1)}, "trainer": vanished.State()}, tmp_path / "a.pth")
    monkeypatch.undo()
    del sys.modules["vanished"]
    assert read_upstream(path)["a"].item() == 1


def test_safetensors_files_are_read_too(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_upstream(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


def archive_of(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED, name: str = "a/data.pkl") -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
    return path


def tensor_call(size, stride, offset=0) -> bytes:
    """A pickle that asks for a tensor of that shape over a storage of 2 numbers."""

    class View:
        def __reduce__(self):
            return (torch._utils._rebuild_tensor_v2, (torch.zeros(2), offset, size, stride, False, OrderedDict()))

    buffer = io.BytesIO()
    torch.save({"a": View()}, buffer)
    return buffer.getvalue()


BROKEN = {
    "missing": (lambda p: p, "no checkpoint at"),
    "empty": (lambda p: (p.write_bytes(b"") and p) or p, "no checkpoint that can be read safely"),
    "text": (lambda p: p.write_bytes(b"hello world") and p, "no checkpoint that can be read safely"),
    "other zip": (lambda p: archive_of(p, b"x", name="a.txt"), "not one that torch.save wrote"),
    "zip of rubbish": (lambda p: archive_of(p, b"\x80\x04rubbish"), "damaged or no torch.save file"),
    "compressed": (lambda p: archive_of(p, b"x" * 999, compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "truncated pickle": (lambda p: archive_of(p, pickle.dumps({"a": 1})[:-4]), "damaged or no torch.save file"),
    "a number": (lambda p: saved(3, p), "holds no state dict"),
    "no tensors": (lambda p: saved({"state_dict": {"a": 1}}, p), "holds no state dict"),
    "reading outside": (
        lambda p: p.write_bytes(tensor_call((3,), (1,))) and p,
        "damaged.*a tensor that ends at 3 of a storage of 2",
    ),
    "reading before": (
        lambda p: p.write_bytes(tensor_call((1,), (1,), -4)) and p,
        "a tensor of size .1,. with strides .1,. at -4",
    ),
    "negative stride": (lambda p: p.write_bytes(tensor_call((2,), (-1,))) and p, "with strides .-1,."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case, tmp_path):
    make, reason = BROKEN[case]
    path = make(tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_upstream(path)
    assert str(path) in str(caught.value)


def test_a_truncated_archive_is_refused(tmp_path):
    path = saved({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError):
        read_upstream(path)
