"""Checkpoints: what is written comes back bit for bit, and what is not ours is refused."""

import importlib
import io
import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import headway
from headway import registry
from headway.checkpoint import _is_finite, read_card
from headway.detector import Detector
from headway.errors import CheckpointError, HeadwayError
from headway.files import write_atomically
from headway.meta import undrawn
from headway.types import ModelCard

NAME = "atss_r18_fpn_dyhead"
NAMES = ("cell", "platelet")


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return headway.create_model(NAME, class_names=NAMES, blocks=1, channels=32).eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    model.card.metrics = {"AP": 0.5}
    return headway.save(model, tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def write_raw(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def edited(checkpoint: Path, path: Path, *, card=None, outer=None, tensors=None) -> Path:
    """A copy of `checkpoint` with entries of its card, its header or its tensor table changed."""
    content = checkpoint.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    table = json.loads(content[8 : 8 + length])
    header = json.loads(table["__metadata__"]["headway"])
    header["card"].update(card or {})
    header.update(outer or {})
    table["__metadata__"]["headway"] = json.dumps(header)
    table.update(tensors or {})
    return write_raw(path, json.dumps(table).encode(), content[8 + length :])


# ----------------------------------------------------------------------------------------------------- round trips
def test_round_trip_is_bit_equal(model, checkpoint):
    again = headway.load(checkpoint)
    assert not again.training
    assert again.card.to_dict() == model.card.to_dict()
    state = again.state_dict()
    assert set(state) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
        assert state[key].dtype == value.dtype
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(model(images)[:3], again(images)[:3]):
            assert torch.equal(a, b)


def test_the_card_follows_into_the_normalisation(model, tmp_path):
    other = headway.create_model(NAME, class_names=NAMES, blocks=1, channels=32)
    other.set_card(
        ModelCard.from_dict({**other.card.to_dict(), "mean": [1, 2, 3], "std": [4, 5, 6], "channels": "bgr"})
    )
    again = headway.load(headway.save(other, tmp_path / "m.safetensors"))
    images = torch.rand(1, 3, 2, 2)
    torch.testing.assert_close(again.normalize(images), other.normalize(images))
    assert not torch.allclose(again.normalize(images), model.normalize(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_the_file_and_loads_as_float32(model, checkpoint, tmp_path, dtype):
    half = headway.save(model, tmp_path / "half.safetensors", dtype=dtype)
    assert half.stat().st_size < 0.55 * checkpoint.stat().st_size
    for key, value in headway.load(half).state_dict().items():
        expected = model.state_dict()[key]
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected.to(dtype).to(expected.dtype) if value.is_floating_point() else expected)


def test_read_card_reads_no_tensor(checkpoint, tmp_path):
    """The header alone is enough."""
    content = checkpoint.read_bytes()
    head = tmp_path / "head.safetensors"
    head.write_bytes(content[: 8 + struct.unpack("<Q", content[:8])[0]])
    assert read_card(head).class_names == NAMES
    assert read_card(head).metrics == {"AP": 0.5}


def test_a_failed_write_leaves_the_old_file_and_no_other(model, checkpoint, tmp_path, monkeypatch):
    target = tmp_path / "model.safetensors"
    target.write_bytes(checkpoint.read_bytes())

    def fail(*_):
        raise OSError("disk full")

    for broken in ("fsync", "replace"):
        monkeypatch.setattr(os, broken, fail)
        with pytest.raises(OSError, match="disk full"):
            headway.save(model, target)
        monkeypatch.undo()
        assert target.read_bytes() == checkpoint.read_bytes()
        assert os.listdir(tmp_path) == ["model.safetensors"]


def test_writing_makes_the_folder(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c.bin", b"content")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"content"


class Drawn(TorchDispatchMode):
    """The random operations on real memory while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, torch.Tensor):
            self.names += [str(func)] if result.device.type != "meta" else []
        return result


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (NAME, {"blocks": 1, "channels": 32}),
        ("efficientdet_tiny", {}),
        ("swin_nano_patch4_window7/fpn/fcos", {"channels": 16, "tower_depth": 1}),
        ("vit_tiny_patch16/simple_pyramid/faster_rcnn", {"channels": 16, "hidden": 16}),
        ("resnet18/project/detr", {"project.channels": 16, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 8}),
    ],
)
def test_loading_draws_no_random_numbers(name, arguments, tmp_path):
    """What the file is about to fill needs no start of its own; and what comes next is drawn as without the loading."""
    torch.manual_seed(0)
    with Drawn() as building:
        path = headway.save(headway.create_model(name, num_classes=2, **arguments), tmp_path / "m.safetensors")
    assert building.names, "building draws"
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with Drawn() as loading:
        state = headway.load(path).state_dict()
    assert loading.names == []
    assert torch.equal(torch.get_rng_state(), before)
    written = load_file(path)
    assert set(state) == set(written)
    assert all(torch.equal(state[key], value) for key, value in written.items())


def test_truncated_normals_end_where_nothing_is_drawn():
    """torch draws anew until every value is within its bounds, in one of two ways; memory may hold any value before."""
    with undrawn():
        for options in (
            {"std": 0.02},
            {"std": 1.0, "a": -0.1, "b": 0.1},
            {"mean": 3.0, "std": 0.1, "a": 2.5, "b": 4.0},
        ):
            assert torch.isfinite(nn.init.trunc_normal_(torch.full((5,), 1e6), **options)).all()


def test_what_is_not_in_the_file_is_there_after_loading(model, checkpoint):
    """Buffers that no checkpoint holds, and gradients' flags."""
    again = headway.load(checkpoint)
    kept = dict(again.named_buffers())
    for name, value in model.named_buffers():
        assert torch.equal(kept[name], value), name
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in again.named_parameters()} == flags


def test_a_file_for_a_fused_network(checkpoint):
    fused = headway.load(checkpoint, fuse=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(images).cls, headway.load(checkpoint)(images).cls, atol=1e-5, rtol=1e-4)


def test_a_path_of_parts_round_trips(tmp_path):
    torch.manual_seed(0)
    path = "resnet18/fpn/dyhead/atss"
    arguments = {"dyhead.blocks": 1, "fpn.channels": 32, "backbone.norm": "eval", "input_size": (64, 96)}
    model = headway.create_model(path, class_names=NAMES, align="add", refine="mul", **arguments)
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert again.card.model == path
    assert again.card.input_size == (64, 96)
    assert again.backbone.norm == "eval"
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def test_a_model_of_a_tag_round_trips(tmp_path):
    """Rows of published weights have arguments by their old names, `norm` for `backbone.norm`."""
    torch.manual_seed(0)
    model = headway.create_model("atss_r50_fpn_dyhead.mmdet", backbone="resnet18", blocks=1, channels=32)
    assert model.card.arguments["norm"] == "eval"
    again = headway.load(headway.save(model, tmp_path / "m.safetensors"))
    assert again.card.to_dict() == model.card.to_dict()
    assert again.backbone.norm == "eval"
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def test_a_run_folder_stands_for_its_best_checkpoint_else_the_last(model, checkpoint, tmp_path):
    with pytest.raises(HeadwayError, match=r"is no run folder: it holds neither best\.safetensors nor last\.safe"):
        headway.load(tmp_path)
    (tmp_path / "last.safetensors").write_bytes(checkpoint.read_bytes())
    assert headway.load(tmp_path).card.metrics == {"AP": 0.5}
    edited(checkpoint, tmp_path / "best.safetensors", card={"metrics": {"AP": 0.7}})
    assert headway.load(tmp_path).card.metrics == {"AP": 0.7}


# ------------------------------------------------------------------------------------------ hand-made and own parts
class Maps(nn.Module):
    """A backbone of one convolution."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, images):
        return [self.conv(images)]


def hand_made(width: int = 8) -> Detector:
    head = headway.create_model("resnet18/upsample/ttfnet", num_classes=2, **{"upsample.planes": (32, 16, 8)}).head
    return Detector(Maps(width), None, head, class_names=NAMES).eval()


def test_a_detector_put_together_by_hand_is_saved_and_fills_the_same_network(tmp_path):
    torch.manual_seed(0)
    mine = hand_made()
    path = headway.save(mine, tmp_path / "m.safetensors")
    assert read_card(path).class_names == NAMES
    torch.manual_seed(1)
    other = hand_made()
    images = torch.rand(1, 3, 64, 96)
    expected = mine.detect(images, threshold=0.0)[0]
    assert not torch.equal(other.detect(images, threshold=0.0)[0].scores, expected.scores)
    again = headway.load(path, model=other)
    assert again is other
    assert torch.equal(again.detect(images, threshold=0.0)[0].scores, expected.scores)
    refuse(path, r"put together by hand: give the same network, load\(path, model=\.\.\.\)")
    wrong = hand_made(width=4)
    with pytest.raises(CheckpointError, match=r"does not fit the given model: \d of another shape \(backbone\.conv"):
        headway.load(path, model=wrong)
    assert read_card(path).model == ""


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    """The first byte of a safetensors file is the low byte of its header's length, and a pickle begins with 0x80."""
    mine = hand_made()
    for padding in range(0, 256, 8):
        mine.card.source = "x" * padding
        path = headway.save(mine, tmp_path / "model.safetensors")
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header of such a length was written")
    assert headway.load(path, model=hand_made()).card.source == mine.card.source


def test_a_given_model_that_fits_not_is_left_as_it_was(checkpoint):
    torch.manual_seed(0)
    mine = hand_made()
    before = {key: value.clone() for key, value in mine.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit .*missing .*unknown"):
        headway.load(checkpoint, model=mine)
    assert all(torch.equal(value, before[key]) for key, value in mine.state_dict().items())


OWN = """
import headway
from torch import nn

@headway.register_neck("own_narrow")
class Narrow(nn.Module):
    def __init__(self, inputs: headway.Levels, *, width: int = 16) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 1) for c in inputs.channels)
        self.levels = headway.Levels(inputs.strides, (width,) * len(inputs.strides))

    def forward(self, maps):
        return [conv(x) for conv, x in zip(self.convs, maps)]
"""


def test_a_checkpoint_of_own_parts_names_their_module_and_does_not_import_it(tmp_path, monkeypatch):
    (tmp_path / "headway_own_part.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.list_parts()
    monkeypatch.setattr(registry, "_PARTS", dict(registry._PARTS))
    importlib.import_module("headway_own_part")
    torch.manual_seed(0)
    model = headway.create_model("resnet18/own_narrow/atss", class_names=NAMES, width=32, tower_depth=1)
    path = headway.save(model, tmp_path / "m.safetensors")
    again = headway.load(path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    del registry._PARTS["neck", "own_narrow"]
    monkeypatch.delitem(sys.modules, "headway_own_part")
    refuse(path, r"no neck 'own_narrow'.*; import the module that registers it first \(headway_own_part; --plugin")
    assert read_card(path).class_names == NAMES
    assert "headway_own_part" not in sys.modules
    importlib.import_module("headway_own_part")
    assert headway.load(path).card.model == "resnet18/own_narrow/atss"


def test_a_file_may_not_have_headway_import_anything(checkpoint, tmp_path):
    """`modules` is text for a message; whatever else stands there is left out."""
    outer = {"modules": ["this", 3]}
    lies = edited(checkpoint, tmp_path / "m.safetensors", card={"model": "resnet18/fpn/gone"}, outer=outer)
    sys.modules.pop("this", None)
    refuse(lies, r"no head 'gone'.*\(this; --plugin")
    assert "this" not in sys.modules


# ------------------------------------------------------------------------------------- wrong and hostile files
def refuse(path: Path, reason: str) -> None:
    """`load` names the file and the reason."""
    with pytest.raises(HeadwayError, match=reason) as caught:
        headway.load(path)
    assert str(path) in str(caught.value)


def pickled(path: Path, legacy: bool = False) -> Path:
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=not legacy)
    return path


NOT_OURS = {
    "missing": (lambda p: p, "no checkpoint (or run folder )?at"),
    "a folder": (lambda p: p.mkdir() or p, "is no run folder|no checkpoint at"),
    "empty": (lambda p: (p.write_bytes(b"") and p) or p, "is no safetensors file"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567") and p, "is no safetensors file"),
    "pickle": (pickled, "pickled checkpoint, which could run code.*headway convert"),
    "legacy pickle": (lambda p: pickled(p, legacy=True), "pickled checkpoint"),
    "random bytes": (lambda p: p.write_bytes(bytes(range(1, 256)) * 9) and p, "is no safetensors file"),
    "huge header": (lambda p: p.write_bytes(struct.pack("<Q", 2**62) + b"{}") and p, "is no safetensors file"),
    "header longer than the file": (lambda p: p.write_bytes(struct.pack("<Q", 100) + b"{}") and p, "no safetensors"),
    "not JSON": (lambda p: write_raw(p, b"{'a': 1}"), "header that is not JSON"),
    "not text": (lambda p: write_raw(p, b"\xff\xfe\xfd\xfc"), "header that is not JSON"),
    "deep JSON": (lambda p: write_raw(p, b"[" * 200_000), "header that is not JSON"),
    "a list": (lambda p: write_raw(p, b"[1, 2]"), "not a JSON object"),
    "foreign": (lambda p: save_file({"a": torch.zeros(1)}, p) or p, "not headway's; use `headway convert`"),
    "foreign with metadata": (
        lambda p: save_file({"a": torch.zeros(1)}, p, {"format": "pt"}) or p,
        "not headway's; use `headway convert`",
    ),
    "metadata not an object": (lambda p: write_raw(p, b'{"__metadata__": 3}'), "not headway's"),
    "card not JSON": (lambda p: write_raw(p, b'{"__metadata__": {"headway": "{"}}'), "damaged headway header"),
    "header without card": (
        lambda p: write_raw(p, b'{"__metadata__": {"headway": "{\\"format\\": \\"1\\"}"}}'),
        "damaged headway header",
    ),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_a_file_that_is_not_ours_is_refused(case, tmp_path):
    make, reason = NOT_OURS[case]
    path = make(tmp_path / "file.safetensors")
    refuse(path, reason)
    with pytest.raises(CheckpointError, match=reason):
        read_card(path)


@pytest.mark.parametrize("kept", [0.2, 0.999])
def test_a_truncated_file_is_refused(checkpoint, tmp_path, kept):
    content = checkpoint.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(len(content) * kept)])
    refuse(path, "is damaged")


TENSOR = "head.cls.bias"
DAMAGED = {
    "newer format": ({"outer": {"format": "2"}}, "has format '2', this headway reads '1'; update it"),
    "newer card": ({"card": {"future": 1}}, "unknown model card entries"),
    "card of another kind": ({"outer": {"card": []}}, "must be an object, got list"),
    "unknown model": ({"card": {"model": "yolo_v99"}}, "unknown model 'yolo_v99'"),
    "unknown part": ({"card": {"model": "resnet18/fpn/yolo_v99"}}, "there is no head 'yolo_v99'"),
    "a path that climbs": ({"card": {"model": "../../etc/passwd"}}, "there is no backbone '..'"),
    "half a path": ({"card": {"model": "resnet18/"}}, "a path of parts is"),
    "no model": ({"card": {"model": ""}}, "put together by hand"),
    "model with a tag": ({"card": {"model": "atss_r50_fpn_dyhead.mmdet"}}, "has a tag"),
    "unknown argument": ({"card": {"arguments": {"colour": 1}}}, "has no argument 'colour'"),
    "pretrained": ({"card": {"arguments": {"pretrained": "/etc/passwd"}}}, "name what no part takes"),
    "class names as an argument": ({"card": {"arguments": {"class_names": ["a"]}}}, "name what no part takes"),
    "argument of another part": ({"card": {"arguments": {"fpn.blocks": 1}}}, "has no argument 'fpn.blocks'"),
    "argument of another kind": ({"card": {"arguments": {"blocks": "1"}}}, "must be int, got '1'"),
    "many blocks": ({"card": {"arguments": {"blocks": 10**9}}}, "from 0 to 64"),
    "many channels": ({"card": {"arguments": {"channels": 10**9}}}, "from 1 to 65536"),
    "many classes": ({"card": {"arguments": {"num_classes": 10**9}}}, "a whole number in 1..65536"),
    "the largest that is allowed": ({"card": {"arguments": {"channels": 65536, "blocks": 64}}}, "does not fit"),
    "impossible channels": ({"card": {"arguments": {"channels": 7}}}, "cannot be built here"),
    "a backbone from elsewhere": ({"card": {"arguments": {"backbone": "hf_hub:evil/model"}}}, "there is no backbone"),
    "another backbone": ({"card": {"arguments": {"num_classes": 2, "backbone": "resnet34"}}}, "missing"),
    "long arguments": ({"card": {"arguments": {"backbone": "x" * 5000}}}, "implausibly long"),
    "class names missing": ({"card": {"class_names": ["cell"]}}, "names 1 classes for 2 outputs"),
    "zero deviation": ({"card": {"std": [0, 1, 1]}}, "'std' must be three positive numbers"),
    "tensor table entry": ({"tensors": {TENSOR: 3}}, f"has a tensor '{TENSOR}'"),
    "tensor without a shape": ({"tensors": {TENSOR: {"dtype": "F32"}}}, "shape None"),
    "tensor type": ({"tensors": {TENSOR: {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}}, "'F8_E4M3'"),
    "unknown tensor": (
        {"tensors": {"head.extra": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}},
        r"1 unknown \(head.extra\)",
    ),
    "wrong shape": (
        {"tensors": {TENSOR: {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}},
        r"head.cls.bias: \(1000000000000,\) in the file, \(2,\) in the model",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_checkpoint_that_lies_is_refused(case, checkpoint, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("a checkpoint must not reach for the network")

    monkeypatch.setattr("headway.download.urlopen", no_network)
    changes, reason = DAMAGED[case]
    refuse(edited(checkpoint, tmp_path / "edited.safetensors", **changes), reason)


def rewritten(model: Detector, path: Path, change) -> Path:
    """A file of `model` whose tensors went through `change`, with a correct table."""
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    change(tensors)
    header = json.dumps({"format": "1", "card": model.card.to_dict()})
    save_file(tensors, path, {"headway": header})
    return path


def test_a_missing_tensor_is_named(model, tmp_path):
    path = rewritten(model, tmp_path / "m.safetensors", lambda t: t.pop(TENSOR))
    refuse(path, f"does not fit {NAME}: 1 missing \\({TENSOR}\\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(model, tmp_path, value):
    path = rewritten(model, tmp_path / "m.safetensors", lambda t: t[TENSOR].__setitem__(1, value))
    refuse(path, f"NaN or infinite values in \\['{TENSOR}'\\]")


def test_loading_runs_no_code_of_a_pickle(tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    buffer = io.BytesIO()
    torch.save({"model": Hostile()}, buffer)
    path = tmp_path / "model.safetensors"
    path.write_bytes(buffer.getvalue())
    refuse(path, "pickled checkpoint")
    assert not marker.exists()


def test_what_is_written_can_be_read(tmp_path, model):
    """A data set's ids may be of any length. Failed before: the file was written, and refused by `load`."""
    own = headway.create_model("retinanet_r18_fpn", class_names=NAMES, channels=16)
    own.card.category_ids = (2**63, -(2**70))
    path = headway.save(own, tmp_path / "a.safetensors")
    assert headway.load(path).card.category_ids == (2**63, -(2**70))
    own.card.input_size = (0, 5)
    with pytest.raises(CheckpointError, match=r"the card cannot be written: model card entry 'input_size' must be two"):
        headway.save(own, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen_anywhere(dtype, bad):
    for place in (0, 500, 999):
        values = torch.linspace(-3, 3, 1000).to(dtype)
        assert _is_finite(values)
        values[place] = bad
        assert not _is_finite(values)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(2, 0, 3), torch.tensor([1, 2]), torch.tensor(1.0)])
def test_nothing_and_whole_numbers_are_finite(values):
    assert _is_finite(values)
