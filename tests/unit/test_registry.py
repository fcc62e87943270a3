"""Building by name, and checkpoints: what is written comes back bit for bit, and what is not ours is refused."""

import io
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import headway
from headway.checkpoint import read_card
from headway.detector import Detector
from headway.errors import CheckpointError, HeadwayError
from headway.factory import builder_arguments
from headway.files import write_atomically
from headway.registry import register
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


# ------------------------------------------------------------------------------------------------------ building
def test_names_are_sorted_and_filtered():
    assert headway.list_models() == sorted(headway.list_models())
    assert {"retinanet_r50_fpn", "fcos_r50_fpn_dyhead", NAME} <= set(headway.list_models())
    assert all("r18" in name for name in headway.list_models("r18"))
    assert headway.list_models("no such") == []


def test_class_names_and_their_number(model):
    assert model.card.class_names == NAMES
    assert model.card.category_ids == ()
    assert model.head.num_classes == 2
    assert model.card.arguments == {"num_classes": 2, "blocks": 1, "channels": 32}


def test_coco_is_the_default_and_other_numbers_get_plain_names():
    with torch.device("meta"):
        assert headway.create_model(NAME).card.class_names[:2] == ("person", "bicycle")
        assert headway.create_model(NAME).card.category_ids[-1] == 90
        assert headway.create_model(NAME, num_classes=3).card.class_names == ("class0", "class1", "class2")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "atss_r50_fnp"}, r"unknown model 'atss_r50_fnp'; did you mean atss_r50_fpn, .* or "),
        ({"name": "os.system"}, "unknown model 'os'"),
        ({"name": NAME, "block": 3}, f"{NAME} has no argument 'block'; did you mean blocks"),
        ({"name": NAME, "blocks": "six"}, r"\(blocks=...\) must be int, got 'six'"),
        ({"name": NAME, "blocks": True}, r"\(blocks=...\) must be int, got True"),
        ({"name": NAME, "scale": 1}, r"\(scale=...\) must be bool, got 1"),
        ({"name": NAME, "high_offset": "flatt"}, "must be .*'flat'.*got 'flatt'"),
        ({"name": NAME, "input_size": (320,)}, r"must be tuple\[int, int\], got \(320,\)"),
        ({"name": NAME, "center_offset": float("nan")}, "must be float, got nan"),
        ({"name": NAME, "num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"name": NAME, "num_classes": 2, "class_names": ["a"]}, "num_classes=2, but 1 class names"),
        ({"name": NAME, "class_names": []}, "num_classes must be at least 1"),
        ({"name": NAME, "pretrained": True}, "no published checkpoint of its own: name a tag"),
        ({"name": NAME, "blocks": 10**9}, r"\(blocks=...\) must be from 0 to 64, got 1000000000"),
        ({"name": NAME, "tower_depth": 10**9}, "must be from 0 to 64"),
        ({"name": NAME, "channels": 10**9}, "must be from 0 to 65536"),
        ({"name": NAME, "num_classes": 10**9}, "must be from 0 to 65536"),
        ({"name": NAME, "input_size": (320, 10**9)}, "must be from 0 to 65536"),
        ({"name": NAME, "kernel": -3}, "must be from 0 to 65536, got -3"),
        ({"name": NAME, "backbone": "resnet81"}, "timm has no backbone 'resnet81'; did you mean .*resnet18"),
    ],
)
def test_wrong_requests_are_refused_with_what_to_do(call, reason):
    with pytest.raises(HeadwayError, match=reason):
        headway.create_model(**call)


def test_a_list_is_taken_where_a_tuple_is_meant():
    with torch.device("meta"):
        assert headway.create_model(NAME, input_size=[256, 512]).card.input_size == (256, 512)
        assert headway.create_model(NAME, dcn="c5").card.arguments == {"dcn": ("c5",)}


def test_builders_must_be_keyword_only_and_annotated():
    def positional(num_classes: int): ...
    def bare(*, num_classes): ...
    def swallowing(**options: int): ...

    for builder in (positional, bare, swallowing):
        with pytest.raises(TypeError, match="must be keyword-only and annotated"):
            register(builder)


def test_arguments_of_a_variant_show_its_own_defaults():
    arguments = builder_arguments("atss_r18_fpn_dyhead.any")
    assert arguments["backbone"].default == "resnet18"
    assert arguments["blocks"].default == 2
    assert builder_arguments("atss_r50_fpn_dyhead")["backbone"].default == "resnet50"


# --------------------------------------------------------------------------------------------------- checkpoints
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


def test_a_header_whose_length_begins_like_a_pickle_is_read(model, tmp_path):
    """The first byte of a safetensors file is the low byte of its header's length, and a pickle begins with 0x80."""
    for padding in range(0, 256, 8):
        model.card.source = "x" * padding
        path = headway.save(model, tmp_path / "model.safetensors")
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header of such a length was written")
    assert headway.load(path).card.source == model.card.source
    model.card.source = ""


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


def test_a_detector_that_no_builder_made_cannot_be_saved(model, tmp_path):
    nameless = Detector(model.backbone, model.neck, model.head, ModelCard(class_names=NAMES))
    with pytest.raises(CheckpointError, match="not made by create_model"):
        headway.save(nameless, tmp_path / "m.safetensors")


# ------------------------------------------------------------------------------------- wrong and hostile files
def refuse(path: Path, reason: str) -> None:
    """`load` names the file and the reason."""
    with pytest.raises(CheckpointError, match=reason) as caught:
        headway.load(path)
    assert str(path) in str(caught.value)


def pickled(path: Path, legacy: bool = False) -> Path:
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=not legacy)
    return path


NOT_OURS = {
    "missing": (lambda p: p, "no checkpoint at"),
    "a folder": (lambda p: p.mkdir() or p, "no checkpoint at"),
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
    "model with a tag": ({"card": {"model": "atss_r50_fpn_dyhead.mmdet"}}, "has a tag"),
    "unknown argument": ({"card": {"arguments": {"colour": 1}}}, r"no arguments \['colour'\]"),
    "pretrained": ({"card": {"arguments": {"pretrained": "/etc/passwd"}}}, r"no arguments \['pretrained'\]"),
    "argument of another kind": ({"card": {"arguments": {"blocks": "1"}}}, "must be int, got '1'"),
    "many blocks": ({"card": {"arguments": {"blocks": 10**9}}}, "from 0 to 64"),
    "many channels": ({"card": {"arguments": {"channels": 10**9}}}, "from 0 to 65536"),
    "many classes": ({"card": {"arguments": {"num_classes": 10**9}}}, "from 0 to 65536"),
    "the largest that is allowed": ({"card": {"arguments": {"channels": 65536, "blocks": 64}}}, "does not fit"),
    "impossible channels": ({"card": {"arguments": {"channels": 7}}}, "cannot be built here"),
    "a backbone from elsewhere": ({"card": {"arguments": {"backbone": "hf_hub:evil/model"}}}, "timm has no backbone"),
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

    monkeypatch.setattr("headway.models.published.urlopen", no_network)
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
